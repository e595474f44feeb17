"""The row about the memory that a large array takes on its way: F_MEM."""

from __future__ import annotations

import anyio

from tests.faults.bench import Bench, Verdict
from tests.faults.growth import MIB, Growth

__all__ = ["array_over_two_relays"]

RELAY_BYTES = 64 * MIB
BESIDE_BYTES = 64 * MIB
"""What its two ends may take besides the array itself."""
SECONDS = 600.0
WARM_BYTES = MIB
TREE = {"R1": "server", "R11": "R1", "C11": "R11"}


async def array_over_two_relays(bench: Bench) -> Verdict:
    """F_MEM: an array crosses two relays to the server; its two ends hold it once each, and the relays not at all."""
    size = int(bench.pick(2560, 256, 128)) * MIB
    bench.provision({**TREE, "A": "R1"})
    cells = await bench.start_tree(TREE)
    async with bench.cell("A", cells["R1"].url) as (cell, _url):
        await bench.settle(cell, ["R1.R11.C11"])
        # Both ends import numpy at the first array.
        assert await cell.request("R1.R11.C11", "send", ["server", 0, WARM_BYTES])
        growth = Growth({name: process.pid for name, process in cells.items()})
        began = anyio.current_time()
        with anyio.fail_after(SECONDS):
            is_right = await cell.request("R1.R11.C11", "send", ["server", bench.rng.getrandbits(32), size])
        seconds = anyio.current_time() - began
        verdict = Verdict({"mib": size // MIB, "seconds": round(seconds, 1)})
        verdict.demand(is_right, "the array did not come as it was sent")
        limits = {**dict.fromkeys(("R1", "R11"), RELAY_BYTES), **dict.fromkeys(("server", "C11"), size + BESIDE_BYTES)}
        growth.judge(verdict, limits)
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict
