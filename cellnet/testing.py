"""Whole networks of real cells inside one process, for tests: no sockets, latency as wished, virtual time on trio.

Virtual time is trio's: with ``MockClock(autojump_threshold=0)`` hours pass in moments, and exactly. Nothing here
uses threads, which such a clock would not wait for.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import anyio

from cellnet.calls import REQUEST_SECONDS
from cellnet.cell import Cell
from cellnet.drivers.memory import MemoryDriver
from cellnet.errors import ConfigurationError
from cellnet.fqcn import FQCN, ROOT
from cellnet.groups import unwrapped

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from cellnet.message import Handler

__all__ = ["Network"]

CONNECTING_AT_A_TIME = 100


class Network:
    """A network in memory. Cells find each other in it and nowhere else."""

    def __init__(self, *, latency: float = 0.0, seed: int = 0, request_seconds: float = REQUEST_SECONDS) -> None:
        """Make an empty network.

        :param latency: seconds one way, over every link that :meth:`set_latency` does not name
        :param seed: of the jitter of pauses
        :param request_seconds: as for :class:`cellnet.Cell`
        """
        self.cells: dict[FQCN, Cell] = {}
        """Every running cell."""
        self._latency = latency
        self._request_seconds = request_seconds
        self._latencies: dict[str, float] = {}
        self._driver = MemoryDriver(lambda name: self._latencies.get(name, self._latency))
        self._rng = random.Random(seed)  # noqa: S311  # jitter, not secrets

    def __getitem__(self, name: str | FQCN) -> Cell:
        """Return a running cell."""
        return self.cells[FQCN(name)]

    def set_latency(self, parent: str, seconds: float) -> None:
        """Say how long a message takes, one way, over the links that will be made to *parent*."""
        self._latencies[_listener(FQCN(parent))] = seconds

    @asynccontextmanager
    async def run(self, names: Iterable[str], *, handlers: Mapping[str, Handler] | None = None) -> AsyncGenerator[Cell]:
        """Run these cells and those above them; yield the server once all are present.

        :param names: full names; the server is added
        :param handlers: what every cell answers
        """
        wanted = self._with_ancestors(names)
        parents = {FQCN(ROOT)} | {name.parent for name in wanted}
        self.cells.update((name, self._cell(name, handlers)) for name in wanted)
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                dialling, joined, stop = anyio.Semaphore(CONNECTING_AT_A_TIME), anyio.Semaphore(0), anyio.Event()
                # Level by level, so that no cell waits for its parent's name. And every cell has a task of its own:
                # task groups inside each other, a thousand deep, are slow or worse.
                for _depth, level in groupby(wanted, key=lambda name: name.depth):
                    started = [
                        tasks.start_soon(self._run_cell, name, name in parents, dialling, joined, stop)
                        for name in level
                    ]
                    for _cell in started:
                        await joined.acquire()
                server = self.cells[FQCN(ROOT)]
                await server.wait_present(name for name in wanted if not name.is_root)
                yield server
                stop.set()

    @asynccontextmanager
    async def tree(
        self, *, relays: int = 2, clients: int = 3, depth: int = 1, handlers: Mapping[str, Handler] | None = None
    ) -> AsyncGenerator[Cell]:
        """Run a server, chains of relays below it, and clients below the last relay of each chain.

        :param relays: chains below the server: ``R1``, ``R2``, ...
        :param clients: cells below each chain: ``C1``, ``C2``, ... with numbers that go on over all chains
        :param depth: relays in a chain
        """
        names = []
        for chain in range(1, relays + 1):
            path = ".".join(f"R{chain}" if level == 0 else f"R{chain}-{level + 1}" for level in range(depth))
            names += [f"{path}.C{(chain - 1) * clients + number}" for number in range(1, clients + 1)]
        async with self.run(names, handlers=handlers) as server:
            yield server

    def _cell(self, name: FQCN, handlers: Mapping[str, Handler] | None) -> Cell:
        return Cell(
            name.base_name,
            handlers=handlers,
            drivers={"memory": self._driver},
            request_seconds=self._request_seconds,
            rng=random.Random(self._rng.random()),  # noqa: S311  # jitter, not secrets
        )

    async def _run_cell(
        self, name: FQCN, listens: bool, dialling: anyio.Semaphore, joined: anyio.Semaphore, stop: anyio.Event
    ) -> None:
        async with self.cells[name] as cell:
            if name.parent is not None:
                async with dialling:
                    await cell.connect(_url(name.parent))
            if listens:
                await cell.listen(_url(name))
            joined.release()
            await stop.wait()
            del self.cells[name]

    @staticmethod
    def _with_ancestors(names: Iterable[str]) -> list[FQCN]:
        wanted: dict[FQCN, None] = {FQCN(ROOT): None}
        for text in names:
            name: FQCN | None = FQCN(text)
            while name is not None and name not in wanted:
                wanted[name] = None
                name = name.parent
        base_names = [name.base_name for name in wanted]
        if len(set(base_names)) < len(base_names):
            raise ConfigurationError("every cell of a network needs a base name of its own")
        return sorted(wanted, key=lambda name: (name.depth, name))


def _url(name: FQCN) -> str:
    return f"memory://{_listener(name)}"


def _listener(name: FQCN) -> str:
    return str(name).lower().replace(".", "-")
