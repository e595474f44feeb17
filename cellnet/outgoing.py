"""The bytes of a stream that were sent and may be wanted again."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cellnet.protocol.frames import MAX_DATA
from cellnet.protocol.records import TEXT_BYTES, seal_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer

__all__ = ["Outgoing"]

BUFFER_BYTES = 4 << 20
"""What may have been sent and not be acknowledged, at first."""
MAX_BUFFER_BYTES = 16 << 20
"""And at most, once more is wanted: twice what may be under way, as what came is acknowledged a little later."""
PIECE_BYTES = 100
"""What each piece that waits takes besides its bytes, about."""


class Outgoing:
    """A content that grows at its end, and is forgotten from its beginning as it is acknowledged.

    Small writes are joined until a link asks for them, and then leave as they are: a piece that was read once is read
    the same again.
    """

    def __init__(self, key: bytes, changed: Callable[[], None]) -> None:
        """Begin with nothing.

        :param key: seals the pieces; empty for none
        :param changed: told when something was acknowledged
        """
        self.length: int | None = None
        self._sealer = AESGCM(key) if key else None
        self._changed = changed
        self._text = bytearray()
        self._piece_bytes = TEXT_BYTES if key else MAX_DATA
        self._is_ended = False
        self._starts: list[int] = []
        self._pieces: list[Buffer] = []
        self._end = 0
        self._read = 0
        """Up to where it was read; what is beyond that is not even wanted yet."""
        self._records = 0
        self.room = BUFFER_BYTES
        """What may have been sent and not be acknowledged."""

    @property
    def is_full(self) -> bool:
        """Whether more should wait until some of it is acknowledged."""
        begin = self._starts[0] if self._starts else self._end
        kept = self._end - begin + len(self._text) + PIECE_BYTES * len(self._pieces)
        return kept >= self.room

    def write(self, data: Buffer) -> None:
        """Add bytes at the end."""
        if type(data) is bytes and len(data) >= TEXT_BYTES:
            self._freeze()
            view = memoryview(data)  # nobody can change it, so it need not be copied
            for start in range(0, len(data), self._piece_bytes):
                self._add(view[start : start + self._piece_bytes])
        else:
            self._text += data
            while len(self._text) >= TEXT_BYTES:
                self._freeze()

    def end(self) -> None:
        """Add no more."""
        self._is_ended = True
        if not self._text:
            self._finish()

    def forget(self) -> None:
        """Keep nothing: it is wanted no more."""
        # Its stream and itself know each other, so the collector would have to come before its memory is free.
        self._text.clear()
        self._starts.clear()
        self._pieces.clear()

    # As the source of a content.

    def read(self, offset: int, limit: int) -> Buffer:
        """Return what is there at *offset*."""
        if offset == self._end and self._text:
            self._freeze()
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return b""
        start = offset - self._starts[index]
        piece = self._pieces[index]
        if start >= len(piece):
            return b""
        data = piece if not start and len(piece) <= limit else memoryview(piece)[start : start + limit]
        self._read = max(self._read, offset + len(data))
        return data

    def acknowledged(self, offset: int) -> None:
        """Forget the pieces that end before *offset*."""
        if self.room < MAX_BUFFER_BYTES and self.is_full and self._end - self._read < self.room // 4:
            self.room *= 2  # hardly anything waits to be wanted, and this alone kept its writer from giving more
        count = 0
        while count < len(self._starts) and self._starts[count] + len(self._pieces[count]) <= offset:
            count += 1
        if count:
            del self._starts[:count], self._pieces[:count]
            self._changed()

    def _freeze(self) -> None:
        """Make a piece of what is not read yet."""
        if self._text:
            text = bytes(self._text[:TEXT_BYTES])
            del self._text[:TEXT_BYTES]
            self._add(text)
            if self._is_ended and not self._text:
                self._finish()

    def _finish(self) -> None:
        if self._sealer is not None:
            self._add(b"", is_last=True)
        self.length = self._end

    def _add(self, text: Buffer, *, is_last: bool = False) -> None:
        piece = text
        if self._sealer is not None:
            piece = seal_record(self._sealer, self._records, text, is_last=is_last)
            self._records += 1
        self._starts.append(self._end)
        self._pieces.append(piece)
        self._end += len(piece)
