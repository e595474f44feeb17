"""A node: a process of any role, composed from its kit, and the signals that end it.

The server and the clients also listen on a local socket, for their job processes and their operator's commands. Its
folder is private, and is there only while the node runs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import math
import os
import shutil
import signal
import stat
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from cellnet.cell import Cell
from cellnet.drivers import through
from cellnet.drivers.base import Ingress
from cellnet.epoch import next_epoch
from cellnet.error_log import ERRORS_TOPIC, ErrorFile, errors_sent
from cellnet.errors import CellError, ConfigurationError
from cellnet.fqcn import FQSN, ROOT
from cellnet.groups import leaves
from cellnet.heap import keep_freed
from cellnet.jobs.coordinator import Coordinator
from cellnet.jobs.host import JobHost
from cellnet.jobs.operator import SOCKET, present_page, run_folder
from cellnet.kit import Kit
from cellnet.renewal import RENEW_TOPIC
from cellnet.upkeep import hand_on, kept_up
from cellnet.uplink import Parent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from anyio.abc import TaskStatus

    from cellnet.message import Request

__all__ = ["BACKENDS", "RelayRunner", "drain", "join", "joined_line", "parents_of", "run_node", "run_until_signalled"]

BACKENDS = ("asyncio", "trio")
MAX_SOCKET_BYTES = 100
"""Systems allow 104 or 108."""
JOBS = "jobs"
DRAIN_SECONDS = 10.0
"""How long a node that is to end answers what it has taken."""


class RelayRunner(Protocol):
    """Run a relay; this package does not know how."""

    def __call__(self, kit: Kit, *, stop: anyio.Event, task_status: TaskStatus[str]) -> Coroutine[Any, Any, None]:
        """Run the relay of *kit* until *stop* is set; report one line when it has joined."""
        ...


async def run_node(
    kit_path: Path | str,
    run_dir: Path | str | None = None,
    *,
    relay: RelayRunner | None = None,
    backend: str = "asyncio",
    stop: anyio.Event | None = None,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run the node of the kit at *kit_path*, whatever its role, until *stop* is set or it is cancelled.

    One line is reported when it has joined its parent, or listens.

    :param run_dir: where its local socket is to be; ``run`` in the kit by default
    :param relay: runs a relay
    :param backend: the event loop for job processes
    :raises ConfigurationError: if the kit, or the folder for the socket, cannot be used
    :raises HandshakeError: if the parent refuses this node
    """
    stop = stop or anyio.Event()
    kit = Kit.load(kit_path)
    if kit.role == "admin":
        raise ConfigurationError(
            "is the kit of an admin, who is no node: start the server, relays and clients", str(kit.path)
        )
    if kit.role == "relay":
        if relay is None:
            raise ConfigurationError("is the kit of a relay: start it with python -P -m relays", str(kit.path))
        await relay(kit, stop=stop, task_status=task_status)
        return
    with _private_folder(run_folder(kit, run_dir)) as folder:
        run = _run_server if kit.role == "server" else _run_client
        await run(kit, folder, backend, stop, task_status)


def run_until_signalled(node: Callable[..., Coroutine[Any, Any, None]], *, backend: str = "asyncio") -> None:
    """Run *node* on an event loop of its own until SIGTERM or SIGINT, and print the line that it reports.

    The first signal lets the node finish what it has begun. A second one ends the process at once.

    :param node: called with ``stop``, an event, and ``task_status``
    :raises CellError: if the node cannot run
    """
    keep_freed()
    options: dict[str, Any] = {}
    if backend == "asyncio":
        options["use_uvloop"] = importlib.util.find_spec("uvloop") is not None
    try:
        anyio.run(_until_signalled, node, backend=backend, backend_options=options)
    except BaseExceptionGroup as group:
        others = group.subgroup(lambda error: not isinstance(error, CellError | BaseExceptionGroup))
        if others is not None:
            raise
        raise next(leaves(group)) from None


async def join(cell: Cell, kit: Kit) -> None:
    """Let a node's cell join the first of its parents that takes it in, and stay joined.

    :raises HandshakeError: if one refuses it, and trying again would not help
    """
    first, *others = parents_of(kit)
    await cell.connect(first.url, kit.credentials, security=first.security, ingress=first.ingress, others=others)


def joined_line(cell: Cell) -> str:
    """Return what a node reports when it has joined a parent."""
    links = cell.statistics().links
    how = next((f" over {link.driver}, {link.security}" for link in links if link.neighbour == cell.fqcn.parent), "")
    return f"{cell.fqcn} joined {cell.fqcn.parent}{how}"


def parents_of(kit: Kit) -> list[Parent]:
    """Return whom a node may join, the best first.

    There may be an ingress in front of them: by the project file, or by what its site says.
    """
    authorities = kit.surroundings.ingress_ca or kit.ingress_ca
    return [
        Parent(end.url, end.security, Ingress(authorities) if authorities or end.parent is None else None)
        for end in (kit.connect, *kit.others)
        if end is not None
    ]


async def drain(cell: Cell) -> None:
    """Let a cell that is to end answer what it has taken, but not for long."""
    with anyio.move_on_after(DRAIN_SECONDS):
        await cell.drain()


async def _until_signalled(node: Callable[..., Coroutine[Any, Any, None]]) -> None:
    starting, stop = anyio.CancelScope(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_end_on_signal, starting, stop)
        async with anyio.create_task_group() as nodes:
            with starting:
                line = await nodes.start(partial(node, stop=stop))
                print(line, flush=True)  # noqa: T201 - for the operator, who may wait for it
        tasks.cancel_scope.cancel()


async def _end_on_signal(starting: anyio.CancelScope, stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()
            starting.cancel()


async def _run_server(kit: Kit, folder: Path, backend: str, stop: anyio.Event, task_status: TaskStatus[str]) -> None:
    assert kit.listen is not None  # noqa: S101 - a server's kit has it
    url = f"unix://{folder / SOCKET}"
    host = JobHost(FQSN(ROOT), kit.credentials, folder / JOBS, url, backend=backend, lease_seconds=math.inf)
    coordinator = Coordinator([FQSN(member.fqsn) for member in kit.roster if member.role == "client"], host)

    async def cells_present(request: Request) -> list[list[str]]:
        return present_page(cell, request)

    async def renew(request: Request) -> Any:
        return await hand_on(kit, request.payload)

    handlers = {**coordinator.handlers, "cells.present": cells_present, RENEW_TOPIC: renew}
    if kit.allow_error_sending:
        handlers[ERRORS_TOPIC] = ErrorFile(kit.local / "site-errors.jsonl").answer
    cell = Cell(kit.name, handlers=handlers, epoch=next_epoch(kit.local / "epoch"))
    async with (
        cell,
        kept_up(cell, kit),
        anyio.create_task_group() as draining,
        host.serving(cell),
        coordinator.serving(cell),
    ):
        await cell.listen(url, kit.credentials)
        bound = await cell.listen(kit.listen.url, kit.credentials, security=kit.listen.security)
        task_status.started(f"{ROOT} listens at {bound}, {kit.listen.security}")
        await stop.wait()
        draining.start_soon(drain, cell)  # first, so that nothing is taken that would find the jobs ended


async def _run_client(kit: Kit, folder: Path, backend: str, stop: anyio.Event, task_status: TaskStatus[str]) -> None:
    assert kit.connect is not None  # noqa: S101 - a client's kit has it
    placement = kit.credentials.placement
    assert placement is not None  # noqa: S101 - and this too
    url = f"unix://{folder / SOCKET}"
    host = JobHost(FQSN(placement.fqsn), kit.credentials, folder / JOBS, url, backend=backend)
    journal, epoch = kit.local / "journal.db", next_epoch(kit.local / "epoch")
    cell = Cell(kit.name, handlers=host.handlers, journal=journal, epoch=epoch, drivers=through(kit.surroundings.proxy))
    errors = errors_sent(cell) if kit.allow_error_sending else nullcontext()
    async with cell, kept_up(cell, kit), errors, anyio.create_task_group() as draining, host.serving(cell):
        await cell.listen(url, kit.credentials)
        await join(cell, kit)
        task_status.started(joined_line(cell))
        await stop.wait()
        draining.start_soon(drain, cell)  # first, so that nothing is taken that would find the jobs ended


@contextmanager
def _private_folder(folder: Path) -> Iterator[Path]:
    """Own *folder* for as long as the node runs; what a killed node left there is removed first.

    :raises ConfigurationError: if another node runs there, if others may read it, or if its path is too long
    """
    socket = os.fsencode(folder / SOCKET)
    if len(socket) > MAX_SOCKET_BYTES:
        raise ConfigurationError(
            f"the local socket {folder / SOCKET} would have a path of {len(socket)} bytes, a socket's may have "
            f"{MAX_SOCKET_BYTES}: name a shorter folder with --run, for this node and for commands to it"
        )
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            message = (
                "must be a folder of your own that nobody else can read: run chmod 700, or name another with --run"
            )
            raise ConfigurationError(message, str(folder))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"cannot be made, or used: {error.strerror}", str(folder)) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError("another node runs there already: stop it first", str(folder)) from None
        _clear(folder)
        try:
            yield folder
        finally:
            _clear(folder)
            with suppress(OSError):  # somebody keeps a file of theirs in it
                folder.rmdir()
    finally:
        os.close(lock)


def _clear(folder: Path) -> None:
    (folder / SOCKET).unlink(missing_ok=True)
    shutil.rmtree(folder / JOBS, ignore_errors=True)
