"""How much to send at a time: much costs less for each byte, and little lets what is urgent pass soon."""

from __future__ import annotations

__all__ = ["SLOW_SECONDS", "Pace"]

SLOW_SECONDS = 0.02
"""What takes longer to leave was too much: whatever is urgent would wait behind it."""
QUICK_SECONDS = SLOW_SECONDS / 4
"""What leaves within this may be twice as much the next time."""


class Pace:
    """A number of bytes between two limits: it doubles while they leave quickly, and is least again if they do not."""

    __slots__ = ("least", "most", "size")

    def __init__(self, least: int, most: int) -> None:
        """Begin with *least*."""
        self.least = least
        self.most = most
        self.size = least
        """So many bytes may be sent at a time."""

    def sent(self, count: int, seconds: float) -> None:
        """Take note that it took so long until *count* bytes had left."""
        if seconds > SLOW_SECONDS:
            self.size = self.least
        elif seconds < QUICK_SECONDS and 2 * count > self.size:
            self.size = min(2 * self.size, self.most)
