"""A program that is many cells below one parent: KITS URL FIRST END, or KITS SCHEME for the parent itself.

It prints a line when all have joined, or the parent listens, and stays until its standard input ends.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from cellnet import Cell
from cellnet.kit import Kit

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

JOINING = 20
"""Cells that join at a time."""


async def parent(kits: Path, scheme: str) -> None:
    async with Cell("server") as server:
        click.echo(await server.listen(f"{scheme}://localhost:0", Kit.load(kits / "server").credentials))
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            gc.collect()
            click.echo(len(server.members()))


async def children(kits: Path, url: str, first: int, end: int) -> None:
    joining = anyio.CapacityLimiter(JOINING)

    async def stay(name: str, *, task_status: TaskStatus[None]) -> None:
        async with Cell(name) as cell:
            await cell.connect(url, Kit.load(kits / name).credentials)
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:

        async def start(name: str) -> None:
            async with joining:
                await tasks.start(stay, name)

        async with anyio.create_task_group() as starting:
            for number in range(first, end):
                starting.start_soon(start, f"C{number}")
        click.echo("joined")
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()


async def main() -> None:
    kits, where, *more = sys.argv[1:]
    if more:
        await children(Path(kits), where, *map(int, more))
    else:
        await parent(Path(kits), where)


if __name__ == "__main__":
    anyio.run(main)
