"""A broadcast that waits for sessions: its requests leave together, as far as they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.session import Pending, Session
    from cellnet.protocol.timers import Timer, Timers

__all__ = ["GATHER_SECONDS", "Gathering"]

GATHER_SECONDS = 0.5
"""How long a broadcast waits for sessions that are not open yet; who comes later gets a request of its own."""


class Gathering:
    """The requests of one broadcast until they leave."""

    __slots__ = ("_leave", "_missing", "_ready", "_timer", "_timers")

    def __init__(self, timers: Timers, leave: Callable[[list[tuple[Session, Pending]], float], None]) -> None:
        """Begin with none.

        :param leave: sends those that can leave
        """
        self._timers = timers
        self._leave = leave
        self._missing: dict[Pending, None] = {}
        self._ready: list[tuple[Session, Pending]] = []
        self._timer: Timer | None = None

    def wait_for(self, pending: Pending) -> None:
        """Note a request whose session is not open yet."""
        self._missing[pending] = None
        pending.gathering = self

    def ready(self, session: Session, pending: Pending, now: float) -> None:
        """Note that a request can leave."""
        self._ready.append((session, pending))
        self.drop(pending, now)

    def drop(self, pending: Pending, now: float) -> None:
        """Wait for a request no longer, whatever became of it."""
        pending.gathering = None
        self._missing.pop(pending, None)
        if self._timer is not None and not self._missing:
            self._end(now)

    def begin(self, now: float) -> None:
        """Leave as soon as nothing is missing, or it was waited for long enough."""
        if self._missing:
            self._timer = self._timers.at(now + GATHER_SECONDS, self._end)
        else:
            self._end(now)

    def cancel(self) -> None:
        """Let nothing leave any more."""
        for pending in self._missing:
            pending.gathering = None
        self._missing.clear()
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, now: float) -> None:
        ready = [(session, one) for session, one in self._ready if session.channel and one.sequence in session.pending]
        self.cancel()
        if ready:
            self._leave(ready, now)
