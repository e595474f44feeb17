"""The row about the memory that a large array, or a large file, takes on its way: F_MEM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from tests.faults.bench import Bench, Verdict
from tests.faults.growth import MIB, Growth

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["array_over_two_relays", "file_over_two_relays"]

RELAY_BYTES = 64 * MIB
BESIDE_BYTES = 64 * MIB
"""What its two ends may take besides the array itself."""
FILE_BYTES = 128 * MIB
"""What a file may take anywhere."""
SECONDS = 600.0
TREE = {"R1": "server", "R11": "R1", "C11": "R11"}
RELAYS, ENDS = ("R1", "R11"), ("server", "C11")


async def array_over_two_relays(bench: Bench) -> Verdict:
    """F_MEM: an array crosses two relays to the server; its two ends hold it once each, and the relays not at all."""
    size = int(bench.pick(2560, 256, 128)) * MIB
    limits = {**dict.fromkeys(RELAYS, RELAY_BYTES), **dict.fromkeys(ENDS, size + BESIDE_BYTES)}
    seed = bench.rng.getrandbits(32)
    return await _sent(bench, "array", size, limits, lambda size: ("send", ["server", seed, size]))


async def file_over_two_relays(bench: Bench) -> Verdict:
    """F_MEM: a file crosses two relays, from disk to disk; it is never in anybody's memory."""
    size = int(bench.pick(2560, 512, 256)) * MIB
    limits = dict.fromkeys((*RELAYS, *ENDS), FILE_BYTES)
    return await _sent(bench, "file", size, limits, lambda size: ("send_file", ["server", str(bench.file(size))]))


async def _sent(
    bench: Bench, kind: str, size: int, limits: dict[str, int], task: Callable[[int], tuple[str, object]]
) -> Verdict:
    """Let C11 send something to the server, and see how much memory that takes everywhere.

    :param task: returns what C11 is asked, to have it send so many bytes
    """
    bench.provision({**TREE, "A": "R1"})
    cells = await bench.start_tree(TREE, files=["server"])
    async with bench.cell("A", cells["R1"].url) as (cell, _url):
        await bench.settle(cell, ["R1.R11.C11"])
        # What is done for the first time, such as the import of numpy, is none of it.
        assert await cell.request("R1.R11.C11", *task(MIB))
        asked = task(size)
        growth = Growth({name: process.pid for name, process in cells.items()})
        began = anyio.current_time()
        with anyio.fail_after(SECONDS):
            is_right = await cell.request("R1.R11.C11", *asked)
        verdict = Verdict({f"{kind}_mib": size // MIB, f"{kind}_seconds": round(anyio.current_time() - began, 1)})
        verdict.demand(is_right, f"the {kind} did not come as it was sent")
        growth.judge(verdict, limits, of=kind)
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict
