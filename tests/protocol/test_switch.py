"""Messages on their way: the tree path and no other, and what goes back when something breaks."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.errors import Busy, Indeterminate, NotExecuted
from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol import answering as answering_module
from cellnet.protocol import connection as connection_module
from cellnet.protocol import switch as switch_module
from cellnet.protocol.envelope import Content, Status, join
from cellnet.protocol.events import Cancelled, Failed, Message, Replied
from cellnet.protocol.frames import INLINE_LIMIT, Kind, pack, unpack
from tests.protocol.conftest import MINUTE, Net, Peer, encode_frame, events, new_endpoint, order, request_body

if TYPE_CHECKING:
    from collections.abc import Callable

DEEP = ("A.a.x.1", "A.a.x.2", "A.a.y", "A.b", "B.a.x.1", "C")


def path(origin: str, destination: str) -> set[str]:
    """Return the links, each by its lower cell, between two cells of a tree."""

    def up(name: str) -> set[str]:
        steps = [] if name == "server" else name.split(".")
        return {".".join(steps[: depth + 1]) for depth in range(len(steps))}

    return up(origin) ^ up(destination)


def counts(net: Net, *kinds: Kind) -> dict[str, int]:
    return {name: link.sent(*kinds) for name, link in net.links.items()}


def grew(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


# The path


def test_all_ordered_pairs_of_cells_reach_each_other_over_the_tree_path() -> None:
    net = Net.tree(*DEEP)
    assert len(net.endpoints) == 13
    for origin, destination in permutations(net.endpoints, 2):
        expected = dict.fromkeys(path(origin, destination), 1)
        for there, back in (((Kind.OPEN,), (Kind.OPENED,)), ((Kind.REQUEST,), ())):
            before = counts(net, *there), counts(net, *back), counts(net, Kind.REPLY)
            net.request(origin, destination, payload=origin.encode())
            net.run()
            (replied,) = net.outcomes(origin)
            assert (str(replied.source), replied.payload) == (destination, origin.encode())
            assert grew(before[0], counts(net, *there)) == expected
            assert grew(before[1], counts(net, *back)) == (expected if back else {})
            assert grew(before[2], counts(net, Kind.REPLY)) == expected
    assert net.links["A"].sent(Kind.OPEN) == net.links["A"].sent(Kind.REQUEST)


def test_a_cell_can_ask_itself_without_any_link() -> None:
    net = Net.tree("A")
    before = counts(net, *Kind)
    net.request("A", "A")
    net.request("A", "A", "A")
    net.run()
    assert [str(replied.source) for replied in net.outcomes("A")] == ["A", "A"]
    assert counts(net, *Kind) == before


def test_a_broadcast_crosses_each_link_once_and_everybody_answers() -> None:
    net = Net.tree(*DEEP)
    for origin in net.endpoints:
        before = counts(net, Kind.BROADCAST)
        net.request(origin, *net.endpoints)
        net.run()
        assert {str(outcome.source) for outcome in net.outcomes(origin)} == set(net.endpoints)
        assert grew(before, counts(net, Kind.BROADCAST)) == dict.fromkeys(net.links, 1)


def test_a_broadcast_to_more_cells_than_a_frame_names_takes_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch_module, "MAX_ENTRIES", 4)
    names = [f"R.c{number}" for number in range(10)]
    net = Net.tree(*names)
    net.request("server", *names)
    net.run()
    assert len(net.outcomes("server")) == 10
    assert net.links["R"].sent(Kind.BROADCAST) == 3


def test_a_broadcast_tells_at_once_who_cannot_be_reached() -> None:
    net = Net.tree("A.a", "B")
    net.request("A.a", "B", "B.x", "A.x", "A.a.x", "A", once=False)
    net.run()
    outcomes = net.outcomes("A.a")
    assert {str(o.destination): str(o.error) for o in outcomes if isinstance(o, Failed)} == {
        "B.x": "no cell B.x is present below server",
        "A.x": "no cell A.x is present below server",
        "A.a.x": "no cell A.a.x is present below server",
    }
    assert {str(o.source) for o in outcomes if isinstance(o, Replied)} == {"A", "B"}


@pytest.mark.parametrize("once", [True, False])
def test_a_broadcast_in_open_sessions_is_nacked_for_those_that_left_unnoticed(once: bool) -> None:
    net = Net.tree("A.a.x", "B.b", "B.c")
    names = ("server", "A", "A.a", "A.a.x", "B.b", "B.c")
    net.request("A.a", *names)
    net.tick(1)
    assert len(net.outcomes("A.a")) == len(names)
    net["B"].router.leave(FQCN("B.b"), net.links["B.b"].listening)
    net["A.a"].router.leave(FQCN("A.a.x"), net.links["A.a.x"].listening)
    nacks = net.links["A.a"].sent(Kind.NACK)
    net.request("A.a", *names, once=once)
    net.run()
    outcomes = net.outcomes("A.a")
    assert {str(o.source) for o in outcomes if isinstance(o, Replied)} == {"server", "A", "A.a", "B.c"}
    failed = {str(o.destination): str(o.error) for o in outcomes if isinstance(o, Failed)}
    assert net.links["A.a"].sent(Kind.NACK) == nacks + 2
    if not once:
        assert failed == {"B.b": "no cell B.b is present below B", "A.a.x": "no cell A.a.x is present below A"}
        return
    assert failed == {}
    net.cut("B.b"), net.cut("A.a.x")
    net.connect("B.b"), net.connect("A.a.x")
    net.tick(5)
    assert {str(o.source) for o in net.outcomes("A.a")} == {"B.b", "A.a.x"}
    assert [len(net.received(name, Message)) for name in ("B.b", "A.a.x", "B.c")] == [2, 2, 2]


def test_a_broadcast_to_nobody_leaves_nothing_behind() -> None:
    net = Net.tree("A")
    net.request("server")
    net.run()
    assert net["server"].exchange.pending == 0
    assert net.outcomes("server") == []


@pytest.mark.parametrize("size", [1, 4])
def test_labels_are_used_again_when_a_table_is_full(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_LABELS", size)
    names = [f"R.c{number}" for number in range(7)]
    net = Net.tree(*names)
    for _ in range(3):
        for name in names:
            net.request("server", name)
        net.run()
    net.request(names[0], *names)
    net.run()
    assert len(net.outcomes("server")) == 21
    assert len(net.outcomes(names[0])) == 7
    for endpoint in net.endpoints.values():
        for link in endpoint.connections:
            assert len(list(link.routes_out())) <= size
            assert set(link.routes) <= set(range(size))


def test_a_cell_remembers_a_limited_number_of_routes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch_module, "MAX_OWN_ROUTES", 2)
    net = Net.tree("A", "B", "C")
    for name in ("A", "B", "A", "C", "A", "B"):
        net.request("server", name)
        net.run()
    assert len(net.outcomes("server")) == 6
    assert len(net["server"].switch._own) == 2
    assert net.links["A"].sent(Kind.BIND) == 2  # one each way


# Hops and deadlines


def chained(depth: int) -> Net:
    return Net.tree(".".join(f"c{number}" for number in range(depth)))


def test_a_frame_crosses_no_more_links_than_its_hops_allow() -> None:
    server = new_endpoint("server")
    near, far = Peer.child(server, "A"), Peer.child(server, "B")
    near.bind(0, "A", "B")
    far.frames()
    for hop, arrives in ((MAX_HOPS, True), (2, True), (1, False), (0, False)):
        near.send(Kind.REQUEST, 7, hop, hop=hop)
        forwarded = [frame for frame in far.frames() if frame.kind is Kind.REQUEST]
        assert [frame.hop for frame in forwarded] == ([hop - 1] if arrives else [])
        nacks = [unpack(frame.header, str, str, list) for frame in near.frames()]
        assert nacks == (
            [] if arrives else [["unreachable", "a message used up its 32 hops at server", [["B", 7, hop]]]]
        )


def test_a_broadcast_crosses_no_more_links_than_its_hops_allow() -> None:
    server = new_endpoint("server")
    near, far = Peer.child(server, "A"), Peer.child(server, "B")
    session = opened(near, 1, "A", "server")
    near.bind(0, "A", None)
    far.frames()
    near.send(Kind.BROADCAST, [entry("B"), entry("server", session, 1)], body=CONTENT, hop=2)
    assert [frame.hop for frame in far.frames() if frame.kind is Kind.BROADCAST] == [1]
    near.send(Kind.BROADCAST, [entry("B", 7, 2), entry("server", session, 2, sequence=2)], body=CONTENT, hop=1)
    assert far.frames() == []
    assert [message.sequence for message in events(server, Message)] == [1, 2]
    (nack,) = near.frames()
    assert unpack(nack.header, str, str, list)[2] == [["B", 7, 2]]


def test_no_frame_may_claim_more_hops_than_there_are() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.send(Kind.REQUEST, 1, 1, hop=MAX_HOPS + 1)
    assert peer.error() == "RemoteProtocolError: a frame may cross 33 more links: 32 are allowed"


def test_the_deepest_tree_is_crossed_from_leaf_to_leaf() -> None:
    left = ".".join(f"a{number}" for number in range(16))
    right = ".".join(f"b{number}" for number in range(16))
    net = Net.tree(left, right)
    net.request(left, right)
    net.run()
    (outcome,) = net.outcomes(left)
    assert isinstance(outcome, Replied)


def test_every_hop_subtracts_the_time_it_took() -> None:
    net = Net.tree("A.a")
    start = net.now
    net["server"].request([FQCN("A.a")], "hold", 0, b"", deadline=start + 2, now=start)
    net.now += 0.5
    net.links["A"].move(net.now)
    net.now += 0.25
    net.links["A.a"].move(net.now)
    net.run()
    (message,) = net.received("A.a", Message)
    assert message.deadline == pytest.approx(start + 2, abs=0.003)


@pytest.mark.parametrize("waits", [("A",), ("A.a",)])
def test_a_frame_is_dropped_where_its_time_is_up(waits: tuple[str]) -> None:
    net = Net.tree("A.a")
    net["server"].request([FQCN("A.a")], "echo", 0, b"", deadline=net.now + 2, now=net.now)
    for name in ("A", "A.a"):
        net.now += 3 if name in waits else 0
        net.links[name].move(net.now)
    net.run()
    assert net.outcomes("server") == net.received("A.a", Message) == []
    assert net.links[waits[0]].listening.statistics.dropped == 1
    net.tick(1)
    assert net.failures("server") == {"A.a": "DeadlineExceeded"}


def test_a_frame_without_time_left_is_refused() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.open(request=request_body(1), remaining_ms=0)
    assert peer.is_open
    assert events(peer.endpoint, Message) == []
    assert peer.endpoint.switch.refused == 1
    peer.open(request=request_body(1), remaining_ms=1)
    assert len(events(peer.endpoint, Message)) == 1


# What goes back


def test_what_is_sent_once_to_a_cell_that_is_not_present_fails_at_once_from_everywhere() -> None:
    net = Net.tree("A.a.x", "B.b")
    for origin in ("A.a.x", "B.b", "A", "server"):
        net.request(origin, "B.c", once=False)
        net.run()
        (failed,) = net.outcomes(origin)
        assert isinstance(failed, Failed)
        assert str(failed.error) == "no cell B.c is present below server"
        assert net[origin].exchange.pending == 0


def test_a_cell_that_is_not_present_is_asked_for_until_the_deadline_from_everywhere() -> None:
    net = Net.tree("A.a.x", "B.b")
    origins = ("A.a.x", "B.b", "A", "server")
    for origin in origins:
        net.request(origin, "B.c", deadline=net.now + 10)
    net.tick(9.5)
    assert [net.outcomes(origin) for origin in origins] == [[]] * 4
    net.tick(1)
    for origin in origins:
        assert net.failures(origin) == {"B.c": "StillUnreachable"}
        assert net[origin].exchange.pending == 0
        net.request(origin, "B.c", deadline=net.now + 10)
    net.tick(3)
    net.add("B.c")
    net.connect("B.c")
    net.tick(3)
    for origin in origins:
        (outcome,) = net.outcomes(origin)
        assert isinstance(outcome, Replied)
    assert len(net.received("B.c", Message)) == len(origins)


def test_a_relay_that_loses_a_child_tells_the_origins_on_other_branches() -> None:
    net = Net.tree("A.a.x", "B.b.y", "C")
    for origin in ("B.b.y", "C", "server", "A"):
        net.request(origin, "A.a.x", topic="hold", once=False)
        net.request(origin, "A.a", topic="hold", once=False)
    net.run()
    net.cut("A.a.x")
    net.run()
    for origin in ("B.b.y", "C", "server", "A"):
        assert net.failures(origin) == {"A.a.x": "Indeterminate"}
        assert net[origin].exchange.pending == 1


def test_what_was_asked_of_a_cell_that_is_lost_is_answered_when_it_is_back_and_runs_once() -> None:
    net = Net.tree("A.a.x", "B.b.y")
    origins = ("B.b.y", "server", "A")
    for origin in origins:
        net.request(origin, "A.a.x")
    net.tick(1)
    for origin in origins:
        net.outcomes(origin)
        net.request(origin, "A.a.x", topic="hold")
    net.tick(1)
    net.cut("A.a.x")
    for message in net.received("A.a.x", Message):
        net["A.a.x"].ended(message.number, Status.OK, 1, b"!", net.now)
    net.tick(10)
    assert [net.outcomes(origin) for origin in origins] == [[]] * 3
    net.connect("A.a.x")
    net.tick(3)
    for origin in origins:
        (replied,) = net.outcomes(origin)
        assert isinstance(replied, Replied)
        assert replied.payload == b"!"
    assert len(net.received("A.a.x", Message)) == 2 * len(origins)


@pytest.mark.parametrize("broken", ["A", "A.a", "A.a.x"])
def test_a_broadcast_ends_for_those_behind_a_link_that_broke_and_for_nobody_else(broken: str) -> None:
    net = Net.tree("A.a.x", "A.b", "B.b")
    everybody = set(net.endpoints)
    for origin in everybody:
        net.request(origin, *everybody - {origin}, topic="hold", once=False)
    net.run()
    net.cut(broken)
    net.run()
    below = {name for name in everybody if f"{name}.".startswith(f"{broken}.")}
    for origin in everybody:
        lost = everybody - below if origin in below else below
        assert net.failures(origin) == dict.fromkeys(lost, "Indeterminate")
        assert net[origin].exchange.pending == len(everybody) - 1 - len(lost)


def test_handlers_go_on_whose_origin_is_behind_a_link_that_broke_and_it_fetches_the_answer() -> None:
    net = Net.tree("A.a", "B")
    pairs = (("A.a", "B"), ("B", "A.a"), ("server", "A.a"), ("A", "A.a"), ("B", "server"))
    for topic in ("echo", "hold"):
        for origin, destination in pairs:
            net.request(origin, destination, topic=topic)
        net.tick(1)
    assert [len(net.outcomes(name)) for name in net.endpoints] == [1, 1, 1, 2]
    net.cut("A")
    net.tick(1)
    assert not any(net.received(name, Cancelled) for name in net.endpoints)
    for name in net.endpoints:
        for message in net.received(name, Message):
            net[name].ended(message.number, Status.OK, 1, b"!", net.now)
    net.run()
    assert {name: len(net.outcomes(name)) for name in net.endpoints} == {"server": 0, "A": 1, "A.a": 0, "B": 1}
    net.connect("A")
    net.tick(5)
    found = [outcome for name in net.endpoints for outcome in net.outcomes(name)]
    assert [o.payload for o in found if isinstance(o, Replied)] == [b"!"] * len(found)
    assert len(found) == 3
    assert sum(len(net.received(name, Message)) for name in net.endpoints) == 2 * len(pairs)


def test_a_member_that_left_ends_what_was_asked_of_it_even_where_no_label_leads_back() -> None:
    net = Net.tree("A.a")
    net.request("server", "A.a", "A", topic="hold", once=False)
    net.run()
    net.links["A"].tamper = lambda f: (
        b"" if f.kind is Kind.LOST else encode_frame(f.kind, f.header, f.body, label=f.label)
    )
    net.cut("A.a")
    net.run()
    assert net.failures("server") == {"A.a": "Indeterminate"}


def test_a_reply_that_is_on_its_way_arrives_although_its_cell_ends() -> None:
    net = Net.tree("A.a", "B")
    net.request("B", "A.a", topic="hold")
    net.request("server", "A.a", topic="hold")
    net.run()
    for message in net.received("A.a", Message):
        net["A.a"].ended(message.number, Status.OK, 1, b"!", net.now)
    net["A.a"].goodbye("done")
    net.run()
    for origin in ("B", "server"):
        (outcome,) = net.outcomes(origin)
        assert isinstance(outcome, Replied)
    assert net["A"].children == {}


def test_a_reply_that_waits_at_a_relay_is_not_overtaken_by_the_end_of_its_cell() -> None:
    net = Net.tree("A.a", "B")
    net.request("B", "A.a", topic="hold")
    net.run()
    net.links["A"].parent_reads = False
    net["A.a"].ended(net.received("A.a", Message)[0].number, Status.OK, 1, b"!", net.now)
    net.run()
    net.cut("A.a")
    net.run()
    net.links["A"].parent_reads = True
    net.run()
    (outcome,) = net.outcomes("B")
    assert isinstance(outcome, Replied)


def test_a_route_that_broke_can_be_used_again_when_its_cell_is_back() -> None:
    net = Net.tree("A.a.x", "B.b")
    for round_ in range(3):
        net.request("B.b", "A.a.x")
        net.run()
        assert isinstance(net.outcomes("B.b")[0], Replied)
        net.cut(("A.a.x", "A.a", "A")[round_])
        net.run()
        net.request("B.b", "A.a.x", once=False)
        net.run()
        assert net.failures("B.b") == {"A.a.x": "Unreachable"}
        net.connect(("A.a.x", "A.a", "A")[round_])
        net.run()
        net.run()


def test_news_for_a_label_that_has_another_route_by_now_is_ignored() -> None:
    server = new_endpoint("server")
    near, far = Peer.child(server, "A"), Peer.child(server, "B")
    near.bind(0, "A", "B")
    near.request(0)
    far.frames()
    far.send(Kind.LOST, "C", True, label=0)
    far.send(Kind.LOST, "B", True, label=5)
    far.send(Kind.NACK, "busy", "no room", [["B.b", 7, 1]], label=0)
    far.send(Kind.NACK, "busy", "no room", [["B", 7, 1], ["B", 7, 2]], label=0)
    far.send(Kind.NACK, "busy", "no room", [], label=0)
    far.send(Kind.NACK, "busy", "no room", [["B", 7, 1]], label=5)
    assert near.frames() == []
    assert server.switch.refused == 4
    far.send(Kind.NACK, "busy", "x" * 5000, [["B", 7, 1]], label=0)
    far.send(Kind.LOST, "B", True, label=0)
    nack, lost = near.frames()
    assert (nack.label, unpack(nack.header, str, str, list)) == (0, ["busy", "x" * 500, [["B", 7, 1]]])
    assert (lost.label, unpack(lost.header, str, bool)) == (0, ["B", True])


def test_a_nack_for_another_session_or_transmission_ends_nothing() -> None:
    server = new_endpoint("server", epoch=5)
    peer = Peer.child(server, "A")
    server.request([FQCN("A")], "t", 0, b"", deadline=MINUTE, now=0.0, once=False)
    peer.frames()
    events(server)
    for session, attempt in ((7, 1), (0, 2), (1, 0)):
        peer.send(Kind.NACK, "busy", "no room", [["A", session, attempt]], label=0)
        assert not server.events
    peer.send(Kind.NACK, "busy", "no room", [["A", 0, 1]], label=0)
    (failed,) = events(server, Failed)
    assert isinstance(failed.error, Busy)
    server.request([FQCN("A")], "t", 0, b"", deadline=MINUTE, now=0.0, once=False)
    peer.bind(0, "A", "server")
    peer.opened(7, 2)
    (request,) = (frame for frame in peer.frames() if frame.kind is Kind.REQUEST)
    assert unpack(request.header, int, int) == [7, 1]
    for session, counter in ((0, 2), (0, 1), (8, 1), (7, 2)):
        peer.send(Kind.NACK, "busy", "no room", [["A", session, counter]], label=request.label)
        assert not server.events
    peer.send(Kind.NACK, "unreachable", "gone", [["A", 7, 1]], label=request.label)
    (failed,) = events(server, Failed)
    assert str(failed.error) == "gone"


def test_a_child_cannot_declare_lost_what_is_not_behind_it() -> None:
    server = new_endpoint("server")
    bad, good = Peer.child(server, "A"), Peer.child(server, "B")
    server.request([FQCN("A"), FQCN("B")], "t", 0, b"", deadline=MINUTE, now=0.0, once=False)
    for number, peer in enumerate((bad, good)):
        peer.frames()
        peer.bind(0, "AB"[number], "server")
        peer.opened(7 + number)
    labels = [frame.label for peer in (bad, good) for frame in peer.frames() if frame.kind is Kind.BROADCAST]
    assert len(labels) == 2
    events(server)
    bad.send(Kind.LOST, "server", True, label=labels[0])
    assert [str(failed.destination) for failed in events(server, Failed)] == ["A"]
    assert server.exchange.pending == 1
    bad.send(Kind.NACK, "busy", "no room", [["B", 7, 1]], label=labels[0])
    assert server.exchange.pending == 1


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.NACK, ("boring", "", [["B", 1, 1]])),
        (Kind.NACK, ("busy", "", [["B..b", 1, 1]])),
        (Kind.NACK, ("busy", "", [["B", 1, 1]] * 101)),
        (Kind.NACK, ("busy", "", ["B"])),
        (Kind.NACK, ("busy", "", [["B", 1]])),
        (Kind.NACK, ("busy", "", [["B", 1, 1, b""]])),
        (Kind.NACK, ("busy", "", [["B", True, 1]])),
        (Kind.NACK, ("busy", "", [["B", -1, 1]])),
        (Kind.NACK, ("busy", [["B", 1, 1]])),
        (Kind.LOST, ("B",)),
        (Kind.LOST, ("B..b", True)),
        (Kind.LOST, ("B", 1)),
        (Kind.BIND, ("B",)),
        (Kind.BIND, ("B..b", None)),
        (Kind.BIND, ("B", "B..b")),
        (Kind.BIND, ("B", 1)),
        (Kind.GOAWAY, ()),
        (Kind.GOAWAY, (1,)),
    ],
)
def test_a_neighbour_whose_frames_about_the_link_are_malformed_is_cut(kind: Kind, fields: tuple[Any, ...]) -> None:
    peer = Peer.child(new_endpoint("server"), "B")
    peer.send(kind, *fields)
    assert peer.error().startswith("RemoteProtocolError")
    assert peer.frames()[-1].kind is Kind.GOAWAY


# Who may speak for whom


@pytest.mark.parametrize("origin", ["server", "B", "Aa", "server.A", "B.A"])
def test_a_child_that_speaks_for_a_cell_not_below_it_is_cut(origin: str) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", None)
    peer.bind(1, "A.a.b", None)
    assert peer.is_open
    peer.bind(2, origin, None)
    assert peer.error() == f"RemoteProtocolError: a neighbour may not speak for {origin}"


@pytest.mark.parametrize("origin", ["R.A", "R.A.b"])
def test_a_parent_that_speaks_for_a_cell_on_our_side_is_cut(origin: str) -> None:
    peer = Peer.parent(new_endpoint("A"), "R.A")
    for number, allowed in enumerate(("server", "R", "R.B", "R.Aa", "X", "server.A")):
        peer.bind(number, allowed, "R.A")
    assert peer.is_open
    peer.bind(9, origin, "R.A")
    assert peer.error() == f"RemoteProtocolError: a neighbour may not speak for {origin}"


def test_a_frame_on_a_label_that_was_never_bound_ends_the_link() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.request(3)
    assert peer.error() == "RemoteProtocolError: a frame bears label 3, which was never bound"


@pytest.mark.parametrize(
    ("destination", "kind"), [(None, Kind.REQUEST), (None, Kind.REPLY), ("server", Kind.BROADCAST)]
)
def test_a_frame_that_does_not_fit_its_route_ends_the_link(destination: str | None, kind: Kind) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", destination)
    peer.send(kind, [entry("server")], body=CONTENT)
    assert peer.error() == f"RemoteProtocolError: {kind.name} does not fit its route"


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ([["server", 1, 1, b""]], 1),
        ("server",),
        (["server"],),
        ([1],),
        ([["a..b", 1, 1, b""]],),
        ([["server", 1, 1, b""]] * 101,),
        ([["server", 1, True, b""]],),
        ([["server", 1, 1, ""]],),
    ],
)
def test_a_broadcast_whose_destinations_are_malformed_ends_the_link(fields: tuple[Any, ...]) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", None)
    peer.send(Kind.BROADCAST, *fields, body=CONTENT)
    assert peer.error().startswith("RemoteProtocolError")


@pytest.mark.parametrize("destination", ["A", "A.b", "A.a.x"])
def test_a_frame_is_never_sent_back_where_it_came_from(destination: str) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A.a", destination)
    peer.request(0)
    peer.open(0)
    peer.bind(1, "A.a", None)
    peer.send(Kind.BROADCAST, [entry(destination)], body=CONTENT, label=1)
    assert [(f.kind, f.label) for f in peer.frames()] == [(Kind.NACK, 0), (Kind.NACK, 0), (Kind.NACK, 1)]
    for kind in (Kind.REPLY, Kind.EVENT, Kind.SETTLED, Kind.OPENED, Kind.CLOSED):
        peer.send(kind, 1, 1, label=0)
    assert peer.frames() == []
    assert peer.endpoint.switch.refused == 8


CONTENT = Content("t", 0, b"?").pack()


def entry(name: str, session: int = 7, counter: int = 1, *, sequence: int = 1) -> list[Any]:
    return [name, session, counter, order(sequence)]


def opened(peer: Peer, label: int, origin: str, destination: str) -> int:
    """Open a session with the endpoint that a peer is next to; return its number."""
    peer.bind(label, origin, destination)
    peer.open(label)
    (number,) = peer.sessions()
    return number


# A far cell that misbehaves hurts no link between others


GARBAGE = b"garbage"
HEADERS = (Kind.OPEN, Kind.OPENED, Kind.CLOSED, Kind.REQUEST, Kind.REPLY, Kind.EVENT, Kind.SETTLED)
MALFORMED: dict[str, Callable[[Peer, int], None]] = {
    **{f"header of {kind.name}": lambda peer, _n, kind=kind: peer.send(kind, GARBAGE) for kind in HEADERS},  # type: ignore[misc]
    "negative": lambda peer, number: peer.send(Kind.REQUEST, number, -1),
    "request": lambda peer, number: peer.send(Kind.REQUEST, number, 1, body=GARBAGE),
    "order": lambda peer, number: peer.send(Kind.REQUEST, number, 1, body=join(GARBAGE, CONTENT)),
    "content": lambda peer, number: peer.send(Kind.REQUEST, number, 1, body=join(order(2), b"")),
    "payload": lambda peer, number: peer.request(0, 3, session=number, payload=bytes(INLINE_LIMIT + 1)),
    "topic": lambda peer, number: peer.request(0, 3, session=number, topic="t" * 256),
    "event": lambda peer, number: peer.send(Kind.EVENT, number, 1, body=GARBAGE),
    "settled": lambda peer, number: peer.send(Kind.SETTLED, number, 1, body=GARBAGE),
    "range": lambda peer, number: peer.send(Kind.SETTLED, number, 1, body=pack([], [[2, 1]])),
    "open": lambda peer, _number: peer.send(Kind.OPEN, 0, 9, body=GARBAGE),
    "request in open": lambda peer, _number: peer.open(attempt=9, request=GARBAGE),
    "opened": lambda peer, _number: (
        peer.send(Kind.CLOSED, 77, 0, body=pack("no such session", b"", "")),
        peer.send(Kind.OPENED, 2, 0, body=GARBAGE),
    ),
    "closed": lambda peer, _number: peer.send(Kind.CLOSED, 77, 1, body=GARBAGE),
    "reply": lambda peer, _number: peer.send(Kind.REPLY, 77, 1, body=GARBAGE),
    "status": lambda peer, _number: peer.send(Kind.REPLY, 77, 1, body=join(pack(1, 1, 99, 0), b"")),
    "broadcast": lambda peer, number: peer.send(
        Kind.BROADCAST, [entry("server", number, 1, sequence=2)], body=b"\xff\xff", label=1
    ),
    "entry": lambda peer, number: peer.send(Kind.BROADCAST, [["server", number, 1, b"\x90"]], body=CONTENT, label=1),
    "undeliverable": lambda peer, _number: peer.send(Kind.REQUEST, GARBAGE, label=2),
    "undeliverable open": lambda peer, _number: peer.send(Kind.OPEN, 0, "x", label=2),
    "undeliverable broadcast": lambda peer, _number: peer.send(Kind.BROADCAST, [entry("X")], body=b"", label=1),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_a_far_cell_malformed_is_refused_and_the_link_to_our_neighbour_stays(what: str) -> None:
    server, relay = new_endpoint("server"), new_endpoint("R")
    link = Net(endpoints={"server": server, "R": relay})
    link.connect("R")
    link.run()
    peer = Peer.child(relay, "A")
    peer.now = link.now
    for label, destination in ((0, "server"), (1, None), (2, "X")):
        peer.bind(label, "R.A", destination)
    link.run()
    link.request("server", "R.A", topic="hold", deadline=link.now + 100 * MINUTE)
    link.run()
    peer.opened(77)
    peer.open(0)
    link.run()
    (number,) = peer.sessions()
    peer.send(Kind.REQUEST, number, 2, body=request_body(1))
    link.run()
    assert server.switch.refused == 0
    MALFORMED[what](peer, number)
    link.run()
    assert link.links["R"].is_up
    assert peer.is_open
    assert server.switch.refused == 1
    assert len(link.received("server", Message)) == 1
    assert link.outcomes("server") == []
    assert server.exchange.pending == 1


# Full links


def acquaint(net: Net, origin: str, *destinations: str) -> None:
    """Open sessions, so that what is sent later needs no answer before."""
    for destination in destinations:
        net.request(origin, destination, topic="hello")
    net.tick(1)
    assert len(net.outcomes(origin)) == len(destinations)


def fill(net: Net, origin: str, destination: str, count: int, *, once: bool = False) -> None:
    for _ in range(count):
        net.request(origin, destination, payload=bytes(INLINE_LIMIT), once=once)
        net.run()


def test_a_child_that_does_not_read_is_busy_and_hurts_only_itself() -> None:
    net = Net.tree("R.slow", "R.fast", "B")
    acquaint(net, "B", "R.slow", "R.fast")
    acquaint(net, "server", "R.slow", "R.fast")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 40)
    busy = net.outcomes("B")
    assert {str(failed.error) for failed in busy} == {"the link from R to R.slow is full: its receiver is too slow"}
    assert {type(failed.error) for failed in busy} == {Busy}
    link = net.links["R.slow"].listening
    assert link.queued_bytes <= connection_module.BUDGET_BYTES + 70000
    net.request("B", "R.fast", once=False)
    net.request("server", "R.slow", "R.fast", once=False)
    net.run()
    assert isinstance(net.outcomes("B")[0], Replied)
    assert {type(o).__name__ for o in net.outcomes("server")} == {"Failed", "Replied"}
    net.links["R.slow"].child_reads = True
    net.run()
    assert len(net.outcomes("B")) == 40 - len(busy) > 10
    assert net["B"].exchange.pending == 0


def test_what_a_full_child_has_no_room_for_is_sent_again_until_it_has() -> None:
    net = Net.tree("R.slow", "B")
    acquaint(net, "B", "R.slow")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 40, once=True)
    net.tick(3)
    assert net.outcomes("B") == []
    assert net.links["R.slow"].listening.queued_bytes <= connection_module.BUDGET_BYTES + 70000
    net.links["R.slow"].child_reads = True
    net.tick(10)
    assert len([o for o in net.outcomes("B") if isinstance(o, Replied)]) == 40
    assert len(net.received("R.slow", Message)) == 41
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 30, once=True)
    net.request("B", "R.slow", deadline=net.now + 5)
    net.tick(6)
    assert net.failures("B") == {"R.slow": "StillBusy"}


def test_nothing_new_is_opened_with_a_full_child() -> None:
    net = Net.tree("R.slow", "B")
    acquaint(net, "B", "R.slow")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 20)
    net.outcomes("B")
    net.request("server", "R.slow", once=False)
    net.run()
    assert net.failures("server") == {"R.slow": "Busy"}


def test_events_for_a_full_child_are_dropped_and_counted() -> None:
    net = Net.tree("R.slow", "B")
    acquaint(net, "B", "R.slow")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 20)
    refused = net["R"].switch.refused
    net["B"].send(FQCN("R.slow"), "t", 0, b"", deadline=net.now + MINUTE, now=net.now)
    net.run()
    assert net["R"].switch.refused == refused + 1


def test_a_full_parent_refuses_nothing_until_the_reserve_is_used_up() -> None:
    net = Net.tree("R.a", "B")
    acquaint(net, "R.a", "B", "server", "R")
    net.links["R"].parent_reads = False
    fill(net, "R.a", "B", 79)
    assert net.outcomes("R.a") == []
    fill(net, "R.a", "B", 2)
    assert net.failures("R.a") == {"B": "Busy"}
    net.request("R.a", "B", "server", once=False)
    net.request("R.a", "R", once=False)
    net.run()
    (outcome,) = net.outcomes("R.a")
    assert isinstance(outcome, Replied)
    fill(net, "R.a", "B", 1)
    assert net.failures("R.a") == {"B": "Busy"}
    net.request("R.a", "B", "server", payload=bytes(INLINE_LIMIT), once=False)
    net.run()
    assert net.failures("R.a") == {"B": "Busy", "server": "Busy"}


def test_a_cell_whose_own_link_is_more_than_full_is_told_so_at_once() -> None:
    net = Net.tree("A")
    acquaint(net, "server", "A")
    net.links["A"].child_reads = False
    fill(net, "server", "A", 100)
    failed = net.outcomes("server")
    assert {str(f.error) for f in failed} == {"the link from server to A is full: its receiver is too slow"}
    pending = net["server"].exchange.pending
    assert pending == 100 - len(failed)
    with pytest.raises(Busy):
        net["server"].send(FQCN("A"), "t", 0, bytes(INLINE_LIMIT), deadline=net.now + MINUTE, now=net.now)
    net.request("server", "A", "server", payload=bytes(INLINE_LIMIT), once=False)
    net.tick(1)
    assert net.failures("server") == {"A": "Busy"}
    assert net["server"].exchange.pending == pending


def test_a_broadcast_of_our_own_may_use_the_reserve() -> None:
    net = Net.tree("A", "B")
    acquaint(net, "server", "A", "B")
    net.links["A"].child_reads = False
    fill(net, "server", "A", 20)
    assert net.links["A"].listening.is_full
    net.request("server", "A", "B", once=False)
    net.run()
    assert [str(o.source) for o in net.outcomes("server")] == ["B"]
    assert net.links["A"].listening.queued_bytes > connection_module.BUDGET_BYTES


def test_answers_to_a_cell_that_does_not_read_are_bounded_and_asked_for_again_if_they_were_dropped() -> None:
    net = Net.tree("A")
    acquaint(net, "A", "server")
    net.links["A"].child_reads = False
    fill(net, "A", "server", 100, once=True)
    link = net.links["A"].listening
    limit = connection_module.BUDGET_BYTES + connection_module.RESERVE_BYTES
    assert limit - 70000 < link.queued_bytes <= limit + 600
    assert link.statistics.dropped == net["server"].exchange.refused > 0
    net.links["A"].child_reads = True
    net.tick(10)
    assert len([o for o in net.outcomes("A") if isinstance(o, Replied)]) == 100
    assert len(net.received("server", Message)) == 101


def test_a_neighbour_that_provokes_answers_and_never_reads_them_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "RESERVE_BYTES", 10_000)
    monkeypatch.setattr(connection_module, "BUDGET_BYTES", 10_000)
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "X")
    for sequence in range(1000):
        peer.request(0, sequence)
    assert peer.connection.queued_bytes < 21_000
    assert peer.is_open
    peer.endpoint.tick(5.0)
    assert peer.error() == "ConnectError: the neighbour does not read"


# The receiver


def test_a_request_that_comes_twice_is_taken_once() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    session = opened(peer, 0, "A", "server")
    body = request_body(7)
    peer.send(Kind.REQUEST, session, 1, body=body)
    peer.send(Kind.REQUEST, session, 1, body=body)
    assert peer.frames() == []
    peer.send(Kind.REQUEST, session, 2, body=body)
    (reply,) = peer.frames()
    assert (reply.kind, unpack(reply.header, int, int)) == (Kind.REPLY, [session, 1])
    assert reply.body == join(pack(7, 2, int(Status.WORKING), 0), b"")
    assert len(events(peer.endpoint, Message)) == 1
    assert peer.endpoint.exchange.refused == 2


def test_replies_that_nobody_asked_for_are_counted() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.send(Kind.REPLY, 1, 1, body=join(pack(1, 1, 0, 0), b""), label=0)
    assert peer.is_open
    assert peer.endpoint.exchange.refused == 1
    assert events(peer.endpoint, Replied) == []


def test_a_cell_that_works_on_as_much_as_it_may_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "MAX_INCOMING", 2)
    net = Net.tree("A.a", "B")
    for origin in ("B", "A.a"):
        net.request(origin, "A.a", topic="hold")
    net.tick(1)
    net.request("B", "A.a", once=False)
    net.request("A.a", "A.a", once=False)
    net.tick(1)
    for origin in ("B", "A.a"):
        (failed,) = net.outcomes(origin)
        assert isinstance(failed.error, Busy)
        assert str(failed.error) == "A.a works on as many requests as it may"
    net.request("A.a", "A.a", deadline=net.now + 2 * MINUTE)
    net.tick(MINUTE + 5)
    assert {type(o.error).__name__ for o in net.outcomes("B")} == {"DeadlineExceeded"}
    net.request("B", "A.a")
    net.run()
    assert isinstance(net.outcomes("B")[0], Replied)
    assert [type(o) for o in net.outcomes("A.a")] == [Failed, Replied]


def test_an_answer_whose_origin_is_gone_is_counted() -> None:
    net = Net.tree("A", "B")
    net.request("A", "B", topic="hold")
    net.tick(1)
    (message,) = net.received("B", Message)
    net.links["A"].is_up = False
    net["server"].close(net.links["A"].listening, net.now)
    net["B"].ended(message.number, Status.OK, 0, b"", net.now)
    net.run()
    assert net["server"].switch.refused == 1
    net.request("server", "B", topic="hold")
    net.tick(1)
    message = net.received("B", Message)[-1]
    refused = net["B"].exchange.refused
    net["B"].router.parent = None
    net["B"].ended(message.number, Status.OK, 0, b"", net.now)
    assert net["B"].exchange.refused == refused + 1


def test_that_an_answer_is_not_wanted_any_more_reaches_all_who_still_work_on_it() -> None:
    net = Net.tree("A.a", "B", "C")
    call = net.request("C", "A.a", "B", "server", topic="hold")
    net.run()
    held = net.received("B", Message)[0]
    net["B"].ended(held.number, Status.OK, 0, b"", net.now)
    net.run()
    assert {str(name) for name, _error in net["C"].give_up(call, net.now)} == {"A.a", "server"}
    net.run()
    assert {name for name in net.endpoints if net.received(name, Cancelled)} == {"A.a", "server"}
    assert net["C"].exchange.pending == 0
    assert net["A.a"].exchange.answering.records == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_breaks_and_comes_back_every_request_ends_once_and_none_runs_twice(data: st.DataObject) -> None:
    names = ["A", "A.a", "A.a.x", "A.b", "B", "B.a"]
    net = Net.tree(*names)
    cells = ["server", *names]
    asked: dict[tuple[str, int, str], tuple[bytes, bool]] = {}
    cut: set[str] = set()
    actions = ["ask", "ask", "hold", "broadcast", "cut", "connect", "run", "move", "tick", "give up"]
    for step in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(actions))
        name, other = data.draw(st.sampled_from(cells)), data.draw(st.sampled_from(cells))
        payload, once = str(step).encode(), data.draw(st.booleans())
        if action in ("ask", "hold"):
            asked[name, net.request(name, other, topic=action, payload=payload, once=once), other] = payload, once
        elif action == "broadcast":
            topic = data.draw(st.sampled_from(["ask", "hold"]))
            call = net.request(name, *cells, topic=topic, payload=payload, once=once)
            asked |= {(name, call, target): (payload, once) for target in cells}
        elif action == "move" and name in net.links:
            net.links[name].move(net.now)
        elif action == "run":
            net.run()
        elif action == "tick":
            net.tick(data.draw(st.sampled_from([0.1, 1, 10])))
        elif action == "give up" and asked:
            origin, call, _target = data.draw(st.sampled_from(sorted(asked)))
            for target, _error in net[origin].give_up(call, net.now):
                del asked[origin, call, str(target)]
        elif action == "cut" and name in net.links and name not in cut:
            net.cut(name)
            cut.add(name)
        elif action == "connect" and name in cut:
            net.connect(name)
            cut.discard(name)
    for name in sorted(cut):
        net.connect(name)
        net.run()
    net.tick(MINUTE + 5)
    ran = Counter((str(m.origin), name, m.payload) for name in cells for m in net.received(name, Message))
    assert set(ran.values()) <= {1}
    ended: set[tuple[str, int, str]] = set()
    for name in cells:
        for outcome in net.outcomes(name):
            target = str(outcome.source if isinstance(outcome, Replied) else outcome.destination)
            key = (name, outcome.call, target)
            if key not in asked:
                continue  # it had ended when it was given up
            assert key not in ended
            ended.add(key)
            payload, once = asked[key]
            if isinstance(outcome, Replied):
                assert ran[name, target, payload] == 1
            elif isinstance(outcome.error, NotExecuted):
                assert ran[name, target, payload] == 0
            else:
                assert isinstance(outcome.error, Indeterminate)
    assert ended == set(asked)
    for name in cells:
        assert net[name].exchange.pending == 0
        assert net[name].exchange.answering.running == 0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_restarted_and_forgotten_nothing_runs_twice_or_is_said_not_to_have_run(data: st.DataObject) -> None:
    names = ["A", "A.a", "A.a.x", "A.b", "B", "B.a"]
    net = Net.tree(*names)
    cells = ["server", *names]
    starts = Counter(dict.fromkeys(names, 1))
    asked: dict[tuple[str, int, int, str], bytes] = {}
    ended: dict[tuple[str, int, int, str], Replied | Failed] = {}
    cut: set[str] = set()

    def note_outcomes() -> None:
        for name in cells:
            for outcome in net.outcomes(name):
                target = str(outcome.source if isinstance(outcome, Replied) else outcome.destination)
                key = (name, starts[name], outcome.call, target)
                assert key in asked
                assert key not in ended
                ended[key] = outcome

    def cut_off(name: str) -> None:
        if name not in cut:
            net.cut(name)
            cut.add(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_module, "MAX_LABELS", data.draw(st.sampled_from([1, 3, 4096])))
        for step in range(data.draw(st.integers(1, 25))):
            action = data.draw(
                st.sampled_from(["ask", "ask", "ask", "cut", "restart", "connect", "move", "run", "tick"])
            )
            name, other = data.draw(st.sampled_from(cells)), data.draw(st.sampled_from(cells))
            if action == "ask":
                targets = data.draw(st.sampled_from([[other], [other], cells]))
                how = {"once": data.draw(st.booleans()), "key": data.draw(st.sampled_from(["", "k"]))}
                topic = data.draw(st.sampled_from(["ask", "ask", "hold"]))
                call = net.request(name, *targets, topic=topic, payload=str(step).encode(), **how)
                asked |= {(name, starts[name], call, target): str(step).encode() for target in targets}
            elif action == "move" and name in net.links:
                net.links[name].move(net.now)
            elif action == "run":
                net.run()
            elif action == "tick":
                net.tick(data.draw(st.sampled_from([0.1, 1, 10])))
            elif action == "cut" and name in net.links:
                cut_off(name)
            elif action == "restart" and name in net.links:
                for child in names:
                    if child.rpartition(".")[0] == name:
                        cut_off(child)
                cut_off(name)
                net.tick(0.01)  # no start takes no time
                note_outcomes()
                starts[name] += 1
                net.add(name, starts[name])
            elif action == "connect" and name in cut and net[name.rpartition(".")[0] or "server"].fqcn is not None:
                net.connect(name)
                cut.discard(name)
        for name in sorted(cut):
            net.connect(name)
            net.run()
        net.tick(MINUTE + 5)
    note_outcomes()
    taken = [(name, m) for name in cells for m in net.received(name, Message)]
    ran = Counter((str(m.origin), name, m.payload) for name, m in taken if not m.doubt)
    assert set(ran.values()) <= {1}
    for key, payload in asked.items():
        name, start, _call, target = key
        outcome = ended.get(key)
        if outcome is None:
            assert start < starts[name]
        elif isinstance(outcome, Replied):
            assert ran[name, target, payload] == 1
            assert outcome.payload == payload
        elif isinstance(outcome.error, NotExecuted):
            assert ran[name, target, payload] == 0
        else:
            assert isinstance(outcome.error, Indeterminate)
    for name in cells:
        assert net[name].exchange.pending == 0
        assert net[name].exchange.answering.running == 0
