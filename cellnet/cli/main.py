"""The command group: what an operator types. Each command imports what it needs only when it runs."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from cellnet.errors import CellError, ConfigurationError
from cellnet.groups import leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["main"]

_ELSEWHERE = {
    "add": ("provisioning.cli", "add"),
    "ca": ("cellnet.cli.authority", "ca"),
    "check": ("cellnet.cli.kits", "check"),
    "demo": ("cellnet.cli.demo", "demo"),
    "expiry": ("cellnet.cli.kits", "expiry"),
    "inspect": ("cellnet.cli.kits", "inspect"),
    "issuer": ("cellnet.cli.issuer", "issuer"),
    "migrate": ("provisioning.cli", "migrate"),
    "pack": ("cellnet.cli.kits", "pack"),
    "plan": ("provisioning.cli", "plan"),
    "provision": ("provisioning.cli", "provision_"),
    "request": ("provisioning.cli", "request"),
    "revoke": ("provisioning.cli", "revoke_"),
    "schema": ("provisioning.cli", "schema"),
    "sign": ("provisioning.cli", "sign"),
    "tree": ("provisioning.cli", "tree"),
    "unpack": ("cellnet.cli.kits", "unpack"),
    "validate": ("provisioning.cli", "validate"),
    "verify": ("cellnet.cli.kits", "verify"),
}
"""Commands that live elsewhere: their module, and their name in it."""

INTERRUPTED = 130

_KIT = click.argument("kit", metavar="KIT", type=click.Path(path_type=Path))
_RUN = click.option(
    "--run", "run_dir", metavar="DIR", type=click.Path(path_type=Path), help="The folder of the node's local socket."
)
_BACKEND = click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True, help="The event loop."
)


class _Failed(click.ClickException):
    """An error that is the operator's, the network's or a job's: one message, no traceback."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"cellnet: error: {self.format_message()}", file=file, err=file is None)


class _Commands(click.Group):
    """The commands below, those that live elsewhere, and one way to say what went wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = _ELSEWHERE[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CellError as error:
            raise _Failed(str(error)) from None
        except BaseExceptionGroup as group:
            # a task group wraps what its tasks raise; anything but our own errors is a bug, and keeps its traceback
            if group.subgroup(lambda error: not isinstance(error, CellError | BaseExceptionGroup)) is not None:
                raise
            raise _Failed("\n".join(dict.fromkeys(map(str, leaves(group))))) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cellnet-fl", message="cellnet %(version)s")
def main() -> None:
    """Run named cells that reach each other over a hierarchy of relays, and jobs on them."""


@main.command()
@_KIT
@_RUN
@_BACKEND
def start(kit: Path, run_dir: Path | None, backend: str) -> None:
    """Run the node whose startup kit is the folder KIT, until SIGTERM or Ctrl-C.

    It prints one line when it has joined its parent, or listens; its log goes to stderr. A second signal ends it at
    once.
    """
    from cellnet.node import run_node, run_until_signalled
    from relays import run_relay

    _refuse_foreign(kit)
    _log_to_stderr()
    run_until_signalled(partial(run_node, kit, run_dir, relay=run_relay, backend=backend), backend=backend)


@main.command()
@_KIT
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--sites", metavar="A,B", help="Base names or FQSNs of the clients that take part; all by default.")
@click.option("--flat", is_flag=True, help="Every client reports to the server itself, not to its parent.")
@click.option("--config", metavar="JSON", default="{}", help="What the job's code finds in job.config.")
@click.option("--json", "as_json", is_flag=True, help="Print every report, and the result, as one JSON object a line.")
@_RUN
@_BACKEND
def submit(
    kit: Path,
    bundle: Path,
    sites: str | None,
    flat: bool,
    config: str,
    as_json: bool,
    run_dir: Path | None,
    backend: str,
) -> None:
    """Run the job in the folder BUNDLE, by the server on this machine whose startup kit is KIT; print its reports.

    Ctrl-C ends the job at all sites.
    """
    import anyio

    _log_to_stderr(logging.ERROR)
    settings = _settings(config)
    chosen = None if sites is None else [name.strip() for name in sites.split(",") if name.strip()]
    options = {"sites": chosen, "flat": flat, "config": settings, "run_dir": run_dir}
    ended = anyio.run(partial(_submit, kit, bundle, options, as_json), backend=backend)
    if not ended:
        click.echo("interrupted: the job was ended at all sites", err=True)
        sys.exit(INTERRUPTED)


async def _submit(kit: Path, bundle: Path, options: Mapping[str, Any], as_json: bool) -> bool:
    """Run the job to its end, and return True; False, if a signal came before."""
    import signal

    import anyio

    from cellnet.jobs.submission import submitted

    ended = False
    async with anyio.create_task_group() as tasks:

        async def cancel_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _number in signals:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(cancel_on_signal)
        async with submitted(kit, bundle, **options) as run:
            click.echo(json.dumps({"job": run.job}) if as_json else f"{run.job} runs")
            async for report in run:
                click.echo(json.dumps(dict(report), default=repr) if as_json else _line(report))
            result = run.result
        click.echo(_summary(result, as_json))
        ended = True
        tasks.cancel_scope.cancel()
    return ended


def _refuse_foreign(kit: Path) -> None:
    """Say exactly what a kit of another tool's lacks, if it is one."""
    if not any((kit / "startup").glob("fed_*.json")):
        return
    from cellnet.clock import wall_time
    from provisioning.foreign import is_foreign, missing, read_foreign

    if is_foreign(kit) and (faults := missing(read_foreign(kit), wall_time())):
        raise ConfigurationError("\n".join(faults))


def _summary(result: Any, as_json: bool) -> str:
    figures = {"job": result.job, "sites": list(result.sites), "messages": result.messages, "bytes": result.bytes}
    if as_json:
        return json.dumps(figures)
    return (
        f"{result.job} ended: {len(result.sites)} sites took part, {result.messages} results of together "
        f"{result.bytes} bytes reached the server"
    )


def _line(report: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if type(value) is float else f"{key} {value}" for key, value in report.items()
    )


def _settings(config: str) -> dict[str, Any]:
    try:
        settings = json.loads(config)
    except ValueError as error:
        raise ConfigurationError(f"--config is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigurationError('--config must be a JSON object, such as {"rounds": 5}')
    return settings


def _log_to_stderr(level: int = logging.INFO) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
