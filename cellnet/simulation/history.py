"""What was asked, what ran and what was told, and whether the three agree.

The rules are those that a caller relies on. They are checked after a run, over everything that happened in it, as in
Jepsen's checkers: https://jepsen.io/consistency
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from itertools import combinations

from cellnet.simulation.deliveries import Deliveries

__all__ = ["History", "Outcome"]


class Outcome(Enum):
    """What the caller of a request was told."""

    OK = "ok"
    RAISED = "raised"
    """The far handler raised, or refused."""
    NOT_EXECUTED = "not executed"
    INDETERMINATE = "indeterminate"
    CANCELLED = "cancelled"
    """The caller no longer wanted to know."""


@dataclass
class _Asked:
    origin: str
    destination: str
    key: str | None
    order: int
    deadline: float
    start: int
    """Of its origin: how often that had died before."""
    called: str = ""
    """What its handler knew the origin as."""
    ran: list[tuple[str, float, int]] = field(default_factory=list)
    """Where, when, and as how many-th of all."""
    ended_at: float = 0.0
    outcome: Outcome | None = None
    told_at: float = 0.0
    value_is_right: bool = True
    is_lost: bool = False
    """Whether its large payload, or its answer, could not be fetched."""

    def is_in_order_with(self, other: _Asked) -> bool:
        """Whether an ordering key that both have orders them.

        A cell that was started again goes on under its name. If it has another one now, as it moved meanwhile, nobody
        knows it for the same.
        """
        return self.start == other.start or self.called == other.called


class History:
    """A record of one run. Times are seconds on any one clock."""

    def __init__(self, *, has_replays: bool = False) -> None:
        """Begin with nothing.

        :param has_replays: whether somebody in between may send again what he saw, in the clear. He can deliver what
            was refused before, and of which the caller was told that it did not run: only a seal is of help
        """
        self.deliveries = Deliveries(is_hostile=has_replays)
        """Its large payloads, and streams."""
        self._has_replays = has_replays
        self._asked: dict[str, _Asked] = {}
        self._deaths: dict[str, list[float]] = defaultdict(list)
        self._strange: list[str] = []
        self._running: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
        """By cell, then by origin and ordering key: what runs there."""
        self._ran = 0

    def __len__(self) -> int:
        return len(self._asked)

    def asked(self, number: str, origin: str, destination: str, *, deadline: float, key: str | None = None) -> None:
        """Note a request, before it is sent.

        :param number: what no other request of the run is called
        :param key: its ordering key
        """
        start = len(self._deaths[origin])
        self._asked[number] = _Asked(origin, destination, key, len(self._asked), deadline, start)

    def ran(self, number: str, where: str, now: float, *, asked_by: str, called: str = "") -> None:
        """Note that the handler of a request began.

        :param asked_by: who asked it, as far as the handler knows
        :param called: the name by which it knows that cell, which may have had others
        """
        self._ran += 1
        asked = self._asked.get(number)
        if asked is None:
            self._strange.append(f"{number} ran at {where}, and nobody had asked it")
            return
        asked.ran.append((where, now, self._ran))
        asked.called = called or asked_by
        if asked_by != asked.origin:
            self._strange.append(f"{number} ran at {where} in the name of {asked_by}, and {asked.origin} asked it")
        if asked.key is not None:
            running = self._running[where][asked.origin, asked.key]
            for other in running:
                if other != number and asked.is_in_order_with(self._asked[other]):
                    self._strange.append(f"{number} began at {where} before {other} ended, which has the same key")
            running.append(number)

    def ended(self, number: str, where: str, now: float) -> None:
        """Note that the handler of a request ended, however it did."""
        asked = self._asked.get(number)
        if asked is not None:
            asked.ended_at = now
            if asked.key is not None and number in (running := self._running[where][asked.origin, asked.key]):
                running.remove(number)

    def told(self, number: str, outcome: Outcome, now: float, *, value_is_right: bool = True) -> None:
        """Note how a request ended for its caller.

        :param value_is_right: whether the answer was the one to this request
        """
        asked = self._asked[number]
        if asked.outcome is not None:
            self._strange.append(f"{number} ended twice: {asked.outcome.value}, then {outcome.value}")
        asked.outcome, asked.told_at, asked.value_is_right = outcome, now, value_is_right

    def lost(self, number: str) -> None:
        """Note that the large payload of a request could not be fetched, or its large answer."""
        if asked := self._asked.get(number):
            asked.is_lost = True

    def died(self, cell: str, now: float) -> None:
        """Note that a cell was killed: it may have been running what it had been asked."""
        self._deaths[cell].append(now)
        self._running.pop(cell, None)

    def outcome(self, number: str) -> Outcome | None:
        """Return how a request ended, if it did."""
        return self._asked[number].outcome

    def counts(self) -> dict[str, int]:
        """Return how many requests ended in which way, by the outcome's value."""
        counts = {outcome.value: 0 for outcome in Outcome}
        for asked in self._asked.values():
            if asked.outcome is not None:
                counts[asked.outcome.value] += 1
        return counts

    def in_doubt(self, *, with_key: bool) -> list[str]:
        """Return the requests with, or without, an ordering key that were told indeterminate."""
        return [
            number
            for number, asked in self._asked.items()
            if asked.outcome is Outcome.INDETERMINATE and (asked.key is not None) == with_key
        ]

    def longest_in_vain(self) -> float:
        """Return how many seconds a handler worked, or began, at most after its caller no longer wanted to know."""
        told = (asked for asked in self._asked.values() if asked.told_at and asked.ran)
        return max((asked.ended_at - asked.told_at for asked in told), default=0.0)

    def violations(self) -> list[str]:
        """Return what must not have happened, one line each; empty if all is well."""
        found = list(self._strange)
        for number, asked in self._asked.items():
            found += (f"{number} ({asked.origin} to {asked.destination}): {said}" for said in self._judge(asked))
        return found + self._disorder() + self.deliveries.violations()

    def _judge(self, asked: _Asked) -> list[str]:
        found = [f"it ran at {where}" for where, _now, _order in asked.ran if where != asked.destination]
        times = len(asked.ran)
        if asked.outcome is None:
            return [*found, "its caller was never told"]
        if times > 1:
            found.append(f"it ran {times} times")
        if asked.outcome in (Outcome.OK, Outcome.RAISED) and times == 0 and not asked.is_lost:
            found.append(f"it was told {asked.outcome.value}, and never ran")
        if asked.outcome is Outcome.NOT_EXECUTED and times and not self._has_replays:
            found.append("it was told not executed, and ran")
        if asked.outcome is Outcome.INDETERMINATE and not self._may_be_in_doubt(asked):
            found.append("it was told indeterminate, but nobody died and no deadline passed")
        if not asked.value_is_right:
            found.append("it was given another's answer")
        return found

    def _may_be_in_doubt(self, asked: _Asked) -> bool:
        if asked.is_lost:
            return True  # whether that had a reason is looked at with the contents
        # A call ends up to 50 ms before its deadline, to tell how.
        return asked.told_at >= asked.deadline - 0.05 or any(
            death <= asked.told_at for death in self._deaths[asked.destination]
        )

    def _disorder(self) -> list[str]:
        """Return what ran before something that its caller had asked earlier with the same key."""
        lanes: dict[tuple[str, str, str], list[tuple[str, _Asked]]] = defaultdict(list)
        for number, asked in self._asked.items():
            if asked.key is not None and asked.ran:
                lanes[asked.origin, asked.destination, asked.key].append((number, asked))
        return [
            f"{number} ran before {before} ({origin} to {destination}, key {key})"
            for (origin, destination, key), runs in lanes.items()
            for (before, first), (number, second) in combinations(runs, 2)
            if second.ran[0][2] < first.ran[0][2] and second.is_in_order_with(first)
        ]
