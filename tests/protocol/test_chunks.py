"""Objects as they travel: the list that names them, and chunks that are taken only if they are what it says."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import LocalProtocolError
from cellnet.protocol import chunks
from cellnet.protocol.chunks import (
    DIGEST_BYTES,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_OBJECT_BYTES,
    MIN_CHUNK_BYTES,
    ChunkList,
    Listing,
    Verifier,
)
from cellnet.protocol.fetch import Altered
from tests.protocol.contents import Small, content, listed

HEAD = 9
WHOLE = content(2 * MIN_CHUNK_BYTES + 1000)


def travelling(whole: bytes) -> bytes:
    held = listed(whole)
    return bytes(held.read(0, held.length)) + whole


def verified(named: bytes, *pieces: bytes) -> tuple[Verifier, dict[int, bytes]]:
    came: dict[int, bytes] = {}
    verifier = Verifier(named, None, 0, came.__setitem__)
    for piece in pieces:
        verifier.write(piece)
    return verifier, came


def test_an_object_is_its_list_and_its_chunks() -> None:
    held = listed(Small(WHOLE))
    assert held.length == HEAD + 3 * DIGEST_BYTES + len(WHOLE)
    chunk_list = bytes(held.read(0, held.length))
    assert held.content == blake3(chunk_list).digest()
    assert chunk_list[:HEAD] == len(WHOLE).to_bytes(8, "big") + bytes([16])
    digests = [
        blake3(WHOLE[start : start + MIN_CHUNK_BYTES]).digest() for start in range(0, len(WHOLE), MIN_CHUNK_BYTES)
    ]
    assert chunk_list[HEAD:] == b"".join(digests)
    assert bytes(held.read(len(chunk_list) + 7, 10)) == WHOLE[7:17]
    assert bytes(held.read(5, 10)) == chunk_list[5:15]


def test_places_in_an_object_are_those_of_its_pieces() -> None:
    chunk_list = ChunkList(travelling(WHOLE)[: HEAD + 3 * DIGEST_BYTES])
    first = len(chunk_list.bytes)
    assert chunk_list.count == 4
    starts = [chunk_list.start(index) for index in range(5)]
    assert starts == [0, first, first + MIN_CHUNK_BYTES, first + 2 * MIN_CHUNK_BYTES, first + len(WHOLE)]
    assert [chunk_list.index(start) for start in starts[:4]] == [0, 1, 2, 3]
    assert [chunk_list.index(start - 1) for start in starts[1:]] == [0, 1, 2, 3]


@given(st.lists(st.integers(1, 100_000), max_size=20))
def test_an_object_may_come_in_any_pieces(sizes: list[int]) -> None:
    data, pieces = travelling(WHOLE), []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    verifier, came = verified(listed(WHOLE).content, *pieces, data)
    assert verifier.is_whole
    assert verifier.position == len(travelling(WHOLE))
    assert b"".join(came[index] for index in (1, 2, 3)) == WHOLE


@pytest.mark.parametrize("place", [0, 8, HEAD, HEAD + 95, HEAD + 96, HEAD + 96 + len(WHOLE) - 1])
def test_what_was_changed_is_not_taken_and_what_came_before_stays(place: int) -> None:
    data = bytearray(travelling(WHOLE))
    data[place] ^= 1
    came: dict[int, bytes] = {}
    verifier = Verifier(listed(WHOLE).content, None, 0, came.__setitem__)
    with pytest.raises(Altered):
        verifier.write(bytes(data) + bytes(70_000))
    at = verifier.position
    assert bytes(travelling(WHOLE)).startswith(b"".join(came.values()))
    verifier.rewind()
    verifier.write(travelling(WHOLE)[at:])
    assert verifier.is_whole


def test_more_than_there_is_is_not_taken() -> None:
    with pytest.raises(Altered, match="more came"):
        verified(listed(WHOLE).content, travelling(WHOLE), b"!")


def test_it_goes_on_from_any_chunk_with_the_list() -> None:
    whole = travelling(WHOLE)
    _, came = verified(listed(WHOLE).content, whole[: HEAD + 96])
    chunk_list = ChunkList(came[0])
    verifier = Verifier(listed(WHOLE).content, chunk_list, 2, came.__setitem__)
    assert verifier.position == chunk_list.start(2)
    verifier.write(whole[chunk_list.start(2) :])
    assert verifier.is_whole
    assert came[3] == WHOLE[2 * MIN_CHUNK_BYTES :]


@pytest.mark.parametrize(
    ("total", "exponent"),
    [(0, 16), (1, 15), (1, 21), (1, 255), (MAX_CHUNKS * 65536 + 1, 16), ((1 << 64) - 1, 20)],
)
def test_a_list_that_no_object_has_is_refused_before_more_of_it_comes(total: int, exponent: int) -> None:
    verifier, _ = verified(bytes(32), head := total.to_bytes(8, "big"))
    assert verifier.piece_bytes == HEAD
    with pytest.raises(Altered, match="says what cannot be"):
        verifier.write(bytes([exponent]))
    with pytest.raises(Altered, match="says what cannot be"):
        ChunkList(head + bytes([exponent]) + bytes(32))


def test_chunks_grow_before_a_list_becomes_too_long() -> None:
    class Endless:
        length = MAX_OBJECT_BYTES

        def read(self, _offset: int, limit: int) -> bytes:
            return bytes(limit)

        def acknowledged(self, offset: int) -> None: ...

    sizes = {}
    for length in (1, 1 << 31, (1 << 31) + 1, MAX_OBJECT_BYTES):
        listing = Listing(Endless(), length)
        listing.go_on()
        sizes[length] = listing._chunk_bytes
        assert -(-length // listing._chunk_bytes) <= MAX_CHUNKS
    assert list(sizes.values()) == [65536, 65536, 131072, MAX_CHUNK_BYTES]


def test_a_large_source_is_digested_a_bit_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "LISTING_BYTES", MIN_CHUNK_BYTES)
    listing = Listing(Small(WHOLE, 65536), len(WHOLE))
    turns = 0
    while not listing.is_whole:
        listing.go_on()
        turns += 1
    assert turns == 3
    assert listing.finish().content == listed(WHOLE).content


def test_what_became_shorter_while_it_was_read_is_not_shared() -> None:
    listing = Listing(Small(WHOLE), len(WHOLE) + 1)
    with pytest.raises(LocalProtocolError, match="became shorter"):
        listing.go_on()
