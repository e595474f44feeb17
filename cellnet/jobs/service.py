"""What the coordinator and the host of job processes have in common: tasks beside a node's cell, which end with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

    from cellnet.cell import Cell

__all__ = ["Service"]


class Service:
    """Work for jobs beside a node's cell."""

    def __init__(self) -> None:
        self._cell: Cell | None = None
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def serving(self, cell: Cell) -> AsyncIterator[None]:
        """Work beside *cell*; when the block is left, all that was begun ends."""
        async with anyio.create_task_group() as tasks:
            self._cell, self._tasks = cell, tasks
            try:
                yield
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()
