"""Messages on their way: the tree path and no other, and what goes back when something breaks."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.errors import Busy, Unreachable
from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol import connection as connection_module
from cellnet.protocol import exchange as exchange_module
from cellnet.protocol import switch as switch_module
from cellnet.protocol.events import Cancelled, Failed, Message, Replied
from cellnet.protocol.exchange import Status
from cellnet.protocol.frames import INLINE_LIMIT, Kind, pack, unpack
from tests.protocol.conftest import MINUTE, Net, Peer, encode_frame, events, new_endpoint

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
        before = counts(net, Kind.REQUEST), counts(net, Kind.REPLY)
        net.request(origin, destination, payload=origin.encode())
        net.run()
        (replied,) = net.outcomes(origin)
        assert (str(replied.source), replied.payload) == (destination, origin.encode())
        expected = dict.fromkeys(path(origin, destination), 1)
        assert grew(before[0], counts(net, Kind.REQUEST)) == expected
        assert grew(before[1], counts(net, Kind.REPLY)) == expected


def test_a_cell_can_ask_itself_without_any_link() -> None:
    net = Net.tree("A")
    before = counts(net, Kind.REQUEST)
    net.request("A", "A")
    net.run()
    (replied,) = net.outcomes("A")
    assert str(replied.source) == "A"
    assert counts(net, Kind.REQUEST) == before


def test_a_broadcast_crosses_each_link_once_and_everybody_answers() -> None:
    net = Net.tree(*DEEP)
    for origin in net.endpoints:
        before = counts(net, Kind.BROADCAST)
        net.request(origin, *net.endpoints)
        net.run()
        assert {str(outcome.source) for outcome in net.outcomes(origin)} == set(net.endpoints)
        assert grew(before, counts(net, Kind.BROADCAST)) == dict.fromkeys(net.links, 1)


def test_a_broadcast_to_more_cells_than_a_frame_names_takes_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch_module, "MAX_NAMES", 4)
    names = [f"R.c{number}" for number in range(10)]
    net = Net.tree(*names)
    net.request("server", *names)
    net.run()
    assert len(net.outcomes("server")) == 10
    assert net.links["R"].sent(Kind.BROADCAST) == 3


def test_a_broadcast_tells_at_once_who_cannot_be_reached() -> None:
    net = Net.tree("A.a", "B")
    net.request("A.a", "B", "B.x", "A.x", "A.a.x", "A")
    net.run()
    outcomes = net.outcomes("A.a")
    assert {str(o.source) for o in outcomes if isinstance(o, Replied)} == {"A", "B"}
    failed = {str(o.destination): str(o.error) for o in outcomes if isinstance(o, Failed)}
    assert (
        failed
        == {
            "B.x": "no cell B.x is present below B",
            "A.x": "no cell A.x is present below A",
            "A.a.x": "no cell A.a.x is present below A.a",
        }
        or failed["B.x"] == "no cell B.x is present below server"
    )


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
        near.send(Kind.REQUEST, 1, 1, "t", 0, {}, hop=hop)
        forwarded = [frame for frame in far.frames() if frame.kind is Kind.REQUEST]
        assert [frame.hop for frame in forwarded] == ([hop - 1] if arrives else [])
        nacks = [unpack(frame.header, int, int, str, str, list) for frame in near.frames()]
        assert [(code, text) for _s, _e, code, text, _d in nacks] == (
            [] if arrives else [("unreachable", "a message used up its 32 hops at server")]
        )


def test_a_broadcast_crosses_no_more_links_than_its_hops_allow() -> None:
    server = new_endpoint("server")
    near, far = Peer.child(server, "A"), Peer.child(server, "B")
    near.bind(0, "A", None)
    far.frames()
    body = broadcast_of(1)
    near.send(Kind.BROADCAST, ["B", "server"], body=body, hop=2)
    assert [frame.hop for frame in far.frames() if frame.kind is Kind.BROADCAST] == [1]
    near.send(Kind.BROADCAST, ["B", "server"], body=body, hop=1)
    assert far.frames() == []
    assert len(events(server, Message)) == 1  # the second is a duplicate
    (nack,) = near.frames()
    assert unpack(nack.header, int, int, str, str, list)[4] == ["B"]


def test_no_frame_may_claim_more_hops_than_there_are() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.send(Kind.REQUEST, 1, 1, "t", 0, {}, hop=MAX_HOPS + 1)
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
    net["server"].request(FQCN("A.a"), "hold", 0, b"", deadline=start + 2)
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
    net["server"].request(FQCN("A.a"), "echo", 0, b"", deadline=net.now + 2)
    for name in ("A", "A.a"):
        net.now += 3 if name in waits else 0
        net.links[name].move(net.now)
    net.run()
    assert net.outcomes("server") == net.received("A.a", Message) == []
    assert net.links[waits[0]].listening.statistics.dropped == 1


def test_a_frame_without_time_left_is_refused() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.send(Kind.REQUEST, 1, 1, "t", 0, {}, remaining_ms=0)
    assert peer.is_open
    assert events(peer.endpoint, Message) == []
    assert peer.endpoint.switch.refused == 1


# What goes back


def test_a_cell_that_is_not_present_is_unreachable_from_everywhere() -> None:
    net = Net.tree("A.a.x", "B.b")
    for origin in ("A.a.x", "B.b", "A"):
        net.request(origin, "B.c")
        net.run()
        assert net.failures(origin) == {"B.c": "Unreachable"}
        assert net[origin].exchange.pending == 0
    with pytest.raises(Unreachable, match=r"no cell B\.c is present below server"):
        net.request("server", "B.c")


def test_a_relay_that_loses_a_child_tells_the_origins_on_other_branches() -> None:
    net = Net.tree("A.a.x", "B.b.y", "C")
    for origin in ("B.b.y", "C", "server", "A"):
        net.request(origin, "A.a.x", topic="hold")
        net.request(origin, "A.a", topic="hold")
    net.run()
    net.cut("A.a.x")
    net.run()
    for origin in ("B.b.y", "C", "server", "A"):
        assert net.failures(origin) == {"A.a.x": "Indeterminate"}
        assert net[origin].exchange.pending == 1


@pytest.mark.parametrize("broken", ["A", "A.a", "A.a.x"])
def test_a_broadcast_ends_for_those_behind_a_link_that_broke_and_for_nobody_else(broken: str) -> None:
    net = Net.tree("A.a.x", "A.b", "B.b")
    everybody = set(net.endpoints)
    for origin in everybody:
        net.request(origin, *everybody - {origin}, topic="hold")
    net.run()
    net.cut(broken)
    net.run()
    below = {name for name in everybody if f"{name}.".startswith(f"{broken}.")}
    for origin in everybody:
        lost = everybody - below if origin in below else below
        assert net.failures(origin) == dict.fromkeys(lost, "Indeterminate")
        assert net[origin].exchange.pending == len(everybody) - 1 - len(lost)


def test_handlers_are_cancelled_whose_origin_is_behind_a_link_that_broke() -> None:
    net = Net.tree("A.a", "B")
    for origin, destination in (("A.a", "B"), ("B", "A.a"), ("server", "A.a"), ("A", "A.a"), ("B", "server")):
        net.request(origin, destination, topic="hold")
    net.run()
    net.cut("A")
    net.run()
    cancelled = {name: {str(e.key.origin) for e in net.received(name, Cancelled)} for name in net.endpoints}
    assert cancelled == {"server": set(), "A": set(), "A.a": {"B", "server"}, "B": {"A.a"}}


def test_a_member_that_left_ends_what_was_asked_of_it_even_where_no_label_leads_back() -> None:
    net = Net.tree("A.a")
    net.request("server", "A.a", "A", topic="hold")
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
        net["A.a"].reply(message.key, Status.OK, 1, b"!")
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
    net["A.a"].reply(net.received("A.a", Message)[0].key, Status.OK, 1, b"!")
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
        net.request("B.b", "A.a.x")
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
    far.send(Kind.NACK, 1, 1, "busy", "no room", ["B.b"], label=0)
    far.send(Kind.NACK, 1, 1, "busy", "no room", ["B"], label=5)
    assert near.frames() == []
    assert server.switch.refused == 2
    far.send(Kind.NACK, 1, 9, "busy", "x" * 5000, ["B"], label=0)
    far.send(Kind.LOST, "B", True, label=0)
    nack, lost = near.frames()
    assert (nack.label, unpack(nack.header, int, int, str, str, list)) == (0, [1, 9, "busy", "x" * 500, ["B"]])
    assert (lost.label, unpack(lost.header, str, bool)) == (0, ["B", True])


def test_a_nack_for_another_start_of_this_cell_ends_nothing() -> None:
    server = new_endpoint("server", epoch=5)
    peer = Peer.child(server, "A")
    sequence = server.request(FQCN("A"), "t", 0, b"", deadline=MINUTE)
    peer.frames()
    server.events.clear()
    peer.send(Kind.NACK, sequence, 4, "busy", "no room", ["A"], label=0)
    assert not server.events
    peer.send(Kind.NACK, sequence, 5, "busy", "no room", ["A"], label=0)
    (failed,) = events(server, Failed)
    assert isinstance(failed.error, Busy)


def test_a_child_cannot_declare_lost_what_is_not_behind_it() -> None:
    server = new_endpoint("server")
    bad, good = Peer.child(server, "A"), Peer.child(server, "B")
    server.broadcast([FQCN("A"), FQCN("B")], "t", 0, b"", deadline=MINUTE)
    bad.frames(), good.frames()
    events(server)
    bad.send(Kind.LOST, "server", True, label=0)
    assert [str(failed.destination) for failed in events(server, Failed)] == ["A"]
    assert server.exchange.pending == 1


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.NACK, (1, 1, "boring", "", ["B"])),
        (Kind.NACK, (1, 1, "busy", "", ["B..b"])),
        (Kind.NACK, (1, 1, "busy", "", ["B"] * 201)),
        (Kind.NACK, (1, "busy", "", ["B"])),
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
    peer.send(kind, ["server"], body=broadcast_of(1))
    assert peer.error() == f"RemoteProtocolError: {kind.name} does not fit its route"


@pytest.mark.parametrize("fields", [(), (["server"], 1), ("server",), ([1],), (["a..b"],), (["server"] * 201,)])
def test_a_broadcast_whose_destinations_are_malformed_ends_the_link(fields: tuple[Any, ...]) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", None)
    peer.send(Kind.BROADCAST, *fields, body=broadcast_of(1))
    assert peer.error().startswith("RemoteProtocolError")


@pytest.mark.parametrize("destination", ["A", "A.b", "A.a.x"])
def test_a_frame_is_never_sent_back_where_it_came_from(destination: str) -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A.a", destination)
    peer.request(0)
    peer.bind(1, "A.a", None)
    peer.send(Kind.BROADCAST, [destination], body=broadcast_of(1), label=1)
    assert [(f.kind, f.label) for f in peer.frames()] == [(Kind.NACK, 0), (Kind.NACK, 1)]


def broadcast_of(sequence: int, *, payload: bytes = b"?") -> bytes:
    header = pack(sequence, 1, "t", 0, {})
    return len(header).to_bytes(2, "big") + header + payload


# A far cell that misbehaves hurts no link between others


MALFORMED: dict[str, Callable[[Peer], None]] = {
    "request": lambda peer: peer.send(Kind.REQUEST, "garbage", label=0),
    "payload": lambda peer: peer.request(0, body=bytes(INLINE_LIMIT + 1)),
    "topic": lambda peer: peer.request(0, topic="t" * 256),
    "reply": lambda peer: peer.send(Kind.REPLY, 1, 1, 99, 0, {}, label=0),
    "event": lambda peer: peer.send(Kind.EVENT, label=0),
    "cancel": lambda peer: peer.send(Kind.CANCEL, "x", label=0),
    "broadcast": lambda peer: peer.send(Kind.BROADCAST, ["server"], body=b"\xff\xff", label=1),
    "inner header": lambda peer: peer.send(Kind.BROADCAST, ["server"], body=b"\x00\x01\x90", label=1),
    "undeliverable": lambda peer: peer.send(Kind.REQUEST, "garbage", label=2),
    "undeliverable broadcast": lambda peer: peer.send(Kind.BROADCAST, ["X"], body=b"", label=1),
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
    peer.request(0)
    link.run()
    MALFORMED[what](peer)
    link.run()
    assert link.links["R"].is_up
    assert peer.is_open
    assert server.switch.refused == 1
    assert len(link.received("server", Message)) == 1


# Full links


def fill(net: Net, origin: str, destination: str, count: int) -> None:
    for _ in range(count):
        net.request(origin, destination, payload=bytes(INLINE_LIMIT))
        net.run()


def test_a_child_that_does_not_read_is_busy_and_hurts_only_itself() -> None:
    net = Net.tree("R.slow", "R.fast", "B")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 40)
    busy = net.outcomes("B")
    assert {str(failed.error) for failed in busy} == {"the link from R to R.slow is full: its receiver is too slow"}
    link = net.links["R.slow"].listening
    assert link.queued_bytes <= connection_module.BUDGET_BYTES + 70000
    net.request("B", "R.fast")
    net.request("server", "R.slow", "R.fast")
    net.run()
    assert isinstance(net.outcomes("B")[0], Replied)
    assert {type(o).__name__ for o in net.outcomes("server")} == {"Failed", "Replied"}
    net.links["R.slow"].child_reads = True
    net.run()
    assert len(net.outcomes("B")) == 40 - len(busy) > 10
    assert net["B"].exchange.pending == 0


def test_events_for_a_full_child_are_dropped_and_counted() -> None:
    net = Net.tree("R.slow", "B")
    net.links["R.slow"].child_reads = False
    fill(net, "B", "R.slow", 20)
    refused = net["R"].switch.refused
    net["B"].send(FQCN("R.slow"), "t", 0, b"", deadline=net.now + MINUTE)
    net.run()
    assert net["R"].switch.refused == refused + 1


def test_a_full_parent_refuses_nothing_until_the_reserve_is_used_up() -> None:
    net = Net.tree("R.a", "B")
    net.links["R"].parent_reads = False
    fill(net, "R.a", "B", 79)
    assert net.outcomes("R.a") == []
    fill(net, "R.a", "B", 2)
    assert net.failures("R.a") == {"B": "Busy"}
    net.request("R.a", "B", "server")
    net.request("R.a", "R")
    net.run()
    assert isinstance(net.outcomes("R.a")[0], Replied)
    fill(net, "R.a", "B", 1)
    net["R.a"].broadcast([FQCN("B"), FQCN("server")], "t", 1, bytes(INLINE_LIMIT), deadline=net.now + MINUTE)
    net.run()
    assert net.failures("R.a") == {"B": "Busy", "server": "Busy"}


def test_a_cell_whose_own_link_is_more_than_full_is_told_so_at_once() -> None:
    net = Net.tree("A")
    net.links["A"].child_reads = False
    with pytest.raises(Busy, match="the link from server to A is full"):
        fill(net, "server", "A", 100)
    pending = net["server"].exchange.pending
    with pytest.raises(Busy):
        net["server"].send(FQCN("A"), "t", 0, bytes(INLINE_LIMIT), deadline=net.now + MINUTE)
    net["server"].broadcast([FQCN("A")], "t", 0, bytes(INLINE_LIMIT), deadline=net.now + MINUTE)
    net.run()
    assert net.failures("server") == {"A": "Busy"}
    assert net["server"].exchange.pending == pending


def test_a_broadcast_of_our_own_may_use_the_reserve() -> None:
    net = Net.tree("A")
    net.links["A"].child_reads = False
    fill(net, "server", "A", 20)
    net.request("server", "A")
    net.run()
    assert net.outcomes("server") == []


def test_answers_to_a_cell_that_does_not_read_are_bounded_and_what_is_over_is_dropped() -> None:
    net = Net.tree("A")
    net.links["A"].child_reads = False
    fill(net, "A", "server", 100)
    link = net.links["A"].listening
    limit = connection_module.BUDGET_BYTES + connection_module.RESERVE_BYTES
    assert limit - 70000 < link.queued_bytes <= limit + 600
    assert link.statistics.dropped == net["server"].switch.refused > 0


def test_a_neighbour_that_provokes_answers_and_never_reads_them_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "RESERVE_BYTES", 10_000)
    monkeypatch.setattr(connection_module, "BUDGET_BYTES", 10_000)
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "X")
    for sequence in range(1000):
        peer.request(0, sequence)
    assert peer.connection.queued_bytes < 21_000
    assert peer.is_open
    peer.endpoint.tick(1.0, 0.0)
    assert peer.error() == "ConnectError: the neighbour does not read"


# The receiver


def test_a_request_that_comes_twice_is_taken_once() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.request(0, 7)
    peer.request(0, 7)
    assert len(events(peer.endpoint, Message)) == 1
    assert peer.endpoint.switch.refused == 1


def test_replies_that_nobody_asked_for_are_counted() -> None:
    peer = Peer.child(new_endpoint("server"), "A")
    peer.bind(0, "A", "server")
    peer.send(Kind.REPLY, 1, 1, 0, 0, {}, label=0)
    assert peer.is_open
    assert peer.endpoint.switch.refused == 1
    assert events(peer.endpoint, Replied) == []


def test_a_cell_that_works_on_as_much_as_it_may_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_INCOMING", 2)
    net = Net.tree("A.a", "B")
    for _ in range(2):
        net.request("B", "A.a", topic="hold")
    net.run()
    net.request("B", "A.a")
    net.request("A.a", "A.a")
    net.run()
    for origin in ("B", "A.a"):
        (failed,) = net.outcomes(origin)
        assert isinstance(failed.error, Busy)
        assert str(failed.error) == "A.a works on as many requests as it may"
    net.tick(MINUTE + 3)
    net.request("B", "A.a")
    net.run()
    assert isinstance(net.outcomes("B")[0], Replied)


def test_an_answer_whose_origin_is_gone_is_counted() -> None:
    net = Net.tree("A", "B")
    net.request("A", "B", topic="hold")
    net.run()
    (message,) = net.received("B", Message)
    net.links["A"].is_up = False
    net["server"].close(net.links["A"].listening)
    net["B"].reply(message.key, Status.OK, 0, b"")
    net.run()
    assert net["server"].switch.refused == 1
    net.request("server", "B", topic="hold")
    net.run()
    key = net.received("B", Message)[-1].key
    net["B"].router.parent = None
    net["B"].reply(key, Status.OK, 0, b"")
    assert net["B"].switch.refused == 1


def test_a_cancel_reaches_all_who_still_work_on_it() -> None:
    net = Net.tree("A.a", "B", "C")
    sequence = net.request("C", "A.a", "B", "server", topic="hold")
    net.run()
    held = net.received("B", Message)[0]
    net["B"].reply(held.key, Status.OK, 0, b"")
    net.run()
    net["C"].cancel(sequence, deadline=net.now + MINUTE)
    net.run()
    assert {name for name in net.endpoints if net.received(name, Cancelled)} == {"A.a", "server"}
    assert net["C"].exchange.pending == 0
    assert net["A.a"].exchange.answer(net.received("A.a", Message)[0].key) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_breaks_and_comes_back_every_request_ends_once_or_is_still_worked_on(data: st.DataObject) -> None:
    names = ["A", "A.a", "A.a.x", "A.b", "B", "B.a"]
    net = Net.tree(*names)
    cells = ["server", *names]
    asked: dict[tuple[str, int, str], str] = {}
    cut: set[str] = set()
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["ask", "ask", "hold", "broadcast", "cut", "connect", "run", "move"]))
        name, other = data.draw(st.sampled_from(cells)), data.draw(st.sampled_from(cells))
        if action in ("ask", "hold"):
            try:
                asked[name, net.request(name, other, topic=action), other] = "open"
            except Unreachable:
                continue
        elif action == "broadcast":
            sequence = net.request(name, *cells, topic=data.draw(st.sampled_from(["ask", "hold"])))
            asked |= {(name, sequence, target): "open" for target in cells}
        elif action == "move" and name in net.links:
            net.links[name].move(net.now)
        elif action == "run":
            net.run()
        elif action == "cut" and name in net.links and name not in cut:
            net.cut(name)
            cut.add(name)
        elif action == "connect" and name in cut:
            net.connect(name)
            cut.discard(name)
    for name in sorted(cut):
        net.connect(name)
        net.run()
    net.run()
    held = {(str(m.key.origin), m.key.sequence, name) for name in cells for m in net.received(name, Message)}
    for name in cells:
        for outcome in net.outcomes(name):
            source = str(outcome.source if isinstance(outcome, Replied) else outcome.destination)
            key = (name, outcome.sequence, source)
            assert asked[key] == "open"
            asked[key] = "ended"
    still = {key for key, state in asked.items() if state == "open"}
    assert still <= held
    assert {name: sum(key[0] == name for key in still) for name in cells} == {
        name: net[name].exchange.pending for name in cells
    }
