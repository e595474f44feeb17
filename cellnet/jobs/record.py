"""What the server knows about one run while it lasts: who submitted it, what was reported, how it ended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.jobs.assignment import is_same

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.jobs.assignment import Placed
    from cellnet.jobs.progress import SiteProgress
    from cellnet.jobs.submission import Submission
    from cellnet.jobs.tree import JobTree

__all__ = ["MAX_BATCH_BYTES", "MAX_REPORTS", "Record"]

MAX_REPORTS = 1000
"""That wait for a submitter who does not fetch them; the oldest are dropped."""
MAX_BATCH_BYTES = 32 * 1024


class Record:
    """Hold the state of one run; wakes whoever waits for news."""

    def __init__(
        self, job: str, submitter: FQCN, submission: Submission, tree: JobTree, placed: dict[str, Placed]
    ) -> None:
        self.job = job
        self.submitter = submitter
        self.submission = submission
        self.tree = tree
        self.placed = placed
        """The chosen sites and the cells of their job processes, by FQSN."""
        self.epochs: dict[str, int] = {}
        """Of the nodes of sites where its process was started, by FQSN."""
        self.scope = anyio.CancelScope()
        """Of the run; cancelling it ends the job at all sites."""
        self.closing = anyio.Event()
        """Set when it is known how the job ended."""
        self.answer: dict[str, Any] = {}
        """What the SJ said of it, or which site made it end."""
        self.finished = anyio.Event()
        """Set when no job process is left."""
        self.outcome: dict[str, Any] | None = None
        """What the submitter is told at the end."""
        self._reports: deque[bytes] = deque(maxlen=MAX_REPORTS)
        self._dropped = 0
        self._progress: dict[str, list[int]] = {}
        """What the submitter was not told yet: by FQSN, the latest of each site."""
        self._news = anyio.Event()

    def report(self, report: bytes) -> None:
        """Take a report from the SJ."""
        if len(self._reports) == MAX_REPORTS:
            self._dropped += 1
        self._reports.append(report)
        self._announce()

    def site_of(self, cell: FQCN) -> str | None:
        """Return the site whose job process has this cell."""
        return next((site for site, placed in self.placed.items() if is_same(cell, placed.cell)), None)

    def progress(self, progress: SiteProgress) -> None:
        """Take the word of a site's job process on a large value that comes to it."""
        self._progress[progress.site] = [progress.received, progress.size]
        self._announce()

    def close(self, answer: dict[str, Any]) -> None:
        """Take a word on how the job ended: the SJ's, or one on the site that made it end. Only the first counts."""
        if not self.closing.is_set():
            self.answer = answer
            self.closing.set()

    def finish(self, outcome: dict[str, Any]) -> None:
        """Note how the run ended, once nothing of it is left."""
        self.outcome = outcome
        self.finished.set()
        self._announce()

    async def follow(self, following: int, seconds: float) -> dict[str, Any]:
        """Return the reports from number *following* on, or the outcome after the last; wait for news of any kind."""
        with anyio.move_on_after(seconds):
            while not (self._progress or following < self._dropped + len(self._reports) or self.finished.is_set()):
                await self._news.wait()
        progress, self._progress = self._progress, {}
        skip = max(0, following - self._dropped)
        batch: list[bytes] = []
        size = 0
        for report in list(self._reports)[skip:]:
            size += len(report)
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(report)
        # the outcome is the last that is told
        outcome = None if batch else self.outcome
        following = self._dropped + skip + len(batch)
        return {"reports": batch, "next": following, "outcome": outcome, "progress": progress}

    def _announce(self) -> None:
        self._news.set()
        self._news = anyio.Event()
