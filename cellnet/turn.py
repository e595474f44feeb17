"""Whose turn it is to send contents: one link of a cell after the other, so that nothing else waits for all of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Turn"]


class Turn:
    """What the links of a cell pass on among each other."""

    def __init__(self) -> None:
        self._lock = anyio.Lock(fast_acquire=True)
        self._is_free = False
        self._last = 0
        """Which link had the last turn, by its `id`: the link itself would be kept when it has ended."""

    def begin(self) -> None:
        """Let the link that had the last turn send a batch of contents at once, if nobody waits for that."""
        self._is_free = not self._lock.locked()

    def take(self, link: object) -> bool:
        """Whether to do so. Else all that are read at one pass of the event loop would, and it would be a long one."""
        is_free, self._is_free = self._is_free and self._last == id(link), False
        return is_free

    @asynccontextmanager
    async def wait(self, link: object) -> AsyncIterator[None]:
        """Have a turn, after those who wait already. The next one begins when the event loop has seen to all else."""
        async with self._lock:
            self._last = id(link)
            yield
            await anyio.lowlevel.checkpoint()
