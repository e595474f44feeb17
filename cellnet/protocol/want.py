"""What this cell wants of a content over one link."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from cellnet.protocol.frames import FRAME_BYTES, Kind

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.protocol.feed import Feed
    from cellnet.protocol.frames import Buffer

__all__ = ["MAX_STEP_BYTES", "MAX_WINDOW_BYTES", "TEMPORARY", "WINDOW_BYTES", "Neighbour", "Taker", "Want"]

WINDOW_BYTES = 1 << 20
"""What may be wanted of one content, and not have come, at first."""
MAX_WINDOW_BYTES = 8 << 20
"""And at most: so much is under way on a link of 1 Gbit/s whose round trip takes 64 ms."""
LEAST_WINDOW_BYTES = 6 * FRAME_BYTES
"""And at least, while bytes come faster than they are worked off."""
LAG_SECONDS = 0.005
"""If a link is read for so long without waiting for bytes, half as much is wanted, as messages wait behind those. Else,
if more is wanted of us, an eighth more each time that so long has passed."""
MAX_STEP_BYTES = 2 << 20
"""More is wanted when it is half a window more, or this much, or more than is still to come."""
TEMPORARY = frozenset({"lost", "unreachable", "busy"})
"""Why a content stops that may be had later, or over another way."""


class Neighbour(Protocol):
    """What leads to contents: a link, or this cell itself."""

    feed: Feed

    def control(self, kind: Kind, *fields: object, label: int = 0) -> None:
        """Send a frame ahead of all contents."""
        ...


class Taker(Protocol):
    """Who takes what comes."""

    def take(self, data: Buffer, now: float) -> None:
        """Take the next bytes. They stay as they are only until what passes is told to keep them."""
        ...

    def ended(self, length: int, now: float) -> None:
        """Take the news that the content is whole."""
        ...

    def broken(self, code: str, reason: str, now: float) -> None:
        """Take the news that no more comes on this way; the want is over."""
        ...


class Want:
    """One label that we gave to a content. It says from where on, once, and again and again up to where."""

    __slots__ = (
        "_came",
        "_content",
        "_holder",
        "_is_bound",
        "_looked",
        "_most",
        "_neighbour",
        "_start",
        "acknowledged",
        "is_said",
        "label",
        "position",
        "taker",
        "upto",
    )

    def __init__(self, neighbour: Neighbour, holder: FQCN, content: bytes, start: int, taker: Taker) -> None:
        self.label = neighbour.feed.next_label()
        self.position = start
        """What is to come next."""
        self.upto = start
        """Where what is wanted ends."""
        self.acknowledged = 0
        """What was taken at the far end, and will not be wanted again over any way."""
        self.taker = taker
        self.is_said = False
        """Whether the neighbour was told. It is to be told at once: it takes labels in their order."""
        self._neighbour = neighbour
        self._holder = str(holder)
        self._content = content
        self._start = start
        self._most = MAX_WINDOW_BYTES if neighbour.feed.waited == math.inf else WINDOW_BYTES
        self._looked = -math.inf
        self._came = 0
        """Bytes since then."""
        self._is_bound = False
        """Whether more would have been wanted since then if that were not too much."""
        neighbour.feed.wants[self.label] = self

    def came(self, size: int, now: float) -> None:
        """Note that the next bytes came."""
        self.position += size
        self._came += size
        if (passed := now - self._looked) >= LAG_SECONDS:
            if now - self._neighbour.feed.waited >= LAG_SECONDS:
                worked_off = int(self._came * LAG_SECONDS / passed)
                self._most = min(max(worked_off, LEAST_WINDOW_BYTES), MAX_WINDOW_BYTES)
            elif self._is_bound:
                self._most = min(self._most + self._most // 8, MAX_WINDOW_BYTES)
            self._looked, self._came, self._is_bound = now, 0, False

    def goal(self, start: int, upto: int, window: int) -> int:
        """Return up to where to want what is wanted of us up to *upto*, when all before *start* has left."""
        goal = min(upto, start + window)
        if goal > start + self._most:
            self._is_bound, goal = True, start + self._most
        return goal

    def is_worth(self, upto: int, window: int) -> bool:
        """Whether so much more is wanted that it should be said: half a window, or more than is still to come.

        Each time costs a system call, and wakes somebody, at every hop.
        """
        if not self.is_said:
            return True
        window = min(window, self._most)
        more = upto - self.upto
        return more >= min(window // 2, MAX_STEP_BYTES) or more > self.upto - self.position

    def say(self, upto: int) -> None:
        """Send a WANT. Repeated, it only says that we are still there."""
        self.upto, self.is_said = upto, True
        fields = self._holder, self._content, self._start, self.acknowledged, upto
        self._neighbour.control(Kind.WANT, *fields, label=self.label)

    def stop(self, code: str) -> None:
        """Want no more. What still comes for this label is ignored."""
        self.forget()
        self._neighbour.control(Kind.ABORT, False, code, "", label=self.label)

    def forget(self) -> bool:
        """Expect no more; return whether it was expected."""
        return self._neighbour.feed.wants.pop(self.label, None) is not None
