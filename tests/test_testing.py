"""The network fixture that users get, and its virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import ConfigurationError, DeadlineExceeded
from cellnet.testing import Network

if TYPE_CHECKING:
    from cellnet import Request

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time: object) -> object:
    return virtual_time


async def work(request: Request) -> object:
    await anyio.sleep(1800)
    return request.payload


async def echo(request: Request) -> object:
    return request.payload


async def test_half_an_hour_of_work_passes_in_moments_and_exactly() -> None:
    network = Network(latency=0.05, request_seconds=4000)
    async with network.tree(relays=2, clients=3, handlers={"work": work}) as server:
        start = anyio.current_time()
        with anyio.fail_after(1801):
            async with server.broadcast("*.*", "work") as replies:
                assert len([reply.result() async for reply in replies]) == 6
        # two links there and back, twice: what was never asked before opens a session first
        assert anyio.current_time() - start == pytest.approx(1800.4, abs=1e-6)


async def test_a_scope_of_hours_is_the_deadline_and_not_the_minute_of_calls_without_one() -> None:
    async with Network().tree(relays=1, clients=1, handlers={"work": work}) as server:
        with anyio.fail_after(1801):
            assert await server.request("R1.C1", "work", 1) == 1
        start = anyio.current_time()
        with pytest.raises(DeadlineExceeded):
            await server.request("R1.C1", "work")
        assert anyio.current_time() - start == pytest.approx(60)


async def test_every_link_adds_its_latency_each_way() -> None:
    network = Network(latency=0.05)
    network.set_latency("R2", 1.0)
    async with network.tree(relays=2, clients=1, handlers={"echo": echo}) as server:
        start = anyio.current_time()
        await server.request("R1.C1", "echo")
        near = anyio.current_time()
        await server.request("R2.C2", "echo")
        far = anyio.current_time()
    assert (near - start, far - near) == (pytest.approx(0.2), pytest.approx(2.1))


async def test_ten_silent_minutes_leave_the_network_as_it_was() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=2, clients=2, handlers={"echo": echo}) as server:
        await anyio.sleep(600)
        assert len(server.members()) == 6
        assert await server.request("R2.C4", "echo", 1) == 1
        pings = [link.frames_received.get("ping", 0) for link in server.statistics().links]
    assert all(600 / 8 < count < 600 / 3 for count in pings)


async def test_named_cells_come_up_with_everything_above_them() -> None:
    network = Network()
    async with network.run(["R1.R11.C1", "C2"], handlers={"echo": echo}) as server:
        assert sorted(map(str, network.cells)) == ["C2", "R1", "R1.R11", "R1.R11.C1", "server"]
        assert await network["C2"].request("R1.R11.C1", "echo", 1) == 1
        assert [str(member.fqcn) for member in server.members()][-1] == "R1.R11.C1"
    assert network.cells == {}


async def test_two_cells_of_one_base_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="base name of its own"):
        async with Network().run(["R1.C1", "R2.C1"]):
            pass
