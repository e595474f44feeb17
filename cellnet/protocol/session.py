"""The asker's end of a session: what was asked of one cell, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol.ranges import Ranges
from cellnet.protocol.sealing import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.errors import NotExecuted
    from cellnet.fqcn import FQCN
    from cellnet.protocol.envelope import Content
    from cellnet.protocol.timers import Timer

__all__ = [
    "MAX_PAUSE_SECONDS",
    "MAX_SILENCE_SECONDS",
    "PAUSE_SECONDS",
    "SILENCE_SECONDS",
    "Group",
    "Pending",
    "Session",
]

PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0
"""Before a request is sent again after bad news: doubling, with jitter."""
SILENCE_SECONDS = 2.0
MAX_SILENCE_SECONDS = 30.0
"""Before a request is sent again after no news: doubling. One that is being worked on is asked for at the longest."""


class Session:
    """The way to one cell: what was asked there, in the order of sequence numbers."""

    __slots__ = (
        "attempt",
        "counter",
        "destination",
        "epoch",
        "events",
        "first",
        "flying",
        "has_untold",
        "kept_bytes",
        "keys",
        "next_sequence",
        "number",
        "opening",
        "pause",
        "pending",
        "settled",
        "settling",
        "silence",
        "window",
    )

    def __init__(self, destination: FQCN) -> None:
        self.destination = destination
        self.number = 0
        """Given by the answerer; 0 until it is open."""
        self.epoch = 0
        """The answerer's; 0 until it was open once."""
        self.attempt = 0
        self.opening: Timer | None = None
        self.first: tuple[Pending, float] | None = None
        """The request that the first OPEN carried, and when."""
        self.pause = PAUSE_SECONDS
        self.silence = SILENCE_SECONDS
        self.counter = 0
        self.window = Window()
        self.next_sequence = 1
        self.pending: dict[int, Pending] = {}
        self.settled = Ranges()
        self.settling: Timer | None = None
        self.has_untold = False
        """Whether the answerer should hear what is settled as soon as the session is open."""
        self.kept_bytes = 0
        """Of answers that the answerer was not yet told to forget, about."""
        self.flying: dict[int, Pending] = {}
        """By counter, the transmissions of which nothing is known."""
        self.keys: dict[str, list[int]] = {}
        """By ordering key, the sequence numbers that are pending."""
        self.events: list[tuple[Content, str, float]] = []

    @property
    def floor(self) -> int:
        """Below it, nothing is pending."""
        return next(iter(self.pending), self.next_sequence)

    def deadline(self, now: float) -> float:
        """Until when somebody waits for the session to open."""
        waiting = [pending.deadline for pending in self.pending.values()] + [event[2] for event in self.events]
        return max(waiting, default=now)

    def begin(self, number: int, epoch: int) -> None:
        """Be open, anew or for the first time."""
        self.number, self.epoch = number, epoch
        self.counter = 0
        self.window = Window()
        self.flying.clear()
        self.pause, self.silence = PAUSE_SECONDS, SILENCE_SECONDS

    def add(self, pending: Pending) -> Pending:
        """Give a request the next sequence number."""
        pending.sequence = self.next_sequence
        self.next_sequence += 1
        self.pending[pending.sequence] = pending
        if pending.key:
            self.keys.setdefault(pending.key, []).append(pending.sequence)
        return pending

    def remove(self, pending: Pending) -> None:
        """Settle a request."""
        del self.pending[pending.sequence]
        self.settled.add(pending.sequence, pending.sequence + 1)
        if pending.key:
            same = self.keys[pending.key]
            same.remove(pending.sequence)
            if not same:
                del self.keys[pending.key]

    def predecessor(self, pending: Pending) -> int:
        """Return the pending request with the same key that must end before this one; 0 if there is none."""
        if not pending.key:
            return 0
        same = self.keys[pending.key]
        place = same.index(pending.sequence)
        return same[place - 1] if place else 0

    def take_events(self) -> Iterator[tuple[Content, str, float]]:
        """Return the events that waited for the session, and keep none."""
        events, self.events = self.events, []
        return iter(events)


class Pending:
    """One request to one cell."""

    __slots__ = (
        "again",
        "call",
        "content",
        "counters",
        "deadline",
        "error",
        "group",
        "in_doubt",
        "key",
        "over",
        "pause",
        "repeats",
        "sequence",
        "silence",
    )

    def __init__(self, call: int, content: Content, deadline: float, key: str, *, repeats: bool) -> None:
        self.call = call
        self.content = content
        self.deadline = deadline
        self.key = key
        self.repeats = repeats
        self.sequence = 0
        self.in_doubt = 0
        """Transmissions that may have arrived, or may yet."""
        self.counters: list[int] = []
        self.error: NotExecuted | None = None
        """The last bad news, if nothing was sent since."""
        self.pause = PAUSE_SECONDS
        self.silence = SILENCE_SECONDS
        self.group: Group | None = None
        """Those that it leaves with, until it did."""
        self.again: Timer | None = None
        self.over: Timer | None = None


class Group:
    """The requests of one broadcast that wait for their sessions, to leave together."""

    __slots__ = ("missing", "ready", "timer")

    def __init__(self) -> None:
        self.ready: list[tuple[Session, Pending]] = []
        self.missing = 0
        self.timer: Timer | None = None
