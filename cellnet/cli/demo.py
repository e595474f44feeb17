"""``cellnet demo``: a whole federation on this machine, from a project file to a trained model."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from cellnet.errors import CellError, ConfigurationError
from cellnet.groups import unwrapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from cellnet.cli.summary import Summary

__all__ = ["demo"]

ROUNDS = 25
LARGE_ROUNDS = 2
"""Of a model with ballast: two show that it comes back and goes out again."""
MAX_MODEL_MIB = 256
INTERRUPTED = 130
TOLERANCE = 1e-6
"""How far the hierarchical model may be from the flat one; rounding alone makes about 1e-15."""


@click.command()
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    show_default=f"{ROUNDS}; with --model-mib {LARGE_ROUNDS}",
    help="Rounds of training.",
)
@click.option(
    "--model-mib",
    type=click.IntRange(0, MAX_MODEL_MIB),
    default=0,
    help="MiB of further weights, and a progress bar for each site. Each of seven processes holds them several times.",
)
@click.option("--scheme", type=click.Choice(["grpc", "tcp", "http"]), help="Of all links, whatever the project says.")
@click.option("--security", type=click.Choice(["mtls", "tls", "clear"]), help="Of all links, likewise.")
@click.option("--project", type=click.Path(path_type=Path), help="A project file of your own; its ports are replaced.")
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder, in which kits and logs are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line, all else to stderr.")
def demo(
    rounds: int | None,
    model_mib: int,
    scheme: str | None,
    security: str | None,
    project: Path | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Bring up a federation on this machine and train a model over it.

    Nine nodes start as processes of their own, by default joined by mutual TLS: a server, two relays, six clients.
    They learn to read handwritten digits, combining results on the way up the client hierarchy, then once more
    without it.
    """
    started = time.monotonic()
    training = {"rounds": rounds or (LARGE_ROUNDS if model_mib else ROUNDS), "ballast_mib": model_mib}
    settings = {key: value for key, value in (("scheme", scheme), ("connection_security", security)) if value}
    if importlib.util.find_spec("numpy") is None:
        raise ConfigurationError("the demo needs numpy, which is not installed: pip install 'cellnet-fl[demo]'")
    # what cells log is for operators: the demo tells of a lost link by the node that failed
    logging.getLogger("cellnet").addHandler(logging.NullHandler())

    async def work() -> Summary:
        # not before signals are ours: this takes a moment, in which Ctrl-C would be a traceback
        from rich.console import Console

        from cellnet.cli.showcase import show

        console = Console(stderr=as_json, highlight=False, markup=False)
        with _workspace(keep) as folder:
            summary = await show(console, folder, training, project=project, settings=settings, started=started)
        summary.show(console)
        return summary

    try:
        with unwrapped():
            summary = anyio.run(_unless_interrupted, work)
    except KeyboardInterrupt:  # before the signals were ours, or after: there is nothing to clean up
        summary = None
    if summary is None:
        click.echo("Interrupted: every process has ended, nothing is left behind.", err=as_json)
        raise SystemExit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(summary.as_json()))
    if summary.weights_difference > TOLERANCE:
        raise CellError("the hierarchical model is not the flat one: please report this")


async def _unless_interrupted(work: Callable[[], Awaitable[Summary]]) -> Summary | None:
    """Do *work*; return None if a signal ended it.

    Until everything is cleaned up, further signals change nothing: impatience must not leave processes behind.
    """
    summary = None
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:

            async def cancel_on_signal() -> None:
                async for _ in signals:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(cancel_on_signal)
            summary = await work()
            tasks.cancel_scope.cancel()
    return summary


@contextmanager
def _workspace(keep: Path | None) -> Iterator[Path]:
    """Make a temporary folder; at the end it is gone, or has become the folder *keep*."""
    if keep is not None:
        _check_new(keep)
    # short, as the path of a socket has 108 bytes at most, on some systems less
    folder = Path(tempfile.mkdtemp(prefix="cellnet-"))
    try:
        yield folder
    finally:
        if keep is not None:
            shutil.move(folder, keep)
        shutil.rmtree(folder, ignore_errors=True)


def _check_new(keep: Path) -> None:
    if keep.exists():
        raise ConfigurationError("exists already: name a new folder for kits and logs", str(keep))
    if not keep.absolute().parent.is_dir():
        raise ConfigurationError("there is no such folder to make a new one in", str(keep.absolute().parent))
