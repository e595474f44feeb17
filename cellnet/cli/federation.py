"""The nodes of a project as processes of this machine: started, watched, and stopped whatever happens.

Every node leads a process group of its own. So a Ctrl-C in the terminal reaches the caller only, who stops the
nodes in order; and what a node failed to stop is found and ended by its group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from cellnet.errors import CellError
from cellnet.jobs.assignment import GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Node", "NodeFailed", "federation", "log_tail"]

STOP_SECONDS = 6.0
"""How long the nodes have to end after SIGTERM; then they are killed."""
POLL_SECONDS = 0.05
CONFIRM_SECONDS = 0.5
"""A lost link is often the first sign of a dead node: so long we wait for the process to confirm it."""
TAIL_LINES = 12
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Matrices this small gain nothing from a thread for every core in each of sixteen processes."""


class NodeFailed(CellError):
    """Say that the process of a node ended by itself."""


@dataclass(frozen=True, slots=True)
class Node:
    """One running node."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@asynccontextmanager
async def federation(kits: Mapping[str, Path], logs: Path) -> AsyncIterator[Sequence[Node]]:
    """Run a node for every kit, and write what they say into the folder *logs*; at the end of the block all are gone.

    :raises NodeFailed: as soon as one of them ends by itself
    """
    nodes: list[Node] = []
    try:
        for name, kit in kits.items():
            await anyio.lowlevel.checkpoint()  # a Ctrl-C while they start is heard before the next one
            nodes.append(_start(name, kit, logs / f"{name}.log"))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, nodes)
                yield nodes
                tasks.cancel_scope.cancel()
        except Exception:
            with anyio.move_on_after(CONFIRM_SECONDS):
                await _watch(nodes)
            raise
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(nodes)


def log_tail(path: Path) -> str:
    """Return the last lines of a log, indented."""
    with suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "".join(f"\n    {line}" for line in lines)
    return ""


def _start(name: str, kit: Path, log: Path) -> Node:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, with a path that we made
            [sys.executable, "-P", "-m", "cellnet", "start", str(kit)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_ONE_THREAD, **os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return Node(name, process, log)


async def _watch(nodes: Sequence[Node]) -> None:
    while True:
        for node in nodes:
            if (code := node.process.poll()) is not None:
                raise NodeFailed(f"node {node.name} ended ({_meaning(code)}); its last lines:{log_tail(node.log)}")
        await anyio.sleep(POLL_SECONDS)


async def _stop(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.process.terminate()
    with anyio.move_on_after(STOP_SECONDS):
        while True:
            if all(node.process.poll() is not None for node in nodes):
                break
            await anyio.sleep(POLL_SECONDS / 5)
    # by SIGTERM is in order too: such a node was still starting, or it would have ended by its own decision
    in_order = all(node.process.poll() in (0, 1, -signal.SIGTERM) for node in nodes)
    for node in nodes:
        # the whole group, although the node itself may be gone: a job that it left behind is still in there
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(node.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            node.process.wait(STOP_SECONDS)
    if not in_order:
        # a node that was killed ended none of its jobs: they notice, and end themselves within this time
        await anyio.sleep(GRACE_SECONDS + STOP_SECONDS / 10)


def _meaning(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"
