"""A link over a socket of our own, clear or TLS, the same on every event loop.

Sockets are non-blocking and tried first; the event loop is asked only when the kernel has nothing to give or to
take. That, and reading into a buffer that is used again, makes the difference to stream objects: about a third of
the processor time per byte.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from cellnet.drivers.base import CLEAR, START_SECONDS, Buffer, Security
from cellnet.drivers.readable import Readable
from cellnet.errors import ConnectError, HandshakeError
from cellnet.protocol.handshake import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SockLink", "SockListener"]

MAX_IOV = 500
JOIN_BYTES = 64 * 1024
RECORD_BYTES = 16 * 1024
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
    """A connected stream socket, and the TLS over it if there is any."""

    def __init__(
        self, sock: socket.socket, driver: str, security: Security = CLEAR, *, server_name: str | None = None
    ) -> None:
        """Take ownership of a connected socket.

        :param server_name: the host to verify, for the side that dialled
        """
        sock.setblocking(False)
        _tune(sock)
        self._driver = driver
        self._security = security
        self._tls = security.context
        self._server_name = server_name
        self._sock = sock
        self._certificate: bytes | None = None
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
        return Transport(self._driver, self._security.mode, self._certificate, self._address)

    async def start(self) -> None:
        """Shake hands for TLS.

        :raises HandshakeError: with the reason, if one side refused the other's certificate
        :raises ConnectError: if it takes too long
        """
        if self._tls is not None:
            try:
                with anyio.fail_after(START_SECONDS):
                    await self._start_tls(self._tls)
            except TimeoutError:
                raise ConnectError(f"the other side did not finish TLS within {START_SECONDS:.0f} s") from None

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        sock = context.wrap_socket(
            self._sock,
            server_side=self._server_name is None,
            server_hostname=self._server_name,
            do_handshake_on_connect=False,
        )
        self._sock, self._readable = sock, Readable(sock)
        while True:
            try:
                sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._wait_readable()
            except ssl.SSLWantWriteError:
                await self._wait_writable()
            except (OSError, ValueError) as error:
                raise explain(error) from None
        if self._security.ingress is None:
            self._certificate = sock.getpeercert(binary_form=True)

    async def fill(self, buffer: memoryview) -> int:
        """Read what is there, or wait until something is."""
        self.waited = False
        while True:
            if self._is_empty:
                self.waited = True
                await self._wait_readable()
                self._is_empty = False
            try:
                count = self._sock.recv_into(buffer)
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                self._is_empty = True
            except ssl.SSLWantWriteError:
                await self._wait_writable()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return 0
            except (OSError, ValueError) as error:
                raise explain(error) from None
        if self._tls is not None:
            count += self._fill_more(buffer[count:]) if count else 0
        else:
            self._is_empty = 0 < count < len(buffer)  # to ask for more would most often say that there is none
        return count

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Write as much of *buffers* as the kernel takes now."""
        pending: list[Buffer] = list(buffers) if self._tls is None else _joined(buffers)
        with suppress(OSError, ValueError):  # would block, or broken: sending the rest will tell
            while pending:
                before = len(pending)
                pending = self._send_once(pending)
                if before <= MAX_IOV and pending and self._tls is None:
                    break  # the kernel is full: to ask once more would say just that
        return pending

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Write all of *buffers*."""
        pending: list[Buffer] = list(buffers) if self._tls is None else _joined(buffers)
        while pending:
            try:
                pending = self._send_once(pending)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait_writable()
            except ssl.SSLWantReadError:
                await self._wait_readable()
            except (OSError, ValueError) as error:
                raise explain(error) from None

    def _send_once(self, pending: list[Buffer]) -> list[Buffer]:
        """Make one system call; return what is left."""
        sent = self._sock.sendmsg(pending[:MAX_IOV]) if self._tls is None else self._sock.send(pending[0])
        for index, buffer in enumerate(pending):
            if sent < len(buffer):
                return [memoryview(buffer)[sent:], *pending[index + 1 :]]
            sent -= len(buffer)
            if not sent:
                return pending[index + 1 :]
        return []

    async def aclose(self) -> None:
        """Say that nothing more comes, read until the peer says so too, close.

        Closing with unread bytes would make the kernel throw away what the peer has not read yet.
        """
        if self._closed:
            return
        scratch = memoryview(bytearray(RECORD_BYTES))
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(OSError, ConnectError, ValueError):
            if isinstance(self._sock, ssl.SSLSocket):
                with suppress(ssl.SSLError):
                    self._sock.unwrap()  # sends close_notify; the peer's is not waited for
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

    def _fill_more(self, room: memoryview) -> int:
        """Read the further TLS records that have arrived: the event loop knows only of bytes not yet decrypted."""
        count = 0
        with suppress(ssl.SSLError, OSError):
            while len(room) - count >= RECORD_BYTES:
                more = self._sock.recv_into(room[count:])
                if not more:
                    break
                count += more
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


class SockListener:
    """A listening socket."""

    def __init__(self, sock: socket.socket, url: str, driver: str, security: Security = CLEAR) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._url = url
        self._driver = driver
        self._security = security

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._url

    async def accept(self) -> SockLink:
        """Wait for the next connection.

        :raises anyio.ClosedResourceError: after :meth:`close`
        """
        while True:
            if self._sock.fileno() < 0:
                raise anyio.ClosedResourceError
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
            except ConnectionError:
                continue  # it was gone before it was accepted
            except OSError:
                if self._sock.fileno() < 0:
                    raise anyio.ClosedResourceError from None
                await anyio.sleep(0.1)  # out of descriptors: live links go on, and new ones wait
            else:
                return SockLink(sock, self._driver, self._security)

    def close(self) -> None:
        """Close the socket and wake whoever waits for it."""
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()


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


def explain(error: Exception) -> ConnectError:
    """Say what an error of a socket means for the operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        return HandshakeError(f"the listener's certificate is not acceptable: {reason}", "untrusted")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "protocol version" in reason or "unsupported protocol" in reason:
            return HandshakeError("the other side knows no TLS 1.3: is an ingress in between?", "old-tls")
        if "alert" in reason:
            reason = reason.partition("alert ")[2]
            return HandshakeError(f"the peer refused our certificate: {reason}", "untrusted")
        if "certificate verify failed" in reason or "peer did not return a certificate" in reason:
            return HandshakeError(f"the peer's certificate is not acceptable: {error.args[-1]}", "untrusted")
        if "wrong version number" in reason or "http request" in reason or "record layer" in reason:
            return HandshakeError("the other side does not speak TLS: compare connection_security", "not-tls")
        return ConnectError(f"TLS failed: {reason}")
    if isinstance(error, OSError) and error.strerror:
        return ConnectError(f"the link broke: {error.strerror}")
    return ConnectError(f"the link broke: {error}")


def _joined(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Join small buffers, as every TLS write costs a record."""
    pieces: list[Buffer] = []
    run: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if size + len(buffer) > JOIN_BYTES and run:
            pieces.append(b"".join(run))
            run, size = [], 0
        run.append(buffer)
        size += len(buffer)
    if run:
        pieces.append(b"".join(run))
    return pieces


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
