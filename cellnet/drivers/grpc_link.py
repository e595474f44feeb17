"""What both sides of a gRPC stream share: the link that a cell sees, and the pump between it and the stream.

The cell's loop and gRPC's are two. Bytes cross between them in both directions, and nothing else does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import anyio
import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import BytesValue

from cellnet.drivers.base import cut, pour
from cellnet.drivers.crossing import Crossing, Host
from cellnet.drivers.grpc_loop import GrpcLoop
from cellnet.errors import ConnectError
from cellnet.pace import Pace
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cellnet.drivers.base import Buffer
    from cellnet.protocol.handshake import Transport

__all__ = ["END", "METHOD", "OPTIONS", "SERVICE", "GrpcLink", "Stream", "deserialize", "one_line", "pump", "serialize"]

SERVICE = "cellnet.v1.Cells"
METHOD = "Link"
MESSAGE_BYTES = 64 * 1024
"""Of a message that is sent, at least if there is more to send."""
LONG_MESSAGE_BYTES = 528 * 1024
"""Of a message that is sent while they leave quickly: room for half a MiB of contents and the heads of its frames. Each
message costs several switches of threads on either side, whatever its size; but nothing arrives before all has."""
MAX_MESSAGE_BYTES = 1 << 20
"""Of a message that is received."""
MESSAGES = 2
"""No more are taken while so many short ones wait between the two loops, or one as long as they are then. gRPC holds
about 1 MiB more for a peer that does not read."""
CLOSE_SECONDS = 1.0
CLOSED = "the link was closed here"
END = b"-----END CERTIFICATE-----"
"""Of one of several certificates in a file."""

_BROKEN = (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.BaseError)
"""What gRPC raises when a call is over before it should be."""

_LONGEST_HEAD = 5
"""For less than 256 MiB."""

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + 64),
    ("grpc.max_send_message_length", -1),
]


def serialize(pieces: Sequence[Buffer]) -> bytes:
    """Return the message for some bytes: a ``BytesValue``, without the two copies that its own class would make."""
    return b"".join((_head(sum(map(len, pieces))), *pieces))


def deserialize(message: bytes) -> Buffer:
    """Return the bytes of a message, in place where it is written as :func:`serialize` does.

    :raises google.protobuf.message.DecodeError: if it is no ``BytesValue``
    """
    for start in range(2, min(len(message), _LONGEST_HEAD) + 1):
        if message[:start] == _head(len(message) - start):
            return memoryview(message)[start:]
    return BytesValue.FromString(message).value


class Stream(Protocol):
    """The part of a call that both sides have."""

    async def read(self) -> object:
        """Return the next message, or ``grpc.aio.EOF``."""

    async def write(self, message: Buffer, /) -> None:
        """Send a message, once there is room."""


class GrpcLink:
    """A link over a stream of messages. To be made in the cell's loop, or for it."""

    def __init__(self, transport: Transport, host: Host) -> None:
        """Make both ways across.

        :param host: the cell's loop
        """
        self.transport = transport
        self.waited = True
        self.pace = Pace(MESSAGE_BYTES, LONG_MESSAGE_BYTES)
        """How large the messages are that are sent; told in gRPC's loop."""
        self.incoming = Crossing(MESSAGES * MESSAGE_BYTES)
        self.outgoing = Crossing(MESSAGES * MESSAGE_BYTES)
        self.loop = GrpcLoop.of_process()
        self.incoming.write_from(self.loop.host)
        self.incoming.read_from(host)
        self.outgoing.write_from(host)
        self.outgoing.read_from(self.loop.host)
        self.cancel: Callable[[], object] = _nothing
        """Ends the stream at once; to be called in gRPC's loop."""
        self._is_over = False
        self._over = Wakeup()
        self._rest: list[memoryview] = []
        self._is_closed = False

    async def start(self) -> None:
        """Do nothing: who accepts a stream has it."""

    async def fill(self, buffer: memoryview) -> int:
        """Read what crossed over, or wait until something did."""
        self.waited = False
        if not self._rest:
            self.waited = not self.incoming.has_pieces
            self._rest = [memoryview(piece) for piece in await self.incoming.get(len(buffer))]
        return pour(self._rest, buffer)

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Hand over what there is room for."""
        left = deque(buffers)
        while left and self.outgoing.has_room:
            self.outgoing.try_put(_crossing(left, self.pace.size))
        return list(left)

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Hand over all of *buffers*."""
        left = deque(buffers)
        while left:
            await self.outgoing.put(_crossing(left, self.pace.size))

    async def aclose(self) -> None:
        """Say that nothing more comes, wait a moment until all has left and the other side says so too."""
        if self._is_closed:
            return
        self.outgoing.end()
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(ConnectError):
            while await self.incoming.get(MAX_MESSAGE_BYTES):
                pass
            while not self._is_over:
                await self._over.wait()
        self.abort()

    def over(self) -> None:
        """Note that the stream is no more; to be called in the cell's loop."""
        self._is_over = True
        self._over.notify()

    def abort(self) -> None:
        """End the stream at once."""
        if not self._is_closed:
            self._is_closed = True
            self.outgoing.end(CLOSED)
            self.incoming.abandon(CLOSED)
            self.loop.host.post(lambda: self.cancel())  # looked up there: it may be another by then


async def pump(link: GrpcLink, stream: Stream, done_writing: Callable[[], Awaitable[None]]) -> None:
    """Carry bytes between a link and a stream until the stream has nothing more to say, in gRPC's loop.

    :param done_writing: called when the link has sent all
    """

    async def send() -> None:
        try:
            while await _send(link, stream):
                pass
            await done_writing()
        except ConnectError:
            pass  # the link was aborted
        except _BROKEN as error:
            link.outgoing.abandon(f"the link broke: {_reason(error)}")

    async def receive() -> None:
        try:
            while await _receive(link, stream):
                pass
            link.incoming.end()
        except ConnectError:
            pass  # the link was aborted
        except _BROKEN as error:
            link.incoming.end(f"the link broke: {_reason(error)}")

    # not in a task group: it would be in a cycle with the stream, whose connection is open for as long as that lives
    receiving = asyncio.create_task(receive())
    try:
        await send()
        await receiving
    finally:
        receiving.cancel()
        await asyncio.wait([receiving])
        link.incoming.end("the link broke")
        link.outgoing.abandon("the link broke: the other side closed it")


# One message each: nothing may hold it while the next is waited for, which is for hours on links that are idle.


async def _send(link: GrpcLink, stream: Stream) -> bool:
    if await link.outgoing.wait() >= MESSAGE_BYTES:
        await link.loop.turn()
    pieces = await link.outgoing.get(MESSAGE_BYTES)
    if not pieces:
        return False
    message = pieces[0] if len(pieces[0]) >= MESSAGE_BYTES else serialize(pieces)
    began = anyio.current_time()
    await stream.write(message)
    link.pace.sent(len(message), anyio.current_time() - began)
    link.outgoing.limit = max(MESSAGES * MESSAGE_BYTES, link.pace.size)
    return True


async def _receive(link: GrpcLink, stream: Stream) -> bool:
    data = await stream.read()
    if data is grpc.aio.EOF:
        return False
    await link.incoming.put(cast("Buffer", data))
    return True


def _crossing(buffers: deque[Buffer], size: int) -> bytes:
    """Take *size* bytes off the front of *buffers*, or what there is; as a message already if it is a long one.

    Copied, as the caller may use them again, and so that there is no second time for the many bytes of a long one.
    """
    pieces = cut(buffers, size)
    return b"".join(pieces) if sum(map(len, pieces)) < MESSAGE_BYTES else serialize(pieces)


def _head(size: int) -> bytes:
    """Return what precedes so many bytes in a ``BytesValue``: its field 1, with a length, seven bits in each byte."""
    head = bytearray((0x0A,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def one_line(text: str) -> str:
    """Return what gRPC says, short enough for a sentence."""
    return " ".join(text.split())[:300]


def _reason(error: BaseException) -> str:
    text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return one_line(text or type(error).__name__)


def _nothing() -> None:
    return
