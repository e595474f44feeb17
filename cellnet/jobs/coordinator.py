"""The server's side of jobs: deploy to the sites, start the SJ, pass reports on, and end everything afterwards.

The law of this file: whatever happens to a run, its last step asks every site to end its job process, and the
outcome is told only after that. A site that is away is asked as soon as it is back, if that is soon; where that is
not so, it ends the job process by itself when its lease does.

What the processes of a job ask each other waits while the way between them is broken. So the loss of a process is
noticed here: its site tells, or its site was restarted, or is away for too long.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.errors import CellError, DeliveryError, JobError, RemoteError
from cellnet.fqcn import FQCN, FQSN, ROOT
from cellnet.groups import unwrapped
from cellnet.jobs import progress
from cellnet.jobs.assignment import Assignment, Placed
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.host import LEASE_SECONDS, Ended
from cellnet.jobs.operator import check_operator
from cellnet.jobs.record import Record
from cellnet.jobs.service import Service
from cellnet.jobs.submission import POLL_SECONDS, Submission
from cellnet.jobs.tree import JobTree, choose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from cellnet.cell import Cell
    from cellnet.jobs.host import JobHost
    from cellnet.message import Request

__all__ = ["MAX_RUNS", "Coordinator"]

MAX_RUNS = 8
DEPLOY_SECONDS = 120.0
STOP_SECONDS = 5.0
DEPLOYING = 8
"""Sites at a time; a bundle for each waits in the queue of the link towards it."""
WATCH_SECONDS = 0.5
AWAY_SECONDS = 20.0
"""How long a job waits for a site that is away, as while a relay is restarted; less than a lease."""
BACK_SECONDS = 5.0
"""How long a submission waits for sites that are away, as for a moment while their certificates are renewed."""
RENEW_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Coordinator(Service):
    """Run the jobs that the server's operator submits."""

    def __init__(self, sites: Iterable[FQSN], host: JobHost) -> None:
        """Prepare to run jobs.

        :param sites: all sites of the project
        :param host: runs the SJs
        """
        super().__init__()
        self.handlers: Mapping[str, Callable[[Request], Awaitable[Any]]] = {
            "jobs.submit": self._submit,
            "jobs.follow": self._follow,
            "jobs.cancel": self._cancel,
            "jobs.report": self._report,
            "jobs.ended": self._ended,
            "jobs.gone": self._gone,
            progress.TOPIC: self._progress,
        }
        """For the server's cell."""
        self._sites = tuple(sites)
        self._host = host
        self._records: dict[str, Record] = {}
        self._deploying = anyio.CapacityLimiter(DEPLOYING)

    @property
    def _own(self) -> Cell:
        if self._cell is None:
            raise JobError("the server is starting")
        return self._cell

    # What the operator asks.

    async def _submit(self, request: Request) -> str:
        check_operator(self._own, request)
        submission = Submission.from_value(request.payload)
        bundle = Bundle.unpack(submission.bundle)
        chosen = choose(self._sites, submission.sites)
        cells = await self._cells_of(chosen)
        if self._tasks is None:
            raise JobError("the server is stopping")
        if len(self._records) >= MAX_RUNS:
            raise JobError(f"{MAX_RUNS} jobs are under way, more are not allowed: try later")
        job = f"job-{secrets.token_hex(4)}"
        tree = JobTree(chosen, flat=submission.flat)
        # the cell of a site's job process is below the site's own, wherever that has joined
        placed = {str(site): Placed(site, cells[str(site)].job(job)) for site in chosen}
        record = Record(job, request.origin, submission, tree, placed)
        self._records[job] = record
        self._tasks.start_soon(self._run, record, bundle)
        return job

    async def _follow(self, request: Request) -> dict[str, Any]:
        match request.payload:
            case {"job": str(job), "next": int(following)}:
                return await self._submitted(request, job).follow(following, POLL_SECONDS)
        raise JobError("the question for a job's news is malformed")

    async def _cancel(self, request: Request) -> None:
        record = self._submitted(request, request.payload)
        record.scope.cancel()
        await record.finished.wait()

    def _submitted(self, request: Request, job: object) -> Record:
        if not isinstance(job, str):
            raise JobError("a job's name is wanted")
        record = self._records.get(job)
        if record is None or record.submitter != request.origin:
            raise JobError(f"there is no job {job!r} of yours")
        return record

    async def _cells_of(self, sites: Collection[FQSN]) -> dict[str, FQCN]:
        """Find the cells of these sites, by FQSN, and of others; wait for sites that are away for a moment."""
        deadline = anyio.current_time() + BACK_SECONDS
        while True:
            cells = {member.fqsn: member.fqcn for member in self._own.members() if member.role == "client"}
            absent = [str(site) for site in sites if str(site) not in cells]
            if not absent:
                return cells
            if anyio.current_time() >= deadline:
                raise JobError(f"not present: {', '.join(absent)}; start these sites, or choose others with --sites")
            await anyio.sleep(WATCH_SECONDS)

    # What the SJ says.

    async def _report(self, request: Request) -> None:
        record = self._led(request)
        if not isinstance(request.payload, bytes):
            raise JobError("a report is malformed")
        record.report(request.payload)

    async def _ended(self, request: Request) -> None:
        record = self._led(request)
        match request.payload:
            case {"value": bytes(), "messages": int(), "bytes": int()} | {"site": str(), "reason": str()}:
                record.close(request.payload)
            case _:
                raise JobError("what the SJ says about the end of its job is malformed")

    def _led(self, request: Request) -> Record:
        record = self._records.get(request.origin.base_name)
        if record is None or request.origin != FQCN(ROOT).job(record.job):
            raise JobError(f"{request.origin} is no job process of this server")
        return record

    # What a site says.

    async def _gone(self, request: Request) -> None:
        record = self._records.get(request.payload) if isinstance(request.payload, str) else None
        if record is None:
            return  # the job has ended meanwhile
        for site, placed in record.placed.items():
            if placed.node == request.origin.base_name:
                record.close({"site": site, "reason": "its job process ended"})
                return
        raise JobError(f"{request.origin} takes no part in {record.job}")

    async def _progress(self, request: Request) -> None:
        record = self._records.get(request.origin.base_name)
        if record is None:
            return  # the job has ended meanwhile
        site = record.site_of(request.origin)
        if site is None:
            raise JobError(f"{request.origin} takes no part in {record.job}")
        record.progress(progress.SiteProgress.from_value(site, request.payload))

    # One run.

    async def _run(self, record: Record, bundle: Bundle) -> None:
        outcome: dict[str, Any] = {"error": f"{record.job} was cancelled"}
        failed = ""
        try:
            with record.scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._cancel_when_submitter_left, record)
                    tasks.start_soon(self._renew, record)
                    tasks.start_soon(self._close_when_site_is_lost, record)
                    failed, outcome = await self._carry_out(record, bundle)
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                ends, away = await self._stop(record)
            record.finish(_explained(record.job, failed, outcome, ends))
            _log.info("%s ended: %s", record.job, outcome.get("error", "ok"))
        async with anyio.create_task_group() as tasks:
            # who ended the job does not wait for these
            for placed in away:
                tasks.start_soon(self._stop_at, record, placed, {})
            # the outcome waits until the submitter has fetched it, and left
            await self._submitter_left(record)
        del self._records[record.job]

    async def _carry_out(self, record: Record, bundle: Bundle) -> tuple[str, dict[str, Any]]:
        """Deploy, lead, and return the site that failed, if one did, with the outcome."""
        _log.info("%s runs on %s", record.job, ", ".join(record.placed))
        try:
            for step in (self._deploy, self._start):
                await _unless_closed(record, self._at_all_sites(record, step))
            if not record.closing.is_set():
                # not ended before it has joined: what it says first may come before we see that
                await self._host.start(self._assignment(record, FQSN(ROOT)), bundle)
                await _unless_closed(record, self._host.wait_exited(record.job))
            if not record.closing.is_set():
                raise JobError("its job process ended without a result")
        except _SiteError as error:
            return error.site, {"error": str(error)}
        except CellError as error:
            return ROOT, {"error": f"{ROOT}: {error}"}
        answer = record.answer
        if "reason" in answer:
            return answer["site"], {"error": f"{answer['site']}: {answer['reason']}"}
        return "", {**answer, "sites": list(record.placed)}

    async def _at_all_sites(self, record: Record, step: Callable[[Record, Placed], Awaitable[None]]) -> None:
        """Take a step at all sites, a few at a time; the first that fails ends it."""
        failures: list[_SiteError] = []
        async with anyio.create_task_group() as tasks:

            async def take(placed: Placed) -> None:
                try:
                    async with self._deploying:
                        with anyio.fail_after(DEPLOY_SECONDS):
                            await step(record, placed)
                except (CellError, TimeoutError) as error:
                    reason = error.message if isinstance(error, RemoteError) else str(error)
                    failures.append(_SiteError(str(placed.site), reason))
                    tasks.cancel_scope.cancel()

            for placed in record.placed.values():
                tasks.start_soon(take, placed)
        if failures:
            raise failures[0]

    async def _deploy(self, record: Record, placed: Placed) -> None:
        order = {"assignment": self._assignment(record, placed.site).to_value(), "bundle": record.submission.bundle}
        await self._own.request(_node(placed), "jobs.deploy", order)

    async def _start(self, record: Record, placed: Placed) -> None:
        await self._own.request(_node(placed), "jobs.start", record.job)
        # If the site was restarted before this moment, it says so; if it is later, that is seen.
        record.epochs[str(placed.site)] = await self._present_epoch(placed)
        await self._own.request(_node(placed), "jobs.joined", record.job)

    async def _present_epoch(self, placed: Placed) -> int:
        while True:
            for member in self._own.members():
                if member.role == "client" and member.fqcn.base_name == placed.node:
                    return member.epoch
            await anyio.sleep(WATCH_SECONDS)

    def _assignment(self, record: Record, site: FQSN) -> Assignment:
        children = tuple(record.placed[str(child)] for child in record.tree.children(site))
        config = record.submission.config
        if site.is_root:
            return Assignment(record.job, site, None, children, config, record.tree.sites)
        above = record.tree.parent(site)
        parent = FQCN(ROOT).job(record.job) if above.is_root else record.placed[str(above)].cell
        return Assignment(record.job, site, parent, children, config)

    async def _stop(self, record: Record) -> tuple[dict[str, Ended], list[Placed]]:
        """End the job's processes everywhere; return how each ended, by FQSN, and the sites that were away."""
        ends: dict[str, Ended] = {}
        away: list[Placed] = []
        present = {member.fqcn.base_name for member in self._own.members() if member.role == "client"}
        async with anyio.create_task_group() as tasks:
            for placed in record.placed.values():
                if placed.node in present:
                    tasks.start_soon(self._stop_at, record, placed, ends)
                else:
                    away.append(placed)
            ends[ROOT] = await self._host.stop(record.job)
        return ends, away

    async def _stop_at(self, record: Record, placed: Placed, ends: dict[str, Ended]) -> None:
        """End the job's process at a site, and note how it ended; a site that is away may come back meanwhile."""
        try:
            with anyio.fail_after(STOP_SECONDS):
                answer = await self._own.request(_node(placed), "jobs.stop", record.job)
            ends[str(placed.site)] = Ended.from_value(answer)
        except (CellError, TimeoutError) as error:
            _log.warning("%s: %s could not be asked to end it (%s)", record.job, placed.site, error)

    async def _renew(self, record: Record) -> None:
        """Tell every site, well before its lease ends, that the job is still wanted."""
        while True:
            await anyio.sleep(LEASE_SECONDS / 6)
            for placed in record.placed.values():
                try:
                    # a link that is full must not cost the others their leases
                    with anyio.move_on_after(RENEW_SECONDS):
                        await self._own.send(_node(placed), "jobs.lease", record.job)
                except DeliveryError as error:
                    _log.warning("%s: %s", record.job, error)

    async def _close_when_site_is_lost(self, record: Record) -> None:
        seen: dict[str, float] = {}
        while True:
            members = self._own.members()
            present = {member.fqcn.base_name: member.epoch for member in members if member.role == "client"}
            now = anyio.current_time()
            for site, placed in record.placed.items():
                node = placed.node
                epoch = present.get(node)
                if epoch is not None:
                    seen[node] = now
                    if record.epochs.get(site, epoch) != epoch:
                        record.close({"site": site, "reason": "it was restarted, which ended its job process"})
                elif now - seen.setdefault(node, now) > AWAY_SECONDS:
                    reason = f"it was away for {AWAY_SECONDS:g} s: it ended, or the way to it is broken"
                    record.close({"site": site, "reason": reason})
            await anyio.sleep(WATCH_SECONDS)

    async def _cancel_when_submitter_left(self, record: Record) -> None:
        await self._submitter_left(record)
        _log.warning("%s: %s left, so the job is cancelled", record.job, record.submitter)
        record.scope.cancel()

    async def _submitter_left(self, record: Record) -> None:
        while any(member.fqcn == record.submitter for member in self._own.members()):  # noqa: ASYNC110 - a cell tells no one who left
            await anyio.sleep(WATCH_SECONDS)


async def _unless_closed(record: Record, work: Awaitable[object]) -> None:
    """Wait for *work*, but no longer than until it is known how the job ended."""
    with unwrapped():
        async with anyio.create_task_group() as tasks:

            async def cancel_when_closed() -> None:
                await record.closing.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(cancel_when_closed)
            await work
            tasks.cancel_scope.cancel()


class _SiteError(JobError):
    def __init__(self, site: str, reason: str) -> None:
        super().__init__(f"{site}: {reason}")
        self.site = site


def _node(placed: Placed) -> str:
    """Return the cell of the node that runs a job process."""
    return str(placed.cell.parent)


def _explained(job: str, failed: str, outcome: dict[str, Any], ends: Mapping[str, Ended]) -> dict[str, Any]:
    """Add to a failure what the sites know: which process ended by itself, and the end of a log."""
    if "error" not in outcome:
        return outcome
    crashed = {site: end for site, end in sorted(ends.items()) if end.exit_code is not None}
    lines = [f"{job} failed: {outcome['error']}"]
    lines += [f"at {site} the job process ended by itself, with code {end.exit_code}" for site, end in crashed.items()]
    site = next(iter(crashed), failed)
    if site in ends and ends[site].tail:
        lines += [f"the end of its log at {site}:", ends[site].tail]
    return {"error": "\n".join(lines)}
