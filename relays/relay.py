"""A relay: a cell that connects to its parent and listens for children, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from cellnet.cell import Cell
from cellnet.drivers import through
from cellnet.epoch import next_epoch
from cellnet.errors import ConfigurationError
from cellnet.node import drain, join, joined_line
from cellnet.upkeep import kept_up

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from cellnet.kit import Kit

__all__ = ["run_relay"]


async def run_relay(
    kit: Kit, *, stop: anyio.Event | None = None, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Run the relay of *kit* until *stop* is set or it is cancelled; report one line when it has joined and listens.

    :raises ConfigurationError: if *kit* is not a relay's, or its address is taken
    :raises HandshakeError: if the parent refuses this relay
    """
    if kit.connect is None or kit.listen is None:
        raise ConfigurationError(f"is the kit of a {kit.role}, not of a relay: use cellnet start", str(kit.path))
    drivers = through(kit.surroundings.proxy)
    async with Cell(kit.name, epoch=next_epoch(kit.local / "epoch"), drivers=drivers) as cell, kept_up(cell, kit):
        await join(cell, kit)
        url = await cell.listen(kit.listen.url, kit.credentials.listening, security=kit.listen.security)
        task_status.started(f"{joined_line(cell)}; listens at {url}, {kit.listen.security}")
        # the cell itself logs who joins and who leaves
        await (stop or anyio.Event()).wait()
        await drain(cell)
