"""Frames: any chunking gives the same frames, and every limit holds before anything is allocated."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import RemoteProtocolError
from cellnet.fqcn import FQCN, MAX_NAME_BYTES
from cellnet.protocol.connection import MAX_REASON
from cellnet.protocol.envelope import MAX_ENTRIES, MAX_KEY, Entry, Order
from cellnet.protocol.frames import (
    MAX_BODY,
    MAX_DATA,
    MAX_HEADER,
    MAX_LIST,
    OFFSET,
    PREFIX,
    Frame,
    FrameDecoder,
    Kind,
    pack,
    unpack,
)
from tests.protocol.conftest import encode_frame

frames = st.builds(
    Frame,
    kind=st.sampled_from([kind for kind in Kind if kind is not Kind.DATA]),
    hop=st.integers(0, 255),
    label=st.integers(0, 2**32 - 1),
    remaining_ms=st.integers(0, 2**32 - 1),
    header=st.binary(max_size=40),
    body=st.binary(max_size=40),
) | st.builds(
    lambda label, offset, body: Frame(Kind.DATA, 0, label, 0, OFFSET.pack(offset), body),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63),
    st.binary(max_size=40),
)


def merged(received: list[Frame]) -> list[Frame]:
    """Put the parts of DATA together that belong together: the bytes came in pieces."""
    whole: list[Frame] = []
    for frame in received:
        last = whole[-1] if whole else None
        if frame.kind is not Kind.DATA:
            whole.append(frame)
        elif last is not None and last.kind is Kind.DATA and last.label == frame.label and follows(last, frame):
            whole[-1] = last._replace(body=bytes(last.body) + bytes(frame.body))
        elif frame.body:
            whole.append(frame._replace(body=bytes(frame.body)))
    return whole


def follows(last: Frame, frame: Frame) -> bool:
    return OFFSET.unpack(last.header)[0] + len(last.body) == OFFSET.unpack(frame.header)[0]


def encode(frame: Frame) -> bytes:
    return encode_frame(
        frame.kind, frame.header, frame.body, label=frame.label, hop=frame.hop, remaining_ms=frame.remaining_ms
    )


@given(st.lists(frames, max_size=6), st.data())
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = FrameDecoder()
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:stop])
    assert merged(received) == merged(sent)
    assert decoder.held_bytes == 0


@given(st.lists(frames, max_size=6), st.data())
def test_frames_are_the_same_if_what_is_held_goes_to_the_room_before_what_comes(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder, buffer = FrameDecoder(), memoryview(bytearray(len(stream)))
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        held = decoder.held_bytes
        buffer[held : held + stop - start] = stream[start:stop]
        arrived = list(decoder.feed(buffer[: held + stop - start], held))
        received += [frame._replace(body=bytes(frame.body)) for frame in arrived]
        buffer[:] = bytes(len(buffer))
    assert merged(received) == merged(sent)


def test_the_prefix_is_sixteen_bytes_in_network_order() -> None:
    data = encode_frame(Kind.REQUEST, b"abc", b"defgh", label=0x01020304, hop=7, remaining_ms=0x0A0B0C0D)
    assert data[:16].hex(" ") == "00 00 00 08 00 03 20 07 01 02 03 04 0a 0b 0c 0d"
    assert data[16:] == b"abcdefgh"


@pytest.mark.parametrize("kind_of_buffer", [bytes, bytearray, memoryview])
def test_frames_keep_nothing_of_the_buffer_they_came_in(kind_of_buffer: type) -> None:
    data = encode_frame(Kind.PING, b"abc", b"def")
    buffer = bytearray(data + data[:9])
    decoder = FrameDecoder()
    (frame,) = decoder.feed(buffer if kind_of_buffer is bytearray else kind_of_buffer(buffer))
    buffer[:] = bytes(len(buffer))
    assert (frame.header, frame.body) == (b"abc", b"def")
    assert decoder.held_bytes == 9
    assert list(decoder.feed(data[9:])) == [frame]


def test_only_the_body_of_data_lies_in_the_buffer_it_came_in() -> None:
    data = encode_frame(Kind.DATA, OFFSET.pack(7), b"def")
    buffer = bytearray(data + data[:9])
    decoder = FrameDecoder()
    (frame,) = decoder.feed(memoryview(buffer))
    assert (frame.header, frame.body) == (OFFSET.pack(7), b"def")
    buffer[:] = bytes(len(buffer))
    assert (frame.header, frame.body) == (OFFSET.pack(7), bytes(3))
    (frame,) = decoder.feed(data[9:])
    assert (frame.header, frame.body) == (OFFSET.pack(7), b"def")


def test_data_is_handed_on_as_it_comes_and_never_held() -> None:
    data = encode_frame(Kind.DATA, OFFSET.pack(100), bytes(range(200)), label=3)
    decoder = FrameDecoder()
    received = []
    for start, stop in ((0, 20), (20, 24), (24, 30), (30, 31), (31, len(data))):
        received += decoder.feed(data[start:stop])
    assert [(OFFSET.unpack(frame.header)[0], len(frame.body), frame.label) for frame in received] == [
        (100, 6, 3),
        (106, 1, 3),
        (107, 193, 3),
    ]
    assert b"".join(bytes(frame.body) for frame in received) == bytes(range(200))
    assert decoder.held_bytes == 0


def test_the_largest_frame_is_allowed_byte_by_byte() -> None:
    data = encode_frame(Kind.BROADCAST, bytes(MAX_HEADER), bytes(MAX_BODY))
    decoder = FrameDecoder()
    received = [frame for start in range(len(data)) for frame in decoder.feed(data[start : start + 1])]
    assert [len(frame.header) + len(frame.body) for frame in received] == [MAX_HEADER + MAX_BODY]


@pytest.mark.parametrize(
    ("length", "header", "kind"),
    [
        (2, 3, Kind.PING),
        (MAX_BODY + 1, 0, Kind.PING),
        (MAX_HEADER + MAX_BODY + 1, MAX_HEADER, Kind.BROADCAST),
        (2**32 - 1, 65535, Kind.REQUEST),
        (1, 1, 0),
        (1, 1, 17),
        (7, 7, Kind.DATA),
        (9, 9, Kind.DATA),
        (MAX_DATA + 9, 8, Kind.DATA),
        (1, 1, 31),
        (1, 1, 41),
        (1, 1, 255),
    ],
)
def test_a_prefix_that_breaks_a_limit_is_refused_before_anything_follows_it(
    length: int, header: int, kind: int
) -> None:
    decoder = FrameDecoder()
    good = encode_frame(Kind.PING, b"\x90")
    received = []
    with pytest.raises(RemoteProtocolError):
        for frame in decoder.feed(good + PREFIX.pack(length, header, kind, 0, 0, 0)):
            received.append(frame)  # noqa: PERF402  # what came before the error counts too
    assert [frame.kind for frame in received] == [Kind.PING]


def test_an_incomplete_frame_is_the_only_thing_that_is_held() -> None:
    decoder = FrameDecoder()
    data = encode_frame(Kind.REQUEST, bytes(10), bytes(MAX_BODY))
    assert list(decoder.feed(data * 3 + data[:-1]))[2:]
    assert decoder.held_bytes == len(data) - 1
    assert len(list(decoder.feed(data[-1:]))) == 1
    assert decoder.held_bytes == 0


@given(st.lists(st.integers(0, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5) | st.booleans(), max_size=4))
def test_a_header_is_read_as_it_was_written(fields: list[Any]) -> None:
    assert unpack(pack(*fields), *map(type, fields)) == fields


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack(1, 2),
        pack(1, 2, 3, 4),
        msgpack.packb(1),
        msgpack.packb({}),
        pack(1, "a", 3) + b"\x00",
        pack(1, "a", 3)[:-1],
        pack(True, "a", 3),
        pack(-1, "a", 3),
        pack(1, b"a", 3),
        pack(1, "a", 3.0),
        pack(1, "a", b"b"),
        pack(1, "a", msgpack.ExtType(5, b"")),
        pack(1, "a", msgpack.Timestamp(1)),
        b"\x93\x01\xa1\xff\x03",
        b"\x91" * 5000 + b"\x90",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\xa1a\x81\x01\x02",
    ],
)
def test_a_header_of_other_fields_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(data, int, str, (int, type(None)))


def test_lists_that_announce_more_than_follows_take_little_memory() -> None:
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        unpack((b"\xdd" + (60_000).to_bytes(4, "big")) * 1000 + b"\xc0" * 55_000, list)
    with pytest.raises(RemoteProtocolError):
        unpack((b"\xdc" + MAX_LIST.to_bytes(2, "big")) * 1000 + b"\xc0" * 55_000, list)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_a_field_may_have_one_of_several_types() -> None:
    assert unpack(pack(None), (int, type(None))) == [None]
    assert unpack(pack(5), (int, type(None))) == [5]


def test_a_frame_that_names_as_many_cells_as_it_may_has_a_header_that_is_allowed() -> None:
    longest = "a" * 63 + (".b" + "b" * 62) * 3
    assert len(longest) == MAX_NAME_BYTES
    order = Order(2**64 - 1, 2**64 - 1, "é" * (MAX_KEY // 2) + "e", 2**64 - 2).pack()
    entry = Entry(FQCN(longest), 2**64 - 1, 2**64 - 1, order)
    header = pack([entry.fields()] * MAX_ENTRIES)
    assert MAX_HEADER * 0.8 < len(header) < MAX_HEADER
    assert Entry.unpack(unpack(header, list)[0]) == [entry] * MAX_ENTRIES
    nacked = [longest, 2**64 - 1, 2**64 - 1]
    assert len(pack("unreachable", "\U0001f600" * MAX_REASON, [nacked] * MAX_ENTRIES)) < MAX_HEADER
