"""Whole cells in virtual time: a tree, errands and faults, drawn from a seed, over `cellnet.testing.Network`.

It asks and checks as `cellnet.simulation` does, with real cells, tasks and links in place of endpoints in a loop.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import anyio

from cellnet import Cell, DeliveryError, NotExecuted, RemoteError
from cellnet.simulation.errand import Errand, number_in
from cellnet.simulation.history import History, Outcome
from cellnet.simulation.workload import random_errands, random_tree
from cellnet.testing import Network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from cellnet import FQCN, Handler, Request

__all__ = ["Fault", "WholeRun"]

MIN_CELLS, MAX_CELLS = 8, 20
BEGIN_SECONDS, END_SECONDS = 2.0, 120.0
ERRANDS, FAULTS = 300, 24
MAX_REST_SECONDS = 90.0
"""When all must be at rest after the repair: the longest deadline, a dead link, and a few dials."""
PROBE_SECONDS = 5.0
MARGIN_SECONDS = 0.05
"""How long before its deadline a call ends, to tell how; of a short one it is a tenth."""


class Fault(Enum):
    """A kind of fault."""

    PARTITION = "nothing passes between a cell and its parent, for a while"
    HOLD = "what a cell sends is kept back, for a while"
    CUT = "a link is reset"
    CRASH = "a cell is killed, and starts again"
    POWER_LOSS = "a machine goes off, tells nobody, and starts again"


class WholeRun:
    """One run of one seed."""

    def __init__(self, seed: int) -> None:
        self.history = History()
        self.done: Counter[Fault] = Counter()
        self.wrong: list[str] = []
        """What must not be, one line each, besides what the history finds."""
        self.lines: list[str] = []
        """What happened, one line each."""
        self._rng = random.Random(f"{seed}/whole")
        self._tree = random_tree(seed, self._rng.randint(MIN_CELLS, MAX_CELLS))
        self._plan = random_errands(seed, self._tree, ERRANDS, BEGIN_SECONDS, END_SECONDS)
        self.faults = sorted(
            [(self._rng.uniform(BEGIN_SECONDS, END_SECONDS), self._rng.choice(list(Fault))) for _ in range(FAULTS)],
            key=lambda fault: fault[0],
        )
        """When what goes wrong."""
        self._errands = {errand.number: errand for _time, _origin, errand in self._plan}
        self._network = Network(seed=seed)
        for name, latency in self._tree.items():
            if name.parent is not None:
                self._network.set_latency(str(name.parent), latency)
        self._callers: dict[FQCN, dict[str, anyio.CancelScope]] = defaultdict(dict)
        self._nested = 0

    async def run(self) -> None:
        """Let two minutes pass under faults; then repair all, and see whether it works and comes to rest."""
        self._begin = anyio.current_time()
        async with self._network.run(map(str, self._tree), handlers=self._handlers):
            async with anyio.create_task_group() as tasks:
                for time, origin, errand in self._plan:
                    self._at(tasks, time, partial(self._ask, origin, errand, errand.seconds))
                    if errand.cancel_after is not None:
                        self._at(tasks, time + errand.cancel_after, partial(self._cancel, origin, errand))
                for time, kind in self.faults:
                    self._at(tasks, time, partial(self._strike, kind))
            self._network.repair()
            await self._rest()
            await self._probe()
            await self._rest()
            self.wrong += self._leftovers()

    def violations(self) -> list[str]:
        """Return all that must not be, one line each."""
        return [*self.history.violations(), *self.wrong]

    @property
    def _now(self) -> float:
        return anyio.current_time() - self._begin

    def _at(self, tasks: TaskGroup, time: float, action: Callable[[], Awaitable[object]]) -> None:
        async def wait() -> None:
            await anyio.sleep_until(self._begin + time)
            await action()

        tasks.start_soon(wait)

    def _note(self, *words: object) -> None:
        self.lines.append(" ".join((f"{self._now:10.6f}", *map(str, words))))

    # Asking.

    async def _ask(self, origin: FQCN, errand: Errand, seconds: float) -> bool:
        """Do an errand as a program at its origin would; return whether it was answered, and well."""
        cell = self._network.cells.get(origin)
        if cell is None:
            return False
        untold = {name: errand.name_at(name) for name in errand.destinations}
        deadline = self._now + seconds - min(MARGIN_SECONDS, seconds / 10)
        for destination, number in untold.items():
            self.history.asked(number, str(origin), str(destination), deadline=deadline, key=errand.key)
        answered: list[bool] = []

        def tell(destination: FQCN, outcome: Outcome, *, is_right: bool = True) -> None:
            number = untold.pop(destination)
            self._note(origin, "is told", number, outcome.value)
            self.history.told(number, outcome, self._now, value_is_right=is_right)
            answered.append(outcome is Outcome.OK)

        self._note(origin, "asks", errand.number)
        with anyio.CancelScope() as caller:
            self._callers[origin][errand.number] = caller
            try:
                with anyio.fail_after(seconds):
                    await self._send(cell, errand, tell)
            except TimeoutError:
                self.wrong.append(f"{errand.number}: its scope ended before it was told")
            finally:
                del self._callers[origin][errand.number]
                for destination in list(untold):
                    tell(destination, Outcome.CANCELLED)
        return bool(answered) and all(answered)

    async def _cancel(self, origin: FQCN, errand: Errand) -> None:
        if caller := self._callers[origin].get(errand.number):
            caller.cancel()

    async def _send(self, cell: Cell, errand: Errand, tell: Callable[..., None]) -> None:
        destinations, key = errand.destinations, errand.key or ""
        if errand.form == "broadcast":
            async with cell.broadcast(destinations, "errand", errand.payload) as replies:
                async for reply in replies:
                    await self._tell(errand, reply.source, tell, partial(_result, reply))
        elif errand.form == "request":
            ask = partial(cell.request, destinations[0], "errand", errand.payload, key=key)
            await self._tell(errand, destinations[0], tell, ask)
        else:
            try:
                await cell.send(destinations[0], "errand", errand.payload, key=key)
            except NotExecuted:
                tell(destinations[0], Outcome.NOT_EXECUTED)

    async def _tell(
        self, errand: Errand, destination: FQCN, tell: Callable[..., None], ask: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            answer = await ask()
        except RemoteError as error:
            if error.code != "ValueError":
                self.wrong.append(f"{errand.number}: {error}")
            tell(destination, Outcome.RAISED)
        except NotExecuted:
            tell(destination, Outcome.NOT_EXECUTED)
        except DeliveryError:
            tell(destination, Outcome.INDETERMINATE)
        else:
            tell(destination, Outcome.OK, is_right=answer == _answer(errand.name_at(destination)))

    # Answering.

    def _handlers(self, name: FQCN) -> dict[str, Handler]:

        async def answer(request: Request) -> str:
            errand = self._errands[number_in(request.payload)]
            number = errand.name_at(name)
            self.history.ran(number, str(name), self._now, asked_by=str(request.origin))
            self._note(name, "runs", number)
            try:
                await self._handle(name, errand, request)
            finally:
                self._note(name, "ends", number)
                self.history.ended(number, str(name), self._now)
            return _answer(number)

        return {"errand": answer}

    async def _handle(self, name: FQCN, errand: Errand, request: Request) -> None:
        await anyio.sleep(errand.handling)
        if errand.asks is not None and not await self._ask_further(name, errand.asks, errand, request):
            raise ValueError("what was asked further was not answered")
        if errand.raises:
            raise ValueError("as planned")

    async def _ask_further(self, name: FQCN, asks: FQCN, errand: Errand, request: Request) -> bool:
        seconds = request.deadline - anyio.current_time()
        self._nested += 1
        number = f"{errand.number}.{name.base_name}-{self._nested}"
        nested = self._errands[number] = Errand(number, "request", (asks,), seconds, errand.handling / 4)
        return await self._ask(name, nested, seconds)

    # Faults.

    async def _strike(self, kind: Fault) -> None:
        name = self._rng.choice([name for name in self._tree if not name.is_root])
        network = self._network
        if kind in (Fault.CRASH, Fault.POWER_LOSS):
            running = list(network.cells) if kind is Fault.CRASH else [one for one in network.cells if not one.is_root]
            if not running:
                return
            name = self._rng.choice(sorted(running))
        self.done[kind] += 1
        self._note("fault:", kind.name, name)
        if kind is Fault.PARTITION:
            network.partition(name)
            await self._later(25)
            network.repair(name)
        elif kind is Fault.HOLD:
            network.hold(name)
            await self._later(20)
            network.release(name)
        elif kind is Fault.CUT:
            network.cut(name)
        else:
            await self._kill(name, off=kind is Fault.POWER_LOSS)

    async def _kill(self, name: FQCN, *, off: bool) -> None:
        self.history.died(str(name), self._now)
        for caller in self._callers[name].values():
            caller.cancel()
        if off:
            self._network.partition(name)
        await self._network.crash(name)
        await self._later(5)
        if off:
            self._network.repair(name)
        await self._network.restart(name)
        self._note(name, "runs again")

    async def _later(self, seconds: float) -> None:
        await anyio.sleep(self._rng.uniform(0, seconds))

    # In the end.

    async def _rest(self) -> None:
        with anyio.move_on_after(MAX_REST_SECONDS):
            while self._leftovers():
                await anyio.sleep(1)

    async def _probe(self) -> None:
        """Let each cell ask another one: a network that was repaired works."""
        names = list(self._tree)

        async def ask(origin: FQCN, destination: FQCN) -> None:
            errand = self._errands[f"probe-{origin}"] = Errand(
                f"probe-{origin}", "request", (destination,), PROBE_SECONDS
            )
            if not await self._ask(origin, errand, PROBE_SECONDS):
                self.wrong.append(f"{origin}: it asked {destination} after the repair, and was not answered")

        async with anyio.create_task_group() as tasks:
            for origin, destination in zip(names, names[1:] + names[:1], strict=True):
                tasks.start_soon(ask, origin, destination)

    def _leftovers(self) -> list[str]:
        """Return what is not at rest, one line each."""
        lines = [f"{name}: it does not run" for name in self._tree if name not in self._network.cells]
        for name, cell in self._network.cells.items():
            below = {other for other in self._tree if name.is_ancestor_of(other)}
            lines += [f"{name}: {found}" for found in _leftovers(cell, below)]
        return lines


def _leftovers(cell: Cell, below: set[FQCN]) -> list[str]:
    statistics, endpoint, exchange = cell.statistics(), cell._endpoint, cell._endpoint.exchange
    neighbours = {name for name in below if name.parent == cell.fqcn} | {cell.fqcn.parent} - {None}
    links = endpoint.connections
    found = {
        "members": {member.fqcn for member in cell.members()} ^ below,
        "neighbours": {link.neighbour for link in statistics.links} ^ neighbours,
        "links without a neighbour": len(links) - len(statistics.links),
        "running links": set(cell._neighbours._running) ^ set(links),
        "answers awaited": statistics.pending,
        "events that wait": exchange.asking.untold,
        "callers": cell._answers._calls,
        "offers": cell._endpoint.plane.offers,
        "fetches": cell._endpoint.plane.fetches,
        "passages": cell._endpoint.plane.transit.passages,
        "calls": exchange.asking._calls,
        "handlers": statistics.handling,
        "requests worked on": exchange.answering.running,
        "messages": exchange.answering._messages,
        "records": exchange.answering.records,
        "bytes of replies": exchange.answering.cached_bytes,
        "messages held": sum(asker.lanes.held + asker.lanes.left for asker in exchange.answering._askers),
        "bytes queued": sum(link.queued_bytes for link in links),
        "routes over dead links": sum(
            route.out is not None and route.out not in links
            for route in [
                *endpoint.switch._own.values(),
                *(route for link in links for route in (*link.routes.values(), *link.routes_out())),
            ]
        ),
    }
    return [f"{what}: {value}" for what, value in found.items() if value]


async def _result(reply: object) -> object:
    return reply.result()  # type: ignore[attr-defined]  # a Reply


def _answer(number: str) -> str:
    return f"answer to {number}"
