"""A name belongs to one start of one cell: who holds it and answers keeps it, and no earlier one follows a later."""

from __future__ import annotations

import pytest

from cellnet.errors import HandshakeError, RefusedByPeer
from cellnet.fqcn import FQCN
from cellnet.protocol import connection as connection_module
from cellnet.protocol import fencing as fencing_module
from cellnet.protocol.events import LinkFailed
from cellnet.protocol.fencing import PROBE_SECONDS, STALE_EPOCH
from cellnet.protocol.frames import Kind, unpack
from tests.protocol.conftest import Net, Peer, introduction, new_endpoint


def join(peer: Peer, name: str = "A", *, epoch: int) -> None:
    peer.send(Kind.JOIN, *introduction(name, epoch=epoch), b"", b"", [])


def refusal(peer: Peer) -> tuple[str, bool, int]:
    """Return code, whether it is temporary, and the last epoch of the refusal that the peer was sent."""
    (frame,) = (frame for frame in peer.frames() if frame.kind is Kind.REFUSED)
    code, _message, temporary, last_epoch = unpack(frame.header, str, str, bool, int)
    return code, temporary, last_epoch


def test_a_holder_that_answers_keeps_its_name_and_the_newcomer_is_told() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    assert (holder.kinds(), newcomer.kinds()) == ([Kind.PROBE], [])
    holder.send(Kind.ALIVE)
    assert refusal(newcomer) == ("name-taken", True, 0)
    assert "another A is connected and answers" in newcomer.error()
    assert holder.is_open
    server.tick(PROBE_SECONDS)
    assert server.children[FQCN("A")] is holder.connection


def test_a_holder_that_does_not_answer_loses_its_name() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    server.tick(PROBE_SECONDS - 0.1)
    assert newcomer.kinds() == []
    server.tick(PROBE_SECONDS)
    assert newcomer.kinds() == [Kind.WELCOME]
    assert "connected anew" in holder.error()
    holder.send(Kind.ALIVE)
    assert newcomer.is_open


def test_a_holder_whose_link_ends_meanwhile_makes_room_at_once() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    server.close(holder.connection, 0.5)
    assert newcomer.kinds() == [Kind.WELCOME]
    server.tick(PROBE_SECONDS)
    assert newcomer.kinds() == []


def test_a_newcomer_that_goes_leaves_nothing_behind() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    other = Peer.child(server, "B", joined=False)
    server.close(other.connection, 0.1)
    assert len(server._fencing) == 1
    server.close(newcomer.connection, 0.1)
    assert len(server._fencing) == 0
    server.tick(PROBE_SECONDS)
    assert holder.is_open
    holder.send(Kind.ALIVE)
    assert server.children[FQCN("A")] is holder.connection


def test_only_one_newcomer_waits_for_a_name() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    first, second = (Peer.child(server, "A", joined=False) for _ in range(2))
    join(first, epoch=2)
    join(second, epoch=3)
    assert refusal(second) == ("name-taken", True, 0)
    assert holder.kinds() == [Kind.PROBE]
    server.tick(PROBE_SECONDS)
    assert server.children[FQCN("A")] is first.connection


def test_the_same_start_over_another_link_has_its_name_at_once_and_whoever_waits_is_told() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    again = Peer.child(server, "A", joined=False)
    join(again, epoch=1)
    assert again.kinds() == [Kind.WELCOME]
    assert refusal(newcomer) == ("name-taken", True, 0)
    assert "connected anew" in holder.error()
    assert server.children[FQCN("A")] is again.connection


def test_an_earlier_start_is_refused_also_when_the_later_one_has_left() -> None:
    server = new_endpoint("server")
    later = Peer.child(server, "A", epoch=5)
    server.close(later.connection, 0.0)
    earlier = Peer.child(server, "A", joined=False)
    join(earlier, epoch=4)
    assert refusal(earlier) == ("stale-epoch", False, 5)
    assert "a later start of A has been here" in earlier.error()


def test_a_cell_whose_clock_was_set_back_takes_a_later_epoch_and_joins() -> None:
    net = Net.tree()
    net.add("A", epoch=9)
    net.connect("A")
    net.run()
    net.cut("A")
    net.add("A", epoch=3)
    net.connect("A")
    net.run()
    (failed,) = net.received("A", LinkFailed)
    assert isinstance(failed.error, RefusedByPeer)
    assert failed.error.temporary
    net.connect("A")
    net.run()
    (member,) = net["server"].router.members()
    assert member.epoch > 9


def test_a_cell_that_has_been_in_the_network_takes_no_other_epoch() -> None:
    net = Net.tree()
    net.add("A", epoch=3)
    net.connect("A")
    net.run()
    net.cut("A")
    zombie = net["A"]
    net.add("A", epoch=9)
    net.connect("A")
    net.run()
    net.cut("A")
    net.endpoints["A"] = zombie
    net.log["A"].clear()
    net.connect("A")
    net.run()
    (failed,) = net.received("A", LinkFailed)
    assert isinstance(failed.error, HandshakeError)
    assert (failed.error.code, failed.error.temporary) == ("stale-epoch", False)


def test_a_full_network_refuses_also_who_waited_for_its_name() -> None:
    server = new_endpoint("server", max_children=1)
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, epoch=2)
    server.max_children = 0
    server.close(holder.connection, 0.0)
    assert refusal(newcomer) == ("full", True, 0)


def test_a_cell_answers_a_probe_of_its_parent_and_of_nobody_else() -> None:
    cell = new_endpoint("A")
    parent = Peer.parent(cell, "A")
    parent.frames()
    parent.send(Kind.PROBE)
    assert parent.kinds() == [Kind.ALIVE]
    child = Peer.child(cell, "x")
    child.send(Kind.PROBE)
    assert "PROBE is not allowed here" in child.error()
    parent.send(Kind.ALIVE)
    assert "ALIVE is not allowed here" in parent.error()


def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    holder.send(Kind.ALIVE)
    assert holder.is_open


def test_of_the_names_that_were_here_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing_module, "MAX_EPOCHS", 2)
    server = new_endpoint("server")
    for name in ("A", "B", "A", "C"):
        server.close(Peer.child(server, name, epoch=5).connection, 0.0)
    refused = []
    for name in ("A", "B", "C"):
        peer = Peer.child(server, name, joined=False)
        join(peer, name, epoch=4)
        refused += [name] if Kind.REFUSED in peer.kinds() else []
    assert refused == ["A", "C"]


def test_who_waits_for_a_name_joins_again_when_its_parent_gets_another_one() -> None:
    relay = new_endpoint("R")
    parent, _holder = Peer.parent(relay, "A.R"), Peer.child(relay, "c")
    newcomer = Peer.child(relay, "c", joined=False)
    join(newcomer, "c", epoch=2)
    relay.close(parent.connection, 0.0)
    Peer.parent(relay, "B.R")
    assert Kind.WELCOME not in newcomer.kinds()
    assert [str(member.fqcn) for member in relay.router.members()] == []


def test_two_starts_that_are_told_of_the_same_later_one_take_different_epochs() -> None:
    epochs = set()
    for seed in ("one", "another"):
        cell = new_endpoint("A", seed=seed)
        Peer.parent(cell, "A", joined=False).send(Kind.REFUSED, STALE_EPOCH, "there was a later one", False, 9)
        assert cell._epoch > 9
        epochs.add(cell._epoch)
    assert len(epochs) == 2


def test_a_refusal_because_of_an_epoch_after_which_there_is_none_does_no_more_than_refuse() -> None:
    cell = new_endpoint("A")
    Peer.parent(cell, "A", joined=False).send(Kind.REFUSED, STALE_EPOCH, "there was a later one", False, 2**64 - 1)
    assert Peer.parent(cell, "A").is_open


def test_the_epoch_of_a_cell_that_is_connected_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing_module, "MAX_EPOCHS", 1)
    server = new_endpoint("server")
    later = Peer.child(server, "A", epoch=5)
    Peer.child(server, "B")
    earlier = Peer.child(server, "A", joined=False)
    join(earlier, epoch=4)
    server.tick(PROBE_SECONDS)
    assert later.is_open
    assert earlier.kinds() == [Kind.REFUSED]


def test_a_holder_keeps_its_name_while_its_parent_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUDGET_BYTES", 1000)
    relay = new_endpoint("R")
    parent, holder = Peer.parent(relay, "R"), Peer.child(relay, "c")
    holder.bind(0, "R.c", "server")
    holder.request(0, payload=bytes(2000))
    assert parent.connection.is_full
    newcomer = Peer.child(relay, "c", joined=False)
    join(newcomer, "c", epoch=2)
    relay.tick(PROBE_SECONDS)  # ALIVE came, but nothing is read now
    assert holder.is_open
    parent.frames()
    holder.send(Kind.ALIVE)
    assert newcomer.kinds() == [Kind.REFUSED]


@pytest.mark.parametrize("again", ["A", "B"])
def test_nobody_joins_twice_over_one_link(again: str) -> None:
    server = new_endpoint("server")
    holder = Peer.child(server, "A")
    newcomer = Peer.child(server, "A", joined=False)
    join(newcomer, "A", epoch=2)
    join(newcomer, again, epoch=1)
    server.close(holder.connection, 0.0)
    server.close(newcomer.connection, 0.0)
    assert set(server.children.values()) <= set(server.connections)
    assert len(server.router) == 0
