"""A link inside a WebSocket: what every HTTP proxy in between lets through.

The bytes of the link are the bytes of its binary messages, one after the other; where a message ends means nothing.
Handshake and framing are those of the library's protocol objects, which do no I/O; bytes go over a link of their own.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from cellnet.drivers.base import START_SECONDS, UNTOLD, cut, pour
from cellnet.errors import ConnectError, HandshakeError
from cellnet.protocol.greeting import speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.protocol import Event

    from cellnet.drivers.base import Address, Buffer, Link, Listener
    from cellnet.protocol.handshake import Transport

__all__ = ["PATH", "WsLink", "WsListener"]

PATH = "/cellnet"
PIECE_BYTES = 64 * 1024
"""Of a message that is sent. The other side passes on what it has whole, so a longer one would wait for itself."""
MAX_MESSAGE_BYTES = 1 << 20
"""Of a message that is received; checked before there is room made for it."""
MAX_REPLIES = 16
"""Answers to pings that may wait for what is sent just now; a peer that asks for more is not a good one."""
GREETING_BYTES = 16 * 1024
"""Of a request or response, at most, at a time."""
FAREWELL_SECONDS = 1.0
_NORMAL = 1000


class WsLink:
    """A link over another, as one side of a WebSocket."""

    def __init__(self, inner: Link, address: Address | None) -> None:
        """Take ownership of a link that is not started yet.

        :param address: what was dialled; None for the side that listens
        """
        self._inner = inner
        self._protocol: ClientProtocol | ServerProtocol
        if address is None:
            self._protocol = ServerProtocol(max_size=MAX_MESSAGE_BYTES)
        else:
            secure = inner.transport.security != "clear"
            uri = WebSocketURI(secure, address.host, address.port, PATH, "")
            self._protocol = ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES)
        self._received: list[memoryview] = []
        """What came of messages and was not fetched yet."""
        self._unsent: Sequence[Buffer] = ()
        """What the inner link did not take of messages that were made."""
        self._is_sending = False
        self.waited = True

    @property
    def transport(self) -> Transport:
        """Return what lies below."""
        return self._inner.transport

    async def start(self) -> None:
        """Start the inner link, then ask for a WebSocket, or grant one.

        :raises HandshakeError: if the other side, or a proxy on the way, wants none
        :raises ConnectError: if it takes too long
        """
        await self._inner.start()
        try:
            with anyio.fail_after(START_SECONDS):
                if isinstance(self._protocol, ClientProtocol):
                    await self._ask(self._protocol)
                else:
                    await self._grant(self._protocol)
        except TimeoutError:
            if isinstance(self._protocol, ServerProtocol):  # one that waits for us to speak first learns who we are
                self._protocol.send_response(self._protocol.reject(408, "This is a cell of cellnet, over HTTP.\n"))
                self._inner.try_send(self._output())
            raise ConnectError(f"the other side sent no HTTP within {START_SECONDS:.0f} s") from None

    async def fill(self, buffer: memoryview) -> int:
        """Read messages, or wait until there are any."""
        self.waited = False
        while not self._received:
            count = await self._inner.fill(buffer)
            self.waited = self.waited or self._inner.waited
            if not count:
                return 0
            self._protocol.receive_data(bytes(buffer[:count]))
            if not self._take_events(self._protocol.events_received()):
                return 0
        return pour(self._received, buffer)

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send what the inner link takes at once. What it does not take of a message waits for the next call."""
        if self._protocol.state is not OPEN:
            return buffers
        left = deque(buffers)
        if self._unsent:
            self._unsent = self._inner.try_send(self._unsent)
        while left and not self._unsent:
            self._unsent = self._inner.try_send(self._message(cut(left, PIECE_BYTES)))
        # an empty buffer stands for what waits here: the caller is to come again
        return list(left) or ([b""] if self._unsent else [])

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of *buffers*."""
        self._is_sending = True
        try:
            unsent, self._unsent = self._unsent, ()
            await self._inner.send(unsent)
            left = deque(buffers)
            while left:
                await self._inner.send(self._message(cut(left, PIECE_BYTES)))
        finally:
            self._is_sending = False

    async def aclose(self) -> None:
        """Say that nothing more comes, then close the inner link."""
        if self._protocol.state is OPEN and not self._is_sending:
            self._protocol.send_close(_NORMAL)
            with anyio.move_on_after(FAREWELL_SECONDS, shield=True), suppress(ConnectError):
                await self._inner.send([*self._unsent, *self._output()])
        await self._inner.aclose()

    def abort(self) -> None:
        """Close the inner link at once."""
        self._inner.abort()

    # Messages.

    def _message(self, pieces: Sequence[Buffer]) -> list[bytes]:
        """Return the frames of one binary message, and of answers to pings before it."""
        if self._protocol.state is not OPEN:
            raise ConnectError("the link broke: the other side closed the WebSocket")
        if message := b"".join(pieces):
            self._protocol.send_binary(message)
        return self._output()

    def _output(self) -> list[bytes]:
        # an empty one says that the connection is to be closed, which closing the inner link does
        return [data for data in self._protocol.data_to_send() if data]

    def _take_events(self, events: Sequence[Event]) -> bool:
        """Take in what arrived; return whether more may come.

        :raises ConnectError: if it broke the rules
        """
        protocol = self._protocol
        for event in events:
            if not isinstance(event, Frame):
                raise ConnectError("the other side sent HTTP in a WebSocket")
            if event.opcode in (Opcode.BINARY, Opcode.CONT):
                if event.data:
                    self._received.append(memoryview(event.data))
            elif event.opcode is Opcode.TEXT:
                raise ConnectError("the other side sent text in a WebSocket of cells")
        if protocol.parser_exc is not None:
            raise ConnectError(f"the other side broke the rules of WebSockets: {protocol.parser_exc}")
        if len(protocol.writes) > MAX_REPLIES:
            raise ConnectError("the other side sent too many pings")
        if protocol.writes and not self._is_sending and not self._unsent:
            self._unsent = self._inner.try_send(self._output())
        return protocol.state is OPEN or bool(self._received)

    # The handshake.

    async def _ask(self, protocol: ClientProtocol) -> None:
        protocol.send_request(protocol.connect())
        await self._inner.send(self._output())
        first = await self._greet()
        error = protocol.handshake_exc
        if isinstance(error, InvalidMessage):
            other = speaker(first)
            told = f"speaks {other}, not HTTP" if other else "does not speak HTTP"
            raise HandshakeError(
                f"the other side {told}: compare the scheme, and connection_security", "wrong-scheme"
            ) from None
        if isinstance(error, InvalidStatus):
            raise _refused(error.response.status_code) from None
        if error is not None:
            raise HandshakeError(f"the other side answered, but not as a WebSocket does: {error}", "wrong-scheme")
        self._take_events(protocol.events_received()[1:])

    async def _grant(self, protocol: ServerProtocol) -> None:
        first = await self._greet()
        requests = [event for event in protocol.events_received() if isinstance(event, Request)]
        if not requests:
            other = speaker(first)
            told = f"speaks {other}, not HTTP" if other else f"sent no request: {protocol.handshake_exc}"
            # the library says nothing to what is no HTTP, but its sender may want to know what it met
            await self._inner.send([protocol.reject(400, "This is a cell of cellnet, over HTTP.\n").serialize()])
            raise HandshakeError(f"the other side {told}", "wrong-scheme")
        request = requests[0]
        if request.path.partition("?")[0] != PATH:
            response = protocol.reject(404, f"This is a cell of cellnet. What it speaks is at {PATH}.\n")
        else:
            response = protocol.accept(request)
        protocol.send_response(response)
        await self._inner.send(self._output())
        if protocol.state is not OPEN:
            with anyio.move_on_after(FAREWELL_SECONDS):
                await self._inner.aclose()  # what was said is to arrive
            why = protocol.handshake_exc or f"it asked for {request.path[:100]}, which is not {PATH}"
            raise HandshakeError(f"no WebSocket was granted: {why}", "wrong-path")

    async def _greet(self) -> bytes:
        """Read until a request or response is whole, or cannot be one; return how it began.

        :raises ConnectError: if the other side closed the link before
        """
        room = memoryview(bytearray(GREETING_BYTES))
        first = b""
        protocol = self._protocol
        while not protocol.events and protocol.handshake_exc is None:
            try:
                count = await self._inner.fill(room)
            except HandshakeError:
                raise
            except ConnectError as error:
                raise ConnectError(f"{error}, {UNTOLD}") from None
            if not count:
                protocol.receive_eof()
                raise ConnectError(f"the other side closed the link {UNTOLD}")
            first = first or bytes(room[: min(count, 64)])
            protocol.receive_data(bytes(room[:count]))
        return first


class WsListener:
    """A listener whose arrivals are to ask for a WebSocket."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._inner.url

    async def accept(self) -> WsLink:
        """Wait for the next connection."""
        return WsLink(await self._inner.accept(), None)

    def close(self) -> None:
        """Accept no more."""
        self._inner.close()


def _refused(status: int) -> ConnectError:
    """Return what it means that a request for a WebSocket was answered with *status*."""
    told = f"the other side answered with status {status}"
    if status in _LATER:
        return ConnectError(f"{told}: {_LATER[status]}")
    return HandshakeError(f"{told}: {_NEVER.get(status, 'it does not grant a WebSocket there')}", f"http-{status}")


_LATER = {
    408: "it waited for a request in vain",
    429: "it wants fewer requests",
    500: "see its log",
    502: "an ingress could not reach the cell behind it",
    503: "an ingress has no cell behind it just now",
    504: "an ingress waited for the cell behind it in vain",
}
_NEVER = {
    400: "it did not understand the request: does it expect TLS? compare connection_security",
    401: "it wants a name and a password, which an ingress for cells should not",
    403: "it forbids this: ask who runs it",
    404: f"there is nothing at {PATH}: compare host and port, or have the ingress pass on {PATH}",
    426: "it does not see a WebSocket: have the ingress pass on the headers Upgrade and Connection",
}
