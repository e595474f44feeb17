"""Things to do at a time, for a core that has no clock: it says when it is due, and is told what time it is."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]


_FEW = 64


class Timer:
    """One thing to do, until it is done or cancelled."""

    __slots__ = ("_timers", "action", "when")

    def __init__(self, timers: Timers, when: float, action: Callable[[float], None]) -> None:
        self._timers = timers
        self.when = when
        self.action: Callable[[float], None] | None = action

    def cancel(self) -> None:
        """Do it no more. Safe to repeat, and once it was done."""
        if self.action is not None:
            self.action = None
            self._timers._cancelled += 1


class Timers:
    """A queue in order of time; among equals, in order of making.

    Bounded by whoever makes them, one per entry of a bounded table: what was cancelled long before its time is swept
    out when it is the greater part.
    """

    __slots__ = ("_cancelled", "_heap", "_made")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        """How many of the queue are."""
        self._made = 0

    def __len__(self) -> int:
        """Return how many wait in the queue, which is what it costs."""
        return len(self._heap)

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Call *action* with the time at the first :meth:`run` from *when* on."""
        if self._cancelled > _FEW and self._cancelled > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
        timer = Timer(self, when, action)
        self._made += 1
        heapq.heappush(self._heap, (when, self._made, timer))
        return timer

    @property
    def due(self) -> float:
        """When :meth:`run` next has something to do; infinity if never."""
        heap = self._heap
        while heap and heap[0][2].action is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else math.inf

    def run(self, now: float) -> None:
        """Do what is due, also if it is added meanwhile, but nothing that is for a later time."""
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action(now)
