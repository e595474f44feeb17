"""The command ``python -m cellnet.simulation``, which shows one run again."""

from __future__ import annotations

import sys
import time

import click

from cellnet.simulation.run import MIN_CELLS, simulate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, required=True, help="What everything is drawn from.")
@click.option("--cells", type=click.IntRange(min=2), help=f"How many cells; otherwise drawn, {MIN_CELLS} or more.")
@click.option("--seconds", type=click.FloatRange(min=10), default=120.0, show_default=True, help="Virtual seconds.")
@click.option("--faults", type=click.IntRange(min=0), default=20, show_default=True, help="How many faults.")
@click.option("--errands", type=click.IntRange(min=0), default=300, show_default=True, help="How many messages.")
@click.option("--hostile", is_flag=True, help="Also do what TCP does not: repeat, reorder and drop frames.")
@click.option("--trace", is_flag=True, help="Print all that happened.")
def main(
    seed: int,
    cells: int | None,
    seconds: float,
    faults: int,
    errands: int,
    *,
    hostile: bool,
    trace: bool,
) -> None:
    """Simulate a network in virtual time, and print what must not have happened in it."""
    begin = time.process_time()
    run = simulate(seed, cells=cells, seconds=seconds, faults=faults, errands=errands, hostile=hostile)
    spent = time.process_time() - begin
    if trace:
        click.echo("\n".join(run.lines))
    click.echo(f"trace {run.trace}")
    click.echo(f"cells {run.cells}, {run.seconds:g} virtual seconds, {spent:.2f} s of CPU, {len(run.lines)} lines")
    click.echo("requests " + ", ".join(f"{name} {count}" for name, count in run.history.counts().items()))
    click.echo("faults " + (", ".join(f"{f.name} {n}" for f, n in sorted(run.faults.items(), key=_name)) or "none"))
    violations = run.violations()
    for violation in violations:
        click.echo(f"violation: {violation}")
    sys.exit(1 if violations else 0)


def _name(item: tuple[object, int]) -> str:
    return str(item[0])


if __name__ == "__main__":
    main(prog_name="python -m cellnet.simulation")
