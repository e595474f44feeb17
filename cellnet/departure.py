"""A payload that leaves as a content: what is read of it, and what a message says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.files import FileSource
from cellnet.protocol.frames import pack
from cellnet.protocol.offer import Held
from cellnet.protocol.records import SealedSource

if TYPE_CHECKING:
    from cellnet.payload import Packed
    from cellnet.protocol.offer import Offer

__all__ = ["Departure"]


class Departure:
    """One payload, from memory or from a file, sealed or as it is."""

    def __init__(self, packed: Packed, key: bytes) -> None:
        """Open what is to be sent.

        :param key: seals it, for this time only; empty for none
        :raises LocalProtocolError: if it is a file that cannot be read
        """
        self.offer: Offer | None = None
        """What others fetch; to be set once it is held."""
        self._encoding = packed.encoding
        self._key = key
        self._file = None if packed.path is None else FileSource(packed.path, self._spoiled)
        held = self._file or Held(packed.buffers)
        self._size = held.length
        self.source = SealedSource(held, key) if key else held

    def reference(self) -> bytes:
        """Return what a message says of it."""
        assert self.offer is not None  # noqa: S101  # nobody is told of what is not held
        return pack(self._encoding, self._size, self.offer.content, self._key)

    def close(self) -> None:
        """Read no more. Safe to repeat.

        What is offered refers to this in turn, and its memory would wait for the garbage collector.
        """
        self.offer = None
        if self._file is not None:
            self._file.close()

    def _spoiled(self, reason: str) -> None:
        if self.offer is not None:
            self.offer.withdraw("reset", reason)
