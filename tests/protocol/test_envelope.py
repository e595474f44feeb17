"""What travels in a session: it is read as it was written, and nothing else is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.envelope import (
    MAX_ENTRIES,
    MAX_KEY,
    MAX_RANGES,
    MAX_TOPIC,
    Answer,
    Content,
    Entry,
    Order,
    Status,
    join,
    pack_ranges,
    part,
    read_name,
    unpack_ranges,
)
from cellnet.protocol.frames import INLINE_LIMIT, pack
from cellnet.protocol.ranges import Ranges

numbers = st.integers(0, 2**64 - 1)


@given(numbers, numbers, st.text(max_size=MAX_KEY // 4), numbers, numbers, st.booleans())
def test_an_order_is_read_as_it_was_written_unless_it_contradicts_itself(
    sequence: int, floor: int, key: str, after: int, within_ms: int, doubt: bool
) -> None:
    order = Order(sequence, floor, key, after, within_ms, doubt)
    if sequence and (floor > sequence or after >= sequence):
        with pytest.raises(RemoteProtocolError):
            Order.unpack(order.pack())
    else:
        assert Order.unpack(order.pack()) == order


@pytest.mark.parametrize(
    "order",
    [
        (5, 5, "", 4, 9, False),
        (5, 1, "k", 0, 9, True),
        (0, 9, "k", 0, 9, False),
        (0, 1, "k", 7, 9, False),
        (1, 0, "é" * 127, 0, 9, True),
    ],
)
def test_a_request_may_want_only_its_own_answer_and_an_event_none(order: tuple[Any, ...]) -> None:
    assert Order.unpack(pack(*order)) == order


@pytest.mark.parametrize(
    "order",
    [
        (5, 6, "", 0, 9, False),
        (5, 1, "k", 5, 9, False),
        (5, 1, "k", 6, 9, False),
        (5, 1, "é" * 128, 0, 9, False),
        (5, 1, "k" * 256, 0, 9, False),
        (True, 1, "", 0, 9, False),
        (-1, 1, "", 0, 9, False),
        (5, -1, "", 0, 9, False),
        (5, 1, b"k", 0, 9, False),
        (5, 1, "", -1, 9, False),
        (5, 1, "", 0, -9, False),
        (5, 1, "", 0, 9, 0),
        (5, 1, "", 0, 9),
        (5, 1, "", 0, 9, False, False),
    ],
)
def test_an_order_that_cannot_be_is_malformed(order: tuple[Any, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        Order.unpack(pack(*order))


@given(st.text(max_size=MAX_TOPIC), numbers, st.binary(max_size=100))
def test_content_is_read_as_it_was_written(topic: str, encoding: int, payload: bytes) -> None:
    content = Content.of(topic, encoding, payload, "")
    assert Content.unpack(content.pack()) == content == (topic, encoding, payload)


def test_a_topic_key_or_payload_that_no_cell_would_take_is_the_callers_error() -> None:
    Content.of("é" * MAX_TOPIC, 1, bytes(INLINE_LIMIT), "é" * (MAX_KEY // 2))
    with pytest.raises(LocalProtocolError, match="a topic of 256 characters"):
        Content.of("t" * (MAX_TOPIC + 1), 1, b"", "")
    with pytest.raises(LocalProtocolError, match="an ordering key of 256 bytes"):
        Content.of("t", 1, b"", "é" * 128)
    with pytest.raises(PayloadTooLarge, match="a payload of 65537 bytes"):
        Content.of("t", 1, bytes(INLINE_LIMIT + 1), "")


@pytest.mark.parametrize(("topic", "key"), [("\ud800", ""), ("t", "\udfff")])
def test_half_a_character_is_the_callers_error(topic: str, key: str) -> None:
    with pytest.raises(LocalProtocolError, match="no text"):
        Content.of(topic, 1, b"", key)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x00\x05abcd",
        b"\xff\xff" + bytes(100),
        join(pack("t"), b""),
        join(pack("t", -1), b""),
        join(pack("t", True), b""),
        join(pack(b"t", 1), b""),
        join(pack("t" * 256, 1), b""),
        join(pack("t", 1), bytes(INLINE_LIMIT + 1)),
    ],
)
def test_content_that_breaks_a_limit_is_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Content.unpack(data)


@given(numbers, numbers, st.sampled_from(Status), numbers, st.binary(max_size=100))
def test_an_answer_is_read_as_it_was_written(
    sequence: int, counter: int, status: Status, encoding: int, payload: bytes
) -> None:
    answer = Answer(sequence, counter, status, encoding, payload)
    assert Answer.unpack(answer.pack()) == answer


@pytest.mark.parametrize(("status", "size"), [(5, 0), (255, 0), (0, INLINE_LIMIT + 1)])
def test_an_answer_of_unknown_status_or_too_large_is_malformed(status: int, size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        Answer.unpack(join(pack(1, 1, status, 0), bytes(size)))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_parts_are_told_apart_as_they_were_joined(first: bytes, second: bytes) -> None:
    assert part(join(first, second)) == (first, second)


def test_entries_are_read_as_they_were_written() -> None:
    entries = [Entry(FQCN("A.b"), 2**63, 1, b"order"), Entry(FQCN("server"), 0, 0, b"")]
    assert Entry.unpack([entry.fields() for entry in entries]) == entries
    assert len(Entry.unpack([entries[0].fields()] * MAX_ENTRIES)) == MAX_ENTRIES


@pytest.mark.parametrize(
    "values",
    [
        [["A", 1, 1, b""]] * (MAX_ENTRIES + 1),
        ["A"],
        [None],
        [{}],
        [["A", 1, 1]],
        [["A", 1, 1, b"", 1]],
        [["A", True, 1, b""]],
        [["A", 1, False, b""]],
        [["A", -1, 1, b""]],
        [["A", 1, -1, b""]],
        [["A", 1.0, 1, b""]],
        [["A", 1, 1, ""]],
        [[b"A", 1, 1, b""]],
        [["A..b", 1, 1, b""]],
        [["server.a.b", 1, 1, b""]],
        [["A", 1, 1, b""], ["", 1, 1, b""]],
    ],
)
def test_an_entry_that_cannot_be_is_malformed(values: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        Entry.unpack(values)


def test_a_name_in_a_header_is_one_that_a_cell_can_have() -> None:
    assert read_name("server.job") == FQCN("server.job")
    for wrong in ("", "a..b", "server.a.b", "a" * 64):
        with pytest.raises(RemoteProtocolError):
            read_name(wrong)


def test_of_many_ranges_the_lowest_are_told_and_no_more_are_read() -> None:
    ranges, few = Ranges(), Ranges()
    for start in range(1, 2 * MAX_RANGES + 3, 2):
        ranges.add(start, start + 1)
    few.add(7, 9)
    told, rest = unpack_ranges(pack_ranges(ranges, few), 2)
    assert (told, rest) == (ranges.below(MAX_RANGES), [(7, 9)])
    too_many = pack([list(one) for one in ranges.below(MAX_RANGES + 1)])
    with pytest.raises(RemoteProtocolError, match="65 ranges: 64 are allowed"):
        unpack_ranges(too_many)


@pytest.mark.parametrize("value", [7, [1], [1, 2, 3], [1, "2"], [0, 2], [2, 2], [True, 2]])
def test_a_range_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_ranges(pack([value]))
