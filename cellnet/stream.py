"""Byte streams between cells, over as many links as it takes, and over their loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from cellnet.protocol.frames import MAX_DATA
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from cellnet.fqcn import FQCN
    from cellnet.incoming import Incoming
    from cellnet.outgoing import Outgoing
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.offer import Offer

__all__ = ["Stream"]

FIRST_BYTES = 32768
"""What the message that opens a stream carries of its bytes, so that they need no round trip."""


class Stream(ByteStream):
    """Bytes to and from one cell, in order, each exactly once.

    A link or a relay that is lost on the way is made up for, within a minute; a cell that is restarted is not. Leaving
    ``async with`` with an exception resets the stream, so that nobody takes for whole what is not.
    """

    def __init__(
        self,
        peer: FQCN,
        topic: str,
        outgoing: Outgoing,
        incoming: Incoming,
        *,
        changed: Callable[[], None],
        opened: Callable[[Stream, bytes], None] | None = None,
    ) -> None:
        """Make a stream.

        :param changed: called when there may be something to send
        :param opened: called at the first use, with the first bytes, to open it at the other end
        """
        self.peer = peer
        """The cell at the other end."""
        self.topic = topic
        self.outgoing = outgoing
        self.incoming = incoming
        self.offer: Offer | None = None
        self.fetch: Fetch | None = None
        self._opened = opened
        self._changed = changed
        self._upto = 0
        """To where there was room when that was last looked at: what comes is looked at by the fetch itself."""
        self._room = Wakeup()
        self._is_eof = False
        self._is_closed = False
        self._left: str | None = None

    @property
    def is_closed(self) -> bool:
        """Whether this end reads no more."""
        return self._is_closed

    async def send(self, item: bytes) -> None:
        """Send bytes; return when there was room for them, which the other side makes by reading.

        :raises anyio.ClosedResourceError: after :meth:`send_eof` or :meth:`aclose`
        :raises anyio.BrokenResourceError: if the other side reads no more, or cannot be reached
        """
        await anyio.lowlevel.checkpoint()  # before anything is done: then it need not be shielded
        if self._is_eof or self._is_closed:
            raise anyio.ClosedResourceError
        while self.outgoing.is_full and self._left is None:
            await self._room.wait()
        self._check_left()
        self._begin(item)

    async def receive(self, max_bytes: int = MAX_DATA) -> bytes:
        """Return bytes as soon as there are any.

        :raises anyio.EndOfStream: when the other side has sent all
        :raises anyio.ClosedResourceError: after :meth:`aclose`
        :raises anyio.BrokenResourceError: if the other side reset the stream, or cannot be reached
        """
        await anyio.lowlevel.checkpoint()
        self._begin()
        while not (data := self.incoming.read(max_bytes)):
            if self._is_closed:
                raise anyio.ClosedResourceError
            if self.incoming.is_ended:
                raise anyio.EndOfStream
            if self.incoming.error is not None:
                raise anyio.BrokenResourceError(self.incoming.error)
            self._extend()
            await self.incoming.changed.wait()
        self._extend()
        return data

    async def send_eof(self) -> None:
        """Send no more; the other side learns so after all that was sent. Receiving goes on."""
        if not self._is_eof:
            self._is_eof = True
            self._begin()
            self.outgoing.end()
            self._ready()
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Send no more and read no more; return when the other side has taken all. If cancelled, reset it."""
        try:
            if self._opened is None and self._left is None and not self._is_closed:
                await self.send_eof()
            self._close()
            while self.offer is not None and self._left is None:
                await self._room.wait()
        except anyio.get_cancelled_exc_class():
            self.reset("its other end was cancelled")
            raise
        finally:
            self._close()

    def reset(self, reason: str) -> None:
        """Give the stream up at once, and tell the other side why. Safe to repeat."""
        if self.offer is not None:
            self.offer.withdraw("reset", reason)
        self._close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, or reset it if the block raised."""
        if error is None:
            await self.aclose()
        else:
            self.reset(f"{type(error).__name__}: {error}")

    # What its cell tells it.

    def withdrawn(self, code: str) -> None:
        """Take the news that what is sent is wanted no more."""
        self.offer = None
        self._left = code
        self._room.notify()

    def room(self) -> None:
        """Take the news that there may be room to send more."""
        self._room.notify()

    def fail(self, reason: str) -> None:
        """Take the news that the stream could not be opened."""
        self.incoming.fail("reset", reason)
        if self.offer is not None:
            self.offer.withdraw("reset", reason)
        self._changed()

    def _check_left(self) -> None:
        if self._left is not None:
            if self._is_closed:
                raise anyio.ClosedResourceError
            reason = self.incoming.error or "the other side reads no more"
            raise anyio.BrokenResourceError(reason)

    def _begin(self, item: bytes = b"") -> None:
        """Open the stream at its first use; what is sent goes with that, as far as there is room."""
        if self._opened is not None:
            self._opened(self, bytes(item[:FIRST_BYTES]))
            self._opened = None
            item = item[FIRST_BYTES:]
        if item:
            self.outgoing.write(item)
            self._ready()

    def _ready(self) -> None:
        if self.offer is not None:
            self.offer.ready()
        self._changed()

    def _extend(self) -> None:
        if self.fetch is not None and self.incoming.upto != self._upto:
            self._upto = self.incoming.upto
            self.fetch.extend(anyio.current_time())
            self._changed()

    def _close(self) -> None:
        self._is_closed = True
        if self.fetch is not None:
            fetch, self.fetch = self.fetch, None
            fetch.cancel()
        self.incoming.forget()
        self.incoming.changed.notify()
        self._room.notify()
        self._changed()

    @property
    def extra_attributes(self) -> dict[Any, Callable[[], Any]]:
        """Return nothing: what lies below may change while it is used."""
        return {}
