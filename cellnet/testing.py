"""Whole networks of real cells inside one process, for tests: no sockets, latency as wished, virtual time on trio.

Virtual time is trio's: with ``MockClock(autojump_threshold=0)`` hours pass in moments, and exactly. Nothing here
uses threads, which such a clock would not wait for.

What goes wrong in a real federation can be done to such a network, at the moment that a test wants it::

    async with network.tree(relays=2, clients=3, handlers=handlers) as server:
        network.partition("R1")  # the region of R1 has lost its line
        await network.crash("R2.C4")  # a client is killed ...
        await network.restart("R2.C4")  # ... and starts again
        network.repair()
"""

from __future__ import annotations

import gc
import random
from contextlib import asynccontextmanager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import anyio

from cellnet.calls import REQUEST_SECONDS
from cellnet.cell import Cell
from cellnet.drivers.memory import MemoryDriver
from cellnet.drivers.path import Path
from cellnet.errors import ConfigurationError
from cellnet.fqcn import FQCN, ROOT
from cellnet.groups import unwrapped
from cellnet.laws import LAWS, check_driver
from cellnet.trial import Trial

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping

    from anyio.abc import TaskGroup, TaskStatus

    from cellnet.message import Handler
    from cellnet.streams import StreamHandler

    Handlers = Mapping[str, Handler] | Callable[[FQCN], Mapping[str, Handler]]
    StreamHandlers = Mapping[str, StreamHandler]

__all__ = ["LAWS", "Network", "Trial", "check_driver"]

CONNECTING_AT_A_TIME = 100
LARGE = 100
"""Of networks of so many cells, the collector of garbage leaves alone what is there."""


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
        self._machines: dict[FQCN, _Machine] = {}
        self._tasks: TaskGroup

    def __getitem__(self, name: str | FQCN) -> Cell:
        """Return a running cell."""
        return self.cells[FQCN(name)]

    def set_latency(self, parent: str, seconds: float) -> None:
        """Say how long a message takes, one way, over the links that will be made to *parent*."""
        self._latencies[_listener(FQCN(parent))] = seconds

    # What runs.

    @asynccontextmanager
    async def run(
        self, names: Iterable[str], *, handlers: Handlers | None = None, streams: StreamHandlers | None = None
    ) -> AsyncGenerator[Cell]:
        """Run these cells and those above them; yield the server once all are present.

        :param names: full names; the server is added
        :param handlers: what every cell answers; or what returns that for a full name, at every start of the cell
        :param streams: which streams every cell takes
        """
        wanted = self._with_ancestors(names)
        parents = {FQCN(ROOT)} | {name.parent for name in wanted}
        with unwrapped(), _spared_from_collection(len(wanted)) as self._grown:
            self._machines = {name: self._machine(name, handlers, streams, listens=name in parents) for name in wanted}
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                dialling = anyio.Semaphore(CONNECTING_AT_A_TIME)
                # Level by level, so that no cell waits for its parent's name. And every cell has a task of its own:
                # task groups inside each other, a thousand deep, are slow or worse.
                for _depth, level in groupby(wanted, key=lambda name: name.depth):
                    started = [self._machines[name] for name in level]
                    for machine in started:
                        tasks.start_soon(machine.run, self.cells, dialling)
                    for machine in started:
                        await machine.joined.wait()
                server = self.cells[FQCN(ROOT)]
                await server.wait_present(name for name in wanted if not name.is_root)
                yield server
                for machine in self._machines.values():
                    machine.stop()

    @asynccontextmanager
    async def tree(
        self,
        *,
        relays: int = 2,
        clients: int = 3,
        depth: int = 1,
        handlers: Handlers | None = None,
        streams: StreamHandlers | None = None,
    ) -> AsyncGenerator[Cell]:
        """Run a server, chains of relays below it, and clients below the last relay of each chain.

        :param relays: chains below the server: ``R1``, ``R2``, ...
        :param clients: cells below each chain: ``C1``, ``C2``, ... with numbers that go on over all chains
        :param depth: relays in a chain
        :param handlers: as for :meth:`run`
        :param streams: as for :meth:`run`
        """
        names = []
        for chain in range(1, relays + 1):
            path = ".".join(f"R{chain}" if level == 0 else f"R{chain}-{level + 1}" for level in range(depth))
            names += [f"{path}.C{(chain - 1) * clients + number}" for number in range(1, clients + 1)]
        async with self.run(names, handlers=handlers, streams=streams) as server:
            yield server

    # What goes wrong between cells.

    def partition(self, *names: str | FQCN) -> None:
        """Let nothing pass between each of these cells and its parent, until :meth:`repair`.

        A cell stays connected with all that is below it: ``partition("R1")`` cuts a whole region off, and
        ``partition("R1.C1", "R1.C2")`` two clients of it, each by itself. Nobody is told, as when a line is down: the
        links are found dead after 12 to 15 seconds, and dialling again gets no answer. What was sent waits, as TCP
        would send it again: if the repair comes before the links are found dead, it arrives late, and nothing is lost.

        :raises ConfigurationError: if there is no such cell, or it is the server, which has no parent
        """
        for path in self._paths(names):
            path.partition()

    def hold(self, name: str | FQCN) -> None:
        """Keep back what a cell sends to its parent, until :meth:`release`. What it is sent arrives.

        So a request can be made to run while its answer is on the way. Nothing is lost; but a parent that hears
        nothing for 12 to 15 seconds ends the link, and what was kept back goes down with it.

        :raises ConfigurationError: as for :meth:`partition`
        """
        for path in self._paths([name]):
            path.hold()

    def release(self, name: str | FQCN) -> None:
        """Deliver in order what was held back, and hold no more. Safe to repeat.

        :raises ConfigurationError: as for :meth:`partition`
        """
        for path in self._paths([name]):
            path.release()

    def repair(self, *names: str | FQCN) -> None:
        """End the partitions and holds of these cells, or all there are. Safe to repeat.

        :raises ConfigurationError: as for :meth:`partition`
        """
        for path in self._paths(names or [name for name in self._machines if not name.is_root]):
            path.repair()

    def cut(self, name: str | FQCN) -> None:
        """Break the link between a cell and its parent at once, as a reset does. Both notice, and the cell redials.

        :raises ConfigurationError: as for :meth:`partition`
        """
        for path in self._paths([name]):
            path.cut()

    # What goes wrong with cells.

    async def crash(self, name: str | FQCN) -> None:
        """End a cell at once, as SIGKILL does: it says no goodbye, its handlers stop, its links close.

        It is no longer in :attr:`cells`. What is below it redials until there is a :meth:`restart`. A machine that
        loses its power closes no links: for that, call :meth:`partition` first. A request that the test itself sent
        through the crashed :class:`cellnet.Cell` is not answered before its deadline.

        :raises ConfigurationError: if there is no such cell, or it does not run
        """
        machine = self._find(name)
        if machine.cell is None:
            raise ConfigurationError(f"{name} does not run: it cannot crash")
        for below in self._machines.values():
            if below.name.parent == machine.name:
                below.path.leave(child=False)
        await machine.crash()

    async def restart(self, name: str | FQCN) -> None:
        """Start a crashed cell again; return when it listens and has joined its parent as before.

        It is a new start, and knows nothing of the one before. Those below it join again by themselves, within two
        seconds of its return; ``await server.wait_present(...)`` waits for them. While its parent cannot be reached it
        goes on trying; if the caller's scope ends before, the cell does not run.

        :raises ConfigurationError: if there is no such cell, or it runs already
        :raises HandshakeError: if its parent refuses it, and trying again would not help
        :raises ConnectDeadline: shortly before the caller's scope ends
        """
        await self._tasks.start(self._find(name).run, self.cells, anyio.Semaphore(1))

    def _find(self, name: str | FQCN) -> _Machine:
        machine = self._machines.get(FQCN(name))
        if machine is None:
            raise ConfigurationError(f"{name} is no cell of this network")
        return machine

    def _paths(self, names: Iterable[str | FQCN]) -> list[Path]:
        machines = [self._find(name) for name in names]
        if any(machine.name.is_root for machine in machines):
            raise ConfigurationError("the server has no link to a parent: name the cells below it")
        return [machine.path for machine in machines]

    def _machine(
        self, name: FQCN, handlers: Handlers | None, streams: StreamHandlers | None, *, listens: bool
    ) -> _Machine:
        path = Path()
        driver = self._driver.over(path)

        def make() -> Cell:
            self._grown()
            return Cell(
                name.base_name,
                handlers=handlers(name) if callable(handlers) else handlers,
                streams=streams,
                drivers={"memory": driver},
                request_seconds=self._request_seconds,
                rng=random.Random(self._rng.random()),  # noqa: S311  # jitter, not secrets
            )

        return _Machine(name, path, make, self._grown, listens=listens)

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


class _Machine:
    """Where one cell runs, one start after another. It keeps its way to the parent."""

    def __init__(
        self, name: FQCN, path: Path, make: Callable[[], Cell], grown: Callable[[], None], *, listens: bool
    ) -> None:
        self.name = name
        self.path = path
        self.cell: Cell | None = None
        """The one that runs, once it has joined."""
        self.joined = anyio.Event()
        """Set when its first start has joined."""
        self._is_on = False
        """Whether one runs, starts or ends."""
        self._life: anyio.CancelScope
        self._ended: anyio.Event
        self._make = make
        self._grown = grown
        self._listens = listens

    async def run(
        self,
        cells: dict[FQCN, Cell],
        dialling: anyio.Semaphore,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the cell until it is stopped or crashes; report when it has joined.

        :param cells: where it is noted while it runs
        """
        while self._is_on:
            if not self._life.cancel_called:
                raise ConfigurationError(f"{self.name} runs already: it cannot be started")
            await self._ended.wait()  # it crashed, and its tasks have not all ended
        self._is_on, self._ended, self._stop, self._life = True, anyio.Event(), anyio.Event(), anyio.CancelScope()
        try:
            with self._life:
                async with self._make() as cell:
                    await self._join(cell, dialling)
                    self.cell = cells[self.name] = cell
                    self.joined.set()
                    self._grown()
                    task_status.started()
                    await self._stop.wait()
        finally:
            self._is_on, self.cell = False, None
            cells.pop(self.name, None)
            self._ended.set()

    def stop(self) -> None:
        """End the cell in order, if it runs."""
        self._stop.set()

    async def crash(self) -> None:
        """End the cell at once. What it would still say gets nowhere: its links are closed before it can."""
        self._life.cancel()
        self.path.leave(child=True)
        await self._ended.wait()

    async def _join(self, cell: Cell, dialling: anyio.Semaphore) -> None:
        if self.name.parent is not None:
            async with dialling:
                await cell.connect(_url(self.name.parent))
        if self._listens:
            await cell.listen(_url(self.name))


@contextmanager
def _spared_from_collection(cells: int) -> Iterator[Callable[[], None]]:
    """Give what to call as a network grows: now and then it keeps Python's collector away from all that is there.

    A thousand cells are millions of objects, and stay: to look at them again and again takes a fifth of all time.
    """
    growth, was_frozen = 0, gc.get_freeze_count()

    def grown() -> None:
        nonlocal growth
        growth += 1
        if growth % LARGE == 0:
            gc.freeze()

    if cells < LARGE:
        yield lambda: None
        return
    try:
        yield grown
    finally:
        if not was_frozen:  # else somebody else keeps it away from what was there before
            gc.unfreeze()


def _url(name: FQCN) -> str:
    return f"memory://{_listener(name)}"


def _listener(name: FQCN) -> str:
    return str(name).lower().replace(".", "-")
