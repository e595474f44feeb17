"""Sealed records: who passes a content on can neither read nor change it, nor take its end away."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import FRAME_BYTES, OFFSET, Kind, pack
from cellnet.protocol.offer import Held
from cellnet.protocol.records import TEXT_BYTES, Opener, SealedSource, seal_record
from tests.protocol.conftest import Net, encode_frame
from tests.protocol.contents import Opened, content, fetch, nothing_is_left, offer, only_offers_are_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer, Frame

KEY, OTHER = bytes(range(32)), bytes(32)
SIZES = (0, 1, TEXT_BYTES - 1, TEXT_BYTES, TEXT_BYTES + 1, 3 * TEXT_BYTES, 3 * TEXT_BYTES + 100)


def sealed(whole: bytes, key: bytes = KEY) -> bytes:
    """Return a content as it travels."""
    source = SealedSource(Held([whole]), key)
    travels = b"".join(bytes(source.read(offset, FRAME_BYTES)) for offset in range(0, source.length, FRAME_BYTES))
    assert len(travels) == source.length
    return travels


def opened(travels: bytes, key: bytes = KEY) -> tuple[bytes, bool]:
    taken: list[bytes] = []
    opener = Opener(key, taken.append)
    opener.write(travels)
    return b"".join(taken), opener.is_whole


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_is_what_is_opened(size: int) -> None:
    whole = content(size)
    travels = sealed(whole)
    assert opened(travels) == (whole, True)
    assert whole[:100] not in travels or not whole
    assert len(travels) - size == 20 * max(1, -(-size // TEXT_BYTES))


@given(st.sampled_from(SIZES), st.data())
def test_it_is_the_same_wherever_it_is_read_and_however_it_is_cut(size: int, lot: st.DataObject) -> None:
    whole = content(size)
    travels, source = sealed(whole), SealedSource(Held([whole]), KEY)
    for _ in range(5):
        offset = lot.draw(st.integers(0, len(travels)))
        piece = source.read(offset, lot.draw(st.integers(1, FRAME_BYTES)))
        assert piece == travels[offset : offset + len(piece)]
        assert piece or offset == len(travels)
    taken: list[bytes] = []
    opener = Opener(KEY, taken.append)
    cuts = sorted(lot.draw(st.lists(st.integers(0, len(travels)), max_size=8)))
    for start, stop in zip([0, *cuts], [*cuts, len(travels)], strict=True):
        assert not opener.is_whole or start == len(travels)
        opener.write(memoryview(travels)[start:stop])
    assert (b"".join(taken), opener.is_whole, opener.position) == (whole, True, len(travels))


def test_each_place_is_sealed_with_a_nonce_of_its_own() -> None:
    travels = sealed(bytes(3 * TEXT_BYTES))
    records = [travels[start : start + FRAME_BYTES] for start in range(0, len(travels), FRAME_BYTES)]
    assert len({record[4:] for record in records}) == 3


def test_nothing_is_read_beyond_the_end() -> None:
    for size in (10, TEXT_BYTES):
        source = SealedSource(Held([content(size)]), KEY)
        assert source.read(source.length, 10) == b""
        assert source.read(source.length + FRAME_BYTES, 10) == b""
        source.acknowledged(source.length)
        assert source.read(0, 10) == sealed(content(size))[:10]


def swapped(travels: bytes) -> bytes:
    return travels[FRAME_BYTES : 2 * FRAME_BYTES] + travels[:FRAME_BYTES] + travels[2 * FRAME_BYTES :]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the text": lambda travels: travels[:100] + bytes([travels[100] ^ 1]) + travels[101:],
    "a bit of the length": lambda travels: travels[:3] + bytes([travels[3] ^ 1]) + travels[4:],
    "the last one is said to be the last": lambda travels: bytes([travels[0] | 0x80]) + travels[1:],
    "longer than any": lambda travels: b"\x00\x01\x00\x00" + travels[4:],
    "longer than can be": lambda travels: b"\xff\xff\xff\xff" + travels[4:],
    "in another order": swapped,
    "twice the same": lambda travels: travels[:FRAME_BYTES] + travels,
    "one left out": lambda travels: travels[FRAME_BYTES:],
    "another content's": lambda travels: sealed(content(len(travels), 9), OTHER),
    "more after the last": lambda travels: travels + travels[-200:],
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_not_as_it_was_sealed_does_not_open(how: str) -> None:
    whole = content(2 * TEXT_BYTES + 500)
    taken: list[bytes] = []
    opener = Opener(KEY, taken.append)
    with pytest.raises(Altered):
        opener.write(WRONG[how](sealed(whole)))
    assert whole.startswith(b"".join(taken))
    assert opener.position == sum(len(text) + 20 for text in taken)


def test_what_is_cut_off_is_not_whole() -> None:
    travels = sealed(content(2 * TEXT_BYTES))
    for end in (0, 1, 3, 4, 100, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 3, len(travels) - 1):
        assert opened(travels[:end])[1] is False


def test_what_came_of_a_record_is_forgotten_when_it_is_wanted_again() -> None:
    travels, taken = sealed(b"a text"), []
    opener = Opener(KEY, taken.append)
    opener.write(travels[:10])
    opener.rewind()
    assert opener.position == 0
    opener.write(travels)
    assert taken == [b"a text"]


def test_any_changed_byte_is_found() -> None:
    travels, rng = sealed(content(200)), random.Random(1)
    for at in range(len(travels)):
        changed = bytearray(travels)
        changed[at] ^= 1 << rng.randrange(8)
        try:
            whole, is_whole = opened(bytes(changed))
        except Altered:
            continue
        assert (whole, is_whole) == (b"", False), "a record that seems to be longer waits for the rest"


def test_records_are_the_bytes_that_are_specified() -> None:
    travels = sealed(b"x" * TEXT_BYTES + b"the end")
    first, last = travels[:FRAME_BYTES], travels[FRAME_BYTES:]
    assert first[:4] == TEXT_BYTES.to_bytes(4, "big")
    assert last[:4] == b"\x80\x00\x00\x07"
    assert AESGCM(KEY).decrypt(bytes(12), first[4:], first[:4]) == b"x" * TEXT_BYTES
    assert AESGCM(KEY).decrypt((1).to_bytes(12, "big"), last[4:], last[:4]) == b"the end"


# On their way


class Between:
    """A relay that changes what it passes on."""

    def __init__(self, change: Callable[[int, bytes], bytes], times: float) -> None:
        self.change = change
        self.times = times
        self.left = times

    def __call__(self, frame: Frame) -> bytes:
        header, body = frame.header, bytes(frame.body)
        if frame.kind is Kind.DATA and self.left > 0:
            (offset,) = OFFSET.unpack(header)
            changed = self.change(offset, body)
            self.left -= changed != body
            body = changed
        return encode_frame(frame.kind, header, body, label=frame.label, hop=frame.hop, remaining_ms=frame.remaining_ms)


def _put(at: int, body: bytes, where: int, new: bytes) -> bytes:
    """Return *body*, what a content has at *at*, with *new* at *where* of the content, as far as that is in it."""
    start = min(max(where - at, 0), len(body))
    stop = min(max(where + len(new) - at, start), len(body))
    return body[:start] + new[at + start - where : at + stop - where] + body[stop:] if start < stop else body


WHOLE = content(3 * TEXT_BYTES + 100)
TRAVELS = sealed(WHOLE)
STRANGER = sealed(content(len(WHOLE), 8), OTHER)
CHANGES: dict[str, Callable[[int, bytes], bytes]] = {
    "a bit": lambda at, body: _put(at, body, FRAME_BYTES + 50, bytes([TRAVELS[FRAME_BYTES + 50] ^ 4])),
    "another record": lambda at, body: _put(at, body, FRAME_BYTES, TRAVELS[:FRAME_BYTES]),
    "another content": lambda at, body: STRANGER[at : at + len(body)],
    "zeros": lambda _at, body: bytes(len(body)),
}


@pytest.mark.parametrize("times", [1, 3, 30])
@pytest.mark.parametrize("what", CHANGES)
def test_what_was_altered_on_the_way_is_never_delivered_and_is_wanted_again(what: str, times: int) -> None:
    net = Net.tree("A", "B")
    net.links["B"].tamper = Between(CHANGES[what], times)
    sink = Opened(KEY)
    fetch(net, "B", "A", offer(net, "A", SealedSource(Held([WHOLE]), KEY)), sink)
    net.tick(60 if times > 3 else 5)
    refused = net["B"].plane.refused
    assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)
    assert refused >= times
    nothing_is_left(net.endpoints.values())


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_always_altered_is_given_up(what: str) -> None:
    net = Net.tree("A", "B")
    net.links["B"].tamper = Between(CHANGES[what], 1e9)
    sink = Opened(KEY)
    fetch(net, "B", "A", offer(net, "A", SealedSource(Held([WHOLE]), KEY)), sink)
    net.tick(200)
    assert sink.outcomes == ["altered"]
    assert WHOLE.startswith(bytes(sink.bytes))
    assert len(sink.bytes) < len(WHOLE)
    net.tick(200)
    nothing_is_left(net.endpoints.values())


@pytest.mark.parametrize("cut", [0, FRAME_BYTES, len(TRAVELS) - 1])
def test_an_end_that_comes_too_early_is_not_believed(cut: int) -> None:
    net = Net.tree("A", "B")
    told: list[int] = []

    def ends_early(frame: Frame) -> bytes:
        if frame.kind is Kind.DATA and not told:
            (offset,) = OFFSET.unpack(frame.header)
            if offset + len(frame.body) > cut:
                told.append(cut)
                body = bytes(frame.body)[: cut - offset]
                some = encode_frame(Kind.DATA, frame.header, body, label=frame.label) if body else b""
                return some + encode_frame(Kind.END, pack(cut), label=frame.label)
        return encode_frame(
            frame.kind,
            frame.header,
            bytes(frame.body),
            label=frame.label,
            hop=frame.hop,
            remaining_ms=frame.remaining_ms,
        )

    net.links["B"].tamper = ends_early
    sink = Opened(KEY)
    fetch(net, "B", "A", offer(net, "A", SealedSource(Held([WHOLE]), KEY), is_for_one=False), sink)
    net.tick(5)
    assert told
    assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)
    assert net["B"].plane.refused >= 1
    only_offers_are_left(net.endpoints.values())


def test_the_last_record_may_be_empty() -> None:
    record = seal_record(AESGCM(KEY), 0, b"", is_last=True)
    assert opened(record) == (b"", True)


def test_a_source_that_became_shorter_gives_no_other_record_under_the_same_number() -> None:
    class Shrinking(Held):
        def read(self, offset: int, limit: int) -> Buffer:
            return super().read(offset, limit)[:size]

    size = FRAME_BYTES
    source = SealedSource(Shrinking([content(3 * TEXT_BYTES)]), KEY)
    first = bytes(source.read(0, FRAME_BYTES))
    size = 100
    assert source.read(FRAME_BYTES, FRAME_BYTES) == b""
    assert source.read(0, FRAME_BYTES) == first
