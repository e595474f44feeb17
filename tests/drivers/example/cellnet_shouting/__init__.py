"""A driver that another distribution ships: tcp, with every byte complemented on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cellnet.drivers.tcp import TcpDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.drivers.base import Address, Buffer, Link, Listener, Security
    from cellnet.protocol.handshake import Transport

_TABLE = bytes(255 - byte for byte in range(256))


class ShoutLink:
    """A link over another, whose bytes are complemented."""

    def __init__(self, inner: Link) -> None:
        self._inner = inner
        self.start, self.aclose, self.abort = inner.start, inner.aclose, inner.abort

    @property
    def transport(self) -> Transport:
        return replace(self._inner.transport, driver="shout")

    @property
    def waited(self) -> bool:
        return self._inner.waited

    async def fill(self, buffer: memoryview) -> int:
        count = await self._inner.fill(buffer)
        buffer[:count] = bytes(buffer[:count]).translate(_TABLE)
        return count

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        return buffers

    async def send(self, buffers: Sequence[Buffer]) -> None:
        await self._inner.send([bytes(buffer).translate(_TABLE) for buffer in buffers])


class ShoutListener:
    """A listener of such links."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner
        self.url, self.close = inner.url, inner.close

    async def accept(self) -> ShoutLink:
        return ShoutLink(await self._inner.accept())


class ShoutDriver:
    """The driver, found by the scheme ``shout``."""

    alpn = "shout"

    def __init__(self) -> None:
        self._inner = TcpDriver()

    async def connect(self, address: Address, security: Security) -> ShoutLink:
        return ShoutLink(await self._inner.connect(address, security))

    async def listen(self, address: Address, security: Security) -> ShoutListener:
        return ShoutListener(await self._inner.listen(address, security))
