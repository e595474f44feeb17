"""The network fixture that users get, and its virtual time."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import FQCN, ConfigurationError, ConnectDeadline, DeadlineExceeded, DeliveryError, StillUnreachable
from cellnet.testing import LARGE, Network

if TYPE_CHECKING:
    from cellnet import Cell, Request

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


# What goes wrong, where it takes time.


async def test_nobody_is_told_of_a_partition_and_both_sides_find_the_link_dead_in_time() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        start = anyio.current_time()
        network.partition("R1")
        await anyio.sleep(11)
        assert len(server.members()) == 2
        await network["R1"].wait_disconnected()
        assert 12 <= anyio.current_time() - start <= 15
        await anyio.sleep_until(start + 15)
        assert server.members() == []
        assert await network["R1"].request("R1.C1", "echo", 1) == 1
        await anyio.sleep(600)
        assert server.members() == []
        network.repair()
        with anyio.fail_after(25):  # 5 for the dial that hangs, 10 for a pause at the most
            await server.wait_present(["R1.C1"])
            assert await server.request("R1.C1", "echo", 2) == 2


async def test_a_short_partition_delays_and_loses_nothing() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        await server.request("R1.C1", "echo")
        start = anyio.current_time()
        network.partition("R1")

        async def repair() -> None:
            await anyio.sleep_until(start + 1)
            network.repair()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repair)
            assert await server.request("R1.C1", "echo", 1) == 1
        assert anyio.current_time() - start == pytest.approx(1.03)  # all but one way of four had passed
        assert not network["R1"]._neighbours.disconnected.is_set()


async def test_a_repair_ends_the_partitions_and_holds_that_it_names_or_all() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=2, clients=1, handlers={"echo": echo}) as server:
        network.partition("R1", "R2")
        network.hold("R2.C2")
        network.repair("R1")
        assert await server.request("R1.C1", "echo", 1) == 1
        assert await reaches(server, "R2") is False
        network.repair("R2")
        assert await reaches(server, "R2") is True
        assert await reaches(server, "R2.C2") is False
        network.partition("R1", "R2.C2")
        network.repair()
        assert await reaches(server, "R1.C1") is True
        assert await reaches(server, "R2.C2") is True


async def test_a_release_does_not_end_a_partition() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        network.hold("R1")
        network.partition("R1")
        network.release("R1")
        assert await reaches(server, "R1") is False
        network.repair()
        assert await reaches(server, "R1") is True


async def test_what_is_held_for_longer_than_a_link_may_be_silent_goes_down_with_the_link() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        network.hold("R1")
        await anyio.sleep(15)
        assert server.members() == []
        network.release("R1")
        with anyio.fail_after(8):
            await server.wait_present(["R1.C1"])


async def test_a_machine_that_loses_its_power_closes_no_link() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        network.partition("R1.C1")
        await network.crash("R1.C1")
        await anyio.sleep(11)
        assert len(server.members()) == 2
        await anyio.sleep(4.1)
        assert len(server.members()) == 1


async def test_nobody_reaches_a_crashed_cell_until_it_is_started_again() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        await network.crash("R1.C1")
        await anyio.sleep(1)
        with anyio.fail_after(60), pytest.raises(StillUnreachable):
            await server.request("R1.C1", "echo", 1)
        await network.restart("R1.C1")
        assert await server.request("R1.C1", "echo", 2) == 2


async def test_a_start_behind_a_partition_waits_for_the_repair_and_ends_with_the_callers_scope() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1, handlers={"echo": echo}) as server:
        await network.crash("R1.C1")
        network.partition("R1.C1")
        with anyio.fail_after(60), pytest.raises(ConnectDeadline, match="nobody answers at memory://r1"):
            await network.restart("R1.C1")
        assert len(network.cells) == 2
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(network.restart, "R1.C1")
            await anyio.sleep(60)
            assert len(network.cells) == 2
            network.repair()
        assert await server.request("R1.C1", "echo", 1) == 1


async def test_a_path_forgets_the_wires_that_ended() -> None:
    network = Network(latency=0.01)
    async with network.tree(relays=1, clients=1) as server:
        for _ in range(50):
            network.cut("R1.C1")
            await anyio.sleep(3)
        await network.crash("R1")
        await anyio.sleep(600)  # a dial every ten seconds or so, and nobody is there
        await network.restart("R1")
        await server.wait_present(["R1.C1"])
        assert len(network._machines[FQCN("R1.C1")].path._wires) <= 2


async def reaches(cell: Cell, name: str) -> bool:
    """Whether a request to that cell is answered within a second."""
    with anyio.fail_after(1):
        try:
            return bool(await cell.request(name, "echo", True))
        except DeliveryError:
            return False


async def test_the_collector_leaves_a_large_network_alone_and_nothing_afterwards(network: Network) -> None:
    before = gc.get_freeze_count()
    async with network.tree(relays=1, clients=LARGE - 3):
        assert gc.get_freeze_count() == before
    async with network.tree(relays=1, clients=LARGE):
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == 0
