"""The row about those who never read what they are sent: F10."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError
from tests.faults.bench import Bench, Verdict
from tests.faults.growth import MIB, Growth
from tests.faults.load import percentile
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cellnet import Cell
    from tests.faults.processes import CellProcess

__all__ = ["readers_that_never_read"]

KINDS = {"V": 8, "W": 6, "H": 6}
"""How many there are of each kind, by the letter that their names begin with: those whose handlers take a stream and
never read of it, those whose process is stopped while they get a large payload, and those whom it never reaches."""
STREAMED_BYTES = 48 * MIB
"""What is written to each stream, as far as there is room."""
PIECE = bytes(256 * 1024)
HELD_RATE = 1.0
"""Bytes in a second: enough to be taken for alive."""
UNDER_WAY_SECONDS = 0.2
STILL_SECONDS, STUCK_SECONDS = 0.5, 30.0
"""What is to be stuck comes as far as it can before anything is measured beside it: until nothing moves, or so long."""
GROWTH_BYTES = 256 * MIB
KEPT_SHARE = 0.8
SMALL_SECONDS = 0.05
SMALL_TIMES = 3.0
"""A small request may take so long, or so many times what it takes when all read."""
ASK_SECONDS = 0.02


@dataclass
class Unread:
    """Children that do not read, in three processes."""

    streams: CellProcess
    stopped: CellProcess
    held: CellProcess
    proxy: Proxy
    """In front of those who are held."""

    @staticmethod
    def names() -> list[list[str]]:
        """Return how they are called."""
        return [[f"{letter}{number}" for number in range(count)] for letter, count in KINDS.items()]

    @property
    def processes(self) -> dict[str, CellProcess]:
        """All of them, by what they do."""
        return {"streams_unread": self.streams, "stopped": self.stopped, "held": self.held}


@dataclass
class Beside:
    """What one cell that reads has of the sender: bytes a second, and how long small requests take."""

    rates: list[float]
    trips: list[float]


async def readers_that_never_read(bench: Bench) -> Verdict:
    """F10: twenty children never read what they are sent; nobody keeps it all for them, and others are served."""
    pairs, size, seconds = int(bench.pick(8, 2, 1)), int(bench.pick(64, 32, 16)) * MIB, bench.pick(8, 2, 1)
    names = [name for kind in Unread.names() for name in kind]
    bench.provision({"R1": "server", **dict.fromkeys([*names, "B"], "R1")})
    payload = bench.filler(size)
    alone, beside = Beside([], []), Beside([], [])
    async with bench.cell("server") as (cell, url):
        relay = await bench.start("R1", connect=url, listens=True)
        async with Proxy(relay.url, bench.rng) as proxy:
            unread = await _start(bench, relay.url, proxy)
            everybody = [f"R1.{name}" for name in [*names, "B"]]
            await bench.settle(cell, everybody)
            pids = {name: process.pid for name, process in unread.processes.items()}
            growth = Growth({"relay": relay.pid, "sender": os.getpid(), **pids})
            for _ in range(pairs):
                await _measure(cell, payload, seconds, alone)
                async with _not_reading(cell, unread, payload):
                    await _measure(cell, payload, seconds, beside)
                await bench.settle(cell, everybody)
            verdict = Verdict({"unread": len(names), "mib": size // MIB, "pairs": pairs})
            growth.judge(verdict, dict.fromkeys(growth.peaks(), GROWTH_BYTES))
    _judge(verdict, alone, beside)
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict


async def _start(bench: Bench, relay: str, proxy: Proxy) -> Unread:
    started: dict[str, CellProcess] = {}

    async def start(kind: list[str], connect: str) -> None:
        started[kind[0]] = await bench.start_many(kind, connect)

    streams, stopped, held = Unread.names()
    async with anyio.create_task_group() as starting:
        for kind, connect in ((streams, relay), (stopped, relay), (held, proxy.url), (["B"], relay)):
            starting.start_soon(start, kind, connect)
    return Unread(started[streams[0]], started[stopped[0]], started[held[0]], proxy)


@asynccontextmanager
async def _not_reading(cell: Cell, unread: Unread, payload: memoryview) -> AsyncGenerator[None]:
    """Send all of them what they will not read, while the block runs."""
    streams, stopped, held = Unread.names()
    written = Counter[str]()
    try:
        async with anyio.create_task_group() as tasks:
            for name in streams:
                tasks.start_soon(_write, cell, f"R1.{name}", written)
            for name in [*stopped, *held]:
                tasks.start_soon(_send, cell, f"R1.{name}", payload)
            await anyio.sleep(UNDER_WAY_SECONDS)
            unread.proxy.down.rate = HELD_RATE
            unread.stopped.pause()
            await _stuck(written)
            yield
            tasks.cancel_scope.cancel()
    finally:
        unread.proxy.down.rate = math.inf
        unread.stopped.resume()


async def _stuck(written: Counter[str]) -> None:
    """Wait until no stream takes any more."""
    with anyio.move_on_after(STUCK_SECONDS):
        before = -1
        while written.total() != before:
            before = written.total()
            await anyio.sleep(STILL_SECONDS)


async def _write(cell: Cell, destination: str, written: Counter[str]) -> None:
    with suppress(CellError, anyio.BrokenResourceError):
        async with cell.open_stream(destination, "ignore") as stream:
            for _ in range(STREAMED_BYTES // len(PIECE)):
                await stream.send(PIECE)
                written[destination] += len(PIECE)
            await anyio.sleep_forever()


async def _send(cell: Cell, destination: str, payload: memoryview) -> None:
    with suppress(CellError):  # whoever is stopped for long is taken for dead
        await cell.request(destination, "size", payload)


async def _measure(cell: Cell, payload: memoryview, seconds: float, found: Beside) -> None:
    """Send one cell a stream of so many seconds, and small requests.

    Of a stream nothing is kept. What it would take to keep it depends on how quickly the system has memory, which on a
    virtual machine changes from one second to the next by more than is to be found here.
    """
    async with anyio.create_task_group() as tasks, cell.open_stream("R1.B", "count") as stream:
        tasks.start_soon(_ask_small, cell, found.trips)
        began, sent = anyio.current_time(), 0
        while anyio.current_time() - began < seconds:
            await stream.send(PIECE)
            sent += len(PIECE)
        await stream.send_eof()
        assert int(await stream.receive()) == sent
        found.rates.append(sent / (anyio.current_time() - began))
        tasks.cancel_scope.cancel()


async def _ask_small(cell: Cell, trips: list[float]) -> None:
    while True:
        began = time.monotonic()
        await cell.request("R1.B", "size", b"")
        trips.append(time.monotonic() - began)
        await anyio.sleep(ASK_SECONDS)


def _judge(verdict: Verdict, alone: Beside, beside: Beside) -> None:
    kept = statistics.median(with_them / without for with_them, without in zip(beside.rates, alone.rates, strict=True))
    for name, found in (("alone", alone), ("beside", beside)):
        verdict.figures[f"{name}_mib_per_second"] = round(statistics.median(found.rates) / MIB, 1)
        verdict.figures[f"{name}_small_p99"] = percentile(found.trips, 0.99)
    verdict.figures["kept_percent"] = round(100 * kept)
    verdict.demand(kept >= KEPT_SHARE, f"beside those who do not read, another had {kept:.0%} of its rate")
    slow, usual = percentile(beside.trips, 0.99), percentile(alone.trips, 0.99)
    if slow is None or usual is None:
        verdict.demand(False, "nobody asked anything beside those who do not read")
        return
    limit = max(SMALL_SECONDS, SMALL_TIMES * usual)
    verdict.demand(slow <= limit, f"a small request beside them took {slow * 1000:.0f} ms, not {limit * 1000:.0f}")
