"""The command ``python -m benchmarks [NAMES]``."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from benchmarks import kits
from benchmarks.bench import BENCHES
from benchmarks.contestants import CONTESTANTS
from benchmarks.race import RaceFailed, run
from benchmarks.report import Line, markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.bench import Bench

QUICK_SHARE = 0.1
QUICK_MIB = 64
QUICK_CELLS = 100


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)), metavar="[NAMES]")
@click.option("--who", default=",".join(CONTESTANTS), show_default=True, help="The contestants, ours first.")
@click.option("--driver", help="Only over this one: tcp, grpc or http.")
@click.option("--security", help="Only in these modes: clear, mtls or mtls+sealed. Peers have no sealing.")
@click.option("--hops", type=click.IntRange(1, 2), default=2, show_default=True, help="1: without a relay.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each runs, in turn.")
@click.option("--quick", is_flag=True, help="Less work, and two rounds: to see that it works, not how fast.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write one JSON object per line there.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="Write the tables there.")
def main(
    names: Sequence[str],
    who: str,
    driver: str | None,
    security: str | None,
    hops: int,
    rounds: int,
    json_file: Path | None,
    markdown_file: Path | None,
    *,
    quick: bool,
) -> None:
    """Run cellnet and its peers in turn, each in processes of its own, and compare what they do and what it costs.

    NAMES are rtt, requests, bulk, stream, broadcast and scale; all of them by default. Peers that are not
    installed are left out: make bench-peers installs them.
    """
    benches = [BENCHES[name] for name in names or BENCHES]
    if quick:
        benches, rounds = [_quick(bench) for bench in benches], 2
    lines = [line for bench in benches for line in _lines(bench, who.split(","), driver, security, hops)]
    try:
        with tempfile.TemporaryDirectory(prefix="cellnet-bench-") as folder:
            _run_all(lines, rounds, kits.write(Path(folder), with_relay=hops > 1))
    except RaceFailed as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    tables = "\n\n".join(
        markdown(bench, of_bench) for bench in benches if (of_bench := [line for line in lines if line.bench is bench])
    )
    click.echo(tables)
    if json_file is not None:
        json_file.write_text("".join(f"{line.json()}\n" for line in lines))
    if markdown_file is not None:
        markdown_file.write_text(f"{tables}\n")


def _lines(bench: Bench, who: list[str], driver: str | None, security: str | None, hops: int) -> Iterator[Line]:
    for name in who:
        if name not in CONTESTANTS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(CONTESTANTS)}", param_hint="--who")
        contestant = CONTESTANTS[name]
        if not contestant.interpreter.exists():
            click.echo(f"{name} is not installed, and left out: make bench-peers installs it", err=True)
            continue
        for way in contestant.ways_of(bench):
            if driver in (None, way.driver) and (security is None or way.security in security.split(",")):
                yield Line(bench, way, hops if not bench.is_fanned and bench.name != "scale" else 2)


def _run_all(lines: list[Line], rounds: int, kits: Path) -> None:
    """Run each line's way once in each round, so that a slow minute of the machine is everybody's."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=rounds * len(lines))
        for bench in dict.fromkeys(line.bench for line in lines):
            for number in range(1, rounds + 1):
                for line in lines:
                    if line.bench is bench:
                        progress.update(task, description=f"{bench.name} {number}/{rounds}: {line.way}")
                        line.runs.append(run(line.way, bench, line.hops, kits))
                        progress.advance(task)


def _quick(bench: Bench) -> Bench:
    size = min(bench.size, QUICK_MIB << 20)
    return replace(bench.scaled(QUICK_SHARE), size=size, cells=min(bench.cells, QUICK_CELLS))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
