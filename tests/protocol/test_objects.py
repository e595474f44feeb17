"""Objects that pass through relays: pulled once for all who want them below, checked, and kept for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.protocol import passage, plane, shared
from cellnet.protocol.frames import FRAME_BYTES, OFFSET, Frame, Kind, pack
from cellnet.protocol.shelf import MAX_AGE
from cellnet.protocol.want import WINDOW_BYTES
from tests.protocol.conftest import Net, Peer, encode_frame, new_endpoint
from tests.protocol.contents import (
    Checked,
    Counted,
    content,
    fetch,
    listed,
    nothing_is_left,
    plane_is_empty,
    share,
    want,
)

if TYPE_CHECKING:
    from cellnet.protocol.offer import Offer

MIB = 1 << 20
WHOLE = content(3 * MIB + 12_345)
LIST_BYTES = 9 + 32 * 49
CHILDREN = ["R.a", "R.b", "R.c", "R.d"]


@pytest.fixture
def net() -> Net:
    return Net.tree(*CHILDREN, "Q.e")


def wants(net: Net, name: str, held: Offer, holder: str = "server") -> Checked:
    """Let a cell want an object; return where it goes."""
    sink = Checked(held.content)
    fetch(net, name, holder, held, sink)
    return sink


def came(*sinks: Checked, whole: bytes = WHOLE) -> bool:
    return all(sink.outcomes == ["whole"] and sink.bytes == whole for sink in sinks)


def all_is_over(net: Net, held: Offer) -> None:
    held.release()
    for endpoint in net.endpoints.values():
        plane_is_empty(endpoint)
    net.tick(100)
    nothing_is_left(net.endpoints.values())
    assert not any(endpoint.plane.transit.shelf.size for endpoint in net.endpoints.values())


# Wanted once


def test_an_object_leaves_its_holder_once_for_all_below_one_relay(net: Net) -> None:
    source = Counted(WHOLE)
    held = share(net, "server", source)
    source.sent = 0
    sinks = [wants(net, name, held) for name in [*CHILDREN, "R", "Q.e"]]
    net.tick(1)
    assert came(*sinks)
    assert source.sent == 2 * len(WHOLE), "once to R and once to Q"
    all_is_over(net, held)


def test_a_relay_gives_what_it_has_kept_to_who_comes_later(net: Net) -> None:
    source = Counted(WHOLE)
    held = share(net, "server", source)
    early = wants(net, "R.a", held)
    net.tick(1)
    source.sent = 0
    late = [wants(net, "R.b", held), wants(net, "R", held)]
    net.tick(1)
    assert came(early, *late)
    assert source.sent == 0
    all_is_over(net, held)


def test_an_object_of_a_cell_below_is_shared_above_it_too(net: Net) -> None:
    source = Counted(WHOLE)
    held = share(net, "R.a", source)
    source.sent = 0
    sinks = [wants(net, name, held, "R.a") for name in ("server", "Q", "Q.e", "R", "R.b", "R.a")]
    net.tick(1)
    assert came(*sinks)
    assert source.sent == 2 * len(WHOLE), "once for all the others, and once for itself"
    all_is_over(net, held)


def test_one_that_is_far_behind_neither_waits_nor_is_waited_for(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "TRANSIT_BYTES", 2 * MIB)
    whole = content(12 * MIB)
    source = Counted(whole)
    held = share(net, "server", source)
    source.sent = 0
    net.links["R.b"].child_reads = False
    fast, slow = wants(net, "R.a", held), wants(net, "R.b", held)
    net.tick(1)
    assert came(fast, whole=whole)
    assert net["R"].plane.transit.shelf.size <= 2 * MIB
    assert source.sent == len(whole)
    net.links["R.b"].child_reads = True
    net.tick(1)
    assert came(slow, whole=whole)
    assert source.sent <= 2 * len(whole)
    all_is_over(net, held)


def test_those_who_fell_behind_together_go_on_together(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "TRANSIT_BYTES", 2 * MIB)
    whole = content(12 * MIB)
    source = Counted(whole)
    held = share(net, "server", source)
    source.sent = 0
    behind = ["R.b", "R.c", "R.d"]
    for name in behind:
        net.links[name].child_reads = False
    sinks = [wants(net, name, held) for name in CHILDREN]
    net.tick(1)
    for name in behind:
        net.links[name].child_reads = True
    net.tick(1)
    assert came(*sinks, whole=whole)
    assert source.sent <= 2 * len(whole) + WINDOW_BYTES
    all_is_over(net, held)


def test_whoever_goes_on_in_the_middle_gets_the_list_and_then_what_it_wants(net: Net) -> None:
    source = Counted(WHOLE)
    held = share(net, "server", source)
    sink = Checked(held.content, upto=2 * MIB)
    one = fetch(net, "R.a", "server", held, sink)
    net.tick(1)
    had = sink.position
    assert had > MIB
    net.cut("R")
    net.endpoints["R"] = net.add("R", epoch=2)  # a relay that knows nothing
    net.connect("R")
    net.tick(1)
    net.cut("R.a")
    net.connect("R.a")
    source.sent = 0
    sink.upto = 1 << 62
    net.tick(5)
    one.extend(net.now)
    net.tick(1)
    assert came(sink)
    assert source.sent <= len(WHOLE) - had + 2 * FRAME_BYTES
    all_is_over(net, held)


@pytest.mark.parametrize("hop", ["R", "R.a"])
def test_after_a_link_is_lost_at_any_moment_all_of_it_comes(hop: str) -> None:
    for moves in range(0, 120, 3):
        net = Net.tree("R.a", "R.b")
        held = share(net, "server", WHOLE)
        sinks = [wants(net, "R.a", held), wants(net, "R.b", held)]
        links = list(net.links.values())
        for number in range(moves):
            links[number % len(links)].move(net.now)
        net.cut(hop)
        net.connect(hop)
        net.tick(5)
        assert came(*sinks)
        all_is_over(net, held)
        if moves > 90:
            break


def test_what_is_missing_in_the_middle_is_pulled_and_no_more(net: Net) -> None:
    source = Counted(WHOLE)
    held = share(net, "server", source)
    first = wants(net, "R.a", held)
    net.tick(1)
    shelf = net["R"].plane.transit.shelf
    for index in (10, 11, 20):
        shelf._drop((held.content, index))
    source.sent = 0
    second = wants(net, "R.b", held)
    net.tick(1)
    assert came(first, second)
    assert source.sent == 3 * FRAME_BYTES
    all_is_over(net, held)


def test_while_the_way_is_lost_what_is_kept_still_comes(net: Net) -> None:
    held = share(net, "server", WHOLE)
    first = wants(net, "R.a", held)
    net.tick(1)
    net["R"].plane.transit.shelf._drop((held.content, 10))
    net.links["R.b"].child_reads = False
    second = wants(net, "R.b", held)
    net.tick(1)
    net.cut("R")
    net.links["R.b"].child_reads = True
    net.tick(1)
    assert second.position == LIST_BYTES + 9 * FRAME_BYTES
    assert second.outcomes == []
    net.connect("R")
    net.tick(5)
    assert came(first, second)
    all_is_over(net, held)


# Bounds


def test_what_is_kept_and_what_is_promised_together_stay_below_the_limit(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage, "TRANSIT_BYTES", MIB)
    held = [share(net, "server", content(3 * MIB, seed)) for seed in range(4)]
    sinks = [wants(net, name, one) for name, one in zip(CHILDREN, held, strict=True)]
    transit = net["R"].plane.transit
    while any(link.move(net.now) for link in net.links.values()):
        assert transit.promised <= MIB + 4 * FRAME_BYTES
        assert transit.shelf.size <= max(0, MIB - transit.promised) or not transit.shelf._pieces
        least = sum(pull.promised for pull in transit.pulls)
        assert least <= transit.promised
    net.tick(1)
    for seed, sink in enumerate(sinks):
        assert came(sink, whole=content(3 * MIB, seed))
    for one in held[1:]:
        one.release()
    all_is_over(net, held[0])


def test_what_nobody_wants_any_more_is_forgotten_after_a_minute(net: Net) -> None:
    held = share(net, "server", WHOLE)
    wants(net, "R.a", held)
    net.tick(1)
    shelf = net["R"].plane.transit.shelf
    assert shelf.size == len(WHOLE) + LIST_BYTES
    net.tick(30)
    assert shelf.size == len(WHOLE) + LIST_BYTES
    net.tick(plane.LOOK_SECONDS * MAX_AGE)
    assert shelf.size == 0
    all_is_over(net, held)


def test_more_objects_than_may_pass_are_refused_until_there_is_room(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MAX_OBJECTS", 1)
    _one_at_a_time(net)


def test_more_pulls_than_there_may_be_are_refused_until_there_is_room(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_PULLS", 1)
    _one_at_a_time(net)


def _one_at_a_time(net: Net) -> None:
    net.links["R"].child_reads = False
    wholes = [content(MIB, seed) for seed in range(2)]
    held = [share(net, "server", whole) for whole in wholes]
    sinks = [wants(net, name, one) for name, one in zip(CHILDREN, held, strict=False)]
    net.tick(1)
    assert [fetch.want is None for name in CHILDREN[:2] for fetch in net[name].plane.fetches] == [False, True]
    net.links["R"].child_reads = True
    net.tick(5)
    assert [came(sink, whole=whole) for sink, whole in zip(sinks, wholes, strict=True)] == [True, True]
    held[1].release()
    all_is_over(net, held[0])


# What a neighbour may do


@pytest.mark.parametrize("place", [3, 9 + 40, LIST_BYTES + 10, LIST_BYTES + MIB])
def test_what_is_altered_above_a_relay_is_neither_kept_nor_passed_on(net: Net, place: int) -> None:
    held = share(net, "server", WHOLE)
    altered = 0

    def alter(frame: Frame) -> bytes:
        nonlocal altered
        body = bytearray(frame.body)
        if frame.kind is Kind.DATA and altered < 3:
            at = place - OFFSET.unpack(frame.header)[0]
            if 0 <= at < len(body):
                body[at] ^= 1
                altered += 1
        return _encoded(frame, bytes(body))

    net.links["R"].tamper = alter
    sinks = [wants(net, name, held) for name in CHILDREN]
    net.tick(10)
    assert came(*sinks)
    assert altered == 3
    assert net["R"].plane.refused >= 3
    assert not any(net[name].plane.refused for name in CHILDREN)
    all_is_over(net, held)


def test_an_object_that_ends_too_early_is_wanted_again(net: Net) -> None:
    held = share(net, "server", WHOLE)
    cuts = 0

    def cut(frame: Frame) -> bytes:
        nonlocal cuts
        whole = _encoded(frame, bytes(frame.body))
        if frame.kind is Kind.DATA and not cuts:
            cuts += 1
            (offset,) = OFFSET.unpack(frame.header)
            return whole + encode_frame(Kind.END, pack(offset + len(frame.body)), label=frame.label)
        return whole

    net.links["R"].tamper = cut
    sink = wants(net, "R.a", held)
    net.tick(5)
    assert came(sink)
    assert (cuts, net["R"].plane.refused > 0) == (1, True)
    all_is_over(net, held)


def test_an_object_that_its_holder_does_not_have_is_gone(net: Net) -> None:
    held = share(net, "server", WHOLE)
    held.release()
    sinks = [wants(net, name, held) for name in CHILDREN]
    net.tick(5)
    assert {outcome for sink in sinks for outcome in sink.outcomes} == {"gone"}
    nothing_is_left(net.endpoints.values())


def test_an_object_that_is_held_twice_is_held_until_both_let_it_go(net: Net) -> None:
    first, second = share(net, "server", WHOLE), share(net, "server", WHOLE)
    assert first is second
    first.release()
    sink = wants(net, "R.a", second)
    net.tick(1)
    assert came(sink)
    all_is_over(net, second)


def test_who_wants_nothing_yet_gets_nothing() -> None:
    relay = new_endpoint("R")
    above = Peer.parent(relay, "R")
    below = Peer.child(relay, "c")
    above.frames()
    named = listed(WHOLE).content
    want(below, 1, "server", named)
    assert above.frames() == []
    want(below, 1, "server", named, upto=1)
    assert [frame.kind for frame in above.frames()] == [Kind.WANT]


def test_the_way_back_is_no_way(net: Net) -> None:
    sink = Checked(listed(WHOLE).content)
    one = fetch(net, "server", "R.a.x", sink.verifier._content, sink)
    net.tick(2)
    assert sink.outcomes in ([], ["unreachable"], ["gone"])
    one.cancel()
    net.tick(5)
    nothing_is_left(net.endpoints.values())


def _encoded(frame: Frame, body: bytes) -> bytes:
    return encode_frame(
        frame.kind, frame.header, body, label=frame.label, hop=frame.hop, remaining_ms=frame.remaining_ms
    )
