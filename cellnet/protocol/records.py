"""A content as sealed records: whoever passes it on can neither read nor change it.

::

    | 4 bytes: length of the text, and whether it is the last | sealed text and tag |

AES-256-GCM, with a key of the content's own, that the message tells which names it. The nonce is the record's number,
so that a record is the same whenever it is read, and none can take another's place; the last one says so, so that
nothing can be cut off. All but the last fill a frame, so that relays pass whole records.

The same text always gives the same record. Therefore what a content holds must not change while it is held: two texts
under one nonce give their difference away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import FRAME_BYTES
from cellnet.protocol.sealing import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer

__all__ = ["TEXT_BYTES", "Opener", "SealedSource"]

_HEAD_BYTES = 4
_LAST = 1 << 31
TEXT_BYTES = FRAME_BYTES - _HEAD_BYTES - OVERHEAD
"""What a record hides, at most."""


class Complete(Protocol):
    """What has all its bytes from the start."""

    @property
    def length(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, limit: int) -> Buffer:
        """Return *limit* bytes, unless it ends before."""
        ...


class SealedSource:
    """A source of known length, sealed when it is read."""

    def __init__(self, held: Complete, key: bytes) -> None:
        """Wrap a source.

        :param held: it gives as many bytes as it is asked for, unless it ends before
        :param key: 32 random bytes, for this content alone
        """
        self._held = held
        self._sealer = AESGCM(key)
        self._count = max(1, -(-held.length // TEXT_BYTES))
        self._number, self._record = -1, b""

    @property
    def length(self) -> int:
        """How many bytes travel."""
        return self._held.length + self._count * (_HEAD_BYTES + OVERHEAD)

    def read(self, offset: int, limit: int) -> Buffer:
        """Return the rest of a record."""
        number, start = divmod(offset, FRAME_BYTES)
        if number >= self._count:
            return b""
        if number != self._number:
            start_of_text = number * TEXT_BYTES
            text = self._held.read(start_of_text, TEXT_BYTES)
            if len(text) < min(TEXT_BYTES, self._held.length - start_of_text):
                return b""  # a file that became shorter: no other text may have this nonce
            self._record = seal_record(self._sealer, number, text, is_last=number == self._count - 1)
            self._number = number
        return memoryview(self._record)[start : start + limit] if start or limit < FRAME_BYTES else self._record

    def acknowledged(self, offset: int) -> None:
        """Keep all: another may want it from the start."""


def seal_record(sealer: AESGCM, number: int, text: Buffer, *, is_last: bool) -> bytes:
    """Return one record."""
    head = (len(text) | (_LAST if is_last else 0)).to_bytes(_HEAD_BYTES, "big")
    return head + sealer.encrypt(number.to_bytes(12, "big"), text, head)


class Opener:
    """Opens records in their order."""

    def __init__(self, key: bytes, write: Callable[[bytes], None]) -> None:
        """Begin with the first.

        :param write: takes the texts
        """
        self.position = 0
        """How many bytes of the content were records that opened."""
        self.is_whole = False
        """Whether the last record was opened."""
        self._opener = AESGCM(key)
        self._write = write
        self._number = 0
        self._part = bytearray()

    def write(self, data: Buffer) -> None:
        """Take the next bytes.

        :raises Altered: if they are not what was sealed with the key
        """
        view = memoryview(data)
        while len(view):
            if self._part:  # what came before ended within a record
                missing = self._length(self._part) - len(self._part)
                self._part += view[:missing]
                view = view[missing:]
                if len(self._part) == self._length(self._part):  # which its head has made longer
                    record, self._part = self._part, bytearray()
                    self._open(record)
            elif len(view) < (length := self._length(view)):
                self._part += view
                return
            else:
                self._open(view[:length])
                view = view[length:]

    def rewind(self) -> None:
        """Forget a record that has not all come."""
        self._part.clear()

    def _length(self, begun: Buffer | bytearray) -> int:
        """Return how long the record is that begins so, or its head if that has not all come."""
        if self.is_whole:
            raise Altered("more came of a content after its last record")
        if len(begun) < _HEAD_BYTES:
            return _HEAD_BYTES
        length = _HEAD_BYTES + (int.from_bytes(begun[:_HEAD_BYTES], "big") & ~_LAST) + OVERHEAD
        if length > FRAME_BYTES:
            raise Altered("a record of a content is longer than any is")
        return length

    def _open(self, record: Buffer | bytearray) -> None:
        nonce, head, sealed = self._number.to_bytes(12, "big"), bytes(record[:_HEAD_BYTES]), record[_HEAD_BYTES:]
        try:
            text = self._opener.decrypt(nonce, sealed, head)
        except InvalidTag:
            raise Altered("a content was changed on its way") from None
        self._number += 1
        self.position += len(record)
        self.is_whole = bool(int.from_bytes(head, "big") & _LAST)
        self._write(text)
