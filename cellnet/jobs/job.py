"""What the code of a job sees: the job from the server's side, and from a site's side."""

from __future__ import annotations

import inspect
import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from cellnet.errors import CellError, JobError, LocalProtocolError
from cellnet.fqcn import ROOT
from cellnet.jobs.assignment import is_same
from cellnet.jobs.bundle import own_frames
from cellnet.jobs.collective import ROUND_SECONDS, TOPIC, Order, Results, TaskFailed, failed_answer, reduce_up
from cellnet.jobs.opaque import packed, unpacked
from cellnet.jobs.reduction import weighted_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cellnet.cell import Cell
    from cellnet.jobs.assignment import Assignment
    from cellnet.jobs.reduction import Partial, Reduction, Update
    from cellnet.message import Request

__all__ = ["MAX_REPORT_BYTES", "ClientJob", "ServerJob", "Worker"]

MAX_REPORT_BYTES = 8 * 1024

_log = logging.getLogger(__name__)


class ServerJob:
    """Lead a job: this is what a bundle's ``async def server(job)`` is given."""

    def __init__(self, assignment: Assignment, cell: Cell) -> None:
        self.id = assignment.job
        """The job's name."""
        self.config: dict[str, Any] = unpacked(assignment.config)
        """What the submitter gave along; empty if nothing."""
        self.sites = tuple(map(str, assignment.sites))
        """The FQSNs of all sites that take part, in order."""
        self.results = Results()
        """How many results reached the server so far, and how large they were."""
        self._children = assignment.children
        self._cell = cell

    async def map_reduce(self, task: str, value: Any = None, *, combine: Reduction = weighted_mean) -> Update:
        """Run *task* on *value* at every site, and combine what the sites return on its way up the client tree.

        The deadline is that of the caller's scope; without one, a round has ten minutes.

        :raises TaskFailed: if a site failed, naming it
        """
        order = Order(task, value, combine).pack()
        with _limited():
            return combine.finish(await reduce_up(self._cell, order, combine, self._children, self.results))

    async def report(self, **values: float | str | bool | None) -> None:
        """Send *values* to whoever submitted the job.

        :raises JobError: if they cannot be sent, or are too large
        """
        try:
            report = packed(values)
        except LocalProtocolError as error:
            raise JobError(f"a report cannot hold this: {error}") from None
        if len(report) > MAX_REPORT_BYTES:
            raise JobError(f"a report of {len(report)} bytes is too large: {MAX_REPORT_BYTES} are allowed")
        await self._cell.request(ROOT, "jobs.report", report)


class ClientJob:
    """Take part in a job: this is what a task is given first, as in ``def train(job, model)``."""

    def __init__(self, assignment: Assignment) -> None:
        self.id = assignment.job
        """The job's name."""
        self.config: dict[str, Any] = unpacked(assignment.config)
        """What the submitter gave along; empty if nothing."""
        self.fqsn = str(assignment.site)
        """This site's place in the client hierarchy, such as ``C1.C11``."""
        self.site = assignment.site.base_name
        """This site's base name, such as ``C11``."""


class Worker:
    """Carry out the orders that reach a CJ: its own part, and that of the processes below it."""

    def __init__(self, assignment: Assignment, tasks: Mapping[str, Callable[..., Any]]) -> None:
        self._assignment = assignment
        self._job = ClientJob(assignment)
        self._tasks = tasks
        self.handlers = {TOPIC: self._run}
        """For the process's cell."""
        self.cell: Cell | None = None
        """To be set before the cell connects."""

    async def _run(self, request: Request) -> bytes:
        """Answer with one partial result, or say which site failed."""
        parent = self._assignment.parent
        if parent is None or not is_same(request.origin, parent) or self.cell is None:
            raise JobError(f"{request.origin} is not the parent of this job process")
        try:
            order = Order.unpack(request.payload)
            own = (self._job.fqsn, lambda: self._own_part(order))
            with _limited():
                total = await reduce_up(
                    self.cell, request.payload, order.reduction, self._assignment.children, Results(), own
                )
            return packed(total.to_value())
        except TaskFailed as failure:
            return failed_answer(failure)
        except TimeoutError:
            return failed_answer(TaskFailed(self._job.fqsn, "the round's deadline passed"))
        except CellError as error:
            return failed_answer(TaskFailed(self._job.fqsn, str(error)))

    async def _own_part(self, order: Order) -> Partial:
        task = self._tasks.get(order.task)
        try:
            if task is None:
                raise JobError(f"the job has no task {order.task!r}: it has {', '.join(sorted(self._tasks)) or 'none'}")
            return order.reduction.lift(await _called(task, self._job, order.value))
        except JobError as error:
            raise TaskFailed(self._job.fqsn, str(error)) from error
        except Exception as error:
            # anything may come out of a job's code; its traceback is for the log, its last line for the caller
            _log.exception("task %s failed", order.task, exc_info=own_frames(error))
            raise TaskFailed(self._job.fqsn, f"{order.task}: {type(error).__name__}: {error}") from error


async def _called(task: Callable[..., Any], job: ClientJob, value: object) -> object:
    """Call a task: a plain function in a thread, so that this process's cell goes on answering its neighbours."""
    if inspect.iscoroutinefunction(task):
        return await task(job, value)
    return await anyio.to_thread.run_sync(task, job, value, abandon_on_cancel=True)


@contextmanager
def _limited() -> Iterator[None]:
    """Give a round its limit, unless the caller's scope has one."""
    if math.isinf(anyio.current_effective_deadline()):
        with anyio.fail_after(ROUND_SECONDS):
            yield
    else:
        yield
