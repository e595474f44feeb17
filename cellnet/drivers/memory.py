"""The ``memory`` driver: ``memory://name``, cells in one process, with latency if a test wants it.

Nothing is shared between two drivers: whoever wants cells to meet gives them the same one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from cellnet.drivers.stream import StreamLink
from cellnet.errors import ConfigurationError, ConnectError
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from cellnet.drivers.base import Address, Buffer, Security

__all__ = ["MemoryDriver", "MemoryStream", "memory_pair"]

PIPE_BYTES = 256 * 1024
"""What may be under way in one direction before a sender waits."""
ROUNDS_PER_CHECKPOINT = 16
BACKLOG = 128
"""Streams that may wait to be accepted; one more waits at its dialling side."""


class MemoryDriver:
    """Cells of one process that meet by name."""

    def __init__(self, latency: Callable[[str], float] | None = None) -> None:
        """Make a world of its own.

        :param latency: seconds one way for links to the listener of that name
        """
        self._latency = latency or _none
        self._listeners: dict[str, MemoryListener] = {}

    async def connect(self, address: Address, security: Security) -> StreamLink:
        """Reach the listener of that name."""
        _check(security)
        listener = self._listeners.get(address.host)
        if listener is None:
            raise ConnectError(f"nobody answers at {address}: no listener has that name")
        ours, theirs = memory_pair(self._latency(address.host))
        await listener.arrive(theirs)
        return MemoryLink(ours)

    async def listen(self, address: Address, security: Security) -> MemoryListener:
        """Take a name."""
        _check(security)
        if address.host in self._listeners:
            raise ConfigurationError(f"cannot listen at {address}: the name is taken")
        listener = self._listeners[address.host] = MemoryListener(str(address), self._listeners, address.host)
        return listener


class MemoryListener:
    """A name that others can reach."""

    def __init__(self, url: str, listeners: dict[str, MemoryListener], name: str) -> None:
        self.url = url
        self._listeners = listeners
        self._name = name
        self._arrived: deque[MemoryStream] = deque()
        self._changed = Wakeup()
        self._closed = False

    async def arrive(self, stream: MemoryStream) -> None:
        """Queue a stream to be accepted, once there is room.

        :raises ConnectError: if the listener closes meanwhile
        """
        while len(self._arrived) >= BACKLOG and not self._closed:
            await self._changed.wait()
        if self._closed:
            raise ConnectError(f"nobody answers at {self.url}: the listener closed")
        self._arrived.append(stream)
        self._changed.notify()

    async def accept(self) -> StreamLink:
        """Wait for the next stream."""
        while not self._arrived:
            if self._closed:
                raise anyio.ClosedResourceError
            await self._changed.wait()
        stream = self._arrived.popleft()
        self._changed.notify()
        return MemoryLink(stream)

    def close(self) -> None:
        """Give the name back, and end the streams that nobody accepted."""
        if self._listeners.get(self._name) is self:
            del self._listeners[self._name]
        self._closed = True
        while self._arrived:
            self._arrived.popleft().close()
        self._changed.notify()


class MemoryLink(StreamLink):
    """A link over one end of a pipe in memory."""

    def __init__(self, stream: MemoryStream) -> None:
        super().__init__(stream, "memory")
        self._pipe = stream

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send everything if there is room."""
        return () if self._pipe.try_send(b"".join(buffers)) else buffers


class MemoryStream(ByteStream):
    """One end of a pipe in memory."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def try_send(self, item: bytes) -> bool:
        """Send bytes if there is room; return whether there was."""
        return self._outgoing.try_put(item)

    async def send(self, item: bytes) -> None:
        """Send bytes; they arrive after the latency."""
        await self._outgoing.put(bytes(item))

    def receive(self, max_bytes: int = 65536) -> Coroutine[Any, Any, bytes]:
        """Wait for bytes."""
        return self._incoming.get(max_bytes)

    async def send_eof(self) -> None:
        """Send no more."""
        self._outgoing.close()

    async def aclose(self) -> None:
        """Close both directions; what was sent still arrives."""
        self.close()

    def close(self) -> None:
        """Do what :meth:`aclose` does, at once."""
        self._outgoing.close()
        self._incoming.close(broken=True)


class _Pipe:
    """One direction of a pipe: a bounded queue of pieces, each with the time of its arrival."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._queued_bytes = 0
        self._changed = Wakeup()
        self._closed = False
        self._broken = False
        self._rounds = 0

    def try_put(self, data: bytes) -> bool:
        if self._closed or self._queued_bytes >= PIPE_BYTES:
            return False
        arrives = anyio.current_time() + self._latency if self._latency else 0.0
        self._pieces.append((arrives, data))
        self._queued_bytes += len(data)
        self._changed.notify()
        return True

    async def put(self, data: bytes) -> None:
        while not self.try_put(data):
            if self._closed:
                raise anyio.BrokenResourceError if self._broken else anyio.ClosedResourceError
            await self._changed.wait()

    async def get(self, max_bytes: int) -> bytes:
        self._rounds += 1
        if self._rounds >= ROUNDS_PER_CHECKPOINT:
            self._rounds = 0
            await anyio.lowlevel.checkpoint()
        while not self._pieces:
            if self._broken:
                raise anyio.ClosedResourceError
            if self._closed:
                raise anyio.EndOfStream
            self._rounds = 0
            await self._changed.wait()
        arrives, data = self._pieces[0]
        if arrives:
            await anyio.sleep_until(arrives)
        if len(data) > max_bytes:
            self._pieces[0] = (arrives, data[max_bytes:])
        else:
            self._pieces.popleft()
        self._queued_bytes -= min(max_bytes, len(data))
        self._changed.notify()
        return data[:max_bytes]

    def close(self, *, broken: bool = False) -> None:
        """Take no more; if *broken*, there is nobody to read either."""
        self._closed = True
        if broken:
            self._broken = True
            self._pieces.clear()
        self._changed.notify()


def memory_pair(latency: float = 0.0) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a pipe in memory.

    :param latency: seconds from one end to the other
    """
    there, back = _Pipe(latency), _Pipe(latency)
    return MemoryStream(there, back), MemoryStream(back, there)


def _check(security: Security) -> None:
    if security.context is not None:
        raise ConfigurationError("memory links are always clear")


def _none(_name: str) -> float:
    return 0.0
