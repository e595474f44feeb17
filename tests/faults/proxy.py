"""A TCP proxy that stands between children and their parent, and does to them what bad networks and bad hops do."""

from __future__ import annotations

import math
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio

from cellnet.drivers.base import Address
from cellnet.drivers.sock import connect_socket
from cellnet.errors import RemoteProtocolError
from tests.faults.hostility import Mangler

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from tests.faults.hostility import Hostility

__all__ = ["Connection", "Proxy", "Way"]

CHUNK_BYTES = 64 * 1024
MAX_CHUNKS = 16
"""What waits in one direction of one connection, while it is delayed or slowed down; then nothing more is read."""
KERNEL_BYTES = 128 * 1024
"""What waits in the kernel, which would take 16 MiB itself: a slow way would be slow for nobody who sends less."""
MAX_CONNECTIONS = 1024
"""At a time; one more is reset."""
PIECES_PER_SECOND = 50
"""Into how many pieces a slow way cuts a second's bytes."""
DIAL_SECONDS = 5.0


@dataclass
class Way:
    """One direction, as it is for all connections. It may be changed at any time."""

    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """At most so many seconds more. What TCP carries stays in order."""
    rate: float = math.inf
    """Bytes in a second."""
    silent: bool = False
    """What comes is accepted and swallowed, an end too."""
    hostility: Hostility | None = None
    """Needs a proxy that reads frames."""


class Connection:
    """A child's socket, and the one towards the parent that belongs to it."""

    def __init__(self, child: socket.socket, parent: socket.socket) -> None:
        self.child = child
        self.parent = parent
        self.has_hole = False
        """Whether bytes were swallowed."""
        self.child_ended: float | None = None
        """When the child closed its side, on the monotonic clock."""
        self.parent_ended: float | None = None
        self._resets = False
        self._scope = anyio.CancelScope()

    def reset(self) -> None:
        """End both sides the hard way."""
        self._resets = True
        self._scope.cancel()

    async def carry(self, up: Way, down: Way, rng: random.Random, *, framed: bool) -> None:
        """Carry bytes both ways until both sides ended."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._pump, self.child, self.parent, up, rng, framed)
                    tasks.start_soon(self._pump, self.parent, self.child, down, rng, framed)
        finally:
            for sock in (self.child, self.parent):
                _close(sock, reset=self._resets)

    async def _pump(
        self, source: socket.socket, sink: socket.socket, way: Way, rng: random.Random, framed: bool
    ) -> None:
        send, receive = anyio.create_memory_object_stream[tuple[float, bytes]](MAX_CHUNKS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, source, send, way, rng)
            await self._write(sink, receive, way, Mangler(rng) if framed else None)

    async def _read(
        self, source: socket.socket, send: MemoryObjectSendStream[tuple[float, bytes]], way: Way, rng: random.Random
    ) -> None:
        due = 0.0
        with send:
            try:
                while data := await _receive(source):
                    while way.rate < math.inf and send.statistics().current_buffer_used:
                        await anyio.sleep(1 / PIECES_PER_SECOND)  # a slow way is no long one: little fits in
                    due = max(due, anyio.current_time() + way.delay + way.jitter * rng.random())
                    await send.send((due, data))
            except anyio.BrokenResourceError:
                return  # the writer gave up
            except OSError:
                if not way.silent:
                    self.reset()
            finally:
                self._note_end(source)

    async def _write(
        self,
        sink: socket.socket,
        receive: MemoryObjectReceiveStream[tuple[float, bytes]],
        way: Way,
        mangler: Mangler | None,
    ) -> None:
        with receive:
            try:
                async for due, data in receive:
                    await anyio.sleep_until(due)
                    if way.silent:
                        self.has_hole = True
                        continue
                    await _send_slowly(sink, mangler.feed(data, way.hostility) if mangler else data, way)
                if not way.silent:
                    sink.shutdown(socket.SHUT_WR)
            except (OSError, RemoteProtocolError):
                self.reset()

    def _note_end(self, source: socket.socket) -> None:
        if source is self.child:
            self.child_ended = time.monotonic()
        else:
            self.parent_ended = time.monotonic()


class Proxy(anyio.AsyncContextManagerMixin):
    """Listens for children, and dials the parent for each. It runs inside ``async with``."""

    def __init__(self, target: str, rng: random.Random, *, port: int = 0, framed: bool = False) -> None:
        """Make a proxy that passes everything.

        :param target: the parent's URL
        :param framed: whether to read frames, which is possible on clear links only, and what hostility needs
        """
        self.up = Way()
        """From the children to the parent."""
        self.down = Way()
        self.connections: list[Connection] = []
        """Those that are open."""
        self.accepted = 0
        self._target = Address.parse(target)
        self._rng = rng
        self._framed = framed
        self._sock = _bound(port)
        self._port = self._sock.getsockname()[1]
        self._admits = anyio.Event()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        try:
            self.admit()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._accept, tasks)
                yield self
                tasks.cancel_scope.cancel()
        finally:
            self._sock.close()

    @property
    def url(self) -> str:
        """Where children find it."""
        return f"{self._target.scheme}://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Reset all connections, on both sides."""
        for connection in list(self.connections):
            connection.reset()

    def refuse(self) -> None:
        """Refuse new connections, as a host does on which nobody listens."""
        if self._admits.is_set():
            self._admits = anyio.Event()
            anyio.notify_closing(self._sock)
            self._sock.close()
            # Bound, it keeps the port; and as it does not listen, whoever dials is refused.
            self._sock = _bound(self._port)

    def admit(self) -> None:
        """Accept new connections again."""
        if not self._admits.is_set():
            self._sock.listen(MAX_CONNECTIONS)
            self._admits.set()

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        """Swallow what comes from these sides from now on."""
        self.up.silent, self.down.silent = up, down

    def heal(self) -> None:
        """Let everything pass again. What lost bytes is reset: TCP never delivers a stream with a hole."""
        self.silence(up=False, down=False)
        for connection in list(self.connections):
            if connection.has_hole:
                connection.reset()

    async def _accept(self, tasks: TaskGroup) -> None:
        while True:
            await self._admits.wait()
            try:
                await anyio.wait_readable(self._sock)
                child, _address = self._sock.accept()
            except (BlockingIOError, ConnectionError, anyio.ClosedResourceError):
                continue
            except OSError:
                await anyio.sleep(0.05)  # it was refused meanwhile, or there are no more descriptors
                continue
            self.accepted += 1
            if len(self.connections) < MAX_CONNECTIONS:
                tasks.start_soon(self._serve, child)
            else:
                _close(child, reset=True)

    async def _serve(self, child: socket.socket) -> None:
        parent = await self._dial(child)
        if parent is None:
            return
        connection = Connection(child, parent)
        self.connections.append(connection)
        try:
            await connection.carry(self.up, self.down, self._rng, framed=self._framed)
        finally:
            self.connections.remove(connection)

    async def _dial(self, child: socket.socket) -> socket.socket | None:
        """Reach the parent; reset the child if nobody answers there."""
        try:
            child.setblocking(False)
            with anyio.fail_after(DIAL_SECONDS):
                parent = await connect_socket(socket.AF_INET, (self._target.host, self._target.port))
        except OSError:  # TimeoutError is one
            _close(child, reset=True)
            return None
        except BaseException:
            _close(child, reset=True)
            raise
        for sock in (child, parent):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        return parent


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", port))
    return sock


async def _receive(sock: socket.socket) -> bytes:
    while True:
        try:
            return sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(sock)


async def _send_slowly(sock: socket.socket, data: bytes, way: Way) -> None:
    view = memoryview(data)
    while view:
        rate = way.rate  # it may be changed between two pieces
        piece = view if rate == math.inf else view[: max(1, int(rate / PIECES_PER_SECOND))]
        view = view[len(piece) :]
        await _send(sock, piece)
        if rate < math.inf:
            await anyio.sleep(len(piece) / rate)


async def _send(sock: socket.socket, data: memoryview) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)


def _close(sock: socket.socket, *, reset: bool) -> None:
    if reset:  # no lingering: what is unsent is thrown away, and the other side gets RST
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
