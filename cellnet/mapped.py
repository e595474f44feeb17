"""Memory for a large payload of arrays: the kernel gives it as the bytes come, in large pages where it can."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, cast

from cellnet.errors import PayloadTooLarge

if TYPE_CHECKING:
    from cellnet.protocol.frames import Buffer

__all__ = ["Mapped"]

HUGE_PAGE = 2 << 20
SMALL_BYTES = 2 * HUGE_PAGE
"""So much comes before the kernel is asked for large pages: else whoever sends a byte would cost as much as a page."""


class Mapped:
    """The bytes of one payload, of which nobody has others.

    To have memory page by page takes as long as to receive into it; large pages are had in a fraction of that. Nothing
    is taken for what was only announced.
    """

    def __init__(self, size: int) -> None:
        """Begin with nothing.

        :raises PayloadTooLarge: if this process cannot have so much
        """
        try:
            self._map = mmap.mmap(-1, size)
        except (OSError, OverflowError) as error:
            raise PayloadTooLarge(f"there is no memory here for a payload of {size} bytes: {error}") from None
        self.size = 0
        self._is_large = False

    def write(self, data: Buffer) -> None:
        """Take the next ones."""
        end = self.size + len(data)
        self._map[self.size : end] = data
        self.size = end
        if not self._is_large and end >= SMALL_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            self._is_large = True
            self._map.madvise(mmap.MADV_HUGEPAGE)

    def finish(self) -> bytes:
        """Return them, to be read only."""
        return cast("bytes", memoryview(self._map).toreadonly())

    def discard(self) -> None:
        """Forget them: they are gone with this object."""
