"""Asks many requests, and keeps the history of them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import CellError, Indeterminate, NotExecuted, RemoteError
from cellnet.simulation.history import History, Outcome
from tests.faults.cell import nested, payload

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from anyio import CancelScope

    from cellnet import Cell
    from tests.faults.processes import Ran

__all__ = ["Asked", "Load", "percentile"]

EARLY_SECONDS = 0.002
"""How long before its time an event loop may call: uvloop counts in whole milliseconds."""
PAUSE_SECONDS = 0.25
"""After a request that failed: else a network that refuses at once would be asked without end."""


@dataclass(slots=True)
class Asked:
    """One request, as its caller saw it."""

    number: str
    destination: str
    at: float
    """When, on the monotonic clock, as all times here."""
    deadline: float
    handling: float
    then: str | None
    told_at: float = 0.0
    outcome: Outcome | None = None
    error: str = ""
    ran: list[float] | None = None
    """When its handler began, each time, once :meth:`Load.close` has read it."""


class Load:
    """Requests of one cell in this process, to cells in others."""

    def __init__(self, cell: Cell, rng: random.Random) -> None:
        self.history = History()
        self.asked: dict[str, Asked] = {}
        self.events = 0
        self.altered = 0
        """How often a handler or a caller was given what nobody had sent."""
        self._cell = cell
        self._rng = rng
        self._numbers = count(1)

    async def ask(
        self,
        destination: str,
        *,
        within: float,
        handling: float = 0.0,
        filler: bytes = b"",
        then: str | None = None,
        topic: str = "work",
        key: str = "",
        scope: CancelScope | None = None,
    ) -> Outcome | None:
        """Ask *destination* to work; return what came of it, None if nothing was told.

        :param within: seconds until the deadline
        :param handling: seconds of work
        :param then: a cell that the handler asks in turn
        :param topic: ``work``, or ``keep``, which is durable
        :param key: those with the same one run one after the other
        :param scope: the request is cancelled with it
        """
        number = str(next(self._numbers))
        # One moment for both clocks, and nothing is made in between that could start the collector: a pause would be
        # held against the caller, who is told a little before his time is over.
        now, start = time.monotonic(), anyio.current_time()
        limit = anyio.CancelScope(deadline=start + within)
        asked = self.asked[number] = Asked(number, destination, now, now + within, handling, then)
        earliest = asked.deadline - EARLY_SECONDS
        self.history.asked(number, str(self._cell.fqcn), destination, deadline=earliest)
        if then is not None:
            self.history.asked(nested(number), destination, then, deadline=earliest)
        message = payload(number, handling, filler, then)
        value_is_right = True
        with scope or anyio.CancelScope() as scope:
            try:
                with limit:
                    answer = await self._cell.request(destination, topic, message, key=key)
                    value_is_right = answer == [number, message[-1]]
                    asked.outcome = Outcome.OK
            except CellError as error:
                asked.outcome, asked.error = _outcome(error), f"{type(error).__name__}: {error}"
            if limit.cancelled_caught:  # it had ended before the request was made
                asked.outcome = Outcome.NOT_EXECUTED
        if scope.cancelled_caught:
            asked.outcome = Outcome.CANCELLED
        asked.told_at = time.monotonic()
        self._tell(asked, value_is_right=value_is_right)
        return asked.outcome

    async def tell(self, destination: str, *, within: float, filler: bytes = b"") -> None:
        """Send *destination* an event: it runs once or not at all, and nobody is told which."""
        number, now = str(next(self._numbers)), time.monotonic()
        self.events += 1
        self.history.asked(number, str(self._cell.fqcn), destination, deadline=now + within)
        with anyio.move_on_after(within), suppress(CellError):
            await self._cell.send(destination, "work", payload(number, 0.0, filler))
        self.history.told(number, Outcome.CANCELLED, time.monotonic())

    async def keep_asking(
        self,
        in_flight: int,
        destinations: Sequence[str],
        stop: anyio.Event,
        *,
        within: float,
        handling: tuple[float, float],
        nested_share: float = 0.0,
    ) -> None:
        """Keep so many requests under way until *stop* is set, and wait for the last of them.

        :param handling: the least and the most seconds of work
        :param nested_share: which part of the handlers asks another destination in turn
        """

        async def work() -> None:
            while not stop.is_set():
                destination = self._rng.choice(destinations)
                others = [name for name in destinations if name != destination]
                then = self._rng.choice(others) if others and self._rng.random() < nested_share else None
                outcome = await self.ask(destination, within=within, handling=self._rng.uniform(*handling), then=then)
                if outcome is not Outcome.OK:
                    with anyio.move_on_after(PAUSE_SECONDS * self._rng.uniform(0.5, 1.5)):
                        await stop.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(in_flight):
                tasks.start_soon(work)

    def close(self, runs: list[Ran]) -> list[str]:
        """Take what ran, in order; return what must not have happened."""
        for now, number, where, origin in runs:
            self.history.ran(number, where, now, asked_by=origin)
            if number in self.asked:
                asked = self.asked[number]
                asked.ran = [*(asked.ran or ()), now]
            self.altered += number == "altered"
        return self.history.violations()

    def count(self, *outcomes: Outcome) -> int:
        """Return how many requests ended in these ways."""
        return sum(asked.outcome in outcomes for asked in self.asked.values())

    def not_ok(self) -> int:
        """Return how many requests did not end well."""
        return len(self.asked) - self.count(Outcome.OK)

    def run_twice(self) -> int:
        """Return how many requests ran more than once."""
        return sum(len(asked.ran or ()) > 1 for asked in self.asked.values())

    def errors(self, most: int = 3) -> list[str]:
        """Return the most frequent errors, with how often they came."""
        counted: dict[str, int] = {}
        for asked in self.asked.values():
            if asked.error:
                counted[asked.error] = counted.get(asked.error, 0) + 1
        return [f"{times} x {error}" for error, times in sorted(counted.items(), key=lambda one: -one[1])[:most]]

    def _tell(self, asked: Asked, *, value_is_right: bool) -> None:
        if asked.outcome is None:
            return  # the history will say that nobody was told
        self.altered += not value_is_right
        self.history.told(asked.number, asked.outcome, asked.told_at, value_is_right=value_is_right)
        if asked.then is not None:
            # The handler knew how its own request ended. If its caller was told of no success, nobody asks for that.
            inner = Outcome.OK if asked.outcome is Outcome.OK else Outcome.CANCELLED
            self.history.told(nested(asked.number), inner, asked.told_at)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which *share* of all are; None of nothing."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3) if ordered else None


def _outcome(error: CellError) -> Outcome | None:
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return outcome
    return None


_OUTCOMES: list[tuple[type[CellError], Outcome]] = [
    (RemoteError, Outcome.RAISED),
    (NotExecuted, Outcome.NOT_EXECUTED),
    (Indeterminate, Outcome.INDETERMINATE),
]
