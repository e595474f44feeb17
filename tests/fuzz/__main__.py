"""The command ``python -m tests.fuzz``: mutated inputs for every decoder, one row each, and a table of them."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from tests.fuzz.campaign import LIMIT_MIB, LIMIT_MS, run
from tests.fuzz.plan import PLAN

if TYPE_CHECKING:
    from tests.fuzz.campaign import Row, Wrong


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--mutations", type=click.IntRange(min=1), default=1_000_000, help="Shared by all decoders.")
@click.option("--seed", type=int, default=None, help="Of all that is drawn by lot; another one each time by default.")
@click.option("--only", metavar="NAME,NAME", default="", help="Feed these decoders only.")
@click.option("--first", type=click.IntRange(min=0), default=0, help="The number of each decoder's first input.")
def main(mutations: int, seed: int | None, only: str, first: int) -> None:
    """Feed decoders with inputs that were valid, and demand documented errors, little time and little memory."""
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(PLAN)
    if unknown := [name for name in wanted if name not in PLAN]:
        raise click.BadParameter(f"there is no {', '.join(unknown)}: there are {', '.join(PLAN)}", param_hint="--only")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    began = time.process_time()
    rows = run({name: PLAN[name] for name in wanted}, mutations, seed, first=first)
    console = Console()
    console.print(_table(rows, f"seed {seed}, {time.process_time() - began:.0f} s of processor time"))
    wrong = [one for row in rows for one in row.wrong]
    for one in wrong:
        click.echo(explained(one, seed))
    sys.exit(bool(wrong))


def explained(wrong: Wrong, seed: int) -> str:
    """Return what is wrong with an input, the input, and how to see it again."""
    count = wrong.number - wrong.first + 1
    again = f"python -m tests.fuzz --only {wrong.target!r} --seed {seed} --first {wrong.first} --mutations {count}"
    return f"\n{wrong.target}, input {wrong.number}: {wrong.reason}\n  {wrong.data.hex()}\n  again: {again}"


def _table(rows: list[Row], title: str) -> Table:
    table = Table(title=title, show_footer=True)
    inputs, signed = sum(row.inputs for row in rows), sum(row.inputs for row in rows if row.is_signed)
    refused, slowest = sum(row.refused for row in rows), max(row.slowest_ms for row in rows)
    growth = sum(row.growth_mib for row in rows)
    for header, footer in (
        ("decoder", "all"),
        ("inputs", f"{inputs:,}"),
        ("signed anew", f"{signed:,}"),
        ("refused", f"{refused:,}"),
        ("slowest, ms of CPU", f"{slowest:.1f} of {LIMIT_MS:.0f}"),
        ("growth, MiB", f"{growth:.1f} of {LIMIT_MIB:.0f}"),
    ):
        table.add_column(header, footer=footer, justify="left" if header == "decoder" else "right")
    for row in rows:
        figures = f"{row.inputs:,}", f"{row.inputs:,}" if row.is_signed else "", f"{row.refused:,}"
        colour = "red" if row.wrong else None
        table.add_row(row.name, *figures, f"{row.slowest_ms:.1f}", f"{row.growth_mib:.1f}", style=colour)
    return table


if __name__ == "__main__":
    main(prog_name="python -m tests.fuzz")
