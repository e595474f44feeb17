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

    def begin(self) -> None:
        """Let one link send a batch of contents at once, if nobody waits for that."""
        self._is_free = not self._lock.locked()

    def take(self) -> bool:
        """Whether to be that one."""
        is_free, self._is_free = self._is_free, False
        return is_free

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Have a turn, after those who wait already. The next one begins when the event loop has seen to all else."""
        async with self._lock:
            yield
            await anyio.lowlevel.checkpoint()
