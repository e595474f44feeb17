"""The proxy does what rows rely on: otherwise a network would be praised for surviving nothing."""

from __future__ import annotations

import random
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import SocketAttribute

from cellnet import Cell
from tests.faults.hostility import Hostility
from tests.faults.proxy import CHUNK_BYTES, MAX_CHUNKS, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import SocketStream

    from cellnet import Request

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def echo(request: Request) -> object:
    return request.payload


class Parent:
    """A listener; what it accepted last is :attr:`stream`."""

    def __init__(self) -> None:
        self.streams: list[SocketStream] = []
        self.changed = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            self.streams.append(stream)
            self.changed.set()
            await anyio.sleep_forever()

    async def stream(self) -> SocketStream:
        await self.changed.wait()
        return self.streams[-1]


@asynccontextmanager
async def proxied() -> AsyncGenerator[tuple[Proxy, Parent]]:
    """Run a proxy in front of a listener."""
    parent = Parent()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # not Django's
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, parent.serve)
        async with Proxy(f"tcp://127.0.0.1:{port}", random.Random(0)) as proxy:
            yield proxy, parent
        tasks.cancel_scope.cancel()


async def dial(proxy: Proxy) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", int(proxy.url.rpartition(":")[2]))


async def test_it_passes_bytes_both_ways_and_the_end_of_them() -> None:
    async with proxied() as (proxy, parent), await dial(proxy) as child:
        await child.send(b"up")
        there = await parent.stream()
        assert await there.receive() == b"up"
        await there.send(b"down")
        assert await child.receive() == b"down"
        await child.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await there.receive()
        await there.send(b"still")
        assert await child.receive() == b"still"


async def test_a_cut_resets_both_sides() -> None:
    async with proxied() as (proxy, parent), await dial(proxy) as child:
        await child.send(b"up")
        there = await parent.stream()
        assert await there.receive() == b"up"
        proxy.cut()
        for side in (child, there):
            with pytest.raises(anyio.BrokenResourceError):
                await side.receive()
        assert proxy.connections == []


async def test_what_is_refused_is_refused_by_the_kernel_and_admitted_again_at_the_same_port() -> None:
    async with proxied() as (proxy, _parent):
        for _ in range(3):
            proxy.refuse()
            with pytest.raises(OSError, match=r"refused|All connection attempts failed"):
                await dial(proxy)
            proxy.admit()
            await (await dial(proxy)).aclose()
        assert proxy.accepted == 3


async def test_silence_swallows_one_direction_and_its_end_and_healing_resets_what_has_a_hole() -> None:
    async with proxied() as (proxy, parent), await dial(proxy) as child:
        await child.send(b"1")
        there = await parent.stream()
        assert await there.receive() == b"1"
        other = await dial(proxy)
        while len(parent.streams) < 2:
            await anyio.sleep(0.01)
        proxy.silence(up=True, down=False)
        await child.send(b"2")
        await there.send(b"3")
        assert await child.receive() == b"3"
        with anyio.move_on_after(0.2) as nothing:
            await there.receive()
        assert nothing.cancelled_caught
        proxy.heal()
        with pytest.raises(anyio.BrokenResourceError):
            await child.receive()
        async with other:
            await other.send(b"whole")
            assert await parent.streams[1].receive() == b"whole"


async def test_it_tells_when_a_side_closed_though_the_other_does_not_hear_of_it() -> None:
    async with proxied() as (proxy, parent):
        child = await dial(proxy)
        await child.send(b"1")
        there = await parent.stream()
        assert await there.receive() == b"1"
        proxy.silence()
        before = time.monotonic()
        await child.aclose()
        (connection,) = proxy.connections
        while connection.child_ended is None:
            await anyio.sleep(0.01)
        assert before <= connection.child_ended <= time.monotonic()
        with anyio.move_on_after(0.2) as nothing:
            await there.receive()
        assert nothing.cancelled_caught


async def test_delay_and_jitter_keep_the_order() -> None:
    async with proxied() as (proxy, parent), await dial(proxy) as child:
        proxy.up.delay, proxy.up.jitter = 0.2, 0.05
        before = time.monotonic()
        for number in range(20):
            await child.send(bytes([number]))
            await anyio.sleep(0.005)
        there = await parent.stream()
        got = await there.receive()
        assert time.monotonic() - before > 0.19
        while len(got) < 20:
            got += await there.receive()
        assert got == bytes(range(20))


async def test_a_rate_is_kept_and_what_waits_is_bounded() -> None:
    async with proxied() as (proxy, parent), await dial(proxy) as child:
        proxy.up.rate = 100_000
        before = time.monotonic()
        await child.send(bytes(40_000))
        there, got = await parent.stream(), 0
        while got < 40_000:
            got += len(await there.receive())
        assert 0.35 < time.monotonic() - before < 2
        proxy.up.rate = 1.0
        sent = 0
        with anyio.move_on_after(1):
            while True:
                await child.send(bytes(CHUNK_BYTES))
                sent += CHUNK_BYTES
        in_kernels = 12 << 20
        assert sent < MAX_CHUNKS * CHUNK_BYTES + in_kernels


async def test_nobody_behind_it_is_a_reset() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        async with Proxy(url, random.Random(0)) as proxy, await dial(proxy) as child:
            with pytest.raises(anyio.BrokenResourceError):
                await child.receive()


async def test_cells_join_and_talk_through_a_proxy_that_reads_frames() -> None:
    async with Cell("server", handlers={"echo": echo}) as server:
        url = await server.listen("tcp://127.0.0.1:0")
        async with Proxy(url, random.Random(0), framed=True) as proxy, Cell("C1") as child:
            await child.connect(proxy.url)
            proxy.up.hostility = Hostility(duplicate=1.0)
            for number in range(10):
                assert await child.request("server", "echo", number) == number
            assert proxy.up.hostility.counts["duplicate"] == 10
            before = server.statistics().links[0].frames_received
            assert before["request"] == 18  # the first went with OPEN
