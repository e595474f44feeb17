"""The third lane of a link: what the neighbour wants of contents, each content in its turn.

Nothing is queued here. A frame is read from its content when the link asks for it, behind control and messages, so
that a slow neighbour holds back nobody but itself. Turns are those of deficit round robin (Shreedhar and Varghese,
1995): every content gets the same number of bytes, however small its frames are.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from cellnet.protocol.frames import FRAME_BYTES, MAX_DATA, OFFSET, PREFIX, Kind, pack, prefix

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.want import Want

__all__ = ["Feed", "Origin", "Supply"]

_LABELS = 1 << 32


class Origin(Protocol):
    """Where a content comes from, as seen from a link: this cell has it, or passes it on."""

    @property
    def length(self) -> int | None:
        """How many bytes the whole is, once that is known and all of them are there."""
        ...

    def pour(self, offset: int, limit: int, buffers: list[Buffer]) -> int:
        """Append what is there at *offset*, at most *limit* bytes; return how many, 0 if they are still to come."""
        ...

    def wanted(self, supply: Supply, acknowledged: int) -> None:
        """Note that more is wanted, and that nothing before *acknowledged* will be wanted again."""
        ...

    def stopped(self, supply: Supply, code: str) -> None:
        """Note that no more is wanted."""
        ...


class Supply:
    """What one neighbour wants of one content."""

    __slots__ = ("deficit", "feed", "heard", "is_ended", "is_waiting", "label", "origin", "position", "upto")

    def __init__(self, feed: Feed, label: int, start: int) -> None:
        self.feed = feed
        self.label = label
        self.origin: Origin
        self.position = start
        """What comes next."""
        self.upto = start
        """Where what is wanted ends."""
        self.heard = 0.0
        self.deficit = 0
        self.is_waiting = False
        """Whether it has its place in the queue."""
        self.is_ended = False
        """Whether the neighbour was told the length, or that it gets no more."""

    @property
    def has_output(self) -> bool:
        """Whether there may be something to send."""
        return not self.is_ended and (self.position < self.upto or self.origin.length == self.position)

    def abort(self, code: str, reason: str) -> None:
        """Tell the neighbour that it gets no more, and why."""
        self.feed.abort(self, code, reason)


class Feed:
    """All that one neighbour wants, and what we want of it."""

    def __init__(self, wake: Callable[[], None], control: Callable[..., None]) -> None:
        """Begin with nothing.

        :param wake: called before there is something to send
        :param control: sends a frame ahead of all contents
        """
        self.supplies: dict[int, Supply] = {}
        """By the label that the neighbour gave."""
        self.wants: dict[int, Want] = {}
        """By the label that we gave."""
        self.waited = math.inf
        """When bytes of the neighbour last had to be waited for; infinity if that is not known."""
        self._wake = wake
        self._control = control
        self._turns: deque[Supply] = deque()
        self._labels = 0
        self._heard = 0

    @property
    def has_output(self) -> bool:
        """Whether :meth:`take` may return anything."""
        return bool(self._turns)

    def next_label(self) -> int:
        """Return a label that was never used on this link: what is still under way for another is told apart."""
        self._labels = (self._labels + 1) % _LABELS
        return self._labels

    def is_new(self, label: int) -> bool:
        """Whether the neighbour gives a label for the first time: each is the one after the last, or later.

        Any other was known here and is no longer, and what is still said of it must not begin it again.
        """
        if not 0 < (label - self._heard) % _LABELS < _LABELS // 2:
            return False
        self._heard = label
        return True

    def ready(self, supply: Supply) -> None:
        """Let a content have its turn, as more of it is there or wanted."""
        if not supply.is_waiting and supply.has_output:
            supply.is_waiting = True
            self._wake()
            self._turns.append(supply)

    def abort(self, supply: Supply, code: str, reason: str) -> None:
        """Tell the neighbour that it gets no more of a content, and why."""
        if self.drop(supply):
            self._control(Kind.ABORT, True, code, reason, label=supply.label)

    def drop(self, supply: Supply) -> bool:
        """Send no more of a content; return whether there was more to send."""
        if self.supplies.pop(supply.label, None) is None:
            return False
        supply.is_ended = True
        if supply.is_waiting:
            supply.is_waiting = False
            with suppress(ValueError):  # it has its turn just now, and what it is read from withdrew it
                self._turns.remove(supply)
        return True

    def take(self, buffers: list[Buffer], limit: int, sent: Callable[[Kind], None]) -> int:
        """Append frames to *buffers* until they are about *limit* bytes; return how many bytes that is.

        :param sent: told of each frame
        """
        size, turns = 0, self._turns
        while turns and size < limit:
            supply = turns.popleft()
            is_alone = not turns
            supply.deficit += FRAME_BYTES
            largest = min(limit - size, MAX_DATA) if is_alone else FRAME_BYTES
            while supply.deficit > 0 and size < limit:
                count = _append_frame(supply, largest, buffers, sent)
                if not count:
                    supply.deficit, supply.is_waiting = 0, False
                    break
                size += count
                supply.deficit -= count
            else:
                turns.append(supply)
                if is_alone:  # it owes nobody what it took
                    supply.deficit = 0
        return size


def _append_frame(supply: Supply, largest: int, buffers: list[Buffer], sent: Callable[[Kind], None]) -> int:
    """Append the next frame of a content; return its size, 0 if there is none now.

    What passes has come in pieces, as it was read: as one frame again, it costs the next cell less.
    """
    origin, label, position = supply.origin, supply.label, supply.position
    head, count = len(buffers), 0
    buffers.append(b"")  # says how much follows, which is not known yet
    while not supply.is_ended and count < (most := min(supply.upto - position, largest)):
        before = len(buffers)
        size = origin.pour(position + count, most - count, buffers)
        if supply.is_ended:  # it may be withdrawn by what it is read from
            del buffers[before:]
            break
        if not size:
            break
        count += size
        supply.position = position + count
    if count:
        buffers[head] = PREFIX.pack(OFFSET.size + count, OFFSET.size, Kind.DATA, 0, label, 0) + OFFSET.pack(position)
        sent(Kind.DATA)
        return len(buffers[head]) + count
    del buffers[head]
    if supply.is_ended:
        return 0
    if origin.length == position:
        supply.is_ended = True
        header = pack(position)
        buffers.append(prefix(Kind.END, 0, label, 0, header, b"") + header)
        sent(Kind.END)
        return len(buffers[-1])
    return 0
