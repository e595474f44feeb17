"""Bytes that cross from one event loop to another, which run in different threads and need not be of one kind.

Each number is written by one side only and read by both, which needs no lock; a side that waits says so first and
then looks once more, so that no wake-up is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from anyio.lowlevel import current_token

from cellnet.errors import ConnectError
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.lowlevel import TrioToken

    from cellnet.drivers.base import Buffer

__all__ = ["Crossing", "Host"]


class Host:
    """An event loop, as others see it: something to be called in it soon."""

    __slots__ = ("_post",)

    def __init__(self) -> None:
        """Be the loop that runs now."""
        native = current_token().native_token
        self._post: Callable[[Callable[[], object]], object]
        if isinstance(native, asyncio.AbstractEventLoop):
            self._post = native.call_soon_threadsafe
        else:
            self._post = cast("TrioToken", native).run_sync_soon

    def post(self, call: Callable[[], object]) -> None:
        """Have *call* called in that loop, from any thread; a loop that is over does nothing any more."""
        with suppress(RuntimeError):  # which trio's own error is, too
            self._post(call)


class Crossing:
    """A bounded queue of bytes between two loops, in one direction."""

    __slots__ = (
        "_broken",
        "_came",
        "_end",
        "_pieces",
        "_put_bytes",
        "_reader",
        "_room",
        "_taken_bytes",
        "_waits_for_room",
        "_wakes_reader",
        "_writer",
        "limit",
    )

    def __init__(self, limit: int) -> None:
        """Make a queue. Each side says who it is by :meth:`write_from` and :meth:`read_from`.

        :param limit: while so many bytes or more wait, no more are taken
        """
        self.limit = limit
        """The reader may change it."""
        self._pieces: deque[Buffer] = deque()
        self._writer: Host
        self._reader: Host
        self._put_bytes = 0
        self._taken_bytes = 0
        self._came = Wakeup()
        self._room = Wakeup()
        self._wakes_reader = False
        self._waits_for_room = False
        self._end: str | None = None
        """Why nothing more comes, once that is so; empty if it is in order."""
        self._broken: str | None = None
        """Why nobody reads any more."""

    # The writer's side.

    def write_from(self, host: Host) -> None:
        """Say where :meth:`put` is called."""
        self._writer = host

    @property
    def has_room(self) -> bool:
        """Whether :meth:`try_put` would take anything."""
        return not self._is_full and self._end is None and self._broken is None

    def try_put(self, data: Buffer) -> bool:
        """Take *data* if there is room; return whether there was."""
        if not self.has_room:
            return False
        self._pieces.append(data)
        self._put_bytes += len(data)
        self._wake_reader()
        return True

    async def put(self, data: Buffer) -> None:
        """Take *data*, once there is room.

        :raises ConnectError: if nobody will read it
        """
        while not self.try_put(data):
            reason = self._broken if self._broken is not None else self._end
            if reason is not None:
                raise ConnectError(reason or "the link was closed here")
            self._waits_for_room = True
            if self._is_full and self._broken is None:
                await self._room.wait()
            self._waits_for_room = False

    def end(self, reason: str = "") -> None:
        """Take no more.

        :param reason: what went wrong; none if this is the end
        """
        if self._end is None:
            self._end = reason
            self._wake_reader()
            self._room.notify()

    # The reader's side.

    def read_from(self, host: Host) -> None:
        """Say where :meth:`get` is called."""
        self._reader = host

    @property
    def has_pieces(self) -> bool:
        """Whether :meth:`get` would not have to wait."""
        return bool(self._pieces)

    async def wait(self) -> int:
        """Return how many bytes the next piece has, once there is one; 0 at the end.

        :raises ConnectError: if it ended because something went wrong
        """
        while not self._pieces:
            if self._broken is not None:
                raise ConnectError(self._broken)
            if self._end is not None and not self._pieces:
                if self._end:
                    raise ConnectError(self._end)
                return 0
            await self._came.wait()
        return len(self._pieces[0])

    async def get(self, most: int) -> Sequence[Buffer]:
        """Return what is there, in pieces, once something is; nothing at the end.

        :param most: of more bytes than this, one piece only
        :raises ConnectError: if it ended because something went wrong
        """
        if not await self.wait():
            return ()
        taken = [self._pieces.popleft()]
        size = len(taken[0])
        while self._pieces and size + len(self._pieces[0]) <= most:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        self._taken_bytes += size
        if self._waits_for_room:
            self._writer.post(self._room.notify)
        return taken

    def abandon(self, reason: str) -> None:
        """Read no more. Who writes is told why."""
        if self._broken is None:
            self._broken = reason
            self._came.notify()
            self._writer.post(self._room.notify)

    @property
    def _is_full(self) -> bool:
        return self._put_bytes - self._taken_bytes >= self.limit

    def _wake_reader(self) -> None:
        if not self._wakes_reader:
            self._wakes_reader = True
            self._reader.post(self._awake)

    def _awake(self) -> None:
        self._wakes_reader = False
        self._came.notify()
