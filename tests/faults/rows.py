"""All rows, and how one is run: in a folder of its own, with processes that end with it, whatever happens."""

from __future__ import annotations

import importlib.util
import random
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from tests.faults import altered, bulk, hostile, kills, memory, moves, silences, slow, storms, unread
from tests.faults.bench import Bench, Size, Verdict
from tests.faults.processes import Processes

if TYPE_CHECKING:
    from tests.faults.bench import Row

__all__ = ["NEED_SEALING", "ROWS", "Options", "run", "run_part"]

SECONDS = {Size.FULL: 900.0, Size.QUICK: 150.0, Size.LEAST: 60.0}
"""How long a part of a row may take."""
ROWS: dict[str, tuple[Row, ...]] = {
    "F1": (kills.relays_killed,),
    "F1b": (bulk.relays_killed_below_transfers,),
    "F2": (moves.parent_killed_for_good, moves.parent_silent_for_good),
    "F4": (kills.receiver_killed,),
    "F7": (silences.silent_neighbours, silences.stopped_receiver),
    "F9": (slow.slow_child,),
    "F10": (unread.readers_that_never_read,),
    "F15": (storms.reconnect_storm,),
    "F16": (silences.flapping_link,),
    "F18": (kills.rolling_restart,),
    "F19": (hostile.hostile_hop, hostile.forged_beside, hostile.forged_below),
    "F19b": (altered.contents_altered,),
    "F22": (storms.deadline_storm,),
    "F_MEM": (memory.array_over_two_relays, memory.file_over_two_relays),
}
"""Each in its parts, which are run one after the other: a row has passed if all of them have."""
NEED_SEALING = {"F19", "F19b"}
"""Rows that only sealed messages can pass: red in clear mode."""


@dataclass
class Options:
    """How rows are run."""

    size: Size
    seed: int
    clear: bool = False
    """Whether cells have no certificates."""
    backend: str = "asyncio"
    """Of the cells' processes."""
    plant: str | None = None
    """The bug that the cells' processes have."""
    scheme: str = "tcp"
    """Of the links between them."""


def run(name: str, options: Options) -> dict[str, Any]:
    """Run one row, whatever it does; return what goes into the file."""
    began = time.monotonic()
    verdict = Verdict()
    # Each row draws its own lot: one alone does the same as among others.
    rng = random.Random(f"{options.seed} {name}")
    for part in ROWS[name]:
        verdict.add(run_part(part, options, rng, with_credentials=name in NEED_SEALING or not options.clear))
    seconds = round(time.monotonic() - began, 1)
    figures = {**verdict.figures, "seed": options.seed}
    return {"id": name, "passed": verdict.passed, "figures": figures, "wrong": verdict.wrong, "seconds": seconds}


def run_part(part: Row, options: Options, rng: random.Random, *, with_credentials: bool) -> Verdict:
    """Run one part of a row, and leave nothing of it."""
    uvloop = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    return anyio.run(_run, part, options, rng, with_credentials, backend="asyncio", backend_options=uvloop)


async def _run(part: Row, options: Options, rng: random.Random, with_credentials: bool) -> Verdict:
    with (
        tempfile.TemporaryDirectory(prefix="cellnet-faults-") as folder,
        Processes(Path(folder), backend=options.backend, plant=options.plant, scheme=options.scheme) as processes,
    ):
        try:
            with anyio.fail_after(SECONDS[options.size]):
                return await part(Bench(processes, rng, options.size, with_credentials))
        except Exception as error:  # a row that fails is a result
            traceback.print_exc()
            return Verdict({}, [f"the row ended early: {type(error).__name__}: {error}", *processes.crashed()])
