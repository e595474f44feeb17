"""One neighbour: a task that reads, a second while it is slow to take what is sent, and the dialling again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.lowlevel

from cellnet.clock import running_clock
from cellnet.drivers.base import UNTOLD
from cellnet.errors import CellError, ConnectError, HandshakeError
from cellnet.pace import Pace
from cellnet.pages import PAGE_BYTES
from cellnet.protocol.connection import BATCH_BYTES
from cellnet.protocol.frames import FRAME_BYTES
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

    from cellnet.drivers.base import Buffer, Link
    from cellnet.pages import Pages
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.turn import Turn

__all__ = ["Backoff", "RunningLink", "keep_connected"]

TURN_SECONDS = 0.002
"""How long a link may be read without waiting for bytes, before others have their turn."""
LENT_BYTES = PAGE_BYTES // 4
"""Less than this that was read is copied rather than have a page of its own while it waits."""
CLEAN_ROUNDS = 8
"""After so many reads of which nothing was left, a link has no page of its own."""
FAREWELL_SECONDS = 2.0
"""How long a link that ends may take to send what is queued, which often says why it ends."""

logger = logging.getLogger("cellnet.link")


class RunningLink:
    """A link in use. One task reads, and at most one writes; a frame is written whole, or the link is dead."""

    def __init__(
        self,
        link: Link,
        connection: Connection,
        endpoint: Endpoint,
        tasks: TaskGroup,
        pages: Pages,
        turn: Turn,
        *,
        dispatch: Callable[[], None],
        ready: Callable[[RunningLink], None],
        joined: Callable[[], None] | None = None,
    ) -> None:
        """Join a link to its connection.

        :param tasks: where the second task runs; :meth:`run` ends it
        :param pages: what to read into
        :param turn: when to send contents
        :param dispatch: called after bytes were taken in, when the endpoint may have events
        :param ready: called when there is something to send; :meth:`flush` is to follow soon
        :param joined: for :meth:`Neighbours.attached` to call when the parent took us in
        """
        self.connection = connection
        self.joined = joined
        self.error: CellError | None = None
        """Why the link ended, once it did."""
        self._link = link
        self._clock = running_clock()
        self._endpoint = endpoint
        self._dispatch = dispatch
        self._room = Wakeup()
        self._turn = turn
        self._order: anyio.Lock | None = None  # nearly a kilobyte, which hardly any link ever needs
        self._tasks = tasks
        self._unsent: Sequence[Buffer] = ()
        self._pace = Pace(FRAME_BYTES, BATCH_BYTES)
        self._pages = pages
        self._clean = 0
        self._writer: anyio.CancelScope | None = None
        self._is_writing = False
        self._work = Wakeup()
        self._running = False
        self._ending = False
        self._forgotten = False
        self._is_left = False
        self._reading = anyio.CancelScope()
        connection.wake = lambda: ready(self)
        if connection.has_output:  # a listener's HELLO was queued when the connection was made
            ready(self)

    async def run(self, uplink_room: Callable[[], Awaitable[None]]) -> None:
        """Carry bytes both ways until the link ends.

        :param uplink_room: waits while the link to the parent is full, so that children cannot overfill it
        """
        try:
            await self._use(uplink_room)
            self._forget()
            await self._link.aclose()
        finally:
            self._link.abort()
            self._forget()

    def end(self, error: CellError | None = None) -> None:
        """Stop reading, send what is queued, then close."""
        if self.error is None:
            self.error = error
        self._ending = True
        self._reading.cancel()

    @property
    def is_only_looked_at(self) -> bool:
        """Whether the other side came, said nothing, and left."""
        return self._is_left and not self.connection.statistics.bytes_received

    async def wait_room(self) -> None:
        """Wait while too much is queued for this neighbour."""
        while self.connection.is_full and not self._forgotten:
            await self._room.wait()

    @property
    def is_crowded(self) -> bool:
        """Whether too much is queued, or somebody waits here already."""
        return self.connection.is_full or (self._order is not None and self._order.locked())

    async def wait_in_order(self) -> None:
        """The same, behind all who wait here already: what bears an ordering key leaves in the order of the calls."""
        if self.is_crowded:
            self._order = self._order or anyio.Lock()
            async with self._order:
                await self.wait_room()

    def flush(self, now: float) -> None:
        """Send what is queued if the link takes it at once; start a task for the rest, and for contents out of turn.

        Everything that one batch of input caused leaves in one system call, and mostly without waking a task.
        """
        if self._is_writing or not self._running:
            return
        connection = self.connection
        buffers = connection.take(now, self._pace.size, contents=connection.feed.has_output and self._turn.take(self))
        self._unsent = self._link.try_send(buffers) if buffers else ()
        if self._unsent:
            self._pages.waiting.append(self)
        if self._unsent or connection.has_output:
            self._is_writing = True
            self._work.notify()
            if self._writer is None:
                self._writer = anyio.CancelScope()
                self._tasks.start_soon(self._write, self._writer)
        elif not connection.is_full:
            self._room.notify()

    def keep(self) -> None:
        """Copy what waits to be sent: contents that pass lie in a buffer that is about to be used again."""
        self._unsent = [bytes(buffer) for buffer in self._unsent]

    async def _use(self, uplink_room: Callable[[], Awaitable[None]]) -> None:
        self._running = True
        try:
            self.flush(self._clock())
            await self._read(uplink_room)
            # What is queued often says why the link ends.
            await self._wait_written(FAREWELL_SECONDS)
        finally:
            self._running = False
            if self._writer is not None:
                self._writer.cancel()
                with anyio.CancelScope(shield=True):
                    while self._writer is not None:
                        await self._room.wait()

    async def _wait_written(self, seconds: float) -> None:
        if self._is_writing:
            with anyio.move_on_after(seconds, shield=True):
                while self._is_writing:
                    await self._room.wait()

    def _forget(self) -> None:
        now = self._clock()
        self._endpoint.close(self.connection, now)
        self._forgotten = True
        self._room.notify()
        self._dispatch()

    async def _read(self, uplink_room: Callable[[], Awaitable[None]]) -> None:
        endpoint, connection, page = self._endpoint, self.connection, self._pages.shared
        rested = self._clock()
        with self._reading:
            try:
                while not self._ending:
                    held = connection.held_bytes
                    count = await self._link.fill(page[held:])
                    if count == 0:
                        raise ConnectError(_closed(connection))
                    now = self._clock()
                    if self._link.waited:
                        rested = connection.feed.waited = now
                    self._pages.waiting.clear()  # what waits already lies elsewhere
                    endpoint.receive(connection, page[: held + count], now, held)
                    self._dispatch()
                    page = self._next_page(page, count)
                    parent = endpoint.router.parent
                    if parent is not None and parent is not connection and parent.is_full:
                        await uplink_room()
                        connection.not_read(self._clock())  # what it said meanwhile comes only now
                    if self._clock() - rested > TURN_SECONDS:
                        await anyio.lowlevel.checkpoint()
                        rested = self._clock()
            except ConnectError as error:
                self._is_left = True
                self.end(error)

    def _next_page(self, page: memoryview, count: int) -> memoryview:
        """Return what to read into next, after *count* bytes were read into *page*.

        What passes and could not leave stays where it is, if that is a page of this link alone. It is copied if it is
        little, or if there was no page.
        """
        pages = self._pages
        is_shared = page is pages.shared
        lent = not is_shared and count >= LENT_BYTES
        is_left = self._endpoint.keep(lent=lent)
        for running in pages.waiting:
            is_left = True
            if not lent:
                running.keep()
        if is_left:
            self._clean = 0
            return pages.take() if lent or is_shared else page
        self._clean += 1
        return page if self._clean < CLEAN_ROUNDS else pages.shared

    async def _write(self, scope: anyio.CancelScope) -> None:
        """Send what the link did not take at once, now and whenever that happens again."""
        try:
            with scope:
                while True:
                    await self._drain()
                    self._is_writing = False
                    self._room.notify()
                    await self._work.wait()
        except ConnectError as error:
            self.end(error)
        finally:
            self._writer, self._is_writing = None, False
            self._room.notify()

    async def _drain(self) -> None:
        connection = self.connection
        while self._unsent or connection.has_output:
            began, before = self._clock(), connection.statistics.bytes_sent
            buffers = self._unsent or connection.take(began, self._pace.size, contents=False)
            if not buffers:
                async with self._turn.wait(self):
                    began = self._clock()
                    if buffers := connection.take(began, self._pace.size):
                        buffers = self._link.try_send(buffers)
            size = connection.statistics.bytes_sent - before or sum(map(len, self._unsent))
            self._unsent = ()
            if buffers:
                await self._link.send(buffers)
                await anyio.lowlevel.checkpoint()  # the link may take all at once, and others have their turn
            self._pace.sent(size, self._clock() - began)
            if not connection.is_full:
                self._room.notify()


def _closed(connection: Connection) -> str:
    if connection.neighbour is not None or connection.statistics.bytes_received:
        return "the other side closed the link"
    return (
        "the other side closed the link before it joined"
        if connection.is_listener
        else f"the other side closed the link {UNTOLD}"
    )


@dataclass(slots=True)
class Backoff:
    """Pauses between attempts: full jitter, doubling, short at first.

    After an outage of seconds, everybody is back within seconds; after one of hours, nobody storms the listener.
    """

    rng: random.Random
    base: float = 0.5
    early_cap: float = 2.0
    late_cap: float = 10.0
    early_seconds: float = 60.0
    _failures: int = 0
    _first: float | None = None

    def failed(self, now: float) -> float:
        """Return how many seconds to wait after one more failure."""
        if self._first is None:
            self._first = now
        cap = self.early_cap if now - self._first < self.early_seconds else self.late_cap
        limit = min(cap, self.base * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return self.rng.uniform(0, limit)

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures, self._first = 0, None


async def keep_connected(
    dial: Callable[[Callable[[], None]], Awaitable[CellError]],
    backoff: Backoff,
    *,
    reconnect: Callable[[], bool],
    failed: Callable[[CellError], None],
    joined: Callable[[], None],
) -> None:
    """Dial, run the link until it ends, and dial again.

    :param dial: makes one attempt; calls what it is given when joined, and returns why the link ended
    :param reconnect: whether to dial again after a link that was joined ended
    :param failed: told of every failure
    :param joined: told of the first success
    :raises HandshakeError: if the first attempt is refused for a reason that will not pass by itself
    """
    succeeded = False

    def note() -> None:
        nonlocal succeeded
        backoff.succeeded()
        if not succeeded:
            succeeded = True
            joined()

    while True:
        try:
            error: CellError = await dial(note)
        except CellError as caught:
            error = caught
        failed(error)
        if not succeeded and is_permanent(error):
            raise error
        if succeeded and not reconnect():
            return
        await anyio.sleep(backoff.failed(anyio.current_time()))


def is_permanent(error: CellError) -> bool:
    """Whether trying again cannot help until somebody changes something."""
    if isinstance(error, HandshakeError):
        return not error.temporary
    return not isinstance(error, ConnectError)
