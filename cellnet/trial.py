"""A driver to be tried, and what the laws of drivers share: both ends of a link, pieces to send, strangers."""

from __future__ import annotations

import hashlib
import math
import random
import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.base import CLEAR, START_SECONDS, Address
from cellnet.errors import CellError, ConnectError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cellnet.drivers.base import Driver, Link, Listener, Security

__all__ = [
    "CONNECTIONS",
    "PATIENCE_SECONDS",
    "Trial",
    "allowed",
    "digest",
    "drawn",
    "expect_end",
    "expect_pieces",
    "expect_served",
    "read",
    "send_pieces",
    "strangers",
]

PATIENCE_SECONDS = 20.0
"""How long anything may take that is to happen at all."""
BULK_BYTES = 8 << 20
FILL_BYTES = 64 * 1024
CONNECTIONS = 1000


@dataclass(frozen=True)
class Trial:
    """A driver to try, and where."""

    driver: Driver
    url: str
    """Where to listen; port 0 is any that is free."""
    listening: Security = CLEAR
    connecting: Security = CLEAR
    connections: int = CONNECTIONS
    """How many at a time it has to bear."""

    @asynccontextmanager
    async def listener(self) -> AsyncIterator[Listener]:
        """Listen for the length of the block."""
        listener = await self.driver.listen(Address.parse(self.url), self.listening)
        try:
            yield listener
        finally:
            listener.close()

    async def dial(self, listener: Listener) -> Link:
        """Return a link to *listener* that is started on this side."""
        link = await self.driver.connect(Address.parse(listener.url), self.connecting)
        await _started(link)
        return link

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[Link, Link]]:
        """Give both ends of one link, the one that dialled first, and close them after the block."""
        ends: list[Link] = []
        with anyio.fail_after(PATIENCE_SECONDS):
            async with self.listener() as listener:

                async def serve() -> None:
                    ends.append(await _started(await listener.accept()))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(serve)
                    dialled = await self.dial(listener)
        try:
            yield dialled, ends[0]
        finally:
            for link in (dialled, ends[0]):
                with anyio.move_on_after(PATIENCE_SECONDS, shield=True):
                    await link.aclose()
                link.abort()


async def _started(link: Link) -> Link:
    try:
        await link.start()
    except BaseException:
        link.abort()
        raise
    return link


def drawn(seed: int) -> random.Random:
    """Return what content and noise are drawn from, the same each time."""
    return random.Random(seed)  # noqa: S311  # nothing that is drawn is a secret


def _pieces(seed: int) -> tuple[random.Random, bytes]:
    rng = drawn(seed)
    return rng, rng.randbytes(BULK_BYTES)


async def send_pieces(link: Link, seed: int) -> None:
    """Send what :func:`expect_pieces` expects, in pieces of all sizes."""
    rng, data = _pieces(seed)
    view, start = memoryview(data), 0
    while start < len(data):
        sizes = [int(2 ** rng.uniform(0, 17)) for _ in range(rng.randrange(1, 20))]
        buffers = []
        for size in sizes:
            buffers.append(view[start : start + size])
            start += size
        await link.send(buffers)


async def expect_pieces(link: Link, seed: int) -> None:
    """Read it all, and compare."""
    _rng, data = _pieces(seed)
    assert await digest(link, len(data)) == hashlib.sha256(data).digest(), "other bytes arrived than were sent"


async def digest(link: Link, size: int) -> bytes:
    """Read *size* bytes; return their SHA-256."""
    total, buffer = hashlib.sha256(), memoryview(bytearray(FILL_BYTES))
    with anyio.fail_after(PATIENCE_SECONDS):
        while size:
            count = await link.fill(buffer[: min(size, FILL_BYTES)])
            assert count, f"the link ended {size} bytes too early"
            total.update(buffer[:count])
            size -= count
    return total.digest()


async def read(link: Link, size: int) -> bytes:
    """Read *size* bytes."""
    data, buffer = b"", memoryview(bytearray(FILL_BYTES))
    with anyio.fail_after(PATIENCE_SECONDS):
        while len(data) < size:
            count = await link.fill(buffer[: min(size - len(data), FILL_BYTES)])
            assert count, "the link ended too early"
            data += buffer[:count]
    return data


async def expect_end(link: Link) -> None:
    """Read until the link ends, in whatever way."""
    buffer = memoryview(bytearray(FILL_BYTES))
    with anyio.fail_after(PATIENCE_SECONDS), suppress(ConnectError):
        while await link.fill(buffer):
            pass


async def expect_served(trial: Trial, listener: Listener, seconds: float) -> None:
    """Dial a listener at which strangers are, and be answered in so many seconds."""

    async def serve() -> None:
        while True:
            tasks.start_soon(_echo_once, await listener.accept())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        with anyio.fail_after(seconds):
            link = await trial.dial(listener)
            await link.send([b"here"])
            assert await read(link, 4) == b"here"
        await link.aclose()
        tasks.cancel_scope.cancel()


async def _echo_once(link: Link) -> None:
    """Serve one stranger: what is wrong with it is its own affair."""
    try:
        with suppress(CellError, AssertionError, TimeoutError):
            await link.start()
            await link.send([await read(link, 4)])
            await link.aclose()
    finally:
        link.abort()


@contextmanager
def strangers(listener: Listener, count: int) -> Iterator[list[socket.socket]]:
    """Be connected to a listener without its driver; not at all if it is not to be reached over TCP."""
    address = Address.parse(listener.url)
    with ExitStack() as held:
        wanted = range(count if address.port else 0)
        place = address.host, address.port
        yield [held.enter_context(socket.create_connection(place, START_SECONDS)) for _ in wanted]


def allowed(wanted: int) -> int:
    """Return how many links there can be at once with the descriptors that this process may have."""
    try:
        import resource  # which there is not everywhere

        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:
        return wanted
    return min(wanted, math.floor((soft - 100) / 3))
