"""Faults that the machine found, or a reader behind it, each as a test that fails; once mended, it goes to its module.

``mended.py`` does what is proposed for some of them, so that the machine can look further.
"""

from __future__ import annotations

import pytest

from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol import askers as askers_module
from cellnet.protocol import connection as connection_module
from cellnet.protocol import fencing as fencing_module
from cellnet.protocol.events import Message, Replied
from cellnet.protocol.fencing import PROBE_SECONDS, STALE_EPOCH
from cellnet.protocol.frames import Kind, unpack
from tests.protocol.conftest import MINUTE, Net, Peer, introduction, new_endpoint
from tests.protocol.world import World


def fails(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(reason=reason, strict=True, raises=AssertionError)


def join(peer: Peer, name: str = "A", *, epoch: int) -> None:
    peer.send(Kind.JOIN, *introduction(name, epoch=epoch), b"", b"")


# One process under several names


@fails("a cell that has its old name again does not know what it ran under it, and no epoch tells its askers so")
def test_what_ran_under_a_name_does_not_run_again_when_its_cell_comes_back_to_it() -> None:
    net = Net.tree("A.R", "B")
    net.request("server", "A.R")
    net.tick(1)
    net.request("server", "A.R", topic="hold", payload=b"in doubt")
    net.run()
    for parent in ("B", "A"):
        net.cut("A.R")
        net.connect("A.R", parent=parent)
        net.run()
    net.tick(MINUTE + 5)
    assert [message.payload for message in net.received("A.R", Message) if not message.doubt] == [b"?", b"in doubt"]


@fails(
    "who waits for a name is taken in under it when its parent has another one, and ends its link to the next parent"
)
def test_who_waits_for_a_name_joins_again_when_its_parent_gets_another_one() -> None:
    relay = new_endpoint("R")
    parent, _holder = Peer.parent(relay, "A.R"), Peer.child(relay, "c")
    newcomer = Peer.child(relay, "c", joined=False)
    join(newcomer, "c", epoch=2)
    relay.close(parent.connection, 0.0)
    Peer.parent(relay, "B.R")
    assert Kind.WELCOME not in newcomer.kinds()
    assert [str(member.fqcn) for member in relay.router.members()] == []


# Several processes under one name


@fails("two that are refused because of the same later start take the same epoch, and each other's name and answers")
def test_two_starts_that_are_told_of_the_same_later_one_take_different_epochs() -> None:
    epochs = set()
    for seed in ("one", "another"):
        cell = new_endpoint("A", seed=seed)
        Peer.parent(cell, "A", joined=False).send(Kind.REFUSED, STALE_EPOCH, "there was a later one", False, 9)
        assert cell._epoch > 9
        epochs.add(cell._epoch)
    assert len(epochs) == 2


@pytest.mark.xfail(reason="there is no epoch after the greatest", strict=True, raises=(OverflowError, ValueError))
def test_a_refusal_because_of_an_epoch_after_which_there_is_none_does_no_more_than_refuse() -> None:
    cell = new_endpoint("A")
    Peer.parent(cell, "A", joined=False).send(Kind.REFUSED, STALE_EPOCH, "there was a later one", False, 2**64 - 1)
    assert Peer.parent(cell, "A").is_open


@fails("a standby that was refused its name counts that as time in which it could be asked")
def test_what_ran_at_one_process_does_not_run_again_at_another_that_was_started_before() -> None:
    world = World()
    server = world.start(ROOT, "")
    first = world.start("A", ROOT)
    world.dial(first)
    world.run()
    standby = world.start("A", ROOT)
    world.dial(standby)
    world.wait(10)
    assert not standby.is_joined
    (wire,) = world.of(first)
    wire.vanishes = "up"
    world.ask(server, [FQCN("A")], "echo")
    world.run()
    assert world.runs[b"0", FQCN("A")] == 1
    world.kill(first)
    world.dial(standby)
    world.wait(5)  # or the world sees that it ran twice


@fails("a start with its clock set back joins a relay that was restarted too, and whom it asked before refuses it")
def test_a_cell_whose_clock_was_set_back_can_ask_also_if_its_relay_does_not_remember_it() -> None:
    net = Net.tree("R")
    net.add("R.c", epoch=9)
    net.connect("R.c")
    net.run()
    net.request("R.c", "server")
    net.tick(1)
    net.cut("R.c")
    net.cut("R")
    net.add("R", epoch=2)
    net.add("R.c", epoch=3)
    for name in ("R", "R.c"):
        net.connect(name)
        net.run()
    net.outcomes("R.c")
    net.request("R.c", "server")
    net.tick(MINUTE + 5)
    assert [type(outcome) for outcome in net.outcomes("R.c")] == [Replied]


@fails("the last epoch of a name is forgotten while the cell that has it is connected")
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


@fails("a cell that does not read from its children, as its parent is slow, takes a holder's silence for an end")
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


# The handshake


@fails("who says JOIN again while it waits is taken in on a link that ended, or under two names")
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


@fails("who is about to join is told GOAWAY, which it must take for a breach of the protocol, and gives up for good")
def test_who_is_about_to_join_a_cell_that_stops_is_told_to_try_again() -> None:
    server = new_endpoint("server")
    newcomer = Peer.child(server, "A", joined=False)
    server.goodbye("server stops")
    (frame,) = newcomer.frames()
    assert frame.kind is Kind.REFUSED
    assert unpack(frame.header, str, str, bool, int)[2]


# Limits and draining


@fails("a request that waits for its turn when its cell ends is said to have run, perhaps")
def test_what_waited_for_its_turn_when_a_cell_was_drained_goes_to_its_next_start() -> None:
    net = Net.tree("A")
    for payload in (b"runs", b"waits"):
        net.request("server", "A", topic="hold" if payload == b"runs" else "echo", payload=payload, key="k")
        net.tick(0.1)
    net.request("server", "A", payload=b"makes sure that the session is used")
    net.tick(0.1)
    net["A"].drain()
    net["A"].drained(net.now)
    net.run()
    net.cut("A")
    net.outcomes("server")
    net.add("A", 2)
    net.connect("A")
    net.tick(5)
    assert [outcome.payload for outcome in net.outcomes("server") if isinstance(outcome, Replied)] == [b"waits"]
    assert [message.payload for message in net.received("A", Message) if message.doubt] == [b"runs"]


@fails("only the same few are looked at for one that can go")
def test_whoever_has_nothing_open_makes_room_for_another_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(askers_module, "MAX_ASKERS", 2)
    monkeypatch.setattr(askers_module, "LOOKED_AT", 1)
    net = Net.tree("A", "B", "C")
    net.request("A", "server", topic="hold", deadline=net.now + 10 * MINUTE)
    net.request("B", "server")
    net.tick(15)
    net.request("C", "server")
    net.tick(15)
    assert [type(outcome) for outcome in net.outcomes("C")] == [Replied]
