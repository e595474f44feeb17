"""The row about a child that is slow to take what all are sent: F9."""

from __future__ import annotations

import math
import os
import statistics
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError
from tests.faults.bench import Bench, Verdict
from tests.faults.growth import MIB, Growth
from tests.faults.load import percentile
from tests.faults.proxy import Proxy
from tests.faults.raw import pinging

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cellnet import Cell

__all__ = ["slow_child"]

SLOW_RATE = 64 * 1024.0
KEPT_SHARE = 0.8
"""Of the rate that the others have without the slow one."""
CONTROL_SECONDS = 0.025
RAW_ROUND_TRIPS = 2.0
"""If the machine is so busy that a raw ping takes long, a round trip may take so many of them."""
ASK_SECONDS = 0.02
BROADCAST_SECONDS = 300.0
RELAY_BYTES = 64 * MIB


async def slow_child(bench: Bench) -> Verdict:
    """F9: one child of a relay takes 64 KiB/s of a large broadcast; the others have it as soon as without that one."""
    pairs, size = int(bench.pick(5, 9, 1)), int(bench.pick(256, 16, 8)) * MIB
    others = [f"C{number}" for number in range(int(bench.pick(23, 23, 3)))]
    bench.provision({"R1": "server", **dict.fromkeys([*others, "S", "A"], "R1")})
    # A file, of which those who get it keep nothing: see Nowhere. What it takes to keep it depends on how quickly the
    # system has memory, which on a virtual machine changes from one second to the next by more than is to be found.
    payload = bench.file(size)
    rates: dict[bool, list[float]] = {False: [], True: []}
    spans: list[tuple[float, float]] = []
    trips: list[tuple[float, float]] = []
    async with bench.cell("server") as (cell, url):
        relay = await bench.start("R1", connect=url, listens=True)
        async with Proxy(relay.url, bench.rng) as proxy, anyio.create_task_group() as tasks:
            await _start(bench, relay.url, proxy.url, others)
            fast = [f"R1.{name}" for name in others]
            await bench.settle(cell, [*fast, "R1.S", "R1.A"])
            growth = Growth({"relay": relay.pid})
            tasks.start_soon(_keep_asking, cell, "R1.A", trips)
            with pinging() as pings:
                for pair in range(pairs):
                    for is_slow in (pair % 2 == 0, pair % 2 == 1):
                        proxy.down.rate = SLOW_RATE if is_slow else math.inf
                        began = time.monotonic()
                        rates[is_slow].append(await _rate(cell, fast, ["R1.S"] * is_slow, payload))
                        spans += [(began, time.monotonic())] * is_slow
                        proxy.down.rate = math.inf
                        await bench.settle(cell, ["R1.S"])
            tasks.cancel_scope.cancel()
        verdict = Verdict({"children": len(others) + 1, "mib": size // MIB, "pairs": pairs})
        growth.judge(verdict, {"relay": RELAY_BYTES})
    _judge_rates(verdict, rates)
    within = [took for at, took in trips if any(begin <= at <= end for begin, end in spans)]
    is_demanded = bool(bench.pick(1, 0, 0))
    _judge_control(verdict, within, pings.within(spans), is_demanded=is_demanded)
    if bench.processes.scheme == "grpc" and is_demanded:
        from tests.faults.raw_grpc import grpc_pings  # not before the driver has said how gRPC is to be

        # only told: what is demanded is the same for all schemes
        verdict.figures["raw_grpc_p99"] = percentile(
            await grpc_pings(len(others), statistics.median(rates[True])), 0.99
        )
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict


async def _start(bench: Bench, relay: str, slow: str, others: Sequence[str]) -> None:
    """Start the children: as many processes as there are processors have all that are not slow.

    These leave processors to the relay, as those of other machines do.
    """
    count = min(os.cpu_count() or 1, len(others))

    async def start(names: Sequence[str]) -> None:
        (await bench.start_many(names, relay)).give_way()

    async with anyio.create_task_group() as starting:
        for number in range(count):
            starting.start_soon(start, others[number::count])
        starting.start_soon(lambda: bench.start("S", connect=slow))
        starting.start_soon(lambda: bench.start("A", connect=relay))


async def _rate(cell: Cell, fast: Sequence[str], slow: Sequence[str], payload: Path) -> float:
    """Send all the same; return how many bytes a second the fast ones had, of whom none is given up."""
    waiting, began, size = set(fast), anyio.current_time(), payload.stat().st_size
    with anyio.fail_after(BROADCAST_SECONDS):
        async with cell.broadcast([*slow, *fast], "size", payload) as replies:
            async for reply in replies:
                if str(reply.source) in waiting:
                    assert reply.result() == size
                    waiting.discard(str(reply.source))
                if not waiting:
                    break
    return len(fast) * size / (anyio.current_time() - began)


async def _keep_asking(cell: Cell, destination: str, trips: list[tuple[float, float]]) -> None:
    while True:
        began = time.monotonic()
        with suppress(CellError):  # it took so long all the same
            await cell.request(destination, "size", b"")
        trips.append((began, time.monotonic() - began))
        await anyio.sleep(ASK_SECONDS)


def _judge_rates(verdict: Verdict, rates: dict[bool, list[float]]) -> None:
    kept = statistics.median(beside / alone for beside, alone in zip(rates[True], rates[False], strict=True))
    for name, values in (("alone", rates[False]), ("beside_slow", rates[True])):
        verdict.figures[f"{name}_mib_per_second"] = round(statistics.median(values) / MIB, 1)
    verdict.figures["kept_percent"] = round(100 * kept)
    verdict.demand(kept >= KEPT_SHARE, f"beside a slow child, the others had {kept:.0%} of their rate")


def _judge_control(verdict: Verdict, trips: list[float], pings: list[float], *, is_demanded: bool) -> None:
    """Compare round trips with raw ones. In the quick form there are too few for the slowest of a hundred to count."""
    ours, raw = percentile(trips, 0.99), percentile(pings, 0.99)
    verdict.figures |= {"round_trips": len(trips), "round_trip_p99": ours, "raw_p99": raw}
    if ours is None or raw is None:
        verdict.demand(False, "nobody asked anything while the broadcast was under way")
        return
    limit = max(CONTROL_SECONDS, RAW_ROUND_TRIPS * raw)
    said = f"a round trip took {ours * 1000:.0f} ms beside the broadcast, a raw one {raw * 1000:.0f} ms"
    verdict.demand(ours <= limit or not is_demanded, said)
