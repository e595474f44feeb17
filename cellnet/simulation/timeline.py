"""Virtual time: what is to happen, in order of time, and in order of planning where the time is the same."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timeline"]

MAX_AT_ONCE = 100_000
"""Actions at one moment; more are a circle, such as a timer that is due again as soon as it rang."""


class Timeline:
    """A clock that jumps from one planned action to the next."""

    __slots__ = ("_planned", "_serial", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Plan *action*; what is planned for the past happens next."""
        self._serial += 1
        heapq.heappush(self._planned, (time, self._serial, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan *action* for so many seconds from now."""
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        """Do all that is planned up to that time, and what comes of it.

        :raises RuntimeError: if time does not pass
        """
        planned, pop, at_once = self._planned, heapq.heappop, 0
        while planned and planned[0][0] <= until:
            time, _serial, action = pop(planned)
            if time > self.now:
                self.now, at_once = time, 0
            elif (at_once := at_once + 1) > MAX_AT_ONCE:
                raise RuntimeError(f"time does not pass: {MAX_AT_ONCE} actions at {time:.6f} s, the next is {action}")
            action()
        self.now = until
