"""Payloads of any size in requests, events, broadcasts and answers: the limit of a message is nobody's to see."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from cellnet import Cell, DeadlineExceeded, Indeterminate, LocalProtocolError, RemoteError, durable
from cellnet.protocol import plane

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cellnet import DurableRequest, Request
    from cellnet.testing import Network

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
LIMIT_SECONDS = 30
MIB = 1 << 20
SIZES = [65536, 65537, 131072, 5 * MIB]


async def echo(request: Request) -> object:
    return request.payload


async def size(request: Request) -> int:
    return len(request.payload)


async def large(request: Request) -> bytes:
    return noise(request.payload)


async def wait(_request: Request) -> None:
    await anyio.sleep_forever()


HANDLERS = {"echo": echo, "size": size, "large": large, "wait": wait}


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


async def settled(network: Network) -> None:
    """Wait until no cell holds, wants or passes anything."""
    with anyio.fail_after(LIMIT_SECONDS):
        while any(_left(cell) for cell in network.cells.values()):
            await anyio.sleep(0.01)


def _left(cell: Cell) -> bool:
    here = cell._endpoint.plane
    return bool(here.offers or here.fetches or here.transit.passages or here.transit.promised)


@pytest.mark.parametrize("count", SIZES)
async def test_a_payload_of_any_size_goes_there_and_back(network: Network, count: int) -> None:
    async with network.tree(relays=2, clients=1, depth=2, handlers=HANDLERS) as server:
        assert await server.request("R1.R1-2.C1", "echo", noise(count)) == noise(count)
        assert await network["R1.R1-2.C1"].request("R2.R2-2.C2", "echo", noise(count)) == noise(count)
        assert await server.request("server", "echo", noise(count)) == noise(count)
        await settled(network)


async def test_arrays_of_any_size_come_as_they_were_and_read_only(network: Network) -> None:
    weights = {"w": np.arange(MIB, dtype="f4").reshape(1024, 1024), "b": np.ones(3), "step": 7}
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        back = await server.request("R1.C1", "echo", weights)
        assert np.array_equal(back["w"], weights["w"])
        assert (back["b"].tolist(), back["step"]) == ([1, 1, 1], 7)
        assert not back["w"].flags.writeable


@pytest.mark.parametrize("count", SIZES)
async def test_a_broadcast_of_any_size_reaches_everybody(network: Network, count: int) -> None:
    async with network.tree(relays=2, clients=2, handlers=HANDLERS) as server:
        async with server.broadcast("*.*", "size", noise(count)) as replies:
            sizes = {str(reply.source): reply.result() async for reply in replies}
        assert sizes == dict.fromkeys(("R1.C1", "R1.C2", "R2.C3", "R2.C4"), count)
        await settled(network)


async def test_large_answers_to_a_broadcast_all_come(network: Network) -> None:
    async with network.tree(relays=2, clients=2, handlers=HANDLERS) as server:
        async with server.broadcast("*.*", "large", 300_000) as replies:
            assert [reply.result() async for reply in replies] == [noise(300_000)] * 4
        await settled(network)


async def test_a_large_event_arrives(network: Network) -> None:
    seen: list[int] = []
    came = anyio.Event()

    async def note(request: Request) -> None:
        seen.append(len(request.payload))
        came.set()

    async with network.tree(relays=1, clients=1, handlers={"note": note}) as server:
        await server.send("R1.C1", "note", noise(MIB))
        with anyio.fail_after(LIMIT_SECONDS):
            await came.wait()
        assert seen == [MIB]
        await settled(network)


async def test_an_asker_that_is_cancelled_leaves_nothing_behind(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        # While the handler works, and while its payload is still on the way.
        for payload, seconds in ((noise(MIB), 0.1), (noise(20 * MIB), 0.05)):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.request, "R1.C1", "wait", payload)
                await anyio.sleep(seconds)
                tasks.cancel_scope.cancel()
            await settled(network)
        assert await server.request("R1.C1", "size", b"four") == 4


async def test_an_answer_that_comes_too_late_says_that_it_was_on_its_way(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        await server.request("R1.C1", "size", b"")
        with monkeypatch.context() as patch:
            patch.setattr(server._endpoint.plane, "received", lambda *_: None)  # nothing of it comes
            with pytest.raises(DeadlineExceeded, match=r"R1\.C1 answered, and its answer did not all come in time"):
                with anyio.fail_after(1):
                    await server.request("R1.C1", "large", MIB)
        await settled(network)


@pytest.mark.parametrize("harm", ["R1", "R1.R1-2.C1"])
async def test_a_link_that_breaks_costs_no_byte_and_no_second_run(network: Network, harm: str) -> None:
    ran: list[int] = []

    async def once(request: Request) -> bytes:
        ran.append(len(request.payload))
        network.cut(harm)
        return bytes(request.payload)

    async with network.tree(relays=1, clients=1, depth=2, handlers={"once": once}) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as tasks:

                async def cut() -> None:
                    for _ in range(3):
                        await anyio.sleep(0.02)
                        network.cut(harm)

                tasks.start_soon(cut)
                assert await server.request("R1.R1-2.C1", "once", noise(8 * MIB)) == noise(8 * MIB)
        assert ran == [8 * MIB]
        await settled(network)


async def test_a_relay_that_is_killed_costs_no_byte_and_no_second_run(network: Network) -> None:
    ran: list[int] = []

    async def once(request: Request) -> bytes:
        ran.append(len(request.payload))
        return bytes(request.payload)

    async with network.tree(relays=1, clients=1, handlers={"once": once}) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as tasks:

                async def kill() -> None:
                    for _ in range(2):
                        await anyio.sleep(0.02)
                        await network.crash("R1")
                        await network.restart("R1")

                tasks.start_soon(kill)
                assert await server.request("R1.C1", "once", noise(8 * MIB)) == noise(8 * MIB)
        assert ran == [8 * MIB]
        await settled(network)


async def test_a_durable_handler_gets_a_large_payload_and_keeps_a_small_answer(
    network: Network, tmp_path: Path
) -> None:
    @durable
    async def keep(request: DurableRequest) -> object:
        return len(request.payload) if request.topic == "keep" else bytes(100_000)

    async with Cell("server", handlers={"keep": keep, "large": keep}, journal=tmp_path / "journal.db") as server:
        assert await server.request("server", "keep", noise(MIB)) == MIB
        with pytest.raises(RemoteError, match="an answer of 100000 bytes cannot be kept: 65536 are allowed"):
            await server.request("server", "large")


async def test_a_cell_that_holds_too_much_is_busy(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MAX_CONTENTS", 0)
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with pytest.raises(Exception, match="0 large payloads and streams are under way"):
            await server.request("R1.C1", "size", noise(MIB))
        with pytest.raises(RemoteError, match="Busy"):
            await server.request("R1.C1", "large", MIB)


async def test_a_payload_that_is_too_large_for_its_receiver_is_refused_before_a_byte_of_it_comes() -> None:
    small = Cell("server", handlers=HANDLERS, max_payload_bytes=MIB)
    async with small, Cell("C1", handlers=HANDLERS) as client:
        await client.connect(await small.listen("tcp://127.0.0.1:0"))
        assert await client.request("server", "size", noise(MIB)) == MIB
        received = small.statistics().links[0].bytes_received
        with pytest.raises(RemoteError, match="PayloadTooLarge: a payload of 1048577 bytes is too large here: 1048576"):
            await client.request("server", "size", noise(MIB + 1))
        assert small.statistics().links[0].bytes_received - received < 10_000
        with pytest.raises(Indeterminate, match="its answer was lost: a payload of 1048577 bytes is too large here"):
            await small.request("C1", "large", MIB + 1)


async def test_the_figures_of_a_cell_tell_of_its_contents(network: Network) -> None:
    slow = type(network)(latency=0.05)
    async with slow.tree(relays=1, clients=1, handlers=HANDLERS) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.request, "R1.C1", "size", noise(8 * MIB))
        with anyio.fail_after(LIMIT_SECONDS):
            while not slow["R1.C1"].statistics().contents_wanted:
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            assert server.statistics().contents_held == 1
            assert slow["R1"].statistics().contents_passing == 1
            assert 0 < slow["R1"].statistics().passing_bytes <= 8 * MIB


async def test_what_cannot_be_sent_is_refused_before_anything_is_held(network: Network) -> None:
    uses: list[Callable[[Cell, Any], Any]] = [
        lambda cell, payload: cell.request("R1.C1", "echo", payload),
        lambda cell, payload: cell.send("R1.C1", "echo", payload),
    ]
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        for use in uses:
            with pytest.raises(LocalProtocolError, match="Random"):
                await use(server, [bytes(MIB), random.Random()])
        with pytest.raises(LocalProtocolError, match="Random"):
            server.broadcast("*.*", "echo", [bytes(MIB), random.Random()])
        await settled(network)
