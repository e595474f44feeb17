"""How much of a large value has come to each site: what its job process tells the server, for whoever submitted.

It is told as it comes and may be lost; nothing waits for it. Ordinary values are small, and nothing is told of them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import anyio

from cellnet.errors import DeliveryError, JobError
from cellnet.fqcn import ROOT
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from cellnet.arrival import Progress
    from cellnet.cell import Cell
    from cellnet.fqcn import FQCN

__all__ = ["MIN_TOLD_BYTES", "TOPIC", "SiteProgress", "Teller"]

TOPIC = "jobs.progress"
MIN_TOLD_BYTES = 1024 * 1024
"""A value that is smaller has come before anybody could look."""
PAUSE_SECONDS = 0.2

_SEND_SECONDS = 5.0
"""What could not leave by then is too old to be worth sending."""


class SiteProgress(NamedTuple):
    """How much has come to one site of the value that it is given."""

    site: str
    """Its FQSN."""
    received: int
    """Bytes of it."""
    size: int
    """Bytes of the whole."""

    @classmethod
    def from_value(cls, site: str, value: object) -> SiteProgress:
        """Read what :class:`Teller` tells of a site.

        :raises JobError: if it is malformed
        """
        match value:
            case [int(received), int(size)] if 0 <= received <= size:
                return cls(site, received, size)
        raise JobError("what a site says of a value on its way is malformed")


class Teller:
    """Tell the server how much has come of the large values that a job process is given by its parent."""

    def __init__(self, parent: FQCN | None) -> None:
        self._parent = parent
        self._latest: Progress | None = None
        self._changed = Wakeup()
        self._ended = Wakeup()

    def take(self, progress: Progress) -> None:
        """Take the word of this process's cell; results of processes below are not for the site."""
        if progress.source != self._parent or progress.size < MIN_TOLD_BYTES:
            return
        self._latest = progress
        self._changed.notify()
        if progress.received == progress.size:
            self._ended.notify()

    async def tell(self, cell: Cell) -> None:
        """Send what is new, now and then, and at once that all has come."""
        while True:
            while (latest := self._latest) is None:
                await self._changed.wait()
            self._latest = None
            with anyio.move_on_after(_SEND_SECONDS), suppress(DeliveryError):
                # with a key, as an older word must not come after a later one
                await cell.send(ROOT, TOPIC, [latest.received, latest.size], key=TOPIC)
            with anyio.move_on_after(PAUSE_SECONDS):
                await self._ended.wait()
