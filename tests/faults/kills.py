"""Rows about cells that are killed, or ended and started again: F1, F4, F18."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from cellnet.simulation.history import Outcome
from tests.faults.bench import Bench, Size, Verdict
from tests.faults.load import percentile

if TYPE_CHECKING:
    from tests.faults.load import Asked, Load
    from tests.faults.processes import CellProcess

__all__ = ["receiver_killed", "relays_killed", "rolling_restart"]

RECOVERY_SECONDS = 3.0
TOLD_SECONDS = 1.0
"""How long after a killed receiver is back its callers may wait to be told."""
SETTLE_SECONDS = 3.0
AT_ONCE = 20
"""Requests at a receiver that is to be killed."""
TREE = {"R1": "server", "R2": "server", "C1": "R1", "C2": "R2"}
"""The caller joins R1: its requests to C2 cross both relays and the server."""
SMALL_TREE = {"R1": "server", "C1": "R1"}


@dataclass
class Outage:
    """One time that a cell was away."""

    cell: str
    began: float
    back: float


async def relays_killed(bench: Bench) -> Verdict:
    """F1: each of two relays is killed again and again, while requests are in flight."""
    in_flight, kills = int(bench.pick(2000, 500, 50)), int(bench.pick(5, 2, 1))
    longest, settling = bench.pick(5.0, 2.0, 0.5), bench.pick(SETTLE_SECONDS, SETTLE_SECONDS, 0.5)
    apart = bench.pick(4.0, 4.0, 1.0)
    tree, relays, receivers = _tree(bench)
    bench.provision({**tree, "A": "R1"})
    cells = await bench.start_tree(tree)
    outages: list[Outage] = []

    async def kill(name: str, rng: random.Random) -> None:
        for _ in range(kills):
            await anyio.sleep(rng.uniform(apart / 4, apart))
            began = time.monotonic()
            cells[name].kill()
            await anyio.sleep(rng.uniform(0, longest))
            await cells[name].start()
            outages.append(Outage(name, began, cells[name].ready_at))

    async with bench.cell("A", cells["R1"].url) as (cell, _url):
        await bench.settle(cell, receivers)
        load, stop = bench.load(cell), anyio.Event()
        async with anyio.create_task_group() as tasks:
            keep = (in_flight, receivers, stop)
            tasks.start_soon(_keep_asking, load, keep, (bench.pick(1.0, 1.0, 0.5), bench.pick(3.0, 3.0, 1.0)), 0.1)
            await anyio.sleep(settling)
            async with anyio.create_task_group() as killing:
                for name in relays:
                    killing.start_soon(kill, name, random.Random(bench.rng.random()))
            await anyio.sleep(settling)
            stop.set()
        verdict = Verdict({"in_flight": in_flight, "kills": len(outages)})
        verdict.judge(load, bench.processes)
        verdict.demand_nothing_lost(load)
        _demand_recovery(verdict, load, outages)
        verdict.demand(cell.statistics().pending == 0, f"{cell.statistics().pending} answers are awaited at the end")
    return verdict


def _tree(bench: Bench) -> tuple[dict[str, str], list[str], list[str]]:
    """Return who joins whom, the relays, and the full names of those behind them."""
    tree = SMALL_TREE if bench.size is Size.LEAST else TREE
    relays = [name for name, parent in tree.items() if parent == "server"]
    return tree, relays, [f"{parent}.{name}" for name, parent in tree.items() if parent in relays]


async def _keep_asking(
    load: Load,
    keep: tuple[int, list[str], anyio.Event],
    handling: tuple[float, float],
    nested_share: float = 0.0,
    within: float = 60.0,
) -> None:
    await load.keep_asking(*keep, within=within, handling=handling, nested_share=nested_share)


def _demand_recovery(verdict: Verdict, load: Load, outages: list[Outage]) -> None:
    """Demand that what waited for a relay is done soon after it is back."""
    waits = [wait for asked in load.asked.values() if (wait := _wait_after_outage(asked, outages)) is not None]
    p99 = percentile(waits, 0.99)
    firsts = [first for outage in outages if (first := _first_run(load, outage, outages)) is not None]
    first = max(firsts, default=None)
    verdict.figures |= {"waited": len(waits), "recovery_p99_seconds": p99, "first_run_after_seconds": first}
    verdict.demand(p99 is not None, "no request lived through an outage")
    verdict.demand(p99 is None or p99 <= RECOVERY_SECONDS, f"recovery takes {p99} s, not {RECOVERY_SECONDS}")


def _wait_after_outage(asked: Asked, outages: list[Outage]) -> float | None:
    """Return how much longer a request took, counted from when all relays on its way were back, than it had to."""
    back = max((one.back for one in outages if _concerns(one, asked) and one.back > asked.at), default=None)
    if back is None or asked.outcome is not Outcome.OK or asked.told_at < back or asked.then or not asked.ran:
        return None
    work = asked.handling if asked.ran[-1] >= back else max(0.0, asked.ran[-1] + asked.handling - back)
    return max(0.0, asked.told_at - back - work)


def _concerns(outage: Outage, asked: Asked) -> bool:
    """Whether a request had to cross a relay while it was away. All leave over R1."""
    return outage.cell in ("R1", asked.destination.partition(".")[0]) and outage.began < asked.told_at


def _first_run(load: Load, outage: Outage, outages: list[Outage]) -> float | None:
    """Return after how many seconds a relay that is back carried a request; None if another one was away then, too."""
    behind = f"{outage.cell}.C{outage.cell[1:]}"
    runs = (run for asked in load.asked.values() if asked.destination == behind for run in asked.ran or ())
    first = min((run for run in runs if run > outage.back), default=None)
    if first is None or any(one.began < first and one.back > outage.back for one in outages if one is not outage):
        return None
    return round(first - outage.back, 3)


async def receiver_killed(bench: Bench) -> Verdict:
    """F4: a receiver is killed while its handlers work, and comes back or stays away; durable handlers run once."""
    backs = [True] * int(bench.pick(10, 3, 1)) + [False] * int(bench.pick(1, 1, 0))
    tree = {"R1": "server", "C1": "R1"}
    bench.provision(tree)
    verdict = Verdict({"kills": len(backs)})
    async with bench.cell("server") as (cell, url):
        cells = await bench.start_tree(tree, url, journals=["C1"])
        await bench.settle(cell, ["R1.C1"])
        load = bench.load(cell)
        after_kill: list[float] = []
        after_back: list[float] = []
        for number, comes_back in enumerate(backs, 1):
            killed, told = await _kill_at_work(bench, load, cells["C1"], comes_back)
            limit = cells["C1"].ready_at + TOLD_SECONDS if comes_back else max(one.deadline for one in told)
            late = [one for one in told if one.told_at > min(limit, one.deadline)]
            verdict.demand(not late, f"kill {number}: {len(late)} callers were told too late")
            after_kill += (one.told_at - killed for one in told)
            if comes_back:
                after_back += (max(0.0, one.told_at - cells["C1"].ready_at) for one in told)
            else:
                await cells["C1"].start()
        wrong = len(load.asked) - load.count(Outcome.INDETERMINATE)
        verdict.demand(not wrong, f"{wrong} callers were told something else than indeterminate")
        await _kill_durable_handlers(bench, load, cells["C1"], verdict)
        verdict.judge(load, bench.processes)
    slowest = round(max(after_back), 3)
    verdict.figures |= {
        "told_after_kill_p99_seconds": percentile(after_kill, 0.99),
        "told_after_back_p99_seconds": percentile(after_back, 0.99),
        "told_after_back_max_seconds": slowest,
    }
    verdict.demand(slowest <= TOLD_SECONDS, f"callers were told {slowest} s after it was back, not {TOLD_SECONDS}")
    return verdict


async def _kill_at_work(bench: Bench, load: Load, receiver: CellProcess, comes_back: bool) -> tuple[float, list[Asked]]:
    """Kill a receiver in its handlers; return when, and what its callers asked, once all of them were told."""
    within = 20.0 if comes_back else 4.0
    before = len(load.asked)
    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(_ask, load, "R1.C1", within)
        await _until_running(receiver, before + AT_ONCE)
        killed = time.monotonic()
        receiver.kill()
        load.history.died("R1.C1", killed)
        if comes_back:
            await anyio.sleep(bench.rng.uniform(0, bench.pick(2.0, 2.0, 0.2)))
            await receiver.start()
    return killed, list(load.asked.values())[before:]


async def _kill_durable_handlers(bench: Bench, load: Load, receiver: CellProcess, verdict: Verdict) -> None:
    """Kill a receiver in its durable handlers, which wait for each other: all come to one effect, and one answer."""
    times = int(bench.pick(10, 2, 1))
    before = len(load.asked)
    for _ in range(times):
        begun = len(receiver.begun())
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(_ask, load, "R1.C1", 60.0, bench.rng.uniform(0.02, 0.2), "keep")
            await _until_begun(receiver, begun + bench.rng.randint(1, AT_ONCE))
            receiver.kill()
            load.history.died("R1.C1", time.monotonic())
            await anyio.sleep(bench.rng.uniform(0, bench.pick(2.0, 2.0, 0.2)))
            await receiver.start()
    told = list(load.asked.values())[before:]
    wrong = [one for one in told if one.outcome is not Outcome.OK]
    verdict.demand(not wrong, f"{len(wrong)} durable requests did not end well, such as {[w.error for w in wrong[:3]]}")
    effects = len(receiver.effects())
    verdict.demand(effects == len(told), f"{len(told)} durable requests have {effects} effects")
    begun_again = len(receiver.begun()) - len({ran.number for ran in receiver.begun()})
    verdict.demand(begun_again > 0, "no durable handler was killed")
    verdict.figures |= {"durable": len(told), "durable_effects": effects, "durable_begun_again": begun_again}


async def _ask(load: Load, destination: str, within: float, handling: float = 600.0, topic: str = "work") -> None:
    await load.ask(destination, within=within, handling=handling, topic=topic)


async def _until_begun(process: CellProcess, count: int) -> None:
    with anyio.fail_after(20):
        while len(process.begun()) < count:
            await anyio.sleep(0.005)


async def _until_running(process: CellProcess, count: int) -> None:
    with anyio.fail_after(10):
        while len(process.runs()) < count:
            await anyio.sleep(0.02)


async def rolling_restart(bench: Bench) -> Verdict:
    """F18: every relay and the server, which have work too, is asked to end and started again, under load."""
    in_flight, rounds = int(bench.pick(100, 100, 20)), int(bench.pick(3, 1, 1))
    settling = bench.pick(SETTLE_SECONDS, SETTLE_SECONDS, 0.5)
    tree, relays, receivers = _tree(bench)
    restarted = [*relays, "server"] if bench.size is not Size.LEAST else relays
    everybody = ["server", *relays, *receivers]
    bench.provision({**tree, "A": "R1"})
    cells = await bench.start_tree(tree)
    codes, seconds = [], []
    async with bench.cell("A", cells["R1"].url) as (cell, _url):
        await bench.settle(cell, everybody)
        load, stop = bench.load(cell), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_asking, load, (in_flight, everybody, stop), (0.05, 0.3))
            await anyio.sleep(settling)
            for name in restarted * rounds:
                began = time.monotonic()
                codes.append(await cells[name].terminate())
                seconds.append(time.monotonic() - began)
                await cells[name].start()
                await anyio.sleep(settling)
            stop.set()
        verdict = Verdict({"restarts": len(codes), "slowest_end_seconds": round(max(seconds), 2)})
        verdict.judge(load, bench.processes)
        verdict.demand_nothing_lost(load)
        verdict.demand(not any(codes), f"exit codes were {codes}")
        await bench.demand_answers(verdict, cell, everybody)
    return verdict
