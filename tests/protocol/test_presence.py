"""Presence: every cell knows who is below it, whatever happens to the links."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.fqcn import FQCN
from cellnet.protocol import routing
from cellnet.protocol.events import MemberJoined, MemberLeft
from cellnet.protocol.frames import MAX_BODY, Kind
from cellnet.protocol.presence import ENTRIES_PER_FRAME, MAX_ENTRY_BYTES
from cellnet.protocol.routing import MAX_FORMER
from tests.protocol.conftest import Net, Peer, events, new_endpoint

NAMES = ("A", "A.a", "A.a.x", "A.a.y", "A.b", "B", "B.a", "B.a.x")


def entry(name: str = "C.c", **changes: Any) -> list[Any]:
    fields = {"kind": 1, "fqcn": name, "role": "cell", "fqsn": "", "epoch": 1, "driver": "tcp", "security": "mtls"}
    fields["former"] = []
    return list((fields | changes).values())


def tell(peer: Peer, *entries: Any) -> None:
    peer.send(Kind.PRESENCE, body=msgpack.packb(entries))


@pytest.fixture
def child() -> Peer:
    peer = Peer.child(new_endpoint("server"), "C")
    peer.endpoint.events.clear()
    return peer


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NAMES), max_size=12))
def test_every_cell_knows_exactly_those_below_it_over_links_that_are_up(toggled: list[str]) -> None:
    net = Net.tree(*NAMES)
    up = set(NAMES)
    for name in toggled:
        if name in up:
            net.cut(name)
        else:
            net.connect(name)
        up ^= {name}
        net.run()
    for observer in ("server", *NAMES):
        me = FQCN(observer)
        expected = set()
        for name in map(FQCN, NAMES):
            path = [name]
            while (above := path[-1].parent) is not None:
                path.append(above)
            if me.is_ancestor_of(name):
                between = path[: path.index(me)]
                expected |= {name} if all(str(step) in up for step in between) else set()
        assert {member.fqcn for member in net[observer].router.members()} == expected
        assert folded(net, observer) == expected


def folded(net: Net, name: str) -> set[FQCN]:
    """Return who is present by a cell's events alone; nobody leaves who was not there."""
    present: set[FQCN] = set()
    for event in net.received(name, MemberJoined, MemberLeft):
        if isinstance(event, MemberJoined):
            present.add(event.member.fqcn)
        else:
            present.remove(event.member.fqcn)
    return present


def test_presence_goes_up_and_nowhere_else() -> None:
    net = Net.tree("A.a", "B.b")
    assert len(net["A.a"].router) == len(net["B.b"].router) == 0
    assert [str(member.fqcn) for member in net["B"].router.members()] == ["B.b"]
    assert all(link.listening.statistics.frames_sent[Kind.PRESENCE] == 0 for link in net.links.values())


def test_a_member_is_described_by_the_cell_it_joined(child: Peer) -> None:
    tell(child, entry("C.c", role="client", fqsn="S.T", epoch=2**64 - 1, driver="grpc", security="tls"))
    (joined,) = events(child.endpoint, MemberJoined)
    member = joined.member
    assert (str(member.fqcn), member.role, member.fqsn) == ("C.c", "client", "S.T")
    assert (member.epoch, member.driver, member.security) == (2**64 - 1, "grpc", "tls")
    own = child.endpoint.router.member(FQCN("C"))
    assert own is not None
    assert (own.role, own.driver, own.security) == ("cell", "memory", "clear")


def test_after_a_new_link_a_cell_tells_of_all_below_it() -> None:
    net = Net.tree("R.a.b", "R.c")
    net.cut("R")
    net.run()
    assert len(net["server"].router) == 0
    net.connect("R")
    net.run()
    assert {str(m.fqcn) for m in net["server"].router.members()} == {"R", "R.a", "R.a.b", "R.c"}


def test_who_leaves_while_the_parent_is_away_is_not_told_of_later() -> None:
    net = Net.tree("R.a.b", "R.c")
    net.cut("R")
    net.cut("R.a")
    net.connect("R")
    net.run()
    assert {str(m.fqcn) for m in net["server"].router.members()} == {"R", "R.c"}


def test_many_are_announced_in_frames_of_limited_size() -> None:
    net = Net.tree(*(f"R.c{number}" for number in range(150)))
    net.cut("R")
    link = net.connect("R")
    net.run()
    assert link.connecting.statistics.frames_sent[Kind.PRESENCE] == -(-150 // ENTRIES_PER_FRAME)
    assert len(net["server"].router) == 151


def test_the_longest_entries_fit_into_one_frame(child: Peer) -> None:
    longest = [entry(f"C.c{n}", epoch=2**64 - 1) for n in range(ENTRIES_PER_FRAME)]
    for fields in longest:
        fields[3] = "s" * (MAX_ENTRY_BYTES - sum(len(text) for text in fields if isinstance(text, str)))
    assert len(msgpack.packb(longest)) <= MAX_BODY
    tell(child, *longest)
    assert child.is_open
    assert len(child.endpoint.router) == 1 + ENTRIES_PER_FRAME


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        "C.c",
        [2, "C.c"],
        [0],
        [0, 1],
        [0, "C.c", 1],
        [1, "C.c"],
        entry(epoch="1"),
        entry(epoch=True),
        entry(role=None),
        entry(fqsn=b""),
        entry("C..c"),
        entry(fqsn="s" * MAX_ENTRY_BYTES),
        entry(role="é" * 500),
        entry(former="C.c"),
        entry(former=["D.c", 1]),
        entry(former=["D..c"]),
        entry(former=["D.x"]),
        entry(former=["D.c"] * (MAX_FORMER + 1)),
        entry(former=[".".join(["s" * 62] * 4 + ["c"])] * 4),
    ],
)
def test_a_child_whose_entry_is_malformed_is_cut(child: Peer, wrong: Any) -> None:
    tell(child, entry("C.a"), wrong)
    assert "RemoteProtocolError" in child.error()
    assert len(child.endpoint.router) == 0


@pytest.mark.parametrize("body", [b"", b"\x90\x90", b"\x01", b"\xc1", b"\x81\x01\x02"])
def test_a_child_whose_presence_is_no_list_is_cut(child: Peer, body: bytes) -> None:
    child.send(Kind.PRESENCE, body=body)
    assert "RemoteProtocolError" in child.error()


@pytest.mark.parametrize("name", ["C", "D", "D.c", "server", "server.C", "Cc.c"])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_child_that_tells_of_cells_not_below_it_is_cut(child: Peer, name: str, kind: int) -> None:
    tell(child, entry(name) if kind else [0, name])
    assert child.error().endswith(f"a child told of {name}, which is not below it")


def test_nobody_leaves_twice(child: Peer) -> None:
    tell(child, entry("C.a"), entry("C.a.b"), [0, "C.a"], [0, "C.a"], [0, "C.x"])
    left = events(child.endpoint, MemberLeft)
    assert [str(event.member.fqcn) for event in left] == ["C.a", "C.a.b"]


def test_more_cells_than_a_cell_may_know_are_not_known(child: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_MEMBERS", 3)
    tell(child, entry("C.a"), entry("C.b"), entry("C.c"))
    assert child.is_open
    assert [str(m.fqcn) for m in child.endpoint.router.members()] == ["C", "C.a", "C.b"]


def test_a_parent_may_not_tell_of_anybody() -> None:
    peer = Peer.parent(new_endpoint("C"), "C")
    peer.send(Kind.PRESENCE, body=msgpack.packb([entry("C.c")]))
    assert peer.error() == "RemoteProtocolError: PRESENCE is not allowed here"
