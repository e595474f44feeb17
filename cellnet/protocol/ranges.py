"""A set of whole numbers that is mostly without gaps, such as the sequence numbers that are settled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

__all__ = ["Ranges"]


class Ranges:
    """Numbers as ranges, so that a million of them in a row cost as much as one."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        """Each range ends before its stop."""

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        return place > 0 and number < self._stops[place - 1]

    def __len__(self) -> int:
        """Return the number of ranges, which is what they cost."""
        return len(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Add the numbers from *start* to before *stop*; they may overlap with what is there."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)  # the first range that ends at or behind our start
        last = bisect_right(self._starts, stop)  # behind the last one that begins at or before our stop
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def below(self, limit: int) -> list[tuple[int, int]]:
        """Return at most *limit* ranges from the lowest on, each as its start and its stop."""
        return list(zip(self._starts[:limit], self._stops[:limit], strict=True))
