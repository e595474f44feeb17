"""What a stream keeps of what was sent, without a network."""

from __future__ import annotations

import pytest

from cellnet.outgoing import BUFFER_BYTES, MAX_BUFFER_BYTES, Outgoing

PIECE = bytes(256 * 1024)


def filled(outgoing: Outgoing) -> int:
    """Write until that should wait; return how much that was."""
    size = 0
    while not outgoing.is_full:
        outgoing.write(PIECE)
        size += len(PIECE)
    return size


def read(outgoing: Outgoing, start: int, end: int) -> None:
    """Let a link take what lies between."""
    while start < end:
        start += len(outgoing.read(start, end - start))


def test_a_stream_whose_buffer_alone_holds_it_up_gets_more_of_it_up_to_a_limit() -> None:
    outgoing = Outgoing(b"", lambda: None)
    end, rooms = 0, []
    for count in range(1, 6):
        begin, end = end, end + filled(outgoing)
        read(outgoing, begin, end)
        rooms.append(outgoing.room)
        outgoing.acknowledged(count * len(PIECE))
    assert rooms == [BUFFER_BYTES, 2 * BUFFER_BYTES, MAX_BUFFER_BYTES, MAX_BUFFER_BYTES, MAX_BUFFER_BYTES]
    assert end - 4 * len(PIECE) <= MAX_BUFFER_BYTES + len(PIECE)


@pytest.mark.parametrize("wanted", [len(PIECE), 3 * BUFFER_BYTES // 4])
def test_a_stream_of_which_its_reader_does_not_want_all_keeps_its_buffer(wanted: int) -> None:
    outgoing = Outgoing(b"", lambda: None)
    end = 0
    for _ in range(20):
        end += filled(outgoing)
        begin = end - BUFFER_BYTES
        read(outgoing, begin, begin + wanted)
        outgoing.acknowledged(begin + len(PIECE))
    assert outgoing.room == BUFFER_BYTES


def test_a_stream_that_is_never_full_keeps_its_buffer() -> None:
    outgoing = Outgoing(b"", lambda: None)
    for end in range(len(PIECE), 20 * BUFFER_BYTES, len(PIECE)):
        outgoing.write(PIECE)
        read(outgoing, end - len(PIECE), end)
        outgoing.acknowledged(end)
    assert outgoing.room == BUFFER_BYTES
