"""How much to send at a time: much costs less for each byte, and little lets what is urgent pass soon."""

from __future__ import annotations

__all__ = ["SLOW_SECONDS", "Pace"]

SLOW_SECONDS = 0.02
"""What takes longer to leave was too much: whatever is urgent would wait behind it."""


class Pace:
    """A number of bytes between two limits: as many as leave in 20 ms, or half of that.

    It doubles when so many left in less than half of that time. When they took longer, it becomes what would not have.
    """

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
            self.size = max(self.least, min(self.size, int(count * SLOW_SECONDS / seconds)))
        elif seconds < SLOW_SECONDS / 2 and 2 * count > self.size:
            self.size = min(2 * self.size, self.most)
