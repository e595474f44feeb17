"""The ``memory`` driver: ``memory://name``, cells in one process, with latency if a test wants it.

Nothing is shared between two drivers: whoever wants cells to meet gives them the same one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from cellnet.drivers.path import Direction
from cellnet.drivers.stream import StreamLink
from cellnet.errors import ConfigurationError, ConnectError
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from cellnet.drivers.base import Address, Buffer, Security
    from cellnet.drivers.path import Path

__all__ = ["MemoryDriver", "MemoryStream", "MemoryWire"]

PIPE_BYTES = 256 * 1024
"""What may be under way in one direction before a sender waits."""
ROUNDS_PER_CHECKPOINT = 16
BACKLOG = 128
"""Streams that may wait to be accepted; one more waits at its dialling side."""


class MemoryDriver:
    """Cells of one process that meet by name."""

    alpn = "cellnet/1"

    def __init__(self, latency: Callable[[str], float] | None = None, path: Path | None = None) -> None:
        """Make a world of its own.

        :param latency: seconds one way for links to the listener of that name
        :param path: over which all dials go
        """
        self._latency = latency or _none
        self._path = path
        self._listeners: dict[str, MemoryListener] = {}

    def over(self, path: Path) -> MemoryDriver:
        """Return a way into the same world, for a cell that dials over *path*."""
        driver = MemoryDriver(self._latency, path)
        driver._listeners = self._listeners
        return driver

    async def connect(self, address: Address, security: Security) -> StreamLink:
        """Reach the listener of that name."""
        _check(security)
        if self._path is not None:
            await self._path.wait_open()
        listener = self._listeners.get(address.host)
        if listener is None:
            raise ConnectError(f"nobody answers at {address}: no listener has that name")
        wire = MemoryWire(self._latency(address.host), self._path)
        try:
            await listener.arrive(wire.parent)
        except BaseException:
            wire.cut()
            raise
        return MemoryLink(wire.child)

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
    """A link over one end of a wire in memory."""

    def __init__(self, stream: MemoryStream) -> None:
        super().__init__(stream, "memory")
        self._wire_end = stream

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send everything if there is room."""
        return () if self._wire_end.try_send(b"".join(buffers)) else buffers

    def abort(self) -> None:
        """Close at once: whoever is on the other side is told, also if this side was cancelled."""
        self._wire_end.close()


class MemoryWire:
    """Two pipes in opposite directions, from a dial to its end."""

    def __init__(self, latency: float, path: Path | None = None) -> None:
        """Connect two ends.

        :param latency: seconds from one end to the other
        """
        up, down = (path.up, path.down) if path is not None else (_ALWAYS, _ALWAYS)
        self._up, self._down = _Pipe(latency, up, down), _Pipe(latency, down, up)
        self.child, self.parent = MemoryStream(self._up, self._down), MemoryStream(self._down, self._up)
        if path is not None:
            path.add(self)

    @property
    def is_open(self) -> bool:
        """Whether either side still has it."""
        return not (self._up.is_over and self._down.is_over)

    def wake(self) -> None:
        """Look again at what the path lets through."""
        self._up.wake()
        self._down.wake()

    def cut(self) -> None:
        """End it; both sides learn so at once, and what was on the way is lost."""
        self._up.cut()
        self._down.cut()

    def leave(self, *, child: bool) -> None:
        """End one side; the other one learns so after what was sent."""
        (self.child if child else self.parent).close()


class MemoryStream(ByteStream):
    """One end of a wire in memory."""

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
        self._outgoing.end()

    async def aclose(self) -> None:
        """Close both directions; what was sent still arrives."""
        self.close()

    def close(self) -> None:
        """Do what :meth:`aclose` does, at once."""
        self._outgoing.end()
        self._incoming.abandon()


class _Pipe:
    """One direction of a wire: a bounded queue of pieces, each with the time of its arrival."""

    def __init__(self, latency: float, way: Direction, back: Direction) -> None:
        """Make a pipe.

        :param way: whether what is put in arrives
        :param back: whether the news arrives that nobody reads any more
        """
        self._latency = latency
        self._way = way
        self._back = back
        self._pieces: deque[tuple[float, bytes | memoryview]] = deque()
        self._queued_bytes = 0
        self._changed = Wakeup()
        self._is_ended = False
        self._is_abandoned = False
        self._is_cut = False
        self._rounds = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody writes and nobody reads."""
        return self._is_cut or (self._is_ended and self._is_abandoned)

    # The writer's side.

    def try_put(self, data: bytes) -> bool:
        if self._is_ended or self._is_broken or self._queued_bytes >= PIPE_BYTES:
            return False
        arrives = anyio.current_time() + self._latency if self._latency else 0.0
        self._pieces.append((arrives, data))
        self._queued_bytes += len(data)
        if len(self._pieces) == 1:
            self._changed.notify()
        return True

    async def put(self, data: bytes) -> None:
        while not self.try_put(data):
            if self._is_ended:
                raise anyio.ClosedResourceError
            if self._is_broken:
                raise anyio.BrokenResourceError
            await self._changed.wait()

    def end(self) -> None:
        """Take no more."""
        self._is_ended = True
        self._changed.notify()

    @property
    def _is_broken(self) -> bool:
        """Whether the writer knows that nobody reads."""
        return self._is_cut or (self._is_abandoned and self._back.is_open)

    # The reader's side.

    async def get(self, max_bytes: int) -> bytes:
        self._rounds += 1
        if self._rounds >= ROUNDS_PER_CHECKPOINT:
            self._rounds = 0
            await anyio.lowlevel.checkpoint()
        while not self._is_readable():
            self._rounds = 0
            await self._wait()
        arrives, data = self._pieces[0]
        if len(data) > max_bytes:
            self._pieces[0] = (arrives, memoryview(data)[max_bytes:])  # a long piece is not copied again each time
        else:
            self._pieces.popleft()
        self._queued_bytes -= min(max_bytes, len(data))
        self._changed.notify()
        return bytes(data[:max_bytes])

    def abandon(self) -> None:
        """Let nobody read any more."""
        self._is_abandoned = True
        self._pieces.clear()
        self._changed.notify()

    def _is_readable(self) -> bool:
        if self._is_cut:
            raise anyio.BrokenResourceError("it was cut")
        if self._is_abandoned:
            raise anyio.ClosedResourceError
        if not self._way.is_open:
            return False
        if self._pieces:
            arrives = self._pieces[0][0]
            return not arrives or arrives <= anyio.current_time()
        if self._is_ended:
            raise anyio.EndOfStream
        return False

    async def _wait(self) -> None:
        """Wait until what is next to be read may have changed, or have arrived."""
        if self._pieces and self._way.is_open:
            with anyio.CancelScope(deadline=self._pieces[0][0]):
                await self._changed.wait()
        else:
            await self._changed.wait()

    # The path.

    def wake(self) -> None:
        self._changed.notify()

    def cut(self) -> None:
        self._is_cut = True
        self._pieces.clear()
        self._changed.notify()


_ALWAYS = Direction()


def _check(security: Security) -> None:
    if security.context is not None:
        raise ConfigurationError("memory links are always clear")


def _none(_name: str) -> float:
    return 0.0
