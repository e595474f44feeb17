"""TLS over another link, without the socket: many records come and go with each call to the kernel.

A TLS socket makes two such calls for each record of 16 KiB that it reads, and one for each that it writes.
"""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import anyio

from cellnet.drivers.base import START_SECONDS
from cellnet.drivers.sock import SockLink
from cellnet.errors import ConnectError, HandshakeError
from cellnet.protocol.handshake import Transport

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from cellnet.drivers.base import Buffer, Security

__all__ = ["TlsLink", "link_over"]

RECORD_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
"""What is decrypted at a time, so that it is still in the processor's cache."""
WRITE_BYTES = 64 * 1024
"""What is encrypted at a time. OpenSSL keeps memory for the most that there was, in each direction of each link."""
BATCH_BYTES = 256 * 1024
"""What is encrypted before the kernel is asked to take it."""


def link_over(
    sock: socket.socket, driver: str, security: Security, *, server_name: str | None = None
) -> TlsLink | SockLink:
    """Return a link over a connected socket, which is its own from now on.

    :param server_name: the host to verify, for the side that dialled
    """
    link = SockLink(sock, driver)
    return link if security.context is None else TlsLink(link, security, security.context, server_name)


class TlsLink:
    """A link that encrypts what goes over the link below."""

    def __init__(self, below: SockLink, security: Security, context: ssl.SSLContext, server_name: str | None) -> None:
        """Begin with nothing said.

        :param server_name: the host to verify, for the side that dialled
        """
        self.waited = True
        self._below = below
        self._security = security
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._certificate: bytes | None = None
        self._unsent: Sequence[Buffer] = ()
        """What was encrypted, and the link below has not taken."""
        self._end: ConnectError | None = None
        """Why nothing more can be read."""
        self._is_over = False
        self._is_drained = False
        """Whether all that came is decrypted, but for a part of a record."""

    @property
    def transport(self) -> Transport:
        """Return what lies below, and who is there."""
        below = self._below.transport
        return Transport(below.driver, self._security.mode, self._certificate, below.address)

    async def start(self) -> None:
        """Shake hands.

        :raises HandshakeError: with the reason, if one side refused the other's certificate
        :raises ConnectError: if it takes too long
        """
        try:
            with anyio.fail_after(START_SECONDS):
                await self._shake_hands()
        except TimeoutError:
            raise ConnectError(f"the other side did not finish TLS within {START_SECONDS:.0f} s") from None
        if self._security.ingress is None:
            self._certificate = self._tls.getpeercert(binary_form=True)

    async def fill(self, buffer: memoryview) -> int:
        """Decrypt what is there, or wait until something is."""
        self.waited = False
        count = 0 if self._is_drained else self._decrypt(buffer)
        while not count and not self._is_over:
            came = await self._below.fill(buffer[:READ_BYTES])
            self.waited = self.waited or self._below.waited
            self._take(buffer[:came])
            while came == READ_BYTES and len(buffer) - count >= 2 * READ_BYTES:  # there may be more, and is room for it
                count += self._decrypt(buffer[count:], left=RECORD_BYTES)
                came = self._below.fill_now(buffer[count : count + READ_BYTES])
                if came:
                    self._take(buffer[count : count + came])
            count += self._decrypt(buffer[count:])
        if not count and self._end is not None:
            raise self._end
        return count

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Encrypt what the link below takes at once. What it does not take of that waits for the next call."""
        left = deque(buffers)
        with suppress(ConnectError):  # it broke: sending the rest will tell
            if self._unsent:
                self._unsent = self._below.try_send(self._unsent)
            while left and not self._unsent:
                self._unsent = self._below.try_send(self._encrypt(left))
        # an empty buffer stands for what waits here: the caller is to come again
        return list(left) or ([b""] if self._unsent else [])

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of *buffers*."""
        unsent, self._unsent = self._unsent, ()
        await self._below.send(unsent)
        left = deque(buffers)
        while left:
            await self._below.send(self._encrypt(left))

    async def aclose(self) -> None:
        """Say that nothing more comes, and close the link below."""
        self._is_over = True
        with suppress(ssl.SSLError):
            self._tls.unwrap()  # says so; the peer's answer is not waited for
        self._below.try_send([*self._unsent, self._outgoing.read()])
        await self._below.aclose()

    def abort(self) -> None:
        """Close the link below at once."""
        self._below.abort()

    async def _shake_hands(self) -> None:
        scratch = memoryview(bytearray(RECORD_BYTES))
        is_done = False
        while not is_done:
            try:
                self._tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._below.try_send([self._outgoing.read()])  # which tells the other side why
                raise explain(error) from None
            if self._outgoing.pending:
                await self._below.send([self._outgoing.read()])
            if not is_done:
                self._take(scratch[: await self._below.fill(scratch)])

    def _take(self, data: memoryview) -> None:
        """Take what came of the link below; nothing at its end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _decrypt(self, buffer: memoryview, left: int = -1) -> int:
        """Return how much of *buffer* was filled; nothing at the end, or if more must come first.

        :param left: how much may stay encrypted for now. To find that a record is not whole costs what a third of one
            does, and more are to come
        """
        count = 0
        self._is_drained = False
        try:
            while count < len(buffer) and self._incoming.pending > left:
                more = cast("int", self._tls.read(len(buffer) - count, buffer[count:]))  # as there is a buffer
                if not more:
                    self._is_over = True
                    break
                count += more
        except ssl.SSLWantReadError:
            self._is_drained = True
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._is_over = True
        except ssl.SSLError as error:
            self._is_over, self._end = True, explain(error)
        return count

    def _encrypt(self, left: deque[Buffer]) -> list[Buffer]:
        """Take a batch off the front of *left* and return it encrypted."""
        pieces: list[Buffer] = []
        size = 0
        try:
            while left and size < BATCH_BYTES:
                piece = _piece(left)
                if piece:
                    self._tls.write(piece)
                    pieces.append(self._outgoing.read())
                    size += len(piece)
        except ssl.SSLError as error:
            raise explain(error) from None
        return pieces


def explain(error: ssl.SSLError) -> ConnectError:
    """Say what an error of TLS means for the operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        return HandshakeError(f"the listener's certificate is not acceptable: {reason}", "untrusted")
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


def _piece(left: deque[Buffer]) -> Buffer:
    """Take off the front what is encrypted at a time: a part of a large buffer, or small ones joined."""
    first = left.popleft()
    if len(first) > WRITE_BYTES:
        whole = memoryview(first)
        left.appendleft(whole[WRITE_BYTES:])
        return whole[:WRITE_BYTES]
    if not left or len(first) + len(left[0]) > RECORD_BYTES:
        return first
    small, size = [first], len(first)
    while left and size + len(left[0]) <= WRITE_BYTES:
        small.append(left.popleft())
        size += len(small[-1])
    return b"".join(small)
