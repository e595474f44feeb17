"""An object: a content that is named by what it says, so that whoever passes it on can check it and keep it.

It travels as its chunk list, and then its chunks, one after the other::

    | 8 bytes: length of all chunks | 1 byte: a chunk has 2 to this bytes | 32 bytes: BLAKE3 of each chunk |

Its name is the BLAKE3 digest of the list. All chunks but the last are of one size.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from blake3 import blake3

from cellnet.errors import LocalProtocolError
from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.offer import Source

__all__ = ["DIGEST_BYTES", "MAX_OBJECT_BYTES", "ChunkList", "Listed", "Listing", "Verifier"]

DIGEST_BYTES = 32
"""Of a digest, and so of an object's name."""
MIN_CHUNK_BYTES = FRAME_BYTES
MAX_CHUNK_BYTES = 1 << 20
MAX_CHUNKS = 1 << 15
"""In one object: its list has about 1 MiB then."""
MAX_OBJECT_BYTES = MAX_CHUNKS * MAX_CHUNK_BYTES
LISTING_BYTES = 1 << 20
"""Digested at a time: about a millisecond."""
_HEAD = struct.Struct(">QB")


class ChunkList:
    """What an object consists of. Its pieces are numbered: 0 is the list itself, the chunks follow."""

    def __init__(self, data: bytes) -> None:
        """Read a list.

        :raises Altered: if it is none
        """
        self.bytes = data
        total, self.chunk_bytes = read_head(data)
        self.length = len(data) + total
        """Of the object, with its list."""

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return 1 + (len(self.bytes) - _HEAD.size) // DIGEST_BYTES

    def index(self, offset: int) -> int:
        """Return which piece the byte at *offset* lies in."""
        return 0 if offset < len(self.bytes) else 1 + (offset - len(self.bytes)) // self.chunk_bytes

    def start(self, index: int) -> int:
        """Return where a piece begins; that after the last one begins where the object ends."""
        return min(self.length, len(self.bytes) + (index - 1) * self.chunk_bytes) if index else 0

    def digest(self, index: int) -> bytes:
        """Return what a chunk's digest has to be."""
        end = _HEAD.size + index * DIGEST_BYTES
        return self.bytes[end - DIGEST_BYTES : end]


def read_head(data: bytes | bytearray) -> tuple[int, int]:
    """Return the length of all chunks together and of each.

    :raises Altered: if there is no such list
    """
    total, exponent = _HEAD.unpack_from(data)
    chunk_bytes = 1 << min(exponent, 63)
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or not 0 < total <= MAX_CHUNKS * chunk_bytes:
        raise Altered("a chunk list says what cannot be")
    return total, chunk_bytes


def list_bytes(total: int, chunk_bytes: int) -> int:
    """Return how long the list of an object is."""
    return _HEAD.size + DIGEST_BYTES * -(-total // chunk_bytes)


class Listing:
    """Makes the list of what a source has, a bit at a time: of a large one it takes seconds."""

    def __init__(self, source: Source, length: int) -> None:
        """Begin.

        :param length: how many bytes the source has: at least one, and at most :data:`MAX_OBJECT_BYTES`
        """
        self._source = source
        self._length = length
        self._chunk_bytes = MIN_CHUNK_BYTES
        while length > MAX_CHUNKS * self._chunk_bytes:
            self._chunk_bytes *= 2
        self._list = bytearray(_HEAD.pack(length, self._chunk_bytes.bit_length() - 1))
        self._position = 0

    @property
    def is_whole(self) -> bool:
        """Whether all was digested."""
        return self._position == self._length

    def go_on(self) -> None:
        """Digest the next few chunks.

        :raises LocalProtocolError: if the source has less than it said
        """
        stop = min(self._length, self._position + LISTING_BYTES)
        while self._position < stop:
            end = min(self._length, self._position + self._chunk_bytes)
            digest = blake3()
            while self._position < end:
                data = self._source.read(self._position, end - self._position)
                if not data:
                    raise LocalProtocolError("what is to be shared was changed, or became shorter, while it was read")
                digest.update(data)
                self._position += len(data)
            self._list += digest.digest()

    def finish(self) -> Listed:
        """Return the object, when all of it was digested."""
        return Listed(bytes(self._list), self._source)


class Listed:
    """A source behind the list of its chunks: an object, as it travels."""

    def __init__(self, chunk_list: bytes, source: Source) -> None:
        self.content = blake3(chunk_list).digest()
        """The object's name."""
        self._list = chunk_list
        self._source = source

    @property
    def length(self) -> int:
        """How many bytes travel."""
        return len(self._list) + (self._source.length or 0)

    def read(self, offset: int, limit: int) -> Buffer:
        """Return what is there."""
        if offset < len(self._list):
            return self._list[offset : offset + limit]
        return self._source.read(offset - len(self._list), limit)

    def acknowledged(self, offset: int) -> None:
        """Keep all: others may want it."""


class Verifier:
    """Takes an object as it comes, and hands on each piece that is what its name, or the list, says."""

    def __init__(self, content: bytes, chunk_list: ChunkList | None, index: int, take: Callable[[int, bytes], None]):
        """Begin with a piece.

        :param chunk_list: the list, unless it is the first piece
        :param take: takes the numbers and bytes of pieces
        """
        self.list = chunk_list
        self.index = index
        """Of the piece that comes."""
        self._content = content
        self._take = take
        self._part = bytearray()

    @property
    def position(self) -> int:
        """How many bytes of the object came for good."""
        return self.list.start(self.index) if self.list is not None else 0

    @property
    def is_whole(self) -> bool:
        """Whether the last piece has come."""
        return self.list is not None and self.index == self.list.count

    @property
    def piece_bytes(self) -> int:
        """How long the piece is that comes, as far as that is known."""
        if self.list is not None:
            return self.list.start(self.index + 1) - self.list.start(self.index)
        return list_bytes(*read_head(self._part)) if len(self._part) >= _HEAD.size else _HEAD.size

    def write(self, data: Buffer) -> None:
        """Take the next bytes; they are copied.

        :raises Altered: if they are not what the object has there
        """
        view = memoryview(data)
        while len(view):
            if self.is_whole:
                raise Altered("more came of an object than it has")
            missing = self.piece_bytes - len(self._part)
            self._part += view[:missing]
            view = view[missing:]
            if len(self._part) == self.piece_bytes:  # which the head of a list has made longer
                self._finish()

    def rewind(self) -> None:
        """Forget a piece that has not all come."""
        self._part.clear()

    def _finish(self) -> None:
        piece = bytes(self._part)
        self._part.clear()
        wanted = self._content if self.list is None else self.list.digest(self.index)
        if blake3(piece).digest() != wanted:
            raise Altered("an object was changed on its way")
        if self.list is None:
            self.list = ChunkList(piece)
        self._take(self.index, piece)
        self.index += 1
