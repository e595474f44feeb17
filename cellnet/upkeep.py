"""What a node looks after while it runs: the list of who was revoked, from the operator's hand to the next start."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from cellnet.cell import Cell
    from cellnet.kit import Kit

__all__ = ["kept_up"]

LOOK_SECONDS = 1.0

logger = logging.getLogger("cellnet.node")


@asynccontextmanager
async def kept_up(cell: Cell, kit: Kit) -> AsyncGenerator[None]:
    """Take what is new in a server's kit, and keep what came from above for the next start, inside the block."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_up, cell, kit)
        yield
        tasks.cancel_scope.cancel()


async def _keep_up(cell: Cell, kit: Kit) -> None:
    denied = kit.credentials.denied
    kept, seen = denied.version, _stamp(kit.denied)
    while True:
        await anyio.sleep(LOOK_SECONDS)
        if kit.role == "server" and (stamp := _stamp(kit.denied)) != seen:
            seen = stamp
            try:
                cell.deny(kit.denied.read_bytes())
            except (CellError, OSError) as error:
                logger.error("%s: %s", kit.denied, error)
        if denied.version != kept:
            kept = denied.version
            _keep(kit.local / kit.denied.name, denied.signed)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _keep(path: Path, signed: bytes) -> None:
    new = path.with_suffix(".new")
    try:
        new.write_bytes(signed)
        os.replace(new, path)  # noqa: PTH105 - the name says that it is atomic
    except OSError as error:
        logger.error("%s: cannot be kept: %s", path, error.strerror)
