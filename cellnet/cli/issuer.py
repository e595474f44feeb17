"""The command that runs the issuer."""

from __future__ import annotations

import datetime
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from cellnet.cell import Cell
from cellnet.node import run_until_signalled
from cellnet.renewal import RENEW_TOPIC
from provisioning.cli import DAYS, KEY_FILE, OUT, PASSPHRASE, lock_for
from provisioning.issuer import Issuer
from provisioning.registry import FOLDER, Registry

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from cellnet.message import Request

__all__ = ["issuer", "run_issuer"]


@click.command()
@OUT
@click.option(
    "--socket", metavar="PATH", type=click.Path(path_type=Path), required=True, help="Where the server's node finds it."
)
@KEY_FILE
@PASSPHRASE
@DAYS
def issuer(out: Path, socket: Path, key_file: Path | None, passphrase: bool, days: float) -> None:
    """Run the issuer of the project in DIR until Ctrl-C: it renews the certificates of nodes that prove their old ones.

    Its key is in this process alone. The server's node hands requests on to it, if local/network.yml of its kit says
    'issuer: PATH'; who may open the socket may ask.
    """
    project = Registry.project_in(out / FOLDER)
    holder = Issuer(out / FOLDER, lock_for(project, out, key_file, passphrase), datetime.timedelta(days=days))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_until_signalled(partial(run_issuer, holder, socket))


async def run_issuer(
    holder: Issuer, socket: Path, *, stop: anyio.Event, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Answer requests at a local socket until *stop* is set; report one line when it listens.

    :raises ConfigurationError: if it cannot listen there
    """

    async def renew(request: Request) -> dict[str, Any]:
        return await holder.renew(request.payload)

    async with Cell("server", handlers={RENEW_TOPIC: renew}) as cell:
        url = await cell.listen(f"unix://{socket.absolute()}", security="clear")
        task_status.started(f"the issuer of project {holder.project} listens at {url}")
        await stop.wait()
