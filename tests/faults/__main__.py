"""The command ``python -m tests.faults``: real processes under real faults, one row each, and a table of them."""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellnet.heap import keep_freed
from tests.faults.bench import Size
from tests.faults.planted import PLANTS
from tests.faults.rows import ROWS, Options, run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Smaller numbers: all rows in ten minutes on two processors.")
@click.option("--only", metavar="F1,F22", default="", help="Run these rows only.")
@click.option("--seed", type=int, default=None, help="Of all that is drawn by lot; another one each time by default.")
@click.option("--clear", is_flag=True, help="Give cells no certificates. Links are clear anyhow, for the proxy.")
@click.option("--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", help="Of the cells' processes.")
@click.option("--scheme", type=click.Choice(["tcp", "http", "grpc"]), default="tcp", help="Of the links.")
@click.option("--plant", type=click.Choice(list(PLANTS)), default=None, help="A bug for the cells, to see rows red.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("faults.json"), help="Where figures go.")
def main(
    quick: bool, only: str, seed: int | None, clear: bool, backend: str, scheme: str, plant: str | None, path: Path
) -> None:
    """Run cells as processes, do to them what happens to networks, and compare with what is promised."""
    names = {name.upper(): name for name in ROWS}
    asked = [name.strip() for name in only.split(",") if name.strip()]
    wanted = [names.get(name.upper(), name) for name in asked] or list(ROWS)
    if unknown := [name for name in wanted if name not in ROWS]:
        raise click.BadParameter(f"there is no {', '.join(unknown)}: there are {', '.join(ROWS)}", param_hint="--only")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    options = Options(Size.QUICK if quick else Size.FULL, seed, clear, backend, plant, scheme)
    signal.signal(signal.SIGTERM, _interrupt)  # ended in order, like Ctrl-C: its cells end with it
    keep_freed()  # as a node does: the server of most rows is a cell of this process
    logging.basicConfig(level=logging.ERROR)  # that links break is what happens here
    console = Console()
    found = []
    try:
        for name in wanted:
            console.print(f"{name}: {_described(name)}")
            found.append(run(name, options))
            console.print(f"    {'passed' if found[-1]['passed'] else 'failed'} after {found[-1]['seconds']:.0f} s")
    except KeyboardInterrupt:
        console.print("interrupted: all processes were ended")
        sys.exit(130)
    path.write_text(json.dumps(found, indent=1) + "\n")
    report(console, found, seed)
    sys.exit(not all(row["passed"] for row in found))


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


def _described(name: str) -> str:
    first, *_more = ROWS[name]
    return (first.__doc__ or "").partition(": ")[2]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m tests.faults")
