"""One cell: its links come, are replaced and go, and what arrives on one of them hurts no other."""

from __future__ import annotations

from typing import Any

import pytest

from cellnet.errors import Busy, LocalProtocolError, PayloadTooLarge, RefusedByPeer, Unreachable
from cellnet.fqcn import FQCN
from cellnet.protocol import asking as asking_module
from cellnet.protocol import routing as routing_module
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Attached, Cancelled, Failed, LinkFailed, MemberJoined, MemberLeft, Message, Replied
from cellnet.protocol.fencing import PROBE_SECONDS
from cellnet.protocol.frames import PREFIX, Kind, pack, unpack
from tests.protocol.conftest import (
    MINUTE,
    Net,
    Peer,
    encode_frame,
    events,
    introduction,
    new_endpoint,
    open_body,
    request_body,
)


def refused(peer: Peer) -> tuple[str, str, bool]:
    """Return code, text and whether it is temporary, as the endpoint told this neighbour."""
    (frame,) = peer.frames()
    assert frame.kind is Kind.REFUSED
    code, text, temporary, _last_epoch = unpack(frame.header, str, str, bool, int)
    assert text in peer.error()
    return code, text, temporary


def join(peer: Peer, name: str, epoch: int = 1) -> None:
    peer.send(Kind.JOIN, *introduction(name, epoch=epoch), b"", b"", [])


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
    assert refused(earlier) == ("stale-epoch", "a later start of A has been here: this one is to be restarted", False)
    assert later.is_open


@pytest.mark.parametrize("epoch", [5, 6])
def test_a_new_link_of_the_same_or_a_later_start_replaces_the_old_one(epoch: int) -> None:
    server = new_endpoint("server")
    old, other = Peer.child(server, "A", epoch=5), Peer.child(server, "B")
    other.bind(0, "B", "A")
    other.request(0)
    server.request([FQCN("A")], "t", 0, b"", deadline=MINUTE, now=0.0, once=False)
    old.frames()
    events(server)
    new = Peer.child(server, "A", joined=False)
    join(new, "A", epoch)
    if epoch == 6:
        assert old.kinds() == [Kind.PROBE]
        server.tick(PROBE_SECONDS)
    assert new.kinds() == [Kind.WELCOME]
    found = list(server.events)
    assert old.error() == "ConnectError: A connected anew"
    assert [type(event) for event in found if not isinstance(event, LinkFailed)] == [MemberLeft, Failed, MemberJoined]
    assert server.children[FQCN("A")] is new.connection
    (lost,) = other.frames()
    assert lost.kind is Kind.LOST
    old.send(Kind.PING)
    server.close(old.connection, 0.0)
    assert server.children[FQCN("A")] is new.connection
    other.request(0, 2)
    assert [frame.kind for frame in new.frames()] == [Kind.BIND, Kind.REQUEST]


def test_what_was_asked_over_a_link_that_is_replaced_goes_over_the_new_one_at_once() -> None:
    server = new_endpoint("server")
    old = Peer.child(server, "A")
    server.request([FQCN("A")], "t", 0, b"", deadline=MINUTE, now=0.0)
    assert old.kinds() == [Kind.BIND, Kind.OPEN]
    new = Peer.child(server, "A", joined=False)
    join(new, "A")
    assert new.kinds() == [Kind.WELCOME, Kind.BIND, Kind.OPEN]
    assert events(server, Failed) == []
    assert server.exchange.pending == 1


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
    endpoint.close(first.connection, 0.0)
    third = Peer.parent(endpoint, "R.C")
    assert third.is_open


def test_a_relay_that_gets_another_name_makes_its_children_join_again() -> None:
    net = Net.tree("A.R.c", "B")
    net.request("A.R", "A")
    net.run()
    assert isinstance(net.outcomes("A.R")[0], Replied)
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
    peer.send(kind, *introduction("A"), b"", b"", [])
    assert peer.error() == f"RemoteProtocolError: {kind.name} is not allowed here"
    assert peer.kinds() == [Kind.GOAWAY]


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("side", [Peer.child, Peer.parent])
def test_a_refusal_is_believed_at_any_time_and_not_answered(side: Any, joined: bool) -> None:
    peer = side(new_endpoint("server" if side == Peer.child else "A"), "A", joined=joined)
    peer.frames()
    events(peer.endpoint)
    peer.send(Kind.REFUSED, "full", "go away", True, 0)
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
    good += encode_frame(
        Kind.OPEN, pack(0, 1), open_body("A", "server", request=request_body(1)), hop=3, remaining_ms=1000
    )
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
    request = encode_frame(
        Kind.OPEN, pack(0, 1), open_body("A", "server", request=request_body(1)), hop=3, remaining_ms=1000
    )
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
    server.close(peer.connection, 0.0)
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
    assert peer.endpoint.due == 5.0
    peer.endpoint.tick(5.0)
    assert peer.error() == "ConnectError: the handshake took longer than 5 s"


def test_a_child_is_not_dead_while_we_do_not_read_from_it_because_our_parent_is_full() -> None:
    relay = new_endpoint("R")
    parent, child = Peer.parent(relay, "R"), Peer.child(relay, "c")
    parent.frames()
    child.bind(0, "R.c", "server")
    sequence = 0
    while not parent.connection.is_full:
        child.request(0, sequence := sequence + 1, payload=bytes(65536))
    for now in range(1, 60):
        parent.now = now
        parent.send(Kind.PING)
        relay.tick(now)
    assert child.is_open
    while parent.frames():
        pass
    for now in range(60, 75):
        parent.now = now
        parent.send(Kind.PING)
        relay.tick(now)
    assert child.error().startswith("ConnectError: nothing was heard for 1")
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
    for name in ("B", "A"):
        for payload in (b"!", b"?"):
            net["A"].send(FQCN(name), "news", 1, payload, deadline=net.now + 1, now=net.now, key="k")
    net.run()
    for name in ("B", "A"):
        message = net.received(name, Message)[0]
        assert (message.topic, message.payload, message.wants_reply) == ("news", b"!", False)
        assert (message.origin, message.key) == (FQCN("A"), "k")
        assert len(net.received(name, Message)) == 1
        net[name].ended(message.number, Status.OK, 0, b"", net.now)
    net.run()
    assert [[m.payload for m in net.received(name, Message)] for name in ("B", "A")] == [[b"!", b"?"]] * 2
    assert net.links["B"].sent(Kind.REPLY) == 0


def test_what_is_asked_before_there_is_a_parent_waits_for_one() -> None:
    net = Net.tree("B")
    net.add("A")
    call = net.request("A", "B")
    net["A"].send(FQCN("B"), "news", 1, b"!", deadline=net.now + MINUTE, now=net.now)
    net.tick(2)
    assert (net.outcomes("A"), net["A"].exchange.pending) == ([], 1)
    net.connect("A")
    net.run()
    (outcome,) = net.outcomes("A")
    assert isinstance(outcome, Replied)
    assert outcome.call == call
    assert [m.topic for m in net.received("B", Message)] == ["echo", "news"]
    assert net["A"].exchange.pending == 0


def test_what_is_sent_once_before_there_is_a_parent_fails_at_once() -> None:
    endpoint = new_endpoint("A")
    for destinations in (["B"], ["B", "C"]):
        names = [FQCN(name) for name in destinations]
        endpoint.request(names, "t", 0, b"", deadline=MINUTE, now=0.0, once=False)
        failed = events(endpoint, Failed)
        assert [f.destination for f in failed] == names
        assert {type(f.error) for f in failed} == {Unreachable}
        for name, one in zip(names, failed, strict=True):
            assert str(one.error) == f"{name} cannot be reached: this cell has no parent"
    assert endpoint.exchange.pending == 0
    assert endpoint.next_connection(FQCN("B")) is None


def test_what_is_sent_upwards_once_while_the_parent_is_away_fails_at_once() -> None:
    net = Net.tree("R.a")
    net.cut("R")
    net.request("R", "server", once=False)
    net.run()
    (failed,) = net.outcomes("R")
    assert isinstance(failed, Failed)
    assert str(failed.error) == "server cannot be reached: R has no link to a parent"
    net.request("R", "server", "R.a", "R.b", once=False)
    net.tick(1)
    outcomes = net.outcomes("R")
    assert {str(o.destination): str(o.error) for o in outcomes if isinstance(o, Failed)} == {
        "server": "server cannot be reached: R has no link to a parent",
        "R.b": "no cell R.b is present below R",
    }
    assert [str(o.source) for o in outcomes if isinstance(o, Replied)] == ["R.a"]
    assert net["R"].next_connection(FQCN("R")) is None
    assert net["R"].next_connection(FQCN("R.a")) is net.links["R.a"].listening


def test_what_is_asked_upwards_while_the_parent_is_away_is_answered_when_it_is_back() -> None:
    net = Net.tree("R.a", "B")
    net.cut("R")
    for origin in ("R", "R.a"):
        net.request(origin, "server", "R", "R.a", "B")
    net.tick(5)
    for origin in ("R", "R.a"):
        assert {str(o.source) for o in net.outcomes(origin)} == {"R", "R.a"}
    net.connect("R")
    net.run()
    assert {str(o.source) for o in net.outcomes("R")} == {"server", "B"}
    net.tick(3)  # R.a has not heard of it, and asks again after a pause
    assert {str(o.source) for o in net.outcomes("R.a")} == {"server", "B"}
    assert [len(net.received(name, Message)) for name in ("server", "B")] == [2, 2]


def test_an_event_is_refused_only_when_it_is_known_that_it_cannot_leave() -> None:
    net = Net.tree("A")
    net.request("server", "A")
    net.run()
    net["server"].router.leave(FQCN("A"), net.links["A"].listening)
    with pytest.raises(Unreachable, match="no cell A is present below server"):
        net["server"].send(FQCN("A"), "t", 0, b"", deadline=net.now + 1, now=net.now)


def test_what_no_cell_would_take_is_not_sent() -> None:
    net = Net.tree("A")
    server, later = net["server"], {"deadline": net.now + 1, "now": net.now}
    for destinations in ([FQCN("A")], [FQCN("A"), FQCN("server")]):
        with pytest.raises(PayloadTooLarge):
            server.request(destinations, "t", 0, bytes(65537), **later)
        with pytest.raises(LocalProtocolError):
            server.request(destinations, "t" * 256, 0, b"", **later)
        with pytest.raises(LocalProtocolError):
            server.request(destinations, "t", 0, b"", key="k" * 256, **later)
    with pytest.raises(PayloadTooLarge):
        server.send(FQCN("A"), "t", 0, bytes(65537), **later)
    with pytest.raises(LocalProtocolError):
        server.send(FQCN("A"), "t", 0, b"", key="k" * 256, **later)
    assert server.exchange.pending == 0
    net.run()
    assert net.links["A"].sent(Kind.OPEN, Kind.REQUEST, Kind.EVENT) == 0


def test_a_cell_waits_for_a_limited_number_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "MAX_PENDING", 1)
    net = Net.tree("A", "B")
    net.request("server", "A", topic="hold")
    with pytest.raises(Busy):
        net.request("server", "A")
    with pytest.raises(Busy):
        net.request("server", "A", "B")
    with pytest.raises(Busy):
        net["server"].send(FQCN("B"), "t", 0, b"", deadline=net.now + 1, now=net.now)
    assert net["server"].exchange.pending == 1


def test_an_answer_that_is_not_wanted_any_more_is_not_sent() -> None:
    net = Net.tree("A", "B")
    call = net.request("A", "B", topic="hold")
    net.tick(1)
    ((owed, error),) = net["A"].give_up(call, net.now)
    assert (owed, type(error).__name__) == (FQCN("B"), "DeadlineExceeded")
    assert net["A"].give_up(call, net.now) == []
    net.run()
    (message,) = net.received("B", Message)
    assert net.received("B", Cancelled) == [Cancelled(message.number)]
    replies = net.links["B"].sent(Kind.REPLY)
    net["B"].ended(message.number, Status.OK, 0, b"", net.now)
    net.run()
    assert net.links["B"].sent(Kind.REPLY) == replies
    assert net.outcomes("A") == []


def test_giving_up_what_nobody_can_be_told_of_is_no_error() -> None:
    net = Net.tree("A")
    call = net.request("A", "server", topic="hold")
    net.run()
    net.links["A"].is_up = False
    net["A"].router.parent = None
    assert len(net["A"].give_up(call, net.now)) == 1
    assert net["A"].exchange.pending == 0


def test_events_that_could_not_leave_in_time_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "MAX_PENDING", 2)
    net = Net.tree("B")
    net.add("A")

    def send(topic: str, seconds: float) -> None:
        net["A"].send(FQCN("B"), topic, 1, b"!", deadline=net.now + seconds, now=net.now)

    send("short", 1)
    send("long", MINUTE)
    with pytest.raises(Busy):
        send("too many", MINUTE)
    net.tick(5)
    send("later", MINUTE)
    with pytest.raises(Busy):
        send("too many", MINUTE)
    net.connect("A")
    net.run()
    assert [m.topic for m in net.received("B", Message)] == ["long", "later"]


def test_a_relay_that_gets_another_name_does_not_ask_twice() -> None:
    net = Net.tree("A.R", "B", "C")
    net.request("A.R", "C")
    net.tick(1)
    net.outcomes("A.R")
    net.request("A.R", "C", topic="hold")
    net.tick(1)
    net.cut("A.R")
    net.connect("A.R", parent="B")
    net.tick(5)
    assert [m.topic for m in net.received("C", Message)] == ["echo", "hold"]
    assert net.failures("A.R") == {}


def test_who_is_about_to_join_a_cell_that_stops_is_told_to_try_again() -> None:
    server = new_endpoint("server")
    newcomer = Peer.child(server, "A", joined=False)
    server.goodbye("server stops")
    (frame,) = newcomer.frames()
    assert frame.kind is Kind.REFUSED
    assert unpack(frame.header, str, str, bool, int)[2]
