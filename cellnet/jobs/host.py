"""The job processes of one node: a site's CJs, or the server's SJs; started, watched, and surely ended.

The law of this file: a process lives inside one task of this host, and its folder with it. The task ends when the
server says so, when the node stops, or when the server was not heard of for the length of a lease. So a server that
is killed leaves no job process behind at any site.

A site is asked to deploy a job, to start it, and whether it has joined. The first two are durable: they are done once,
also if the node is killed in the middle. A process that was started ends with its node, and is not started again.
"""

from __future__ import annotations

import datetime
import math
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from cellnet.errors import DeliveryError, JobError
from cellnet.fqcn import ROOT
from cellnet.groups import unwrapped
from cellnet.jobs import deployment
from cellnet.jobs.assignment import Assignment, Start
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.launcher import launched
from cellnet.jobs.opaque import packed, unpacked
from cellnet.jobs.service import Service
from cellnet.message import durable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from cellnet.cell import Cell
    from cellnet.credentials import Credentials
    from cellnet.fqcn import FQCN, FQSN
    from cellnet.jobs.launcher import JobProcess
    from cellnet.message import Durable, DurableRequest, Handler, Request

__all__ = ["CREDENTIAL_HOURS", "JOIN_SECONDS", "LEASE_SECONDS", "MAX_JOBS", "Ended", "JobHost"]

MAX_JOBS = 16
"""At one node, at a time."""
JOIN_SECONDS = 60.0
"""How long a job's code may take to load."""
LEASE_SECONDS = 60.0
"""How long a site's job process lives on without a word from the server."""
CREDENTIAL_HOURS = 24

_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """Say how a job process ended."""

    exit_code: int | None
    """None if it was ended by us."""
    tail: str
    """The end of its log."""

    def to_value(self) -> dict[str, Any]:
        """Return it as a payload."""
        return {"exit_code": self.exit_code, "tail": self.tail}

    @classmethod
    def from_value(cls, value: Any) -> Ended:
        """Read what :meth:`to_value` made.

        :raises JobError: if it is malformed
        """
        match value:
            case {"exit_code": int() | None as exit_code, "tail": str(tail)}:
                return cls(exit_code, tail)
        raise JobError("what a site says about an ended job is malformed")


@dataclass(slots=True, eq=False)
class _Hosted:
    lease_ends: float = math.inf
    stop: anyio.Event = field(default_factory=anyio.Event)
    joined: anyio.Event = field(default_factory=anyio.Event)
    gone: anyio.Event = field(default_factory=anyio.Event)
    failure: str = ""
    """Why it did not join."""
    ended: Ended = Ended(None, "")


class JobHost(Service):
    """Run job processes beside a node's cell."""

    def __init__(
        self,
        site: FQSN,
        credentials: Credentials,
        folder: Path,
        socket: str,
        *,
        backend: str = "asyncio",
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Prepare to run job processes, each in a folder of its own below *folder*.

        :param socket: the URL at which the node's cell listens for them
        :param backend: the event loop that they run
        :param lease_seconds: infinite at the server, which is its own master
        """
        super().__init__()
        self.handlers: Mapping[str, Handler | Durable] = {
            "jobs.deploy": durable(self._deploy),
            "jobs.start": durable(self._start),
            "jobs.joined": self._tell_joined,
            "jobs.stop": self._stop,
            "jobs.lease": self._renew,
        }
        """For the cell of a site; the server calls the methods below instead."""
        self._site = site
        self._credentials = credentials
        self._folder = folder
        self._socket = socket
        self._backend = backend
        self._lease_seconds = lease_seconds
        self._hosted: dict[str, _Hosted] = {}

    async def start(self, assignment: Assignment, bundle: Bundle) -> None:
        """Start a job process, and return when its cell has joined ours.

        :raises JobError: if it cannot be started, or ends before that; with the end of its log
        """
        self.begin(assignment, bundle)
        await self.joined(assignment.job)

    def begin(self, assignment: Assignment, bundle: Bundle) -> None:
        """Let a job process be started. Safe to repeat.

        :raises JobError: if the node is about to end, or there are as many as there may be
        """
        if self._tasks is None:
            raise JobError("the node is starting, or stopping")
        if assignment.job in self._hosted:
            return
        if len(self._hosted) >= MAX_JOBS:
            raise JobError(f"{MAX_JOBS} jobs run here already, more are not allowed")
        hosted = self._hosted[assignment.job] = _Hosted()
        self._tasks.start_soon(self._host, assignment, bundle, hosted)

    async def joined(self, job: str) -> None:
        """Wait until the cell of a job process has joined ours.

        :raises JobError: if there is no such process, or it ended before that; with the end of its log
        """
        hosted = self._hosted.get(job)
        if hosted is None:
            raise JobError(f"there is no process of {job}: its site was restarted since, or has ended it")
        await _first(hosted.joined.wait, hosted.gone.wait)
        if not hosted.joined.is_set():
            raise JobError(hosted.failure or "the job process was ended before it had joined its site")

    async def wait_exited(self, job: str) -> Ended:
        """Wait until the process of *job* ended by itself, and return how."""
        hosted = self._hosted[job]
        await hosted.gone.wait()
        return hosted.ended

    async def stop(self, job: str) -> Ended:
        """End the process of *job* and all that it started, and return how it ended. Safe to repeat."""
        hosted = self._hosted.get(job)
        if hosted is None:
            return Ended(None, "")
        hosted.stop.set()
        await hosted.gone.wait()
        self._hosted.pop(job, None)
        return hosted.ended

    async def _host(self, assignment: Assignment, bundle: Bundle, hosted: _Hosted) -> None:
        folder = self._folder / assignment.job
        try:
            async with launched(self._message(assignment, bundle, folder), folder) as process:
                hosted.ended = await self._attend(assignment.job, process, hosted)
        except JobError as error:
            hosted.failure = str(error)
        except OSError as error:
            hosted.failure = f"the job process cannot be started: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            hosted.gone.set()
        # how it ended waits for the server to ask
        if not hosted.stop.is_set():
            await _first(hosted.stop.wait, lambda: self._tell_gone(assignment.job, hosted))
        self._hosted.pop(assignment.job, None)

    async def _attend(self, job: str, process: JobProcess, hosted: _Hosted) -> Ended:
        """Wait until a process has joined, and then until it ends or is to end."""
        cell = self._cell
        assert cell is not None  # noqa: S101 - serving() set it, and started this task
        fqcn = cell.fqcn.job(job)
        await _first(lambda: _joined(process, cell, fqcn), hosted.stop.wait)
        hosted.lease_ends = anyio.current_time() + self._lease_seconds
        if not hosted.stop.is_set():
            hosted.joined.set()
            await _first(process.wait, hosted.stop.wait, lambda: self._lease(hosted))
            if not any(member.fqcn == cell.fqcn.job(job) for member in cell.members()):
                # its link is gone, so it ended by itself, or is about to
                with anyio.move_on_after(_SETTLE_SECONDS):
                    await process.wait()
        return Ended(process.exit_code, process.tail())

    def _message(self, assignment: Assignment, bundle: Bundle, folder: Path) -> bytes:
        """Write the bundle into the job's folder, and return what its process is to be told."""
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=CREDENTIAL_HOURS)
        credential = self._credentials.delegate(assignment.job, "job", expiry).pack()
        message = Start(assignment, self._socket, folder / "bundle", self._backend, credential).pack()
        folder.mkdir(mode=0o700, parents=True)
        bundle.write(folder / "bundle")
        return message

    async def _lease(self, hosted: _Hosted) -> None:
        while (left := hosted.lease_ends - anyio.current_time()) > 0:  # noqa: ASYNC110 - it may be renewed meanwhile
            await anyio.sleep(left)

    async def _tell_gone(self, job: str, hosted: _Hosted) -> None:
        """Tell the server that the process of *job* is no more, and wait for the end of its lease.

        Who asked that process something would wait for it until the round's deadline: it might come back, for all
        that the network knows.
        """
        if hosted.failure:  # of which the server asks
            hosted.lease_ends = anyio.current_time() + self._lease_seconds
        elif not self._site.is_root and self._cell is not None:
            with suppress(DeliveryError):  # the server ends the job of a site that is away for long
                await self._cell.request(ROOT, "jobs.gone", job)
        await self._lease(hosted)

    # What the server may ask of a site.

    async def _deploy(self, request: DurableRequest) -> None:
        _check_server(request)
        assignment, _bundle = self._deployed(request.payload)
        await deployment.keep(request.transaction, assignment.job, packed(request.payload))

    async def _start(self, request: DurableRequest) -> None:
        _check_server(request)
        if self._tasks is None:
            await anyio.sleep_forever()  # until this node ends, in DRAIN_SECONDS at most: it is for the next start
        kept = await deployment.take(request.transaction, _job(request))
        await anyio.lowlevel.checkpoint_if_cancelled()  # or it would come after the word that ends it
        self.begin(*self._deployed(unpacked(kept)))  # if nothing is saved of it, the node ends, and the process too

    def _deployed(self, order: object) -> tuple[Assignment, Bundle]:
        match order:
            case {"assignment": value, "bundle": bytes(content)}:
                assignment = Assignment.from_value(value)
            case _:
                raise JobError("the deployment of a job is malformed")
        if assignment.site != self._site or assignment.parent is None:
            raise JobError(f"the deployment is for {assignment.site}, this site is {self._site}")
        return assignment, Bundle.unpack(content)

    async def _tell_joined(self, request: Request) -> None:
        _check_server(request)
        await self.joined(_job(request))

    async def _stop(self, request: Request) -> dict[str, Any]:
        _check_server(request)
        ended = await self.stop(_job(request))
        return ended.to_value()

    async def _renew(self, request: Request) -> None:
        _check_server(request)
        hosted = self._hosted.get(_job(request))
        if hosted is not None:
            hosted.lease_ends = anyio.current_time() + self._lease_seconds


async def _joined(process: JobProcess, cell: Cell, fqcn: FQCN) -> None:
    joined = anyio.Event()

    async def join() -> None:
        await cell.wait_present([fqcn])
        joined.set()

    with anyio.move_on_after(JOIN_SECONDS):
        await _first(process.wait, join)
    if joined.is_set():  # it may have ended since, but that is another matter
        return
    what = f"has not joined its site in {JOIN_SECONDS:g} s"
    if process.exit_code is not None:
        what = f"ended with code {process.exit_code} before it had joined its site"
    tail = process.tail()
    raise JobError(f"the job process {what}" + (f"; the end of its log:\n{tail}" if tail else ""))


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait for the first of *waits*, and cancel the others."""
    with unwrapped():
        async with anyio.create_task_group() as tasks:

            async def wait(one: Callable[[], Awaitable[object]]) -> None:
                await one()
                tasks.cancel_scope.cancel()

            for one in waits:
                tasks.start_soon(wait, one)


def _check_server(request: Request) -> None:
    if not request.origin.is_root:
        raise JobError(f"only the server deploys jobs, {request.origin} may not")


def _job(request: Request) -> str:
    if not isinstance(request.payload, str):
        raise JobError("a job's name is wanted")
    return request.payload
