"""A small federation of real kits, whose nodes run in the test's own event loop and whose job processes are real."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

from cellnet.jobs.operator import present_cells
from cellnet.node import run_node
from relays import run_relay
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.abc import TaskGroup, TaskStatus

PROJECT = """
api_version: 3
name: jobs
scheme: tcp
connection_security: mtls
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: R1}}}}
  - {{name: C11, type: client, org: x, parent: C1, connect_to: [{{name: R1}}, {{name: server}}]}}
  - {{name: C2, type: client, org: x}}
"""
NODES = ("server", "R1", "C1", "C11", "C2")


class Nodes:
    """The nodes that run, each of which can be stopped and started again."""

    def __init__(self, kits: Path, backend: str, tasks: TaskGroup) -> None:
        self._kits = kits
        self._backend = backend
        self._tasks = tasks
        self._running: dict[str, tuple[anyio.CancelScope, anyio.Event]] = {}

    async def start(self, name: str) -> None:
        """Start a node, and return when it has joined."""
        await self._tasks.start(self._run, name)

    async def stop(self, name: str) -> None:
        """Stop a node, and return when it has ended."""
        scope, ended = self._running.pop(name)
        scope.cancel()
        await ended.wait()

    async def _run(self, name: str, *, task_status: TaskStatus[str]) -> None:
        scope, ended = self._running[name] = anyio.CancelScope(), anyio.Event()
        try:
            with scope:
                await run_node(self._kits / name, relay=run_relay, backend=self._backend, task_status=task_status)
        finally:
            ended.set()


class Federation:
    """Kits on disk, and what is known of the processes that come of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = folder / "kits" / "server"

    def bundle(self, code: str) -> Path:
        """Write a bundle with *code* as its job.py."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        (folder / "job.py").write_text(code)
        return folder

    def job_processes(self) -> list[psutil.Process]:
        """Find the job processes of this federation, and of no other: by their working folders."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    async def wait_job_processes(self, count: int, seconds: float = 60) -> None:
        """Wait until so many job processes run."""
        with anyio.fail_after(seconds):
            while len(self.job_processes()) < count:
                await anyio.sleep(0.05)

    async def wait_no_job_process(self, seconds: float = 10) -> None:
        """Wait until no job process is left, and none of their folders."""
        with anyio.fail_after(seconds):
            while self.job_processes() or list(self.folder.glob("kits/*/run/jobs/*")):
                await anyio.sleep(0.05)

    @asynccontextmanager
    async def running(self, backend: str, without: str = "") -> AsyncIterator[Nodes]:
        """Run all nodes in this event loop, and wait until they are present."""
        names = [name for name in NODES if name != without]
        async with anyio.create_task_group() as tasks:
            nodes = Nodes(self.folder / "kits", backend, tasks)
            with anyio.fail_after(30):
                for name in names:
                    await nodes.start(name)
                while len(await present_cells(self.server)) < len(names) - 1:
                    await anyio.sleep(0.02)
            yield nodes
            tasks.cancel_scope.cancel()
        assert not list(self.folder.glob("kits/*/run"))


@pytest.fixture(scope="session")
def federation() -> Iterator[Federation]:
    with provisioned(PROJECT.format(*free_ports(2))) as folder:
        yield Federation(folder)
        assert not Federation(folder).job_processes()
