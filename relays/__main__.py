"""The command ``python -P -m relays KIT``."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

import click

from cellnet.errors import CellError
from cellnet.kit import Kit
from cellnet.node import BACKENDS, run_until_signalled
from relays.relay import run_relay


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kit", metavar="KIT", type=click.Path(path_type=Path))
@click.option("--backend", type=click.Choice(BACKENDS), default="asyncio", show_default=True, help="The event loop.")
def main(kit: Path, backend: str) -> None:
    """Run the relay whose startup kit is the folder KIT, until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run_until_signalled(partial(run_relay, Kit.load(kit)), backend=backend)
    except CellError as error:
        click.echo(f"relays: error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m relays")
