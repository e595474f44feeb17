"""An operator's command beside a node: a cell that joins the node's own over its local socket.

Whoever can read the node's kit may command the node: the kit's key delegates to a key made for the command.
"""

from __future__ import annotations

import datetime
import secrets
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from cellnet.cell import Cell
from cellnet.errors import ConfigurationError, ConnectError, Indeterminate, JobError, RemoteError, Unreachable
from cellnet.fqcn import ROOT
from cellnet.kit import Kit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from cellnet.message import Request

__all__ = [
    "SOCKET",
    "PresentCell",
    "ask_server",
    "check_operator",
    "operator_cell",
    "present_cells",
    "present_page",
    "run_folder",
    "told_by_server",
]

SOCKET = "cell.sock"
CREDENTIAL_HOURS = 24
CONNECT_SECONDS = 10.0
PAGE = 100
"""Cells in one answer; the longest names are 255 bytes."""


@dataclass(frozen=True, slots=True)
class PresentCell:
    """Describe a cell that is present in the network, as the server sees it."""

    fqcn: str
    role: str
    fqsn: str
    """Empty for a cell that is no site."""
    driver: str
    security: str


def run_folder(kit: Kit, run_dir: Path | str | None = None) -> Path:
    """Return where the node of *kit* has its local socket."""
    return kit.path / "run" if run_dir is None else Path(run_dir).absolute()


@contextmanager
def told_by_server() -> Iterator[None]:
    """Raise what our own server says is wrong with a job as what it is there, not as a far cell's error."""
    try:
        yield
    except RemoteError as error:
        raise (JobError(error.message) if error.code == JobError.__name__ else error) from None


@asynccontextmanager
async def operator_cell(kit_path: Path | str, run_dir: Path | str | None = None) -> AsyncIterator[Cell]:
    """Join the server that runs on this machine with the kit at *kit_path*, as its operator.

    :raises ConfigurationError: if the kit cannot be used, or is not a server's
    :raises ConnectError: if the server does not run
    """
    kit = Kit.load(kit_path)
    if kit.role != "server":
        raise ConfigurationError(f"is the kit of a {kit.role}: give the server's", str(kit.path))
    socket = run_folder(kit, run_dir) / SOCKET
    if not socket.is_socket():
        raise ConnectError(f"the server does not run: there is no {socket}; start it with: cellnet start {kit.path}")
    name = f"command-{secrets.token_hex(4)}"
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=CREDENTIAL_HOURS)
    credentials = kit.credentials.delegate(name, "operator", expiry)
    async with Cell(name) as cell:
        with anyio.move_on_after(CONNECT_SECONDS) as limit:
            await cell.connect(f"unix://{socket}", credentials, reconnect=False)
        if limit.cancelled_caught:
            raise ConnectError(f"the server does not answer at {socket}: it was killed, or is stuck; start it again")
        with told_by_server():
            yield cell


async def ask_server(cell: Cell, topic: str, payload: object = None) -> Any:
    """Ask the server that a command's *cell* has joined.

    A command never joins again, so a lost link is told at once, and not at the deadline.

    :raises ConnectError: if the server ended, or does not answer in time
    """
    try:
        return await cell.request(ROOT, topic, payload, once=False)
    except (Unreachable, Indeterminate) as error:
        raise ConnectError(f"the server ended, or is stuck: see its log ({error})") from error


async def present_cells(kit_path: Path | str, run_dir: Path | str | None = None) -> list[PresentCell]:
    """Return the cells that are present below the server, which runs on this machine.

    :raises ConfigurationError: as :func:`operator_cell`
    :raises ConnectError: as :func:`operator_cell`
    """
    async with operator_cell(kit_path, run_dir) as cell:
        found: list[PresentCell] = []
        while page := await ask_server(cell, "cells.present", found[-1].fqcn if found else ""):
            found += [PresentCell(*fields) for fields in page]
    return found


def check_operator(cell: Cell, request: Request) -> None:
    """Let only a command pass that its own operator runs beside this node.

    :raises JobError: if the request comes from anybody else
    """
    # the role comes from a delegation by our own key only right below us; further down, from another site's
    if request.origin.depth == 1:
        for member in cell.members():
            if member.fqcn == request.origin and member.role == "operator":
                return
    raise JobError(f"{request.topic} is for the server's operator, {request.origin} is not that")


def present_page(cell: Cell, request: Request) -> list[list[str]]:
    """Answer what :func:`present_cells` asks: the next cells after a name, without job processes and commands.

    :raises JobError: if the request is not the operator's, or names no cell
    """
    check_operator(cell, request)
    if not isinstance(request.payload, str):
        raise JobError("a cell's name is wanted")
    members = [member for member in cell.members() if member.role not in ("job", "operator")]
    later = sorted(
        (str(member.fqcn), member.role, member.fqsn, member.driver, member.security)
        for member in members
        if str(member.fqcn) > request.payload
    )
    return [list(fields) for fields in later[:PAGE]]
