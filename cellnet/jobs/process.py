"""The main program of a job process, SJ or CJ: ``python -P -m cellnet.jobs.process FD``.

It never sees its node's kit. It reads who it is from the inherited descriptor, joins the node's cell over the local
socket, and ends when that link ends, when the descriptor does, or when it is told to.
"""

from __future__ import annotations

import datetime
import inspect
import logging
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.cell import Cell
from cellnet.credentials import Credentials
from cellnet.errors import CellError, JobError
from cellnet.fqcn import ROOT
from cellnet.jobs.assignment import end_with, receive
from cellnet.jobs.bundle import load_module, own_frames
from cellnet.jobs.collective import ROUND_SECONDS, TaskFailed
from cellnet.jobs.job import ServerJob, Worker
from cellnet.jobs.opaque import packed
from cellnet.jobs.progress import Teller

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import ModuleType
    from typing import NoReturn

    from cellnet.jobs.assignment import Start

__all__ = ["main"]

JOIN_SECONDS = 30.0
MAX_RESULT_BYTES = 256 * 1024 * 1024
"""What ``server(job)`` returns: the server holds it in memory until the submitter has fetched it."""

_log = logging.getLogger(__name__)


def main(descriptor: int) -> NoReturn:
    """Run the job process that the node describes on *descriptor*, and exit."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    code = 1
    try:
        start = receive(descriptor)
        end_with(descriptor)
        anyio.run(_until_signalled, _part(start), backend=start.backend)
        code = 0
    except CellError as error:
        _log.error("%s", error)
    except BaseException as error:
        # a job's code may raise anything; the log is where its author will look
        _log.exception("the job process failed", exc_info=own_frames(error))
    logging.shutdown()
    sys.stdout.flush()
    # not sys.exit: a thread that still computes has nobody left to compute for
    os._exit(code)


def _part(start: Start) -> Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]:
    """Load the job's code, and return what this process does with it.

    :raises JobError: if the code lacks what it must have
    """
    module = load_module(start.bundle)
    if start.assignment.parent is None:
        return partial(_lead, start, _server(module))
    return partial(_take_part, start, _tasks(module))


async def _until_signalled(part: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, tasks.cancel_scope)
        await part(tasks.cancel_scope)
        tasks.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _signal in signals:
            scope.cancel()


async def _take_part(start: Start, tasks: Mapping[str, Callable[..., Any]], _scope: anyio.CancelScope) -> None:
    worker = Worker(start.assignment, tasks)
    teller = Teller(start.assignment.parent)
    async with Cell(start.assignment.job, handlers=worker.handlers, progress=teller.take) as cell:
        worker.cell = cell
        # A site that moves has another name, and takes its job cells in anew. If it ends, so does this process at once.
        await _join(cell, start, reconnect=True)
        await teller.tell(cell)


async def _lead(start: Start, server: Callable[[ServerJob], Any], scope: anyio.CancelScope) -> None:
    async with Cell(start.assignment.job) as cell:
        await _join(cell, start, reconnect=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_disconnected, cell, scope)
            outcome = await _outcome(server, ServerJob(start.assignment, cell))
            with anyio.fail_after(ROUND_SECONDS):  # it may be as large as what a round brings
                await cell.request(ROOT, "jobs.ended", outcome)
            tasks.cancel_scope.cancel()
        # the server ends this process when all others of the job are asked to end, too
        await cell.wait_disconnected()


async def _outcome(server: Callable[[ServerJob], Any], job: ServerJob) -> dict[str, Any]:
    """Run the job's server function; say how it ended."""
    try:
        value = packed(await server(job))
        if len(value) > MAX_RESULT_BYTES:
            raise JobError(f"server(job) returned {len(value)} bytes: {MAX_RESULT_BYTES} are allowed")
    except TaskFailed as failure:
        return {"site": failure.site, "reason": failure.reason}
    except Exception as error:
        # anything may come out of a job's code; its traceback is for the log, its last line for the submitter
        _log.exception("server(job) failed", exc_info=own_frames(error))
        reason = str(error) if isinstance(error, CellError) else f"server(job): {type(error).__name__}: {error}"
        return {"site": ROOT, "reason": reason}
    return {"value": value, "messages": job.results.messages, "bytes": job.results.bytes}


async def _join(cell: Cell, start: Start, *, reconnect: bool) -> None:
    credentials = Credentials.unpack(start.credential, datetime.datetime.now(datetime.UTC))
    with anyio.fail_after(JOIN_SECONDS):
        await cell.connect(start.socket, credentials, reconnect=reconnect)


async def _cancel_when_disconnected(cell: Cell, scope: anyio.CancelScope) -> None:
    await cell.wait_disconnected()
    scope.cancel()


def _tasks(module: ModuleType) -> Mapping[str, Callable[..., Any]]:
    tasks = getattr(module, "tasks", None)
    if not isinstance(tasks, Mapping) or not all(isinstance(name, str) and callable(tasks[name]) for name in tasks):
        raise JobError('job.py has no mapping of tasks: write tasks = {"train": train}')
    return tasks


def _server(module: ModuleType) -> Callable[[ServerJob], Any]:
    server = getattr(module, "server", None)
    if not inspect.iscoroutinefunction(server):
        raise JobError("job.py has no server function: write async def server(job)")
    return server


if __name__ == "__main__":
    main(int(sys.argv[1]))
