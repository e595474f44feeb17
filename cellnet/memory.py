"""Where the bytes of a payload go that is kept in memory."""

from __future__ import annotations

import io
import mmap
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cellnet.arrival import Target
    from cellnet.protocol.frames import Buffer

__all__ = ["ArrayMemory", "Memory", "memory_for"]

LARGE_BYTES = 64 << 20
"""From here on arrays get memory of their own. It costs some of that to find out whether large pages are dear here."""


STEP_BYTES = 16 << 20
"""After so many bytes it is seen how long it took to write them."""
DEAR_SECONDS = 0.016
"""If it was longer, at less than a gigabyte a second, large pages are not worth it here."""


def memory_for(size: int, *, is_arrays: bool) -> Target:
    """Return what takes so many bytes."""
    return ArrayMemory(size) if is_arrays and size >= LARGE_BYTES else Memory()


class Memory:
    """The bytes themselves, as ``bytes``."""

    def __init__(self) -> None:
        self.size = 0
        # Grows as bytes come, whatever was announced; its value is then had without a copy.
        self._bytes = io.BytesIO()

    def write(self, data: Buffer) -> None:
        """Take the next ones."""
        self.size += self._bytes.write(data)

    def finish(self) -> bytes:
        """Return them."""
        return self._bytes.getvalue()

    def discard(self) -> None:
        """Forget them."""
        self._bytes.close()


class ArrayMemory:
    """What arrays are views of: pages of their own, large ones where the system has them.

    A page is made when it is first written to, so that what was announced costs nothing until it comes. To make them
    is most of what it costs to receive an array, and a large page mostly costs as much as a few small ones. But in a
    virtual machine that returns free memory to its host, it may cost three times what the small ones cost: where that
    is seen, the rest is made of small ones.
    """

    def __init__(self, size: int) -> None:
        """Have room for *size* bytes, more than none."""
        self.size = 0
        self._room = size
        self._pages: mmap.mmap | None = None
        self._bytes = memoryview(b"")
        self._seconds = 0.0
        self._look_at = STEP_BYTES

    def write(self, data: Buffer) -> None:
        """Take the next ones.

        :raises OSError: if the system has no room for all of them
        """
        if self._pages is None:
            self._pages = _pages(self._room)
            self._bytes = memoryview(self._pages)
        began, end = time.perf_counter(), self.size + len(data)
        self._bytes[self.size : end] = data
        self.size = end
        self._seconds += time.perf_counter() - began
        if end >= self._look_at:
            if self._seconds > DEAR_SECONDS:
                _advise(self._pages, "MADV_NOHUGEPAGE")
            self._look_at, self._seconds = end + STEP_BYTES, 0.0

    def finish(self) -> bytes:
        """Return them, to be read only."""
        return cast("bytes", self._bytes.toreadonly())

    def discard(self) -> None:
        """Forget them."""
        self._pages, self._bytes = None, memoryview(b"")


def _pages(size: int) -> mmap.mmap:
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    pages = mmap.mmap(-1, size, **private)
    _advise(pages, "MADV_HUGEPAGE")
    return pages


def _advise(pages: mmap.mmap, advice: str) -> None:
    if hasattr(mmap, advice):
        with suppress(OSError):  # a system may be made without large pages
            pages.madvise(getattr(mmap, advice))
