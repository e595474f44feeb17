"""The link to a parent: whom a cell may join, in which order, and when it goes to another of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers import find, tls
from cellnet.drivers.base import Address
from cellnet.errors import CellError, ConfigurationError, ConnectError
from cellnet.placement import MAX_PARENTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from cellnet.credentials import Credentials
    from cellnet.drivers.base import Driver, Ingress, Security

__all__ = ["HEALTHY_SECONDS", "PATIENCE_SECONDS", "PAUSE_SECONDS", "Parent", "Preference", "Uplink", "Way"]

logger = logging.getLogger("cellnet.link")

PATIENCE_SECONDS = 0.8
"""How long a parent that was lost is tried alone: as long as a restart takes."""
PAUSE_SECONDS = 0.4
"""The longest pause between two attempts, in the first minute, where there are other parents."""
ATTEMPT_SECONDS = 4.0
"""How long one attempt to reach a parent may take, where there are others."""
LOOK_SECONDS = 10.0
"""How often it is seen whether a parent that is preferred can be reached again."""
HEALTHY_SECONDS = 60.0
"""For how long that must have been so, each time, before the cell goes back."""


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a parent listens, and how to reach it."""

    url: str
    security: str | None = None
    """``clear``, ``tls`` or ``mtls``; by default mtls where there are credentials and a network."""
    ingress: Ingress | None = None
    """What ends TLS in front of it, if something does."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach one of the parents."""

    address: Address
    driver: Driver
    security: Security

    @classmethod
    def to(cls, parent: Parent, credentials: Credentials | None, drivers: Mapping[str, Driver]) -> Way:
        """Return the way to a parent.

        :raises ConfigurationError: if there is no such driver, or it lacks what it needs
        """
        address = Address.parse(parent.url)
        driver = find(address.scheme, drivers)
        mode = tls.mode_for(address, credentials, parent.security)
        return cls(address, driver, tls.for_connecting(mode, credentials, driver.alpn, parent.ingress))


class Uplink:
    """Dials one parent after the other, by preference."""

    def __init__(
        self,
        ways: Sequence[Way],
        dial: Callable[[Way, Callable[[], None]], Awaitable[CellError]],
        *,
        failed: Callable[[CellError], None],
        leave: Callable[[], None],
    ) -> None:
        """Begin with the first.

        :param dial: joins and runs the link; calls what it is given when joined, and returns why the link ended
        :param failed: told of failures after which another parent is dialled at once
        :param leave: ends the link to the parent
        :raises ConfigurationError: if there are too many
        """
        self.preference = Preference(len(ways))
        self._ways = ways
        self._dial = dial
        self._failed = failed
        self._leave = leave
        self._is_left = False

    def again(self) -> None:
        """Leave the parent, and dial at once whoever is preferred now."""
        self._is_left = True
        self._leave()

    async def dial(self, joined: Callable[[], None]) -> CellError:
        """Join one of the parents and stay until that link ends; return why, when it is time for a pause."""
        while True:
            error = await self._attempt(self._ways[self.preference.current], joined)
            if self._is_left:
                self._is_left = False
            elif self.preference.failed(anyio.current_time()):
                self._failed(error)
            else:
                return error

    async def look_back(self) -> None:
        """Go back to a parent that is preferred, once it could be reached for long enough."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            for index in self.preference.preferred:
                is_reached = await self._is_reached(self._ways[index])
                if self.preference.seen(index, anyio.current_time(), is_reached=is_reached):
                    logger.info("going back to the parent at %s", self._ways[index].address)
                    self.again()
                    break

    async def _attempt(self, way: Way, joined: Callable[[], None]) -> CellError:
        with anyio.CancelScope() as scope:
            if len(self._ways) > 1:
                scope.deadline = anyio.current_time() + ATTEMPT_SECONDS

            def note() -> None:
                scope.deadline = math.inf
                self.preference.joined()
                joined()

            try:
                return await self._dial(way, note)
            except CellError as error:
                return error
        return ConnectError(f"nobody took this cell in at {way.address} within {ATTEMPT_SECONDS:.0f} s")

    async def _is_reached(self, way: Way) -> bool:
        try:
            with anyio.fail_after(ATTEMPT_SECONDS):
                link = await way.driver.connect(way.address, way.security)
                try:
                    await link.start()
                finally:
                    link.abort()
        except (CellError, TimeoutError):
            return False
        return True


class Preference:
    """Which of several parents to dial: the first while it can be reached, and another only when it stays away.

    It computes only: whoever dials tells it how that went, and when.
    """

    def __init__(self, count: int) -> None:
        """Begin with the first.

        :raises ConfigurationError: if there are too many
        """
        if count > MAX_PARENTS:
            raise ConfigurationError(f"a cell may have {MAX_PARENTS} parents to choose from, not {count}")
        self.current = 0
        self.moves = 0
        """How often another one was chosen."""
        self._count = count
        self._since: float | None = None
        """When the current one was first found to be away."""
        self._tried = 1
        self._healthy: dict[int, float] = {}
        """Since when those that are preferred to the current one could be reached."""

    @property
    def preferred(self) -> Sequence[int]:
        """Those that the cell would rather have, the best first."""
        return range(self.current)

    def joined(self) -> None:
        """Note that the current one took the cell in."""
        self._since, self._tried = None, 1

    def failed(self, now: float) -> bool:
        """Note that the current one is lost or cannot be had; return whether there is another to dial at once."""
        if self._count == 1:
            return False
        if self._since is None:
            self._since = now
        if now - self._since < PATIENCE_SECONDS and self._tried == 1:
            return False
        self._choose((self.current + 1) % self._count)
        self._tried = self._tried % self._count + 1
        return self._tried != 1  # once round, it is time for a pause

    def seen(self, index: int, now: float, *, is_reached: bool) -> bool:
        """Note whether one that is preferred could be reached; return whether it is time to go there."""
        if not is_reached:
            self._healthy.pop(index, None)
            return False
        if now - self._healthy.setdefault(index, now) < HEALTHY_SECONDS:
            return False
        self._choose(index)
        return True

    def _choose(self, index: int) -> None:
        self.current = index
        self.moves += 1
        self._healthy.clear()
