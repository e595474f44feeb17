"""One cell: its links come, are replaced and go, and what arrives on one of them hurts no other."""

from __future__ import annotations

from typing import Any

import pytest

from cellnet.errors import Busy, PayloadTooLarge, RefusedByPeer, Unreachable
from cellnet.fqcn import FQCN
from cellnet.protocol import exchange as exchange_module
from cellnet.protocol import routing as routing_module
from cellnet.protocol.events import Attached, Failed, LinkFailed, MemberJoined, MemberLeft, Message, Replied
from cellnet.protocol.frames import PREFIX, Kind, pack, unpack
from tests.protocol.conftest import MINUTE, Net, Peer, encode_frame, events, introduction, new_endpoint


def refused(peer: Peer) -> tuple[str, str, bool]:
    """Return code, text and whether it is temporary, as the endpoint told this neighbour."""
    (frame,) = peer.frames()
    assert frame.kind is Kind.REFUSED
    code, text, temporary = unpack(frame.header, str, str, bool)
    assert text in peer.error()
    return code, text, temporary


def join(peer: Peer, name: str, epoch: int = 1) -> None:
    peer.send(Kind.JOIN, *introduction(name, epoch=epoch), b"", b"")


# Joining


def test_a_cell_that_has_no_name_yet_takes_nobody_in_for_now() -> None:
    peer = Peer.child(new_endpoint("R"), "C", joined=False)
    join(peer, "C")
    assert refused(peer) == ("not-joined", "R has not joined its own parent yet", True)


def test_a_cell_takes_in_as_many_children_as_it_may_and_the_same_ones_again() -> None:
    server = new_endpoint("server", max_children=1)
    Peer.child(server, "A")
    other = Peer.child(server, "B", joined=False)
    join(other, "B")
    assert refused(other) == ("full", "server has 1 children already", True)
    again = Peer.child(server, "A")
    assert server.children == {FQCN("A"): again.connection}


def test_a_cell_that_knows_as_many_cells_as_it_may_takes_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "MAX_MEMBERS", 1)
    server = new_endpoint("server")
    Peer.child(server, "A")
    other = Peer.child(server, "B", joined=False)
    join(other, "B")
    assert refused(other) == ("full", "server knows as many cells as it may", True)
    Peer.child(server, "A")
    assert len(server.children) == 1


def test_an_earlier_start_of_a_cell_does_not_replace_a_later_one() -> None:
    server = new_endpoint("server")
    later = Peer.child(server, "A", epoch=5)
    earlier = Peer.child(server, "A", joined=False)
    join(earlier, "A", epoch=4)
    assert refused(earlier) == ("stale-epoch", "a later start of A is connected", True)
    assert later.is_open


@pytest.mark.parametrize("epoch", [5, 6])
def test_a_new_link_of_the_same_or_a_later_start_replaces_the_old_one(epoch: int) -> None:
    server = new_endpoint("server")
    old, other = Peer.child(server, "A", epoch=5), Peer.child(server, "B")
    other.bind(0, "B", "A")
    other.request(0)
    server.request(FQCN("A"), "t", 0, b"", deadline=MINUTE)
    old.frames()
    events(server)
    new = Peer.child(server, "A", epoch=epoch)
    found = list(server.events)
    assert old.error() == "ConnectError: A connected anew"
    assert [type(event) for event in found if not isinstance(event, LinkFailed)] == [MemberLeft, Failed, MemberJoined]
    assert server.children[FQCN("A")] is new.connection
    (lost,) = other.frames()
    assert lost.kind is Kind.LOST
    old.send(Kind.PING)
    server.close(old.connection, net.now)
    assert server.children[FQCN("A")] is new.connection
    other.request(0, 2)
    assert [frame.kind for frame in new.frames()] == [Kind.BIND, Kind.REQUEST]


def test_the_root_has_its_name_from_the_beginning_and_others_from_their_parent() -> None:
    assert str(new_endpoint("server").fqcn) == "server"
    endpoint = new_endpoint("C")
    assert endpoint.fqcn is None
    Peer.parent(endpoint, "R.C")
    (attached,) = events(endpoint, Attached)
    assert str(endpoint.fqcn) == str(attached.fqcn) == "R.C"


def test_a_cell_has_one_parent_at_a_time() -> None:
    endpoint = new_endpoint("C")
    first = Peer.parent(endpoint, "C")
    second = Peer.parent(endpoint, "R.C")
    assert refused(second) == ("two-parents", "C has a parent already", False)
    assert first.is_open
    endpoint.close(first.connection, net.now)
    third = Peer.parent(endpoint, "R.C")
    assert third.is_open


def test_a_relay_that_gets_another_name_makes_its_children_join_again() -> None:
    net = Net.tree("A.R.c", "B")
    net.request("A.R", "A")
    net.run()
    net.outcomes("A.R")
    net.cut("A.R")
    net.run()
    assert str(net["A.R.c"].fqcn) == "A.R.c"
    net.connect("A.R", parent="B")
    net.run()
    assert str(net["A.R"].fqcn) == "B.R"
    assert net["A.R"].children == {}
    assert net["A.R.c"].router.parent is None
    net.connect("A.R.c", parent="A.R")
    net.run()
    assert str(net["A.R.c"].fqcn) == "B.R.c"
    net.request("A", "B.R.c")
    net.request("A.R.c", "A")
    net.run()
    assert [type(net.outcomes(name)[0]) for name in ("A", "A.R.c")] == [Replied, Replied]
    assert {str(m.fqcn) for m in net["server"].router.members()} == {"A", "B", "B.R", "B.R.c"}


def test_a_relay_that_joins_again_under_its_old_name_keeps_its_children() -> None:
    net = Net.tree("R.c")
    net.cut("R")
    net.connect("R")
    net.run()
    assert net.links["R.c"].is_up
    net.request("server", "R.c")
    net.run()
    assert isinstance(net.outcomes("server")[0], Replied)


def test_a_parent_gone_for_now_does_not_keep_children_from_joining() -> None:
    net = Net.tree("R.c")
    net.cut("R")
    net.add("R.d")
    net.connect("R.d")
    net.run()
    assert str(net["R.d"].fqcn) == "R.d"
    net.connect("R")
    net.run()
    assert {str(m.fqcn) for m in net["server"].router.members()} == {"R", "R.c", "R.d"}


# What is not allowed, in each state


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.JOIN, Kind.REFUSED)])
def test_a_listener_takes_nothing_but_a_join_before_the_handshake_is_done(kind: Kind) -> None:
    peer = Peer.child(new_endpoint("server"), "A", joined=False)
    peer.send(kind, "A", None)
    code, _text, temporary = refused(peer)
    assert (code, temporary) == ("protocol", False)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in (Kind.HELLO, Kind.WELCOME, Kind.REFUSED)])
def test_a_connector_takes_nothing_but_a_hello_and_a_welcome_before_the_handshake_is_done(kind: Kind) -> None:
    peer = Peer.parent(new_endpoint("A"), "A", joined=False)
    peer.send(kind, "A", None)
    assert refused(peer)[0] == "protocol"


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.JOIN, Kind.WELCOME])
@pytest.mark.parametrize("side", [Peer.child, Peer.parent])
def test_there_is_no_second_handshake(kind: Kind, side: Any) -> None:
    peer = side(new_endpoint("server" if side == Peer.child else "A"), "A")
    peer.frames()
    peer.send(kind, *introduction("A"), b"", b"")
    assert peer.error() == f"RemoteProtocolError: {kind.name} is not allowed here"
    assert peer.kinds() == [Kind.GOAWAY]


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("side", [Peer.child, Peer.parent])
def test_a_refusal_is_believed_at_any_time_and_not_answered(side: Any, joined: bool) -> None:
    peer = side(new_endpoint("server" if side == Peer.child else "A"), "A", joined=joined)
    peer.frames()
    events(peer.endpoint)
    peer.send(Kind.REFUSED, "full", "go away", True)
    failed = peer.endpoint.events[-1]
    assert isinstance(failed, LinkFailed)
    assert isinstance(failed.error, RefusedByPeer)
    assert (failed.error.code, str(failed.error), failed.error.temporary) == ("full", "go away", True)
    assert peer.frames() == []


def test_a_refusal_that_is_malformed_is_answered_with_one() -> None:
    peer = Peer.child(new_endpoint("server"), "A", joined=False)
    peer.send(Kind.REFUSED, "full")
    assert refused(peer)[0] == "protocol"


def test_a_link_that_broke_the_protocol_hears_no_more_of_what_came_with_it() -> None:
    server = new_endpoint("server")
    peer, other = Peer.child(server, "A"), Peer.child(server, "B")
    good = encode_frame(Kind.BIND, pack("A", "server"), label=0)
    good += encode_frame(Kind.REQUEST, pack(1, 1, "t", 0, {}), hop=3, remaining_ms=1000)
    peer.send_bytes(good + PREFIX.pack(0, 0, 99, 0, 0, 0) + good)
    assert other.is_open
    assert len(events(server, Message)) == 1
    assert not peer.is_open
    peer.send_bytes(good)
    peer.send_bytes(b"\xff" * 16)
    assert not events(server, Message)


def test_what_follows_a_goodbye_is_not_heard() -> None:
    server = new_endpoint("server")
    peer = Peer.child(server, "A")
    bind = encode_frame(Kind.BIND, pack("A", "server"), label=0)
    request = encode_frame(Kind.REQUEST, pack(1, 1, "t", 0, {}), hop=3, remaining_ms=1000)
    peer.send_bytes(bind + encode_frame(Kind.GOAWAY, pack("enough")) + request)
    found = list(server.events)
    assert not any(isinstance(event, Message) for event in found)
    assert peer.error() == "ConnectError: A ended the link: enough"


def test_closing_a_link_twice_is_closing_it_once() -> None:
    net = Net.tree("A")
    net.cut("A")
    net.cut("A")
    net.run()
    assert len(net.received("server", MemberLeft)) == 1


def test_a_link_that_ends_during_the_handshake_leaves_nothing() -> None:
    server = new_endpoint("server")
    peer = Peer.child(server, "A", joined=False)
    server.close(peer.connection, net.now)
    assert not server.connections
    assert not server.events


# Time


def test_links_stay_alive_while_nothing_is_said_and_die_when_nothing_is_heard() -> None:
    net = Net.tree("A.a")
    net.tick(120)
    assert all(link.is_up for link in net.links.values())
    link = net.links["A.a"]
    assert 15 < link.sent(Kind.PING) < 60
    link.child_reads = link.parent_reads = False
    heard = net.now
    while link.is_up and net.now < heard + 30:
        net.tick(2.5)
    assert net.now - heard <= 15
    assert "nothing was heard for" in str(net.received("A", LinkFailed)[0].error)


def test_a_handshake_that_takes_too_long_ends_the_link() -> None:
    peer = Peer.child(new_endpoint("server"), "A", joined=False)
    peer.endpoint.tick(5.5, 0.0)
    assert peer.error() == "ConnectError: the handshake took longer than 5 s"


def test_a_child_is_not_dead_while_we_do_not_read_from_it_because_our_parent_is_full() -> None:
    relay = new_endpoint("R")
    parent, child = Peer.parent(relay, "R"), Peer.child(relay, "c")
    parent.frames()
    child.bind(0, "R.c", "server")
    while not parent.connection.is_full:
        child.request(0, len(relay.events), body=bytes(65536))
    for now in range(1, 60):
        parent.now = now
        parent.send(Kind.PING)
        relay.tick(now, 0.5)
    assert child.is_open
    while parent.frames():
        pass
    for now in range(60, 75):
        parent.now = now
        parent.send(Kind.PING)
        relay.tick(now, 0.5)
    assert child.error() == "ConnectError: nothing was heard for 13 s"
    assert parent.is_open


def test_a_goodbye_reaches_every_neighbour() -> None:
    net = Net.tree("R.a", "R.b")
    net["R"].goodbye("R stops " + "x" * 1000)
    net.run()
    for name in ("server", "R.a", "R.b"):
        (failed,) = net.received(name, LinkFailed)
        assert str(failed.error) == "R ended the link: " + ("R stops " + "x" * 1000)[:500]
    assert len(net["server"].router) == 0


# Messages of its own


def test_an_event_arrives_and_wants_no_answer() -> None:
    net = Net.tree("A", "B")
    net["A"].send(FQCN("B"), "news", 1, b"!", deadline=net.now + 1)
    net["A"].send(FQCN("A"), "news", 1, b"?", deadline=net.now + 1)
    net.run()
    for name, payload in (("B", b"!"), ("A", b"?")):
        (message,) = net.received(name, Message)
        assert (message.topic, message.payload, message.wants_reply) == ("news", payload, False)
        assert (message.key.origin, message.key.epoch) == (FQCN("A"), 1)


def test_nothing_can_be_sent_before_there_is_a_parent() -> None:
    endpoint = new_endpoint("A")
    deadline = MINUTE
    for send in (endpoint.request, endpoint.send):
        with pytest.raises(Unreachable, match="this cell has no link to a parent"):
            send(FQCN("B"), "t", 0, b"", deadline=deadline)
    with pytest.raises(Unreachable, match="A has not joined its parent yet"):
        endpoint.broadcast([FQCN("B")], "t", 0, b"", deadline=deadline)
    assert endpoint.exchange.pending == 0


def test_nothing_can_be_sent_upwards_while_the_parent_is_away() -> None:
    net = Net.tree("R.a")
    net.cut("R")
    with pytest.raises(Unreachable, match="server cannot be reached: R has no link to a parent"):
        net.request("R", "server")
    net.request("R", "server", "R.a", "R.b")
    net.run()
    outcomes = net.outcomes("R")
    assert {str(o.destination): str(o.error) for o in outcomes if isinstance(o, Failed)} == {
        "server": "server cannot be reached: R has no link to a parent",
        "R.b": "no cell R.b is present below R",
    }
    assert net["R"].next_connection(FQCN("R")) is None
    assert net["R"].next_connection(FQCN("R.a")) is net.links["R.a"].listening


def test_what_no_cell_would_take_is_not_sent() -> None:
    net = Net.tree("A")
    for send in (net["server"].request, net["server"].send):
        with pytest.raises(PayloadTooLarge):
            send(FQCN("A"), "t", 0, bytes(65537), deadline=net.now + 1)
    with pytest.raises(PayloadTooLarge):
        net["server"].broadcast([FQCN("A")], "t", 0, bytes(65537), deadline=net.now + 1)
    assert net["server"].exchange.pending == 0


def test_a_cell_waits_for_a_limited_number_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_PENDING", 1)
    net = Net.tree("A", "B")
    net.request("server", "A", topic="hold")
    with pytest.raises(Busy):
        net.request("server", "A")
    with pytest.raises(Busy):
        net.request("server", "A", "B")


def test_an_answer_that_is_not_wanted_any_more_is_not_sent() -> None:
    net = Net.tree("A", "B")
    sequence = net.request("A", "B", topic="hold")
    net.run()
    net["A"].cancel(sequence, deadline=net.now + 1)
    net["A"].cancel(sequence, deadline=net.now + 1)
    net.run()
    (message,) = net.received("B", Message)
    replies = net.links["B"].sent(Kind.REPLY)
    net["B"].reply(message.key, 0, 0, b"")
    net.run()
    assert net.links["B"].sent(Kind.REPLY) == replies
    assert net.outcomes("A") == []


def test_a_cancel_that_cannot_be_sent_is_no_error() -> None:
    net = Net.tree("A")
    sequence = net.request("A", "server", topic="hold")
    net.links["A"].is_up = False
    net["A"].router.parent = None
    net["A"].cancel(sequence, deadline=net.now + 1)
    assert net["A"].exchange.pending == 0
