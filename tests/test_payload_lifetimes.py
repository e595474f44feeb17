"""A payload's memory is free once nobody has the payload: none of it waits for the garbage collector.

Large buffers hardly count for the collector, which runs when there are many objects: it may find half a gigabyte late.
"""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, DeadlineExceeded, RemoteError
from cellnet.drivers.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from cellnet import Request, Stream
    from tests.conftest import Issue

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
MIB = 1 << 20
SIZE = 4 * MIB
TIMES = 4
LEFT_BYTES = SIZE // 2
"""For all else: less than what one payload takes."""
URL = "memory://server"


async def size(request: Request) -> int:
    return len(request.payload)


async def large(_request: Request) -> bytes:
    return bytes(SIZE)


async def fail(request: Request) -> None:
    raise ValueError(f"{len(request.payload)} bytes are too many")


async def wait(_request: Request) -> None:
    await anyio.sleep_forever()


async def count(stream: Stream) -> None:
    came = 0
    async for data in stream:
        came += len(data)
    await stream.send(str(came).encode())


async def leave(stream: Stream) -> None:
    """Read a byte, and leave when more has come that will not be read."""
    await stream.receive(1)
    await anyio.sleep(0.05)


STREAMS = {"count": count, "leave": leave}
HANDLERS = {"size": size, "large": large, "fail": fail, "wait": wait}


@asynccontextmanager
async def pair(issue: Issue | None) -> AsyncGenerator[Cell]:
    """Run a server and a client, whose payloads are sealed if there are certificates; yield the server."""
    driver = MemoryDriver()
    listening = issue("server", "server") if issue is not None else None
    connecting = issue("C1", "client") if issue is not None else None
    async with Cell("server", handlers=HANDLERS, drivers={"memory": driver}) as server:
        await server.listen(URL, listening, security="clear")
        async with Cell("C1", handlers=HANDLERS, streams=STREAMS, drivers={"memory": driver}) as client:
            await client.connect(URL, connecting, security="clear")
            await server.wait_present(["C1"])
            yield server


@contextmanager
def without_collector() -> Generator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


async def send(server: Cell) -> None:
    assert await server.request("C1", "size", bytes(SIZE)) == SIZE


async def fetch(server: Cell) -> None:
    assert len(await server.request("C1", "large", None)) == SIZE


async def broadcast(server: Cell) -> None:
    async with server.broadcast("*", "size", bytes(SIZE)) as replies:
        assert [reply.result() async for reply in replies] == [SIZE]


async def gather(server: Cell) -> None:
    async with server.broadcast("*", "large", None) as replies:
        assert [len(reply.result()) async for reply in replies] == [SIZE]


async def event(server: Cell) -> None:
    await server.send("C1", "size", bytes(SIZE))
    while server._contents.owed:
        await anyio.sleep(0.01)


async def cancel(server: Cell) -> None:
    """Ask for what takes for ever, and want it no more when all of the payload is there."""
    with anyio.move_on_after(0.1), suppress(DeadlineExceeded):
        await server.request("C1", "wait", bytes(SIZE))


async def stream(server: Cell) -> None:
    async with server.open_stream("C1", "count") as stream:
        for _ in range(SIZE // MIB):
            await stream.send(bytes(MIB))
        await stream.send_eof()
        assert int(await stream.receive()) == SIZE


async def write_in_vain(server: Cell) -> None:
    with suppress(anyio.BrokenResourceError):
        async with server.open_stream("C1", "leave") as stream:
            while True:
                await stream.send(bytes(MIB))


async def be_refused(server: Cell) -> None:
    with suppress(RemoteError):
        await server.request("C1", "fail", bytes(SIZE))


async def cancel_on_the_way(server: Cell) -> None:
    # In a scope of its own: that of a cancelled task group keeps what its tasks had in asyncio, until it is collected.
    with anyio.CancelScope() as asking:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_at, server, server.statistics().links[0].bytes_sent + SIZE, asking)
            await server.request("C1", "size", bytes(16 * SIZE))
    assert asking.cancelled_caught


async def _cancel_at(server: Cell, sent: int, scope: anyio.CancelScope) -> None:
    while server.statistics().links[0].bytes_sent < sent:
        await anyio.sleep(0.001)
    scope.cancel()


USES = (send, fetch, broadcast, gather, event, stream, write_in_vain, be_refused, cancel, cancel_on_the_way)


@pytest.mark.parametrize("is_sealed", [False, True], ids=["clear", "sealed"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_a_payload_is_gone_when_it_is_used(
    use: Callable[[Cell], Awaitable[None]], is_sealed: bool, issue: Issue
) -> None:
    async with pair(issue if is_sealed else None) as server:
        with without_collector():
            await use(server)  # what is made once and kept, such as pages to read into
            await anyio.sleep(0.05)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(TIMES):
                await use(server)
            with anyio.move_on_after(1):
                while (left := tracemalloc.get_traced_memory()[0] - before) > LEFT_BYTES:
                    await anyio.sleep(0.01)
    assert left <= LEFT_BYTES, f"{left / MIB:.1f} MiB are left"
