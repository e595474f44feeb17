"""Who has arrived at a cell and has not proven yet who it is: how many, and who gives way when it is full."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cellnet.clock import running_clock

if TYPE_CHECKING:
    import anyio

    from cellnet.protocol.connection import Connection

__all__ = ["Arrival", "Arrivals"]

MAX_UNPROVEN = 128
"""Arrivals whose handshake is not done, at a time."""
PATIENCE_SECONDS = 0.5
"""An arrival that is not done by then may have to give way to another. A handshake takes a tenth of it."""


class Arrival:
    """One of them."""

    __slots__ = ("address", "connection", "scope", "since")

    def __init__(self, address: str, scope: anyio.CancelScope, since: float) -> None:
        self.address = address
        """The host that it came from; empty where there are none."""
        self.scope = scope
        """Of the task that serves it: cancelled if it has to give way."""
        self.since = since
        self.connection: Connection | None = None
        """Once its driver is done with it."""

    @property
    def is_proven(self) -> bool:
        """Whether it has joined."""
        return self.connection is not None and self.connection.neighbour is not None


class Arrivals:
    """All of them, in the order in which they came."""

    def __init__(self) -> None:
        self.turned_away = 0
        """Those for which there was no room, and those that gave way."""
        self._clock = running_clock()
        self._waiting: dict[Arrival, None] = {}

    def admit(self, address: str, scope: anyio.CancelScope, per_address: int | None) -> Arrival | None:
        """Return a new arrival, or None if there is no room for it.

        Where it is full, the oldest of the address with the most gives way, if it had its time.

        :param per_address: how many there may be of one address
        """
        now = self._clock()
        fullest = self._fullest(address, per_address)
        if fullest is not None:
            self._forget_proven()
            fullest = self._fullest(address, per_address)
        if fullest is not None:
            self.turned_away += 1
            oldest = next(arrival for arrival in self._waiting if arrival.address == fullest)
            if now - oldest.since < PATIENCE_SECONDS:
                return None
            self.leave(oldest)
            oldest.scope.cancel()
        arrival = Arrival(address, scope, now)
        self._waiting[arrival] = None
        return arrival

    def leave(self, arrival: Arrival) -> None:
        """Forget one that has joined, or is gone."""
        self._waiting.pop(arrival, None)

    def _forget_proven(self) -> None:
        for arrival in [arrival for arrival in self._waiting if arrival.is_proven]:
            del self._waiting[arrival]

    def _fullest(self, address: str, per_address: int | None) -> str | None:
        """Return the address of which one has to give way to another of *address*; None if there is room for it."""
        if per_address is not None and sum(one.address == address for one in self._waiting) >= per_address:
            return address
        if len(self._waiting) < MAX_UNPROVEN:
            return None
        return Counter(arrival.address for arrival in self._waiting).most_common(1)[0][0]
