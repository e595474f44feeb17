"""The command ``python -m tests.faults``: real processes under real faults, one row each, and a table of them."""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.faults import hostile, kills, silences, storms
from tests.faults.bench import Bench, Verdict
from tests.faults.processes import Processes

if TYPE_CHECKING:
    from tests.faults.bench import Row

ROW_SECONDS = 900.0
QUICK_ROW_SECONDS = 150.0

ROWS: dict[str, Row] = {
    "F1": kills.relays_killed,
    "F4": kills.receiver_killed,
    "F7": silences.silent_neighbours,
    "F15": storms.reconnect_storm,
    "F16": silences.flapping_link,
    "F18": kills.rolling_restart,
    "F19": hostile.hostile_hop,
    "F22": storms.deadline_storm,
}
NEED_SEALING = {"F19"}
"""Rows that only sealed messages can pass: red in clear mode."""


@dataclass
class Options:
    """What the command was told."""

    quick: bool
    seed: int
    clear: bool
    backend: str


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Smaller numbers: all rows in ten minutes on two processors.")
@click.option("--only", metavar="F1,F22", default="", help="Run these rows only.")
@click.option("--seed", type=int, default=None, help="Of all that is drawn by lot; another one each time by default.")
@click.option("--clear", is_flag=True, help="Give cells no certificates. Links are clear anyhow, for the proxy.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", help="Of the cells' processes.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("faults.json"), help="Where figures go.")
def main(quick: bool, only: str, seed: int | None, clear: bool, backend: str, path: Path) -> None:
    """Run cells as processes, do to them what happens to networks, and compare with what is promised."""
    wanted = [name.strip().upper() for name in only.split(",") if name.strip()] or list(ROWS)
    if unknown := [name for name in wanted if name not in ROWS]:
        raise click.BadParameter(f"there is no {', '.join(unknown)}: there are {', '.join(ROWS)}", param_hint="--only")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    options = Options(quick, seed, clear, backend)
    signal.signal(signal.SIGTERM, _interrupt)  # ended in order, like Ctrl-C: its cells end with it
    logging.basicConfig(level=logging.ERROR)  # that links break is what happens here
    console = Console()
    found = []
    try:
        for name in wanted:
            console.print(f"{name}: {ROWS[name].__doc__.partition(': ')[2]}")  # type: ignore[union-attr]  # all have one
            found.append(run(name, options))
            console.print(f"    {'passed' if found[-1]['passed'] else 'failed'} after {found[-1]['seconds']:.0f} s")
    except KeyboardInterrupt:
        console.print("interrupted: all processes were ended")
        sys.exit(130)
    path.write_text(json.dumps(found, indent=1) + "\n")
    report(console, found, seed)
    sys.exit(not all(row["passed"] for row in found))


def run(name: str, options: Options) -> dict[str, Any]:
    """Run one row, whatever it does; return what goes into the file."""
    began = time.monotonic()
    uvloop = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    verdict: Verdict = anyio.run(_run, name, options, backend="asyncio", backend_options=uvloop)
    seconds = round(time.monotonic() - began, 1)
    figures = {**verdict.figures, "seed": options.seed}
    return {"id": name, "passed": verdict.passed, "figures": figures, "wrong": verdict.wrong, "seconds": seconds}


async def _run(name: str, options: Options) -> Verdict:
    limit = QUICK_ROW_SECONDS if options.quick else ROW_SECONDS
    # Each row draws its own lot: one alone does the same as among others.
    rng = random.Random(f"{options.seed} {name}")
    with (
        tempfile.TemporaryDirectory(prefix="cellnet-faults-") as folder,
        Processes(Path(folder), backend=options.backend) as processes,
    ):
        try:
            with anyio.fail_after(limit):
                with_credentials = name in NEED_SEALING or not options.clear
                return await ROWS[name](Bench(processes, rng, options.quick, with_credentials))
        except Exception as error:  # a row that fails is a result
            traceback.print_exc()
            return Verdict({}, [f"the row ended early: {type(error).__name__}: {error}", *processes.crashed()])


def report(console: Console, found: list[dict[str, Any]], seed: int) -> None:
    """Print what was found."""
    table = Table(title=f"Faults, seed {seed}")
    for column in ("row", "", "figures", "what is wrong"):
        table.add_column(column, overflow="fold")
    for row in found:
        figures = "\n".join(f"{key} {value}" for key, value in row["figures"].items() if key != "seed")
        table.add_row(
            row["id"],
            "passed" if row["passed"] else "FAILED",
            figures,
            escape("\n".join(row["wrong"])),
            end_section=True,
        )
    console.print(table)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m tests.faults")
