"""Which counters of a session were seen: what was recorded and played again is dropped."""

from __future__ import annotations

__all__ = ["WINDOW", "Window"]

WINDOW = 4096
"""How far a frame may be overtaken by others of its session before it counts as lost."""


class Window:
    """The counters that were seen, as a bitmap that ends at the highest (RFC 4303, section 3.4.3)."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = 0
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Return True once for each counter, and False for one that is repeated or too old."""
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & _MASK
            self._highest = counter
            return True
        bit = 1 << -ahead
        if ahead <= -WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


_MASK = (1 << WINDOW) - 1
