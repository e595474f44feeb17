"""A content that this cell wants for itself: from the first byte to the last, over as many links as it takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from cellnet.errors import RemoteProtocolError
from cellnet.protocol.want import MAX_STEP_BYTES, MAX_WINDOW_BYTES, TEMPORARY, WINDOW_BYTES, Want

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.plane import Plane
    from cellnet.protocol.timers import Timer

__all__ = ["NO_PROGRESS_SECONDS", "Altered", "Fetch", "Sink"]

PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0
"""Before a content is wanted again after bad news: doubling, with jitter, until bytes come again."""
GROW_SECONDS = 0.02
"""If more is wanted again sooner than this, twice as much may be under way: the way is long, or fast."""
SILENCE_SECONDS = 30.0
"""After which a content that is there is wanted anew, in case something on the way forgot it."""
NO_PROGRESS_SECONDS = 60.0
"""Without a byte of it, a content is given up. There is no limit to how long the whole may take."""
MAX_ALTERED = 64
"""Times that a content is wanted again because it was altered on the way."""


class Altered(RemoteProtocolError):
    """Say that what came is not what the holder sent: somebody in between changed it."""


class Sink(Protocol):
    """Where a content goes."""

    @property
    def position(self) -> int:
        """How many bytes of it, as they travel, are taken for good."""
        ...

    @property
    def upto(self) -> int:
        """To where there is room for more."""
        ...

    @property
    def is_patient(self) -> bool:
        """Whether it is all right if nothing comes for a long time."""
        ...

    def write(self, data: Buffer) -> None:
        """Take the next bytes; they must be copied.

        :raises Altered: if they are not what the holder sent
        """
        ...

    def rewind(self) -> None:
        """Forget what was written beyond :attr:`position`: it will be written again."""
        ...

    def end(self) -> None:
        """Take the news that all was written.

        :raises Altered: if that is not true
        """
        ...

    def fail(self, code: str, reason: str) -> None:
        """Take the news that no more will come."""
        ...


class Fetch:
    """One content on its way to one sink."""

    def __init__(self, holder: FQCN, content: bytes, sink: Sink, now: float, plane: Plane) -> None:
        """Want nothing yet."""
        self.holder = holder
        self.want: Want | None = None
        self._content = content
        self._sink = sink
        self._plane = plane
        self._altered = 0
        self._again: Timer | None = None
        self._pause = PAUSE_SECONDS
        self._progressed = now
        self._window = WINDOW_BYTES
        self._said = -math.inf
        self._trouble: tuple[str, str] | None = None
        """Why it did not get on, since it last did."""

    def begin(self, now: float) -> None:
        """Want it from where the sink is, over the link that leads there now."""
        self._cancel_timer()
        if self not in self._plane.fetches:  # it was cancelled when another failed
            return
        neighbour = self._plane.way(self.holder, self._content)
        if neighbour is None:
            self._later("unreachable", f"no link leads to {self.holder}", now)
            return
        self._sink.rewind()
        self.want = Want(neighbour, self.holder, self._content, self._sink.position, self)
        self.want.acknowledged = self._sink.position
        self.want.say(self._goal(self.want))

    def extend(self, now: float) -> None:
        """Want more, as the sink has room for it."""
        want = self.want
        if want is None:
            return
        # What is acknowledged makes room at the holder, without which it may have nothing to send.
        is_news = self._sink.position - want.acknowledged >= MAX_STEP_BYTES
        if want.is_worth(goal := self._goal(want), self._window) or is_news:
            if now - self._said < GROW_SECONDS:
                self._window = min(2 * self._window, MAX_WINDOW_BYTES)
            self._said = now
            want.acknowledged = self._sink.position
            want.say(goal)

    def cancel(self) -> None:
        """Want no more. Safe to repeat, and once it is over."""
        if self in self._plane.fetches:
            self._stop("stopped")
            self._cancel_timer()
            del self._plane.fetches[self]

    def look(self, now: float) -> None:
        """Look whether it goes on; called every few seconds."""
        if self.want is not None and self._sink.is_patient:
            self._progressed = now
        elif now - self._progressed >= NO_PROGRESS_SECONDS:
            nothing_came = "lost", f"nothing came from {self.holder} for {NO_PROGRESS_SECONDS:.0f} s"
            self._fail(*(self._trouble or nothing_came))
        elif self.want is not None and now - self._progressed >= SILENCE_SECONDS:
            self._stop("lost")
            self.begin(now)

    # As who takes what comes.

    def take(self, data: Buffer, now: float) -> None:
        """Write it to the sink."""
        try:
            self._sink.write(data)
        except Altered as error:
            self._refetch(error, now)
            return
        self._progressed, self._pause, self._trouble = now, PAUSE_SECONDS, None
        self.extend(now)

    def ended(self, _length: int, now: float) -> None:
        """Tell the sink that it has all."""
        try:
            self._sink.end()
        except Altered as error:
            self._refetch(error, now)
            return
        self._stop("done")
        self._plane.fetches.pop(self, None)  # the sink may have cancelled it

    def broken(self, code: str, reason: str, now: float) -> None:
        """Try again, if that may help."""
        self.want = None
        if code in TEMPORARY:
            self._later(code, reason, now)
        else:
            self._fail(code, reason)

    def _goal(self, want: Want) -> int:
        return max(want.upto, want.goal(want.position, self._sink.upto, self._window))

    def _refetch(self, error: Altered, now: float) -> None:
        self._altered += 1
        self._plane.refused += 1
        self._stop("lost")
        if self not in self._plane.fetches:  # the sink cancelled it
            return
        if self._altered > MAX_ALTERED:
            self._fail("altered", str(error))
        else:
            self._later("altered", str(error), now)

    def _later(self, code: str, reason: str, now: float) -> None:
        if now - self._progressed >= NO_PROGRESS_SECONDS:
            self._fail(code, reason)
            return
        self._trouble = code, reason
        self._again = self._plane.later(self._pause, self.begin, now)
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)

    def _fail(self, code: str, reason: str) -> None:
        self._stop(code)
        self._cancel_timer()
        del self._plane.fetches[self]
        self._sink.fail(code, reason)

    def _stop(self, code: str) -> None:
        if self.want is not None:
            self.want.stop(code)
            self.want = None

    def _cancel_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
