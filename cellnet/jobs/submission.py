"""Submitting a job: what the server's operator asks for, and what comes back while it runs."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import anyio

from cellnet.errors import ConnectError, DeliveryError, JobError
from cellnet.groups import unwrapped
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.opaque import packed, unpacked
from cellnet.jobs.operator import ask_server, operator_cell, told_by_server
from cellnet.jobs.progress import SiteProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from anyio.abc import TaskStatus

    from cellnet.cell import Cell

__all__ = ["MAX_CONFIG_BYTES", "Run", "RunResult", "Submission", "submitted"]

MAX_CONFIG_BYTES = 8 * 1024
POLL_SECONDS = 20.0
"""How long the server may keep a question for news open."""

_ANSWER_SECONDS = 30.0
_NEWS_SECONDS = 120.0
"""The last news bring the result, which may be large."""
_CANCEL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Submission:
    """Ask the server to run a job."""

    bundle: bytes = field(repr=False)
    config: bytes = field(repr=False)
    """Packed; no node reads it."""
    sites: tuple[str, ...] | None
    """Base names or FQSNs; None for all."""
    flat: bool

    def to_value(self) -> dict[str, Any]:
        """Return it as a payload."""
        sites = None if self.sites is None else list(self.sites)
        return {"bundle": self.bundle, "config": self.config, "sites": sites, "flat": self.flat}

    @classmethod
    def from_value(cls, value: Any) -> Self:
        """Read what :meth:`to_value` made.

        :raises JobError: if it is malformed
        """
        match value:
            case {
                "bundle": bytes(bundle),
                "config": bytes(config),
                "sites": list() | None as sites,
                "flat": bool(flat),
            }:
                if sites is None or all(isinstance(site, str) for site in sites):
                    return cls(bundle, config, None if sites is None else tuple(sites), flat)
        raise JobError("the submission of a job is malformed")


@dataclass(frozen=True, slots=True)
class RunResult:
    """Hold what a run that succeeded came to."""

    job: str
    value: Any
    """What ``server(job)`` returned."""
    messages: int
    """Results that reached the server's job process."""
    bytes: int
    """The size of these results."""
    sites: tuple[str, ...]
    """The FQSNs of the sites that took part."""


class Run:
    """A job under way; iterate over it for its reports, then read :attr:`result`."""

    def __init__(self, job: str, cell: Cell, progress: Callable[[SiteProgress], None] | None = None) -> None:
        self.job = job
        """The job's name."""
        self._cell = cell
        self._progress = progress
        self._next = 0
        self._reports: list[Mapping[str, Any]] = []
        self._result: RunResult | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mapping[str, Any]:
        """Return the next report.

        :raises JobError: if the job failed
        """
        while not self._reports:
            if self._result is not None:
                raise StopAsyncIteration
            await self._follow()
        return self._reports.pop(0)

    @property
    def result(self) -> RunResult:
        """What the run came to; known when the iteration has ended.

        :raises JobError: if it is not known yet
        """
        if self._result is None:
            raise JobError(f"{self.job} has not ended yet: iterate over its reports, or call wait()")
        return self._result

    async def wait(self) -> RunResult:
        """Wait for the result, leaving reports aside.

        :raises JobError: if the job failed
        """
        async for _report in self:
            pass
        return self.result

    async def cancel(self) -> None:
        """End the job at all sites, and return when it has ended. Safe to repeat, and after its end."""
        await ask_server(self._cell, "jobs.cancel", self.job)

    async def _follow(self) -> None:
        with anyio.fail_after(POLL_SECONDS + _NEWS_SECONDS):
            try:
                news = await ask_server(self._cell, "jobs.follow", {"job": self.job, "next": self._next})
            except ConnectError as error:
                raise JobError(
                    f"the server ended while {self.job} ran, which ends the job too ({error.__cause__})"
                ) from error
        match news:
            case {"reports": list(reports), "next": int(following), "outcome": outcome, "progress": dict(progress)}:
                self._tell(progress)
                self._reports += map(unpacked, reports)
                self._next = following
                self._result = self._ended(outcome)
            case _:
                raise JobError(f"what the server tells of {self.job} is malformed")

    def _tell(self, progress: Mapping[object, object]) -> None:
        """Tell how much of a large value has come to which sites."""
        for site, value in progress.items():
            if not isinstance(site, str):
                raise JobError(f"what the server tells of {self.job} is malformed")
            come = SiteProgress.from_value(site, value)
            if self._progress is not None:
                self._progress(come)

    def _ended(self, outcome: object) -> RunResult | None:
        """Read how the job ended, if it has."""
        match outcome:
            case None:
                return None
            case {"error": str(error)}:
                raise JobError(error)
            case {"value": bytes(value), "messages": int(messages), "bytes": int(size), "sites": list(sites)}:
                if all(isinstance(site, str) for site in sites):
                    return RunResult(self.job, unpacked(value), messages, size, tuple(sites))
        raise JobError(f"what the server tells of the end of {self.job} is malformed")


@asynccontextmanager
async def submitted(
    kit_path: Path | str,
    bundle: Path | str,
    *,
    sites: Iterable[str] | None = None,
    flat: bool = False,
    config: Mapping[str, Any] | None = None,
    run_dir: Path | str | None = None,
    progress: Callable[[SiteProgress], None] | None = None,
) -> AsyncIterator[Run]:
    """Run the job in the folder *bundle*, by the server whose kit is at *kit_path* and which runs on this machine.

    When the block is left, the job has ended at all sites.

    :param sites: base names or FQSNs of clients; None for all
    :param flat: whether every client reports to the server itself, instead of to its parent
    :param config: plain values for the job's code
    :param run_dir: the server's ``--run`` folder, if it has one
    :param progress: told now and then, while the run is iterated over, how much of a large value has come to a site
    :raises ConfigurationError: if the kit or the bundle cannot be used
    :raises ConnectError: if the server does not run
    :raises JobError: if the server does not accept the job
    """
    settings = packed(dict(config or {}))
    if len(settings) > MAX_CONFIG_BYTES:
        raise JobError(f"the configuration has {len(settings)} bytes: {MAX_CONFIG_BYTES} are allowed")
    submission = Submission(Bundle.read(bundle).pack(), settings, None if sites is None else tuple(sites), flat)
    async with _lasting_cell(kit_path, run_dir) as cell:
        with anyio.fail_after(_ANSWER_SECONDS):
            run = Run(await ask_server(cell, "jobs.submit", submission.to_value()), cell, progress)
        try:
            yield run
        finally:
            # a server that is gone ends the job itself
            with anyio.move_on_after(_CANCEL_SECONDS, shield=True), suppress(ConnectError, DeliveryError):
                await run.cancel()


@asynccontextmanager
async def _lasting_cell(kit_path: Path | str, run_dir: Path | str | None) -> AsyncIterator[Cell]:
    """Keep the operator's cell until the block was left, also if that is a cancellation: the job is to be ended first.

    A cell that is entered in the block itself would be cancelled with it, and could not tell the server any more.
    """
    done = anyio.Event()

    async def keep(*, task_status: TaskStatus[Cell]) -> None:
        with anyio.CancelScope() as scope:
            async with operator_cell(kit_path, run_dir) as cell:
                scope.shield = True  # until the block is left, which is bounded by what it does last
                task_status.started(cell)
                await done.wait()

    with unwrapped():
        async with anyio.create_task_group() as tasks:
            cell = await tasks.start(keep)
            try:
                with told_by_server():
                    yield cell
            finally:
                done.set()
