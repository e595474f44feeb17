"""Contents over whole networks: whatever their size and their way, they come as they were, and leave nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgpack
import pytest

from cellnet.errors import Busy
from cellnet.fqcn import FQCN
from cellnet.protocol import plane
from cellnet.protocol.frames import FRAME_BYTES, Kind
from cellnet.protocol.offer import HOLD_SECONDS
from cellnet.protocol.plane import FORGET_SECONDS, LOOK_SECONDS
from cellnet.protocol.want import WINDOW_BYTES
from tests.protocol.conftest import Net, encode_frame
from tests.protocol.contents import (
    Counted,
    Growing,
    Taken,
    content,
    fetch,
    nothing_is_left,
    offer,
    only_offers_are_left,
    plane_is_empty,
)

if TYPE_CHECKING:
    from cellnet.protocol.frames import Buffer, Frame

MIB = 1 << 20


@pytest.fixture
def net() -> Net:
    """Return a net in which a content from A.a.x to B.b passes four cells."""
    return Net.tree("A.a.x", "B.b")


def passes(net: Net, origin: str, destination: str, whole: bytes) -> Taken:
    sink = Taken()
    fetch(net, destination, origin, offer(net, origin, whole), sink)
    net.tick(0.1)
    return sink


@pytest.mark.parametrize(
    "size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 5 * FRAME_BYTES, WINDOW_BYTES, 3 * MIB + 7]
)
def test_a_content_of_any_size_passes_over_relays_as_it_is_and_nothing_is_left(net: Net, size: int) -> None:
    whole = content(size)
    sink = passes(net, "A.a.x", "B.b", whole)
    assert (sink.outcomes, sink.bytes) == (["whole"], whole)
    nothing_is_left(net.endpoints.values())


@pytest.mark.parametrize(
    ("origin", "destination"), [("server", "B.b"), ("B.b", "server"), ("A", "A.a"), ("A.a", "A"), ("A.a.x", "A")]
)
def test_contents_go_up_and_down(net: Net, origin: str, destination: str) -> None:
    whole = content(200_000)
    assert passes(net, origin, destination, whole).bytes == whole
    nothing_is_left(net.endpoints.values())


def test_a_cell_may_want_what_it_has_itself(net: Net) -> None:
    whole = content(3 * MIB)
    sink = passes(net, "A", "A", whole)
    assert (sink.outcomes, sink.bytes) == (["whole"], whole)
    nothing_is_left(net.endpoints.values())


def test_what_a_cell_has_itself_comes_in_batches_and_others_have_their_turn_in_between(net: Net) -> None:
    sink = Taken()
    fetch(net, "A", "A", offer(net, "A", content(3 * MIB)), sink)
    came = []
    while not sink.outcomes:
        net["A"].tick(max(net.now, net["A"].due))
        came.append(sink.position)
    assert len(came) > 3
    assert max(after - before for before, after in itertools.pairwise(came)) <= MIB + FRAME_BYTES


def test_a_content_that_is_for_all_stays_until_it_is_withdrawn(net: Net) -> None:
    source = Counted(whole := content(300_000))
    held = offer(net, "A", source, is_for_one=False)
    sinks = {name: Taken() for name in ("A", "A.a", "B", "server")}
    for name, sink in sinks.items():
        fetch(net, name, "A", held, sink)
    net.tick(0.1)
    assert all(sink.bytes == whole for sink in sinks.values())
    assert source.forgotten == 0
    only_offers_are_left(net.endpoints.values())
    assert list(net["A"].plane.offers.values()) == [held]
    held.withdraw("gone", "enough")
    held.withdraw("gone", "said twice")
    nothing_is_left(net.endpoints.values())


def test_who_wants_what_was_reset_before_is_told_why_as_long_as_that_is_known(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "MAX_RESETS", 2)
    given_up = [offer(net, "A", b"never read") for _ in range(3)]
    for number, held in enumerate(given_up):
        held.withdraw("reset", f"reason {number}")
    sinks = [Taken() for _ in given_up]
    for held, sink in zip(given_up, sinks, strict=True):
        fetch(net, "B", "A", held, sink)
    net.run()
    assert [sink.outcomes for sink in sinks] == [["gone"], ["reset"], ["reset"]]
    assert [sink.reason for sink in sinks[1:]] == ["reason 1", "reason 2"]
    nothing_is_left(net.endpoints.values())


def test_a_content_for_one_is_gone_once_that_one_has_it(net: Net) -> None:
    why: list[str] = []
    source = Counted(content(3_000_000))
    held = net["A"].plane.offer(source, now=net.now, is_for_one=True, withdrawn=why.append)
    fetch(net, "B", "A", held, Taken())
    net.run()
    assert why == ["done"]
    assert source.forgotten > WINDOW_BYTES // 4
    again = Taken()
    fetch(net, "B", "A", held, again)
    net.run()
    assert again.outcomes == ["gone"]
    nothing_is_left(net.endpoints.values())


def test_a_content_that_grows_is_sent_as_it_comes_and_ends_when_its_length_is_known(net: Net) -> None:
    source, sink = Growing(), Taken(is_patient=True)
    held = offer(net, "A.a.x", source)
    fetch(net, "B", "A.a.x", held, sink)
    net.run()
    for piece in (content(10), content(200_000), content(1)):
        source.whole += piece
        held.ready()
        net.run()
        assert sink.bytes == source.whole
        net.tick(200)
    source.length = len(source.whole)
    held.ready()
    net.run()
    assert sink.outcomes == ["whole"]
    nothing_is_left(net.endpoints.values())


def test_who_does_not_know_the_name_of_a_content_does_not_get_it(net: Net) -> None:
    held = offer(net, "A", content(1000))
    names = bytes(16), held.content[:-1] + bytes([held.content[-1] ^ 1])
    sinks = [Taken() for _ in names]
    for name, sink in zip(names, sinks, strict=True):
        fetch(net, "B.b", "A", name, sink)
        fetch(net, "A.a", "server", held, Taken())
    net.run()
    assert [(sink.outcomes, sink.bytes) for sink in sinks] == [(["gone"], b"")] * 2
    only_offers_are_left(net.endpoints.values())


def test_when_a_content_is_withdrawn_all_who_want_it_are_told(net: Net) -> None:
    source, sinks = Growing(), [Taken(), Taken()]
    source.whole = b"the first"
    held = offer(net, "A", source, is_for_one=False)
    fetch(net, "A.a.x", "A", held, sinks[0])
    fetch(net, "B.b", "A", held, sinks[1])
    net.run()
    held.withdraw("gone", "it broke")
    net.run()
    assert [(sink.outcomes, sink.bytes) for sink in sinks] == [(["gone"], b"the first")] * 2
    nothing_is_left(net.endpoints.values())


def test_who_wants_no_more_is_heard_at_the_other_end(net: Net) -> None:
    why: list[str] = []
    source, sink = Growing(), Taken()
    held = net["A"].plane.offer(source, now=net.now, is_for_one=True, withdrawn=why.append)
    fetched = fetch(net, "B.b", "A", held, sink)
    net.run()
    fetched.cancel()
    fetched.cancel()
    net.run()
    assert (why, sink.outcomes) == (["stopped"], [])
    nothing_is_left(net.endpoints.values())


def test_a_sink_is_sent_no_more_than_it_has_room_for_and_the_rest_when_it_has(net: Net) -> None:
    whole = content(300_000)
    sink = Taken(upto=0, is_patient=True)
    fetched = fetch(net, "B.b", "A.a.x", offer(net, "A.a.x", source := Counted(whole)), sink)
    other = passes(net, "A.a.x", "B.b", whole)  # and one that waits for room is in nobody's way
    assert other.bytes == whole
    for upto in (0, 1, 100_000, 100_001, 300_000):
        sink.upto = upto
        fetched.extend(net.now)
        net.tick(100)
        assert (len(sink.bytes), source.sent) == (upto, upto)
    assert (sink.outcomes, sink.bytes) == (["whole"], whole)
    nothing_is_left(net.endpoints.values())


# What nobody wants


def test_what_nobody_wants_is_forgotten_after_its_time(net: Net) -> None:
    why: list[str] = []
    net["A"].plane.offer(Growing(), now=net.now, seconds=100, is_for_one=False, withdrawn=why.append)
    net.tick(99)
    assert why == []
    net.tick(1 + LOOK_SECONDS)
    assert why == ["gone"]
    nothing_is_left(net.endpoints.values())


def test_what_is_wanted_stays_as_long_as_it_is_wanted_and_some_time_longer(net: Net) -> None:
    held = offer(net, "A", Growing(), is_for_one=False, seconds=0)
    fetched = fetch(net, "B.b", "A", held, Taken(is_patient=True))
    net.tick(500)
    assert net["A"].plane.offers
    fetched.cancel()
    net.tick(HOLD_SECONDS - LOOK_SECONDS)
    assert net["A"].plane.offers
    net.tick(2 * LOOK_SECONDS)
    nothing_is_left(net.endpoints.values())


def test_wants_are_said_again_on_each_link_and_who_does_not_is_forgotten(net: Net) -> None:
    fetch(net, "B.b", "A", offer(net, "A", Growing()), Taken(is_patient=True))
    net.tick(10 * LOOK_SECONDS)
    links = [net.links[name] for name in ("A", "B", "B.b")]
    assert all(10 <= link.sent(Kind.WANT) <= 11 for link in links)
    net.links["B"].tamper = lambda frame: b"" if frame.kind is Kind.WANT else _as_it_is(frame)
    net.tick(FORGET_SECONDS - LOOK_SECONDS - 1)
    assert net["server"].plane.transit.passages
    net.tick(2 * LOOK_SECONDS + 1)
    for name in ("server", "A"):
        plane_is_empty(net[name])
    net.links["B"].tamper = None
    net.tick(LOOK_SECONDS + 1)
    assert net["server"].plane.transit.passages, "what was forgotten is wanted anew"
    assert net["B.b"].plane.fetches


def _as_it_is(frame: Frame) -> bytes:
    return encode_frame(*frame[:1], *frame[4:], hop=frame.hop, label=frame.label, remaining_ms=frame.remaining_ms)


# Limits


def test_a_cell_holds_and_wants_no_more_contents_than_it_may(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MAX_CONTENTS", 3)
    held = [offer(net, "A", Growing()) for _ in range(3)]
    with pytest.raises(Busy):
        offer(net, "A", Growing())
    wanted = [fetch(net, "A.a", "A", one, Taken()) for one in held]
    with pytest.raises(Busy):
        fetch(net, "A.a", "A", held[0], Taken())
    net.run()
    wanted[0].cancel()
    net.run()
    offer(net, "A", Growing())
    fetch(net, "A.a", "A", held[1], Taken())


@pytest.mark.parametrize("limit", ["MAX_CONTENTS", "MAX_SUPPLIES"])
def test_what_is_too_much_for_a_relay_is_wanted_again_until_there_is_room(
    net: Net, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    sources, sinks = [Growing() for _ in range(3)], [Taken() for _ in range(3)]
    held = [offer(net, "A", source) for source in sources]
    for one, sink in zip(held, sinks, strict=True):
        fetch(net, "B.b", "A", one, sink)
    monkeypatch.setattr(plane, limit, 2)
    net.tick(5)
    assert len(net["B"].plane.transit.passages) == 2
    assert net.links["B.b"].sent(Kind.ABORT) > 3
    for source, one, sink in zip(sources, held, sinks, strict=True):
        source.whole, source.length = b"the whole", 9
        one.ready()
        net.tick(2.1)
        assert sink.bytes == b"the whole"
    nothing_is_left(net.endpoints.values())


def test_a_cell_that_has_no_name_yet_can_have_nothing_and_wants_it_when_it_joined() -> None:
    net = Net.tree("A")
    net.add("B")
    whole, sink = content(1000), Taken()
    fetch(net, "B", "A", offer(net, "A", whole), sink)
    net.tick(5)
    assert sink.outcomes == []
    net.connect("B")
    net.run()
    assert sink.bytes == whole
    nothing_is_left(net.endpoints.values())


def test_frames_of_contents_are_the_bytes_that_are_specified() -> None:
    net = Net.tree("A", "B")
    seen: list[Frame] = []

    def listen(frame: Frame) -> bytes:
        seen.append(frame)
        return _as_it_is(frame)

    net.links["B"].tamper = listen
    held = offer(net, "A", b"to be had")
    fetch(net, "B", "A", held, Taken())
    net.run()
    want, data, end, done = seen
    assert [one.kind for one in seen] == [Kind.WANT, Kind.DATA, Kind.END, Kind.ABORT]
    assert {one.label for one in seen} == {1}
    assert msgpack.unpackb(want.header) == [str(FQCN("A")), held.content, 0, 0, WINDOW_BYTES]
    assert (data.header, data.body) == (bytes(8), b"to be had")
    assert msgpack.unpackb(end.header) == [9]
    assert msgpack.unpackb(done.header) == [False, "done", ""]


def test_a_content_that_is_withdrawn_when_it_is_read_is_told_at_once() -> None:
    class Failing(Growing):
        def read(self, offset: int, limit: int) -> Buffer:
            if offset == len(self.whole):
                held.withdraw("reset", "it cannot be read")
            return super().read(offset, limit)

    for whole in (b"", b"some of it"):
        net, source, sink = Net.tree("R.a"), Failing(), Taken()
        source.whole = whole
        held = offer(net, "server", source)
        fetch(net, "R.a", "server", held, sink)
        net.run()
        assert (sink.outcomes, sink.reason) == (["reset"], "it cannot be read")
