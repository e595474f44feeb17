"""All the links of one cell: who may come in, whom it dials, and the passing of time for them."""

from __future__ import annotations

import datetime
import logging
import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio

from cellnet import drivers as ways
from cellnet.arrivals import Arrivals
from cellnet.clock import running_clock, wall_time
from cellnet.drivers import tls
from cellnet.drivers.base import Address
from cellnet.errors import CellError, ConnectDeadline, ConnectError, HandshakeError
from cellnet.fqcn import ROOT
from cellnet.groups import unwrapped
from cellnet.link import Backoff, RunningLink, keep_connected
from cellnet.pages import Pages
from cellnet.protocol.connection import HANDSHAKE_SECONDS
from cellnet.turn import Turn
from cellnet.uplink import PAUSE_SECONDS, Uplink, Way
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from cellnet.calls import Deadline
    from cellnet.credentials import Credentials, Shown
    from cellnet.drivers.base import Driver, Link, Listener, Security
    from cellnet.fqcn import FQCN
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.handshake import Neighbour
    from cellnet.uplink import Parent

__all__ = ["Neighbours"]

FAREWELL_SECONDS = 2.0
LOOK_SECONDS = 20.0
"""Between two looks at the dates of neighbours' certificates."""
MANY_CALLS = 32
logger = logging.getLogger("cellnet.link")


class Neighbours:
    """The running links of a cell. Their tasks belong to the cell's task group."""

    def __init__(
        self,
        endpoint: Endpoint,
        drivers: Mapping[str, Driver],
        rng: random.Random,
        tasks: TaskGroup,
        dispatch: Callable[[], None],
    ) -> None:
        self.disconnected = anyio.Event()
        """Set while there is no parent after there was one; another event once there is one again."""
        self.arrivals = Arrivals()
        self._clock = running_clock()
        self._endpoint = endpoint
        self._drivers = drivers
        self._rng = rng
        self._tasks = tasks
        self._dispatch = dispatch
        self._running: dict[Connection, RunningLink] = {}
        self._ready: list[RunningLink] = []
        self._waiting = Wakeup()
        self._calls = 0
        self._closing = False
        self._listeners: list[Listener] = []
        self._protected: list[tuple[Security, Credentials]] = []
        """How we listen and dial with certificates, and whose they are."""
        self._uplink: Uplink | None = None
        self._pages = Pages()
        self._turn = Turn()
        self._ended = Wakeup()
        self._planned = math.inf
        self._sooner = Wakeup()

    async def listen(
        self, url: str, credentials: Credentials | None, mode: str | None, *, per_address: int | None = None
    ) -> str:
        """Accept neighbours at *url*; return where that is."""
        address, driver = self._find(url)
        if self._endpoint.name == ROOT:
            self._endpoint.credentials = credentials or self._endpoint.credentials
        security = tls.for_listening(tls.mode_for(address, credentials, mode), credentials, driver.alpn)
        listener = await driver.listen(address, security)
        self._listeners.append(listener)
        if credentials is not None:
            self._protected.append((security, credentials))
        self._tasks.start_soon(self._accept, listener, credentials, per_address)
        return listener.url

    async def connect(
        self,
        parents: Sequence[Parent],
        credentials: Credentials | None,
        *,
        reconnect: bool,
        deadline: Deadline,
    ) -> None:
        """Join the first of the parents that takes us in, and join again whenever the link is lost."""
        self._endpoint.credentials = credentials or self._endpoint.credentials
        ways = [Way.to(parent, credentials, self._drivers) for parent in parents]
        if credentials is not None:
            self._protected += [(way.security, credentials) for way in ways]
        last: list[CellError] = []

        def failed(error: CellError) -> None:
            known = self._closing or (last and str(last[0]) == str(error))
            logger.log(logging.DEBUG if known else logging.WARNING, "%s: %s", self._endpoint.name, error)
            last[:] = [error]
            self.disconnected.set()

        def again() -> bool:
            return reconnect and not self._closing

        uplink = self._uplink = Uplink(ways, partial(self._dial, credentials), failed=failed, leave=self._leave)

        backoff = Backoff(self._rng, PAUSE_SECONDS, PAUSE_SECONDS) if len(ways) > 1 else Backoff(self._rng)

        async def keep(*, task_status: TaskStatus[None]) -> None:
            with unwrapped():
                async with anyio.create_task_group() as beside:
                    if len(ways) > 1 and reconnect:
                        beside.start_soon(uplink.look_back)
                    joined = task_status.started
                    await keep_connected(uplink.dial, backoff, reconnect=again, failed=failed, joined=joined)
                    beside.cancel_scope.cancel()

        with deadline.limit():
            await self._tasks.start(keep)
            return
        reason = f": {last[0]}" if last else ""
        cause = last[0] if last else None
        places = " or ".join(str(way.address) for way in ways)
        raise ConnectDeadline(f"could not join at {places} within {deadline.seconds:.3g} s{reason}") from cause

    @property
    def moves(self) -> int:
        """How often another parent was dialled than before."""
        return self._uplink.preference.moves if self._uplink else 0

    def attached(self, connection: Connection) -> None:
        """Note that the parent took us in."""
        self.disconnected = anyio.Event()
        running = self._running.get(connection)
        if running is not None and running.joined is not None:
            running.joined()

    def end(self, connection: Connection, error: CellError) -> None:
        """Close a link that the endpoint gave up."""
        if running := self._running.get(connection):
            running.end(error)

    def renew(self) -> None:
        """Show the certificates that the credentials have now: to who comes, and to the parent, joined once more."""
        for security, credentials in self._protected:
            tls.renew(security, credentials)
        if self._uplink is not None and self._endpoint.router.parent is not None:
            self._uplink.again()

    def proven(self) -> list[tuple[Connection, Neighbour, Shown]]:
        """Return the neighbours that showed a certificate, with their connections, and what they showed."""
        return [
            (connection, neighbour, neighbour.shown)
            for connection in self._running
            if (neighbour := connection.neighbour) is not None and neighbour.shown
        ]

    def is_crowded(self, destination: FQCN) -> bool:
        """Whether to wait before more is queued for a cell."""
        connection = self._endpoint.next_connection(destination)
        return connection is not None and (running := self._running.get(connection)) is not None and running.is_crowded

    async def wait_room(self, connection: Connection) -> None:
        """Wait while too much is queued for one neighbour."""
        if running := self._running.get(connection):
            await running.wait_room()

    async def wait_in_order(self, destination: FQCN) -> None:
        """Wait while too much is queued on the way to a cell, behind all who wait for that already."""
        while connection := self._endpoint.next_connection(destination):
            if running := self._running.get(connection):
                await running.wait_in_order()
            if not connection.is_full:
                return

    def flush(self) -> None:
        """Send what the last input gave to send.

        The time is looked at anew: what came of much input took long, and a frame says how much of its own is left.
        """
        self._calls = 0
        if self._ready:
            now = self._clock()
            self._turn.begin()
            while self._ready:
                self._ready.pop().flush(now)
        self._look_at_time()

    def flush_soon(self) -> None:
        """Send what a call gave to send, together with what others do whose turn on the event loop it is now.

        A system call costs many times what a frame does. After some calls it is time all the same: others can work on
        these while the rest is made.
        """
        if self._ready:
            self._calls += 1
            if self._calls >= MANY_CALLS:
                self.flush()
            else:
                self._waiting.notify()
        else:
            self._look_at_time()

    async def keep_flushing(self) -> None:
        """Send what waits whenever all whose turn it was have had it."""
        while True:
            await self._waiting.wait()
            self.flush()

    async def keep_time(self) -> None:
        """Let the endpoint do what is due: send again, send keepalives, find dead links."""
        while True:
            self._planned = self._endpoint.due
            with anyio.CancelScope(deadline=self._planned):
                await self._sooner.wait()
            now = anyio.current_time()
            if now >= self._endpoint.due:
                self._endpoint.tick(now)
                self._dispatch()

    async def keep_dates(self) -> None:
        """End links whose other side shows a certificate that has expired meanwhile.

        A parent was asked for it when this cell joined, and may have a newer one since: it is joined once more.
        """
        while True:
            await anyio.sleep(LOOK_SECONDS)
            now = wall_time()
            for connection, neighbour, shown in self.proven():
                if shown.not_after >= now.timestamp():
                    continue
                if self._uplink is not None and connection is self._endpoint.router.parent:
                    self._uplink.again()
                else:
                    end = datetime.datetime.fromtimestamp(shown.not_after, datetime.UTC)
                    message = f"the certificate of {neighbour.name} expired on {end:%Y-%m-%d %H:%M} UTC: renew it"
                    logger.warning("%s: %s", self._endpoint.name, message)
                    self.end(connection, HandshakeError(message, "expired", temporary=True))

    async def close(self) -> None:
        """Accept no more, say goodbye on all links, and give them a moment to end."""
        self._closing = True
        self.abort()
        self._endpoint.goodbye(f"{self._endpoint.name} stops")
        self.flush()
        for running in self._running.values():
            running.end()
        with anyio.move_on_after(FAREWELL_SECONDS):
            while self._running:
                await self._ended.wait()

    def abort(self) -> None:
        """Give back what does not end with its task."""
        for listener in self._listeners:
            listener.close()

    def _look_at_time(self) -> None:
        if self._endpoint.due < self._planned:
            self._sooner.notify()

    def _find(self, url: str) -> tuple[Address, Driver]:
        address = Address.parse(url)
        return address, ways.find(address.scheme, self._drivers)

    def _open(
        self, link: Link, credentials: Credentials | None, joined: Callable[[], None] | None = None
    ) -> RunningLink:
        connection = self._endpoint.open(
            link.transport,
            is_listener=joined is None,
            now=anyio.current_time(),
            role=_role(self._endpoint.name, credentials),
            credentials=credentials,
        )
        running = RunningLink(
            link,
            connection,
            self._endpoint,
            self._tasks,
            self._pages,
            self._turn,
            dispatch=self._dispatch,
            ready=self._ready.append,
            joined=joined,
        )
        self._running[connection] = running
        self._look_at_time()  # a handshake has an end, also where nothing else happens
        return running

    async def _run(self, running: RunningLink) -> None:
        try:
            await running.run(self._uplink_room)
        finally:
            del self._running[running.connection]
            self._ended.notify()

    async def _uplink_room(self) -> None:
        parent = self._endpoint.router.parent
        if parent is not None:
            await self.wait_room(parent)

    # Arrivals.

    async def _accept(self, listener: Listener, credentials: Credentials | None, per_address: int | None) -> None:
        with suppress(anyio.ClosedResourceError):
            while True:
                self._tasks.start_soon(self._serve, await listener.accept(), credentials, per_address)

    async def _serve(self, link: Link, credentials: Credentials | None, per_address: int | None) -> None:
        name = self._endpoint.name
        arrival = await self.arrivals.admit(link, per_address)
        if arrival is None:
            return
        try:
            with arrival.scope:
                await _start(link)
                running = self._open(link, credentials)
                arrival.connection = running.connection
                await self._run(running)
                if running.connection.neighbour is None and running.error is not None:
                    level = logging.DEBUG if running.is_only_looked_at else logging.WARNING
                    logger.log(level, "%s: an arrival was refused: %s", name, running.error)
        except CellError as error:
            logger.warning("%s: an arrival was refused: %s", name, error)
        finally:
            self.arrivals.leave(arrival)

    # Dialling.

    def _leave(self) -> None:
        parent = self._endpoint.router.parent
        if parent is not None and (running := self._running.get(parent)):
            running.end()

    async def _dial(self, credentials: Credentials | None, way: Way, joined: Callable[[], None]) -> CellError:
        address = way.address
        if self._closing:
            raise ConnectError(f"{self._endpoint.name} stops")
        try:
            with anyio.fail_after(HANDSHAKE_SECONDS):
                link = await way.driver.connect(address, way.security)
        except TimeoutError:
            raise ConnectError(f"nobody answers at {address}") from None
        try:
            await _start(link)
        except CellError as error:
            raise _at(address, error) from None
        running = self._open(link, credentials, joined)
        await self._run(running)
        return _at(address, running.error or ConnectError("the link ended"))


async def _start(link: Link) -> None:
    try:
        await link.start()
    except BaseException:
        link.abort()
        raise


def _at(address: Address, error: CellError) -> CellError:
    """Say at which address an error happened."""
    text = f"{address}: {error}"
    if isinstance(error, HandshakeError):
        return type(error)(text, error.code, temporary=error.temporary)
    return type(error)(text)


def _role(name: str, credentials: Credentials | None) -> str:
    if credentials is None:
        return "server" if name == ROOT else "cell"
    return credentials.delegation.role if credentials.delegation else credentials.identity.role
