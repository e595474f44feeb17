"""A link over any byte stream of anyio's: for memory, and where no socket can be had."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from cellnet.errors import ConnectError
from cellnet.protocol.handshake import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ByteStream

    from cellnet.drivers.base import Buffer

__all__ = ["StreamLink"]


class StreamLink:
    """A byte stream as a link. Slower than a socket of our own, and good for everything."""

    def __init__(self, stream: ByteStream, driver: str) -> None:
        """Take ownership of a stream."""
        self.transport = Transport(driver)
        self.waited = True
        self._stream = stream

    async def start(self) -> None:
        """Do nothing: a stream needs no handshake."""

    async def fill(self, buffer: memoryview) -> int:
        """Wait for bytes."""
        try:
            data = await self._stream.receive(len(buffer))
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return 0
        except anyio.BrokenResourceError as error:
            raise ConnectError(f"the link broke: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Take nothing: a stream can only be waited for."""
        return buffers

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of *buffers* as one piece."""
        try:
            await self._stream.send(b"".join(buffers))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ConnectError("the link broke: the other side closed it") from None

    async def aclose(self) -> None:
        """Close the stream."""
        with suppress(anyio.BrokenResourceError):
            await self._stream.aclose()

    def abort(self) -> None:
        """Leave closing to :meth:`aclose`: nothing here blocks."""
