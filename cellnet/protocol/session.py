"""The asker's end of a session: what was asked of one cell, and what is known of it."""

from __future__ import annotations

import math
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from cellnet.errors import (
    Busy,
    DeadlineBeforeExecution,
    DeadlineExceeded,
    Indeterminate,
    StillBusy,
    StillUnreachable,
)
from cellnet.protocol.envelope import MAX_RANGES, Order, join, pack_ranges
from cellnet.protocol.frames import MAX_REMAINING_MS
from cellnet.protocol.ranges import Ranges

if TYPE_CHECKING:
    from cellnet.errors import DeliveryError, NotExecuted
    from cellnet.fqcn import FQCN
    from cellnet.protocol.channel import Channel
    from cellnet.protocol.envelope import Content
    from cellnet.protocol.gathering import Gathering
    from cellnet.protocol.introduction import Introduction
    from cellnet.protocol.timers import Timer

__all__ = [
    "MAX_PAUSE_SECONDS",
    "MAX_SILENCE_SECONDS",
    "PAUSE_SECONDS",
    "SILENCE_SECONDS",
    "Pending",
    "Session",
    "Untold",
]

PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 1.0
"""Before a request is sent again after bad news: doubling, with jitter."""
SILENCE_SECONDS = 2.0
MAX_SILENCE_SECONDS = 30.0
"""Before a request is sent again after no news: doubling. One that is being worked on is asked for at the longest."""


class Untold(NamedTuple):
    """An event that waits for its session to open."""

    content: Content
    key: str
    after: int
    """The last request with the same key that was pending when it was told; 0 for none."""
    deadline: float


class Session:
    """The way to one cell: what was asked there, in the order of sequence numbers."""

    __slots__ = (
        "at",
        "attempt",
        "carried",
        "channel",
        "destination",
        "earliest",
        "epoch",
        "events",
        "flying",
        "given_up",
        "has_untold",
        "introduction",
        "is_pausing",
        "kept_bytes",
        "keys",
        "name",
        "next_sequence",
        "opening",
        "pause",
        "pending",
        "settled",
        "settling",
        "silence",
        "unclear",
    )

    def __init__(self, destination: FQCN, next_sequence: int) -> None:
        self.destination = destination
        self.name: FQCN | None = None
        """What this cell was called when it first asked, which it stays for the answerer; None before that."""
        self.at = destination
        """What the answerer is called now: another name if it moved."""
        self.channel: Channel | None = None
        """None unless it is open."""
        self.epoch = 0
        """The answerer's; 0 until it was open once."""
        self.attempt = 0
        self.earliest = 0.0
        """Before it, no OPEN is sent, not even for another message."""
        self.is_pausing = False
        """Whether the last OPEN failed, and the next one waits."""
        self.introduction: Introduction | None = None
        """What OPEN says, until it is answered."""
        self.opening: Timer | None = None
        self.carried: tuple[Pending, float] | None = None
        """The request that the first OPEN carried, and when."""
        self.unclear = 0
        """How many answers left it in doubt whether that may have run."""
        self.pause = PAUSE_SECONDS
        self.silence = SILENCE_SECONDS
        self.next_sequence = next_sequence
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
        """By ordering key, the sequence numbers that are pending, and those that nobody waits for while one before is
        pending: they are settled together, as else who follows them could overtake it."""
        self.given_up: dict[int, None] = {}
        """The latter."""
        self.events: list[Untold] = []

    @property
    def open_channel(self) -> Channel:
        """The channel, where it is known that there is one."""
        assert self.channel is not None  # noqa: S101  # whoever sends has looked
        return self.channel

    @property
    def floor(self) -> int:
        """Below it, nothing is pending."""
        return next(iter(self.pending), self.next_sequence)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it to be open."""
        return bool(self.pending or self.events)

    def wanted_until(self, now: float) -> float:
        """Return the last deadline of those who wait for it to be open."""
        waiting = [pending.deadline for pending in self.pending.values()] + [event.deadline for event in self.events]
        return max(waiting, default=now)

    @property
    def first_alone(self) -> Pending | None:
        """The first request that does not wait for others of a broadcast, nor for an event with its key."""
        first = next((pending for pending in self.pending.values() if pending.gathering is None), None)
        if first is not None and first.key:
            earlier = (event for event in self.events if event.key == first.key and event.after < first.sequence)
            return None if any(earlier) else first
        return first

    def begin(self, channel: Channel, epoch: int, at: FQCN) -> None:
        """Be open, anew or for the first time."""
        self.channel, self.epoch, self.at = channel, epoch, at
        self.introduction = None
        self.is_pausing = False
        self.flying.clear()
        for pending in self.pending.values():
            pending.counters.clear()  # what is in doubt stays so
        self.pause, self.silence = PAUSE_SECONDS, SILENCE_SECONDS

    def asks_with(self, digest: bytes) -> bool:
        """Whether this is the SHA-256 of what OPEN says."""
        return self.introduction is not None and sha256(self.introduction.hello()).digest() == digest

    def add(self, pending: Pending) -> Pending:
        """Give a request the next sequence number."""
        pending.sequence = self.next_sequence
        self.next_sequence += 1
        self.pending[pending.sequence] = pending
        if pending.key:
            self.keys.setdefault(pending.key, []).append(pending.sequence)
        return pending

    def remove(self, pending: Pending) -> int:
        """Want no more answer to a request; return how many are settled by that."""
        del self.pending[pending.sequence]
        if not pending.key:
            self.settled.add(pending.sequence, pending.sequence + 1)
            return 1
        same = self.keys[pending.key]
        count = next((place for place, one in enumerate(same) if one in self.pending), len(same))
        if not count:
            self.given_up[pending.sequence] = None
        for sequence in same[:count]:
            self.settled.add(sequence, sequence + 1)
            self.given_up.pop(sequence, None)
        del same[:count]
        if not same:
            del self.keys[pending.key]
        return count

    def settlement(self) -> bytes:
        """Return the body of a SETTLED: what the answerer may forget, and what it need not begin any more."""
        latest = Ranges()
        for sequence in islice(reversed(self.given_up), MAX_RANGES):
            latest.add(sequence, sequence + 1)
        return pack_ranges(self.settled, latest)

    def predecessor(self, pending: Pending) -> int:
        """Return the request with the same key that must end before this one; 0 if there is none."""
        return self._last_pending(pending.key, pending.sequence - 1)

    def order(self, pending: Pending, now: float) -> Order:
        """Return what the answerer is told of a request besides its content."""
        after, within_ms = self.predecessor(pending), _milliseconds(pending.deadline - now)
        return Order(pending.sequence, self.floor, pending.key, after, within_ms, pending.is_doubtful)

    def body(self, pending: Pending, now: float) -> bytes:
        """Return the body of a REQUEST."""
        return join(self.order(pending, now).pack(), pending.content.pack())

    def event_body(self, event: Untold, now: float) -> bytes:
        """Return the body of an EVENT."""
        after = self._last_pending(event.key, event.after)
        order = Order(0, self.floor, event.key, after, _milliseconds(event.deadline - now))
        return join(order.pack(), event.content.pack())

    def last(self, key: str) -> int:
        """Return the last request with an ordering key that is not settled; 0 if there is none."""
        return self.keys[key][-1] if key in self.keys else 0

    def _last_pending(self, key: str, highest: int) -> int:
        """Return the last request with a key, up to a number, that somebody waits for.

        One that was given up is no good to wait for: it may never have come, and ends before those that it followed.
        """
        same = reversed(self.keys.get(key, ())) if key else ()
        return next((one for one in same if one <= highest and one in self.pending), 0)

    def not_delivered(self, counter: int, *, is_certain: bool) -> Pending | None:
        """Note that a transmission is said to have run nothing; return what it was, if nothing was known of it.

        :param is_certain: whether nobody can have lied
        """
        pending = self.flying.pop(counter, None)
        if pending is not None:
            pending.in_doubt -= is_certain
        return pending

    def ran_only(self, ranges: list[tuple[int, int]]) -> None:
        """Take the answerer's word for it that it ran nothing but these; what an earlier start ran it cannot know."""
        for pending in self.pending.values():
            if not pending.is_doubtful and not any(start <= pending.sequence < stop for start, stop in ranges):
                pending.in_doubt = 0

    def drop_late_events(self, now: float) -> int:
        """Forget the events whose time is over; return how many."""
        count = len(self.events)
        self.events = [event for event in self.events if event.deadline > now]
        return count - len(self.events)

    def stop_opening(self) -> None:
        """Cancel the next OPEN."""
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None

    def stop_settling(self) -> None:
        """Cancel the next SETTLED."""
        if self.settling is not None:
            self.settling.cancel()
            self.settling = None


class Pending:
    """One request to one cell."""

    __slots__ = (
        "again",
        "call",
        "content",
        "counters",
        "deadline",
        "error",
        "gathering",
        "in_doubt",
        "is_doubtful",
        "key",
        "over",
        "pause",
        "repeats",
        "sequence",
        "silence",
        "unclear",
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
        self.is_doubtful = False
        """Whether an earlier start of the answerer may have run it."""
        self.counters: list[int] = []
        self.error: NotExecuted | None = None
        """The last bad news, if nothing was sent since."""
        self.pause = PAUSE_SECONDS
        self.silence = SILENCE_SECONDS
        self.gathering: Gathering | None = None
        """Those that it waits for, to leave with them."""
        self.again: Timer | None = None
        self.over: Timer | None = None

    def doubt(self, destination: FQCN, reason: str) -> Indeterminate:
        """Return the error of a request that may have run."""
        return Indeterminate(f"{reason}: {self.content.topic} may have run at {destination}")

    def verdict(self, destination: FQCN) -> DeliveryError:
        """Return what is known of a request when its time is over."""
        topic = self.content.topic
        if self.in_doubt:
            return DeadlineExceeded(f"{destination} did not answer {topic} in time: it may have run")
        if isinstance(self.error, Busy):
            return StillBusy(str(self.error))
        if self.error is not None:
            return StillUnreachable(str(self.error))
        return DeadlineBeforeExecution(f"{topic} could not be sent to {destination} in time")


def _milliseconds(seconds: float) -> int:
    return min(max(0, math.ceil(seconds * 1000)), MAX_REMAINING_MS)
