"""What the links of a cell read into: one buffer that they share, and a few more for what cannot leave at once."""

from __future__ import annotations

import mmap
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellnet.link import RunningLink

__all__ = ["PAGE_BYTES", "Pages"]

PAGE_BYTES = 512 * 1024
MAX_PAGES = 32
"""Besides the shared one. What waits when all are in use is copied."""


class Pages:
    """Buffers to read into. Whoever holds a view of a page keeps it from being used again."""

    def __init__(self) -> None:
        # Pages of a map are made when they are touched: a thousand idle cells do not pay for a thousand buffers.
        self.shared = memoryview(mmap.mmap(-1, PAGE_BYTES))
        """For all, one after the other: what lies here must be copied before the next link reads."""
        self.waiting: list[RunningLink] = []
        """Links that could not send all since the last read: what they hold may lie in what was read into."""
        self._pages: deque[bytearray] = deque()

    def take(self) -> memoryview:
        """Return a page that nobody has a view of; the shared buffer if there is none."""
        for _ in range(len(self._pages)):
            page = self._pages.popleft()
            self._pages.append(page)
            if _is_free(page):
                return memoryview(page)
        if len(self._pages) >= MAX_PAGES:
            return self.shared
        self._pages.append(bytearray(PAGE_BYTES))
        return memoryview(self._pages[-1])


def _is_free(page: bytearray) -> bool:
    """Whether nobody has a view of it: Python lets no bytearray be resized while somebody does."""
    try:
        page.append(page.pop())
    except BufferError:
        return False
    return True
