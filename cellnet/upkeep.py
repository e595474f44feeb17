"""What a node looks after while it runs: its certificates, and the list of who was revoked."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.cell import Cell
from cellnet.errors import CellError, ConfigurationError
from cellnet.fqcn import ROOT
from cellnet.renewal import RENEW_TOPIC, keep_renewed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from cellnet.kit import Kit

__all__ = ["hand_on", "kept_up"]

LOOK_SECONDS = 1.0
"""Between two looks at the list of who was revoked."""
ISSUER_SECONDS = 30.0
"""What the issuer may take to answer."""

logger = logging.getLogger("cellnet.node")


@asynccontextmanager
async def kept_up(cell: Cell, kit: Kit) -> AsyncGenerator[None]:
    """Inside the block: renew certificates in time, take what is new in a server's kit, keep what comes from above."""

    async def ask(asked: dict[str, Any]) -> Any:
        if kit.role == "server":
            return await hand_on(kit, asked)
        return await cell.request(ROOT, RENEW_TOPIC, asked)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_up, cell, kit)
        tasks.start_soon(keep_renewed, kit, ask, cell.renew, random.SystemRandom())
        yield
        tasks.cancel_scope.cancel()


async def hand_on(kit: Kit, asked: Any) -> Any:
    """Hand what a node asks on to the issuer, and return what it says; the server cannot answer itself.

    :raises ConfigurationError: if this server knows of no issuer
    :raises CellError: if the issuer does not answer, or refuses
    """
    socket = kit.surroundings.issuer
    if socket is None:
        raise ConfigurationError("this server knows of no issuer: local/network.yml does not say 'issuer: PATH'")
    with anyio.fail_after(ISSUER_SECONDS):
        async with Cell("asking") as cell:
            await cell.connect(f"unix://{socket.absolute()}", security="clear")
            return await cell.request(ROOT, RENEW_TOPIC, asked)


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
        new.replace(path)
    except OSError as error:
        logger.error("%s: cannot be kept: %s", path, error.strerror)
