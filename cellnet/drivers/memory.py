"""The ``memory`` driver: ``memory://name``, cells in one process, with latency if a test wants it.

Nothing is shared between two drivers: whoever wants cells to meet gives them the same one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

from cellnet.drivers.stream import StreamLink
from cellnet.errors import ConfigurationError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from cellnet.drivers.base import Address, Security

__all__ = ["MemoryDriver", "MemoryStream", "memory_pair"]

CHUNKS = 16
"""Pieces, each as large as one send, that may be under way in one direction."""


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
        try:
            await listener.arrivals.send(theirs)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ConnectError(f"nobody answers at {address}: the listener closed") from None
        return StreamLink(ours, "memory")

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
        self.arrivals, self._arrived = anyio.create_memory_object_stream[MemoryStream](math.inf)
        self._listeners = listeners
        self._name = name

    async def accept(self) -> StreamLink:
        """Wait for the next stream."""
        try:
            return StreamLink(await self._arrived.receive(), "memory")
        except anyio.EndOfStream:
            raise anyio.ClosedResourceError from None

    def close(self) -> None:
        """Give the name back."""
        if self._listeners.get(self._name) is self:
            del self._listeners[self._name]
        self.arrivals.close()
        self._arrived.close()


class MemoryStream(ByteStream):
    """One end of a pipe in memory."""

    def __init__(
        self,
        outgoing: MemoryObjectSendStream[tuple[float, bytes]],
        incoming: MemoryObjectReceiveStream[tuple[float, bytes]],
        latency: float,
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._latency = latency
        self._rest = b""

    async def send(self, item: bytes) -> None:
        """Send bytes; they arrive after the latency."""
        arrives = anyio.current_time() + self._latency if self._latency else 0.0
        await self._outgoing.send((arrives, bytes(item)))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Wait for bytes."""
        data = self._rest
        if not data:
            arrives, data = await self._incoming.receive()
            if arrives:
                await anyio.sleep_until(arrives)
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def send_eof(self) -> None:
        """Send no more."""
        self._outgoing.close()

    async def aclose(self) -> None:
        """Close both directions."""
        self._outgoing.close()
        self._incoming.close()


def memory_pair(latency: float = 0.0) -> tuple[MemoryStream, MemoryStream]:
    """Return the two ends of a pipe in memory.

    :param latency: seconds from one end to the other
    """
    there, here = anyio.create_memory_object_stream[tuple[float, bytes]](CHUNKS)
    back, home = anyio.create_memory_object_stream[tuple[float, bytes]](CHUNKS)
    return MemoryStream(there, home, latency), MemoryStream(back, here, latency)


def _check(security: Security) -> None:
    if security.context is not None:
        raise ConfigurationError("memory links are always clear")


def _none(_name: str) -> float:
    return 0.0
