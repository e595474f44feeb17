"""The row about a hop that is hostile: F19."""

from __future__ import annotations

from collections import Counter

import anyio

from cellnet.simulation.history import Outcome
from tests.faults.bench import Bench, Verdict
from tests.faults.hostility import Hostility
from tests.faults.proxy import Proxy

__all__ = ["hostile_hop"]

IN_FLIGHT = 100
WITHIN_SECONDS = 5.0
MAX_FILLER = 256


async def hostile_hop(bench: Bench) -> Verdict:
    """F19: a hop repeats, reorders, replays, truncates and flips what passes; nobody takes it for genuine."""
    count = int(bench.pick(100_000, 5000))
    tree = {"R1": "server", "C1": "R1"}
    bench.provision(tree)
    verdict = Verdict()
    async with bench.cell("server") as (cell, url), Proxy(url, bench.rng, framed=True) as proxy:
        relay = await bench.start("R1", connect=proxy.url, listens=True)
        await bench.start("C1", connect=relay.url)
        await bench.settle(cell, ["R1.C1"])
        load = bench.load(cell)
        for way in (proxy.up, proxy.down):
            way.hostility = Hostility(flip=0.01, truncate=0.005, duplicate=0.01, reorder=0.01, replay=0.01)

        async def work() -> None:
            while len(load.asked) < count:
                filler = bench.rng.randbytes(bench.rng.randrange(MAX_FILLER))
                handling = bench.rng.uniform(0, 0.02)
                outcome = await load.ask("R1.C1", within=WITHIN_SECONDS, handling=handling, filler=filler)
                if outcome is Outcome.NOT_EXECUTED:
                    await anyio.sleep(0.1)

        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.start_soon(work)
        deeds: Counter[str] = Counter()
        for way in (proxy.up, proxy.down):
            assert way.hostility is not None
            deeds += way.hostility.counts
            way.hostility = None
        verdict.judge(load, bench.processes)
        refused = cell.statistics().refused
        verdict.figures |= {"deeds": dict(deeds), "altered_accepted": load.altered, "links_made": proxy.accepted}
        verdict.figures["refused_by_the_server"] = refused
        raised = load.count(Outcome.RAISED)
        verdict.demand(not load.altered, f"{load.altered} altered messages were accepted")
        verdict.demand(not load.run_twice(), f"{load.run_twice()} requests ran twice")
        verdict.demand(not raised, f"{raised} callers were told an error that nobody had raised")
        await bench.demand_answers(verdict, cell, ["R1.C1"])
    return verdict
