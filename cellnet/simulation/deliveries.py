"""What was offered of large payloads and streams, what of it came, and whether the rest failed for a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellnet.protocol.fetch import NO_PROGRESS_SECONDS
from cellnet.protocol.want import TEMPORARY
from cellnet.simulation.errand import text

if TYPE_CHECKING:
    from cellnet.protocol.frames import Buffer

__all__ = ["Deliveries", "Delivery", "Offered"]

AFTERMATH_SECONDS = 30.0
"""How long after a fault, or its repair, bytes may still not come because of it: a dead link, and a few dials."""


@dataclass(eq=False, slots=True)
class Offered:
    """One content at its holder."""

    name: str
    """By which its bytes are known: see :func:`cellnet.simulation.errand.text`."""
    holder: str
    size: int
    """How many bytes it has; of a stream, so far."""
    is_whole: bool = True
    """Whether there will be no more."""
    ended: str = ""
    """Why it is held no longer, once it is not."""


@dataclass(eq=False, slots=True)
class Delivery:
    """One content on its way to one cell."""

    offered: Offered
    where: str
    progressed: float
    """When its last bytes came, or it began."""
    position: int = 0
    """What its reader has got."""


class Deliveries:
    """A record of one run. Times are seconds on any one clock."""

    def __init__(self, *, is_hostile: bool) -> None:
        """Begin with nothing.

        :param is_hostile: whether somebody in between may make contents fail, which is always in his power
        """
        self.counts: Counter[str] = Counter()
        """How many came, how many streams were read to their end, and how many failed, by the code."""
        self._is_hostile = is_hostile
        self._offered: dict[bytes, Offered] = {}
        self._strange: list[str] = []
        self._disturbed = -AFTERMATH_SECONDS

    def offered(self, content: bytes, offered: Offered) -> None:
        """Note that a cell holds a content."""
        self._offered[content] = offered

    def withdrawn(self, content: bytes, code: str) -> None:
        """Note that its holder holds it no longer."""
        self._offered[content].ended = code

    def died(self, cell: str) -> None:
        """Note that a cell was killed, and what it held is lost."""
        for offered in self._offered.values():
            if offered.holder == cell and not offered.ended:
                offered.ended = "died"

    def disturbed(self, now: float) -> None:
        """Note that a fault was done, or repaired."""
        self._disturbed = now

    def knows(self, content: bytes, where: str) -> bool:
        """Whether what a cell was told of is a content that somebody offered; else note it."""
        if content in self._offered:
            return True
        self._strange.append(f"{where} was told of a content that nobody offered: it was given another's answer")
        return False

    def began(self, content: bytes, where: str, now: float) -> Delivery:
        """Note that a cell wants a content."""
        return Delivery(self._offered[content], where, now)

    def came(self, delivery: Delivery, data: Buffer) -> None:
        """Note that a whole payload came."""
        self.counts["payloads"] += 1
        self.read(delivery, data)
        self._compare_end(delivery)

    def read(self, delivery: Delivery, data: Buffer) -> None:
        """Note what a reader got next."""
        begin, offered = delivery.position, delivery.offered
        delivery.position = end = begin + len(data)
        if end > offered.size:
            self._strange.append(f"{self._named(delivery)} has more bytes than were offered: {end}, not {offered.size}")
        elif bytes(text(offered.name, end)[begin:]) != data:  # bytes compare faster than views
            self._strange.append(f"{self._named(delivery)} differs from what was offered, between {begin} and {end}")

    def read_to_end(self, delivery: Delivery) -> None:
        """Note that a reader was told that it got all of a stream."""
        self.counts["streams"] += 1
        self._compare_end(delivery)

    def failed(self, delivery: Delivery, code: str, now: float) -> None:
        """Note that a content will not come, and why."""
        self.counts[code] += 1
        if not self._is_hostile and not self._is_true(delivery, code, now):
            ended = delivery.offered.ended or "held"
            self._strange.append(f"{self._named(delivery)} failed ({code}) at {now:.3f} s for no reason: it is {ended}")

    def violations(self) -> list[str]:
        """Return what must not have happened, one line each; empty if all is well."""
        return list(self._strange)

    def _compare_end(self, delivery: Delivery) -> None:
        offered = delivery.offered
        if delivery.position != offered.size or not offered.is_whole:
            self._strange.append(f"{self._named(delivery)} ended after {delivery.position} of {offered.size} bytes")

    def _is_true(self, delivery: Delivery, code: str, now: float) -> bool:
        ended = delivery.offered.ended
        if code == "gone":
            return bool(ended)
        if code == "reset":
            return ended == "reset"
        # Not a byte came for so long, and something had happened to the network not long before.
        is_stuck = now - delivery.progressed >= NO_PROGRESS_SECONDS
        return code in TEMPORARY and is_stuck and self._disturbed >= delivery.progressed - AFTERMATH_SECONDS

    @staticmethod
    def _named(delivery: Delivery) -> str:
        return f"the content {delivery.offered.name!r} of {delivery.offered.holder} at {delivery.where}"
