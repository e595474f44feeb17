"""Who has arrived at a cell and has not proven yet who it is: how many, and who gives way when it is full."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio

from cellnet.clock import running_clock
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from cellnet.drivers.base import Link
    from cellnet.protocol.connection import Connection

__all__ = ["Arrival", "Arrivals"]

MAX_UNPROVEN = 128
"""Arrivals whose handshake is not done, at a time; and so many more that wait until there is room for them."""
PATIENCE_SECONDS = 0.5
"""An arrival that is not done by then may have to give way to another. A handshake takes a tenth of it."""
LOOK_SECONDS = 0.05
"""How long the first of those that wait does so before it looks again whether others have joined."""


class Arrival:
    """One of them."""

    __slots__ = ("address", "connection", "scope", "since")

    def __init__(self, address: str, since: float) -> None:
        self.address = address
        """The host that it came from; empty where there are none."""
        self.scope = anyio.CancelScope()
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
        self._door = anyio.Lock(fast_acquire=True)
        self._outside = 0
        """How many wait until there is room for them."""
        self._left = Wakeup()

    async def admit(self, link: Link, per_address: int | None) -> Arrival | None:
        """Return a new arrival, once there is room for it; else abort the link, and return None.

        Where it is full, the oldest of the address with the most gives way when it had its time. Until then the new one
        waits, after those who wait already, if these are not as many as may be inside. Not so if its own address has
        too many: others are not to wait behind these.

        :param per_address: how many there may be of one address
        """
        arrival = None
        self._outside += 1
        try:
            if self._outside <= MAX_UNPROVEN:
                async with self._door:
                    if await self._find_room(link.transport.address, per_address):
                        arrival = Arrival(link.transport.address, self._clock())
                        self._waiting[arrival] = None
            self.turned_away += arrival is None
        finally:
            self._outside -= 1
            if arrival is None:
                link.abort()
        return arrival

    def leave(self, arrival: Arrival) -> None:
        """Forget one that has joined, or is gone."""
        self._waiting.pop(arrival, None)
        self._left.notify()

    async def _find_room(self, address: str, per_address: int | None) -> bool:
        while (fullest := self._fullest(address, per_address)) is not None:
            oldest = next(arrival for arrival in self._waiting if arrival.address == fullest)
            rest = oldest.since + PATIENCE_SECONDS - self._clock()
            if rest <= 0:
                self.turned_away += 1
                self.leave(oldest)
                oldest.scope.cancel()
            elif self._has_too_many(address, per_address):
                return False
            else:
                with anyio.move_on_after(min(rest, LOOK_SECONDS)):
                    await self._left.wait()
        return True

    def _fullest(self, address: str, per_address: int | None) -> str | None:
        """Return the address of which one has to give way to another of *address*; None if there is room for it."""
        if len(self._waiting) >= MAX_UNPROVEN or self._has_too_many(address, per_address):
            self._forget_proven()
        if self._has_too_many(address, per_address):
            return address
        if len(self._waiting) < MAX_UNPROVEN:
            return None
        return Counter(arrival.address for arrival in self._waiting).most_common(1)[0][0]

    def _has_too_many(self, address: str, per_address: int | None) -> bool:
        return per_address is not None and sum(one.address == address for one in self._waiting) >= per_address

    def _forget_proven(self) -> None:
        for arrival in [arrival for arrival in self._waiting if arrival.is_proven]:
            del self._waiting[arrival]
