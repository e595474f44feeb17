"""The command ``python -m cellnet.simulation``, which shows one run again, or tries many seeds."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import click

from cellnet.simulation.run import MIN_CELLS, simulate
from cellnet.simulation.soak import soak, varied


def _range(_context: click.Context, _option: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise click.BadParameter(f"{text!r} is no range of seeds, such as 0-499")
    return range(int(first), int(last) + 1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="What everything is drawn from.")
@click.option("--seeds", metavar="A-B", callback=_range, help="Many runs; those are shown that break a rule.")
@click.option("--jobs", type=click.IntRange(min=1), help="How many of these at a time; otherwise one for each core.")
@click.option("--varied", "vary", is_flag=True, help="Of ten seeds, give one a hundred faults, and make one hostile.")
@click.option("--cells", type=click.IntRange(min=2), help=f"How many cells; otherwise drawn, {MIN_CELLS} or more.")
@click.option("--seconds", type=click.FloatRange(min=10), default=120.0, show_default=True, help="Virtual seconds.")
@click.option("--faults", type=click.IntRange(min=0), default=20, show_default=True, help="How many faults.")
@click.option("--errands", type=click.IntRange(min=0), default=200, show_default=True, help="How many messages.")
@click.option("--hostile", is_flag=True, help="Also do what TCP does not: repeat, reorder, drop and forge frames.")
@click.option("--trace", is_flag=True, help="Print all that happened.")
def main(seed: int | None, seeds: range | None, jobs: int | None, *, vary: bool, trace: bool, **options: Any) -> None:
    """Simulate a network in virtual time, and print what must not have happened in it."""
    if (seed is None) == (seeds is None):
        raise click.UsageError("either --seed or --seeds is wanted")
    if seed is not None:
        sys.exit(_show(seed, options, trace=trace))
    assert seeds is not None  # noqa: S101  # as one of the two is given
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it is told what was done, too
    special = varied if vary else lambda _seed: {}
    result = soak(seeds, jobs=jobs or os.cpu_count() or 1, tell=click.echo, special=special, **options)
    click.echo(result.summary)
    sys.exit(1 if result.broken or result.seeds < len(seeds) else 0)


def _show(seed: int, options: dict[str, Any], *, trace: bool) -> int:
    begin = time.process_time()
    run = simulate(seed, **options)
    spent = time.process_time() - begin
    if trace:
        click.echo("\n".join(run.lines))
    click.echo(f"trace {run.trace}")
    click.echo(f"cells {run.cells}, {run.seconds:g} virtual seconds, {spent:.2f} s of CPU, {len(run.lines)} lines")
    click.echo("requests " + ", ".join(f"{name} {count}" for name, count in run.history.counts().items()))
    contents = sorted(run.history.deliveries.counts.items())
    click.echo("contents " + (", ".join(f"{name} {count}" for name, count in contents) or "none"))
    click.echo("faults " + (", ".join(f"{f.name} {n}" for f, n in sorted(run.faults.items(), key=_name)) or "none"))
    violations = run.violations()
    for violation in violations:
        click.echo(f"violation: {violation}")
    return 1 if violations else 0


def _name(item: tuple[object, int]) -> str:
    return str(item[0])


if __name__ == "__main__":
    main(prog_name="python -m cellnet.simulation")
