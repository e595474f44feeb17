"""The bytes of a stream that came and were not read yet."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cellnet.protocol.fetch import Altered
from cellnet.protocol.records import Opener
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from cellnet.protocol.frames import Buffer

__all__ = ["Incoming"]

MIN_ROOM_BYTES = 1 << 20
MAX_ROOM_BYTES = 8 << 20
"""What a stream holds that nobody has read. It grows while the reader is the faster one."""


class Incoming:
    """The bytes of a stream that came and were not read."""

    is_patient = True

    def __init__(self, key: bytes, first: bytes = b"") -> None:
        """Begin with what came already.

        :param key: opens what comes; empty if it is not sealed
        """
        self.error: str | None = None
        """Why no more comes, if that is not its end."""
        self.is_ended = False
        self.changed = Wakeup()
        self._pieces: deque[bytes] = deque([first] if first else ())
        self._unread = len(first)
        self._room = MIN_ROOM_BYTES
        self._count = 0
        self._upto = max(0, MIN_ROOM_BYTES - len(first))
        self._opener = Opener(key, self._take) if key else None

    def read(self, limit: int) -> bytes:
        """Return bytes that came; nothing if there are none."""
        if not self._pieces:
            self._grow()
            return b""
        data = self._pieces.popleft()
        if len(data) > limit:
            self._pieces.appendleft(data[limit:])
            data = data[:limit]
        self._unread -= len(data)
        self._widen()
        return data

    def forget(self) -> None:
        """Keep nothing: nobody will read it."""
        # As in Outgoing: else its memory would wait for the collector.
        self._pieces.clear()
        self._unread = 0

    # As the sink of a content.

    @property
    def position(self) -> int:
        """Return how many bytes of the content came for good."""
        return self._count if self._opener is None else self._opener.position

    @property
    def upto(self) -> int:
        """Return to where there is room for more."""
        return self._upto

    def write(self, data: Buffer) -> None:
        """Take the next bytes.

        :raises Altered: if they are not what was sealed
        """
        if self._opener is None:
            self._take(bytes(data))
        else:
            self._opener.write(data)

    def rewind(self) -> None:
        """Forget a record that has not all come."""
        if self._opener is not None:
            self._opener.rewind()

    def end(self) -> None:
        """Take the news that this was all.

        :raises Altered: if it was not
        """
        if self._opener is not None and not self._opener.is_whole:
            raise Altered("a stream ended before all of it came")
        self.is_ended = True
        self.changed.notify()

    def fail(self, code: str, reason: str) -> None:
        """Take the news that no more comes."""
        self.error = reason if code == "reset" else f"{code}: {reason}"
        self.changed.notify()

    def _grow(self) -> None:
        if self._room < MAX_ROOM_BYTES:
            self._room *= 2
            # Takes no memory: it tells the C library that so much comes and goes. Else it returns each piece that was
            # read to the system, to have it filled with zeros for the next: half of what this end of a stream costs.
            bytes(self._room)
        self._widen()

    def _widen(self) -> None:
        """Let more come, if there is room for much more: who reads slowly does not ask for each piece."""
        upto = self.position + self._room - self._unread
        if upto - self._upto >= self._room // 4:
            self._upto = upto

    def _take(self, text: bytes) -> None:
        if text:
            self._pieces.append(text)
            self._unread += len(text)
            self._count += len(text)
            self.changed.notify()
