"""The row about a hop that is hostile: F19."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError
from cellnet.fqcn import FQCN
from cellnet.simulation.history import Outcome
from tests.faults.bench import Bench, Verdict
from tests.faults.cell import payload
from tests.faults.hostility import Hostility
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from cellnet import Cell

__all__ = ["forged_below", "forged_beside", "hostile_hop"]

IN_FLIGHT = 100
MAX_FILLER = 256
AGAIN = 0.25
"""So often a frame is sent twice, and so often an earlier one once more: that costs nobody time."""
TOLD_SHARE = 0.2
"""After so many requests there is an event, which nothing but the window of counters keeps from running again."""
FORGED, FORGED_SECONDS = 5, 1.5


async def hostile_hop(bench: Bench) -> Verdict:
    """F19: a hop repeats, reorders, replays, truncates and flips what passes; nobody takes it for genuine."""
    count, often = int(bench.pick(100_000, 5000, 400)), bench.pick(2.0, 2.0, 3.0)
    within = bench.pick(5.0, 5.0, 2.0)
    tree = {"R1": "server", "C1": "R1"}
    bench.provision(tree)
    verdict = Verdict()
    async with bench.cell("server") as (cell, url), Proxy(url, bench.rng, framed=True) as proxy:
        relay = await bench.start("R1", connect=proxy.url, listens=True)
        await bench.start("C1", connect=relay.url)
        await bench.settle(cell, ["R1.C1"])
        load = bench.load(cell)
        for way in (proxy.up, proxy.down):
            one = often / 100
            way.hostility = Hostility(flip=one, truncate=one / 2, reorder=one, duplicate=AGAIN, replay=AGAIN)

        async def work() -> None:
            while len(load.asked) < count:
                filler = bench.rng.randbytes(bench.rng.randrange(MAX_FILLER))
                handling = bench.rng.uniform(0, 0.02)
                outcome = await load.ask("R1.C1", within=within, handling=handling, filler=filler)
                if bench.rng.random() < TOLD_SHARE:
                    await load.tell("R1.C1", within=within, filler=filler)
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
        verdict.figures |= {
            "deeds": dict(deeds),
            "altered_accepted": load.altered,
            "links_made": proxy.accepted,
        }
        harmed = deeds.total() - deeds["reorder"]
        verdict.figures |= {"altered_or_replayed": harmed}
        verdict.demand(harmed >= count, f"only {harmed} messages were altered or replayed")
        verdict.figures |= {"events": load.events, "refused_by_the_server": refused}
        raised = load.count(Outcome.RAISED)
        verdict.demand(not load.altered, f"{load.altered} altered messages were accepted")
        verdict.demand(not load.run_twice(), f"{load.run_twice()} requests ran twice")
        verdict.demand(not raised, f"{raised} callers were told an error that nobody had raised")
        await bench.demand_answers(verdict, cell, ["R1.C1"])
    return verdict


async def forged_beside(bench: Bench) -> Verdict:
    """F19: a relay speaks in the name of a cell beside it; its parent knows better, and nobody else could."""
    return _judged("beside", await _forge(bench, "R2"))


async def forged_below(bench: Bench) -> Verdict:
    """F19: a relay speaks in the name of a cell below it; only the destination sees that it is not who it says."""
    bench.provision({"R1": "server", "C1": "R1"})
    return _judged("below", await _forge(bench, "R1.C1"))


def _judged(where: str, accepted: int) -> Verdict:
    verdict = Verdict({f"forged_{where}_accepted": accepted})
    verdict.demand(not accepted, f"{accepted} requests ran in the name of a cell {where} the relay that sent them")
    return verdict


async def _forge(bench: Bench, name: str) -> int:
    """Let a relay ask the server in the name of another cell; return how many of these requests ran so."""
    server = await bench.start("server", listens=True)

    async def ask(cell: Cell, number: int) -> None:
        with suppress(CellError, TimeoutError), anyio.fail_after(FORGED_SECONDS):
            await cell.request("server", "work", payload(str(number), 0.0))

    async with bench.cell("R1", server.url) as (cell, _url), anyio.create_task_group() as asking:
        endpoint, forged = cell._endpoint, FQCN(name)
        endpoint.router.fqcn = forged
        if forged.parent == FQCN("R1"):  # whom nobody has heard of would get no answer
            endpoint._presence._tell([[1, name, "client", "", endpoint._epoch, "tcp", "clear", []]])
        for number in range(FORGED):
            asking.start_soon(ask, cell, number)
    return sum(run.asked_by == name for run in server.runs())
