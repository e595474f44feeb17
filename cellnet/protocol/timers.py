"""Things to do at a time, for a core that has no clock: it says when it is due, and is told what time it is."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]


class Timer:
    """One thing to do, until it is done or cancelled."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[float], None]) -> None:
        self.when = when
        self.action: Callable[[float], None] | None = action

    def cancel(self) -> None:
        """Do it no more. Safe to repeat."""
        self.action = None


class Timers:
    """A queue in order of time; among equals, in order of making. Bounded by whoever makes them: one per entry of a
    bounded table."""

    __slots__ = ("_heap", "_made")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._made = 0

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Call *action* with the time at the first :meth:`run` from *when* on."""
        timer = Timer(when, action)
        self._made += 1
        heapq.heappush(self._heap, (when, self._made, timer))
        return timer

    @property
    def due(self) -> float:
        """When :meth:`run` next has something to do; infinity if never."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def run(self, now: float) -> None:
        """Do what is due, but nothing that is added meanwhile for a later time."""
        while self.due <= now:
            timer = heapq.heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
