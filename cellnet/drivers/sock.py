"""A link over a socket of our own, the same on every event loop.

Sockets are non-blocking and tried first; the event loop is asked only when the kernel has nothing to give or to
take. That, and reading into a buffer that is used again, makes the difference to stream objects: about a third of
the processor time per byte.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.readable import Readable
from cellnet.errors import ConnectError
from cellnet.protocol.handshake import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.drivers.base import Buffer

__all__ = ["SockLink", "connect_socket"]

MAX_IOV = 500
SCRATCH_BYTES = 16 * 1024
UNSENT_BYTES = 128 * 1024
"""What the kernel may hold back unsent. Without this, a stalled peer hides megabytes in front of control frames."""
MAX_UNSENT_BYTES = 2 << 20
"""The same while the peer takes half of it within ``QUICK_SECONDS``, as each time that it is full wakes a task."""
QUICK_SECONDS = 0.002
SLOW_SECONDS = 0.01
CLOSE_SECONDS = 1.0
CLOSED = (OSError, ValueError, anyio.ClosedResourceError, anyio.BrokenResourceError)
"""What waiting for a socket raises that is closed meanwhile."""


class SockLink:
    """A connected stream socket."""

    def __init__(self, sock: socket.socket, driver: str) -> None:
        """Take ownership of a connected socket."""
        sock.setblocking(False)
        _tune(sock)
        self._driver = driver
        self._sock = sock
        self._address = _host(sock)
        self._readable = Readable(sock)
        self._unsent_bytes = UNSENT_BYTES
        self._closed = False
        self.waited = True
        self._is_empty = False
        """Whether the last that had come was read, when it was."""

    @property
    def transport(self) -> Transport:
        """Return what lies below."""
        return Transport(self._driver, "clear", None, self._address)

    async def start(self) -> None:
        """Do nothing: it is connected."""

    async def fill(self, buffer: memoryview) -> int:
        """Read what is there, or wait until something is."""
        self.waited = False
        while True:
            if self._is_empty:
                self.waited = True
                await self._wait_readable()
                self._is_empty = False
            try:
                return self._read(buffer)
            except BlockingIOError:
                self._is_empty = True
            except (OSError, ValueError) as error:
                raise broken(error) from None

    def fill_now(self, buffer: memoryview) -> int:
        """Read what is there; nothing if there is none, or if it is over, which :meth:`fill` tells."""
        if not self._is_empty:
            try:
                return self._read(buffer)
            except BlockingIOError:
                self._is_empty = True
            except (OSError, ValueError):
                pass
        return 0

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Write as much of *buffers* as the kernel takes now."""
        try:
            while buffers:
                before = len(buffers)
                buffers = self._send_once(buffers)
                if before <= MAX_IOV:
                    break  # what is left now is too much for the kernel: to ask once more would say just that
        except (OSError, ValueError):
            pass  # would block, or broken: sending the rest will tell
        return buffers

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Write all of *buffers*."""
        while buffers:
            try:
                buffers = self._send_once(buffers)
            except BlockingIOError:
                await self._wait_writable()
            except (OSError, ValueError) as error:
                raise broken(error) from None

    def _send_once(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Make one system call; return what is left."""
        sent = self._sock.sendmsg(buffers if len(buffers) <= MAX_IOV else buffers[:MAX_IOV])
        for index, buffer in enumerate(buffers):
            size = len(buffer)
            if sent < size:
                return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
            sent -= size
        return ()

    async def aclose(self) -> None:
        """Say that nothing more comes, read until the peer says so too, close.

        Closing with unread bytes would make the kernel throw away what the peer has not read yet.
        """
        if self._closed:
            return
        scratch = memoryview(bytearray(SCRATCH_BYTES))
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(OSError, ConnectError, ValueError):
            self._sock.shutdown(socket.SHUT_WR)
            while await self.fill(scratch):
                pass
        self.abort()

    def abort(self) -> None:
        """Close the socket and wake whoever waits for it."""
        if not self._closed:
            self._closed = True
            self._readable.close()
            if self._sock.fileno() >= 0:
                anyio.notify_closing(self._sock)
            self._sock.close()

    def _read(self, buffer: memoryview) -> int:
        count = self._sock.recv_into(buffer)
        self._is_empty = 0 < count < len(buffer)  # to ask for more would most often say that there is none
        return count

    async def _wait_readable(self) -> None:
        try:
            await self._readable.wait()
        except CLOSED:
            raise _closed_here() from None

    async def _wait_writable(self) -> None:
        began = anyio.current_time()
        try:
            await anyio.wait_writable(self._sock)
        except CLOSED:
            raise _closed_here() from None
        self._pace(anyio.current_time() - began)

    def _pace(self, waited: float) -> None:
        """Let the kernel hold more if it was quick to send half of what it holds, and less if it was slow."""
        allowed = self._unsent_bytes
        if waited < QUICK_SECONDS:
            allowed = min(2 * allowed, MAX_UNSENT_BYTES)
        elif waited > SLOW_SECONDS:
            allowed = max(allowed // 2, UNSENT_BYTES)
        if allowed != self._unsent_bytes:
            self._unsent_bytes = allowed
            _hold_back(self._sock, allowed)


async def connect_socket(family: int, address: object) -> socket.socket:
    """Return a socket that is connected to *address*.

    :raises OSError: if nobody answers there
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect(address)  # type: ignore[arg-type]  # of the family
        except BlockingIOError:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "connection failed") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _closed_here() -> ConnectError:
    """Say what it means that a socket cannot be waited for."""
    return ConnectError("the link was closed here")


def broken(error: Exception) -> ConnectError:
    """Say what an error of a socket means for the operator."""
    reason = error.strerror if isinstance(error, OSError) else None
    return ConnectError(f"the link broke: {reason or error}")


def _host(sock: socket.socket) -> str:
    """Return the host at the other end of a socket."""
    if sock.family == socket.AF_UNIX:
        return ""
    with suppress(OSError):  # it is gone already
        return str(sock.getpeername()[0])
    return ""


def _tune(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _hold_back(sock, UNSENT_BYTES)


def _hold_back(sock: socket.socket, size: int) -> None:
    """Let the kernel hold about so much unsent, where that can be said."""
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):  # it is closed, as who waits for it will see
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)
