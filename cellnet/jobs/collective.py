"""One round over the job tree: orders go down it, results are combined on the way up.

An order travels as the same bytes to every process of the tree; a parent hands it on before it reads it. What a
parent answers is one partial result, so it receives as many results as it has children, whatever is below them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.errors import DeliveryError, JobError, RemoteProtocolError
from cellnet.jobs.opaque import packed, unpacked
from cellnet.jobs.reduction import REDUCTIONS, Partial, Reduction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from cellnet.cell import Cell
    from cellnet.jobs.assignment import Placed

__all__ = ["ROUND_SECONDS", "TOPIC", "Order", "Results", "TaskFailed", "failed_answer", "reduce_up"]

TOPIC = "job.run"
ROUND_SECONDS = 600.0
"""The limit of a round whose caller set none."""


class TaskFailed(JobError):
    """Say that the task of a round failed at one site.

    :param site: the FQSN of that site
    """

    def __init__(self, site: str, reason: str) -> None:
        super().__init__(f"{site}: {reason}")
        self.site = site
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Tell a site which task to run, on which value, and how results are combined."""

    task: str
    value: Any
    reduction: Reduction

    def pack(self) -> bytes:
        """Return the order as it travels.

        :raises LocalProtocolError: if the value cannot be sent
        """
        return packed({"task": self.task, "value": self.value, "combine": self.reduction.name})

    @classmethod
    def unpack(cls, data: object) -> Order:
        """Read what :meth:`pack` made.

        :raises JobError: if it is malformed, or names an unknown reduction
        :raises RemoteProtocolError: if it is not even a packed value
        """
        match unpacked(data):
            case {"task": str(task), "value": value, "combine": str(name)} if name in REDUCTIONS:
                return cls(task, value, REDUCTIONS[name])
        raise JobError("the order for a round is malformed, or names a reduction that this version does not have")


@dataclass(slots=True)
class Results:
    """Count what reached one process."""

    messages: int = 0
    bytes: int = 0


async def reduce_up(
    cell: Cell,
    order: bytes,
    reduction: Reduction,
    children: Sequence[Placed],
    results: Results,
    own: tuple[str, Callable[[], Awaitable[Partial]]] | None = None,
) -> Partial:
    """Have *children* carry out *order*, beside this process's *own* part, and add what comes of it.

    :param own: the name of this process's site, and what computes its part
    :raises TaskFailed: as soon as the first site fails; the others are cancelled
    """
    parts: list[tuple[str, Partial]] = []
    failures: list[TaskFailed] = []
    async with _for_all(cell, order, children) as said, anyio.create_task_group() as tasks:

        async def take(site: str, part: Callable[[], Awaitable[Partial]]) -> None:
            try:
                parts.append((site, await part()))
            except TaskFailed as failure:
                failures.append(failure)
                tasks.cancel_scope.cancel()

        for child in children:
            tasks.start_soon(take, str(child.site), lambda child=child: _ask(cell, child, said, results))
        if own is not None:
            tasks.start_soon(take, *own)
    if failures:
        raise failures[0]
    return reduction.add(parts)


def failed_answer(failure: TaskFailed) -> bytes:
    """Return the answer of a process below which a task failed."""
    return packed({"site": failure.site, "reason": failure.reason})


def _for_all(cell: Cell, order: bytes, children: Sequence[Placed]) -> AbstractAsyncContextManager[object]:
    """Return what is said to each of *children*: a large order leaves this cell once for each link."""
    return cell.share(order) if len(children) > 1 else nullcontext(order)


async def _ask(cell: Cell, child: Placed, order: object, results: Results) -> Partial:
    site = str(child.site)
    try:
        data = await cell.request(str(child.cell), TOPIC, order)
        results.messages += 1
        results.bytes += len(data)
        answer = unpacked(data)
    except (DeliveryError, RemoteProtocolError) as error:
        raise TaskFailed(site, f"no result: {error}") from error
    match answer:
        case {"site": str(failed), "reason": str(reason)}:
            raise TaskFailed(failed, reason)
    try:
        return Partial.from_value(answer)
    except JobError as error:
        raise TaskFailed(site, f"its result is not acceptable: {error}") from None
