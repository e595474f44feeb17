"""Rows about very many at once: clients that come back (F15), deadlines that pass (F22)."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.simulation.history import Outcome
from tests.faults.bench import Bench, Size, Verdict
from tests.faults.load import percentile

if TYPE_CHECKING:
    from cellnet import Cell
    from tests.faults.load import Load
    from tests.faults.processes import CellProcess

__all__ = ["deadline_storm", "reconnect_storm"]

OUTAGE_SECONDS = 5.0
PRESENT_SECONDS = 15.0
TOGETHER_SECONDS, TOGETHER_SHARE = 0.1, 0.25
"""Which part of the clients may dial at most within so many seconds. Pauses are up to 2 s long: it is a tenth then."""
PATIENCE_SECONDS = 60.0
"""Who is not there by then has failed for good."""
ASKING_AT_A_TIME = 100
RELAYS = 4
IN_TURN = 20
"""So many requests have the same key and run one after the other: most of them would get their turn too late."""
LATE_SECONDS = 0.05
"""How long after its deadline a handler may still begin."""


async def reconnect_storm(bench: Bench) -> Verdict:
    """F15: the server is killed and comes back after 5 s; all clients are there again soon, direct and over relays."""
    verdict = Verdict({"clients": int(bench.pick(1000, 300, 100))})
    await _storm(bench, verdict, "direct", 0)
    if bench.size != Size.LEAST:
        await _storm(bench, verdict, "relayed", RELAYS)
    return verdict


async def _storm(bench: Bench, verdict: Verdict, how: str, relays: int) -> None:
    clients, swarms = int(bench.pick(1000, 300, 100)), int(bench.pick(4, 2, 1))
    everybody = clients + relays + 1
    # Without credentials in any case: what is measured is how many come, not what signatures cost.
    server = await bench.start("server", listens=True, expect=everybody)
    parents = [await bench.start(f"R{n}", connect=server.url, listens=True) for n in range(1, relays + 1)] or [server]
    names: list[str] = []
    started: list[CellProcess] = []
    share = clients // max(swarms, relays)
    for number in range(clients // share):
        parent = parents[number % len(parents)]
        these = [f"C{number}-{one}" for one in range(share)]
        started.append(await bench.processes.start(f"{how}-{number}", connect=parent.url, names=these))
        names += (f"{parent.name}.{name}" if relays else name for name in these)
    async with bench.cell("A", server.url) as (cell, _url):
        await server.line(PATIENCE_SECONDS)
        server.kill()
        await anyio.sleep(bench.pick(OUTAGE_SECONDS, OUTAGE_SECONDS, 1.0))
        await server.start()
        back = (await server.line(PATIENCE_SECONDS))["at"] - server.ready_at
        load = bench.load(cell)
        await _ask_everybody(load, names)
        figures = await cell.request("server", "figures")
        found = Verdict()
        found.judge(load, bench.processes)
    verdict.figures |= {
        f"{how}_all_present_seconds": round(back, 2),
        f"{how}_answering": load.count(Outcome.OK),
        f"{how}_server_rss_mib": figures["rss_bytes"] >> 20,
        f"{how}_turned_away": figures["turned_away"],
    }
    verdict.wrong += found.wrong
    verdict.demand(back <= PRESENT_SECONDS, f"{how}: all are present after {back:.1f} s, not {PRESENT_SECONDS:.0f}")
    verdict.demand_nothing_lost(load)
    if not relays:  # else those who dial are few
        _demand_spread(verdict, [at for one in started for at in one.dials() if at > server.ready_at], clients)
    bench.processes.end()


def _demand_spread(verdict: Verdict, dials: list[float], clients: int) -> None:
    """Demand that those who come back do not all dial at the same moment."""
    share = most_at_once(dials, TOGETHER_SECONDS) / clients
    verdict.figures["most_dialling_in_100_ms"] = f"{share:.1%}"
    verdict.demand(share <= TOGETHER_SHARE, f"{share:.0%} of all dial within 100 ms, not {TOGETHER_SHARE:.0%}")


def most_at_once(times: list[float], seconds: float) -> int:
    """Return how many of these moments lie within so many seconds, at most."""
    ordered, first, most = sorted(times), 0, 0
    for last, now in enumerate(ordered, 1):
        while now - ordered[first] > seconds:
            first += 1
        most = max(most, last - first)
    return most


async def _ask_everybody(load: Load, names: list[str]) -> None:
    room = anyio.Semaphore(ASKING_AT_A_TIME)

    async def ask(name: str) -> None:
        async with room:
            await load.ask(name, within=10.0)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name)


async def deadline_storm(bench: Bench) -> Verdict:
    """F22: requests with deadlines of 1 ms to 5 s, a fifth of them cancelled, over three hops; a few wait in line."""
    count = int(bench.pick(10_000, 2000, 200))
    tree = {"R1": "server", "R2": "R1", "C1": "R2"}
    far = "R1.R2.C1"
    bench.provision(tree)
    async with bench.cell("server") as (cell, url):
        await bench.start_tree(tree, url)
        await bench.settle(cell, [far])
        before = {name: await cell.request(name, "figures") for name in ("R1", "R1.R2", far)}
        load = bench.load(cell)
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                within = math.exp(bench.rng.uniform(math.log(0.001), math.log(5.0)))
                scope = anyio.CancelScope()
                key = "in turn" if number < IN_TURN else ""
                tasks.start_soon(_ask, load, far, within, bench.rng.uniform(0, 0.3), key, scope)
                if number % 5 == 0:
                    tasks.start_soon(_cancel, scope, bench.rng.uniform(0, min(within, 0.5)))
                if number % 10 == 0:
                    await anyio.sleep(0.01)
        ended = time.monotonic()
        verdict = Verdict()
        left = await _left(cell, before, int(bench.pick(50, 50, 10)))
        verdict.figures["quiet_after_seconds"] = round(time.monotonic() - ended, 2)
        verdict.judge(load, bench.processes)
    late = [late for one in load.asked.values() for ran in one.ran or () if (late := ran - one.deadline) > 0]
    too_late = [one for one in late if one > LATE_SECONDS]
    overdue = [one.told_at - one.deadline for one in load.asked.values()]
    verdict.figures |= {
        "in_turn": IN_TURN,
        "ran_after_deadline": len(late),
        "ran_over_50_ms_after": len(too_late),
        "told_after_deadline_p99_ms": round((percentile(overdue, 0.99) or 0) * 1000),
        "bare_timeouts": sum(one.outcome is None for one in load.asked.values()),
    }
    verdict.demand(not too_late, f"{len(too_late)} handlers began over 50 ms after their deadlines")
    verdict.wrong += left
    return verdict


async def _ask(
    load: Load, destination: str, within: float, handling: float, key: str, scope: anyio.CancelScope
) -> None:
    await load.ask(destination, within=within, handling=handling, key=key, scope=scope)


async def _cancel(scope: anyio.CancelScope, seconds: float) -> None:
    await anyio.sleep(seconds)
    scope.cancel()


async def _left(cell: Cell, before: dict[str, dict[str, Any]], looks: int) -> list[str]:
    """Return who holds more than before the storm, if that does not pass in a few seconds."""
    left: list[str] = []
    for _ in range(looks):
        own = cell.statistics().pending
        left = [f"{own} answers are awaited"] if own else []
        for name, held in before.items():
            now = await cell.request(name, "figures")
            left += (
                f"{name} has {now[key]} {key}, {held[key]} before"
                for key in ("pending", "handling", "tasks", "descriptors")
                if now[key] > held[key]
            )
        if not left:
            break
        await anyio.sleep(0.1)
    return left
