"""How many strangers a cell bears, and which of them gives way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from cellnet.arrivals import LOOK_SECONDS, MAX_UNPROVEN, PATIENCE_SECONDS, Arrival, Arrivals
from cellnet.fqcn import FQCN
from cellnet.protocol.connection import Connection
from cellnet.protocol.handshake import Handshake, Neighbour, Self
from tests.protocol.conftest import MEMORY, NONCE, WALL

if TYPE_CHECKING:
    from cellnet.drivers.base import Link

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time: object) -> object:
    return virtual_time


class Stranger:
    """A link of which nothing is known but where it comes from."""

    def __init__(self, address: str) -> None:
        self.transport = replace(MEMORY, address=address)
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


async def arrive(arrivals: Arrivals, address: str, per_address: int | None = None) -> Arrival | None:
    stranger = Stranger(address)
    arrival = await arrivals.admit(cast("Link", stranger), per_address)
    assert stranger.is_aborted == (arrival is None)
    return arrival


def prove(arrival: Arrival) -> None:
    arrival.connection = Connection(Handshake(Self("R1", "relay", 1), MEMORY, NONCE, WALL), is_listener=True, now=0.0)
    arrival.connection.neighbour = Neighbour(FQCN("R1.C1"), "C1", "client", 1, "")


async def test_while_all_have_just_come_others_wait_in_order_until_the_oldest_had_their_time() -> None:
    arrivals, began, came = Arrivals(), anyio.current_time(), list[tuple[str, float]]()
    inside = [await arrive(arrivals, "a") for _ in range(MAX_UNPROVEN)]

    async def come(address: str) -> None:
        assert await arrive(arrivals, address) is not None
        came.append((address, round(anyio.current_time() - began, 3)))

    async with anyio.create_task_group() as tasks:
        for address in ("b", "c"):
            tasks.start_soon(come, address)
            await anyio.sleep(0.1)
    assert came == [("b", PATIENCE_SECONDS), ("c", PATIENCE_SECONDS)]
    assert [one for one in inside if one is not None and one.scope.cancel_called] == inside[:2]
    assert arrivals.turned_away == 2


async def test_who_waits_comes_in_as_soon_as_another_is_gone_or_soon_after_it_joined() -> None:
    arrivals, came = Arrivals(), list[float]()
    first, second, *_ = [await arrive(arrivals, "a") for _ in range(MAX_UNPROVEN)]
    began = anyio.current_time()

    async def come() -> None:
        assert await arrive(arrivals, "b") is not None
        came.append(anyio.current_time() - began)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(come)
        await anyio.sleep(0.11)
        assert first is not None
        assert second is not None
        arrivals.leave(first)
        await anyio.sleep(0.1)
        prove(second)
    assert came[0] == pytest.approx(0.11)
    assert 0.21 <= came[1] <= 0.21 + LOOK_SECONDS
    assert arrivals.turned_away == 0


async def test_no_more_wait_than_may_be_inside_and_who_is_stopped_waits_no_longer() -> None:
    arrivals = Arrivals()
    for _ in range(MAX_UNPROVEN):
        await arrive(arrivals, "a")
    with anyio.move_on_after(0.1):
        async with anyio.create_task_group() as tasks:
            for _ in range(MAX_UNPROVEN):
                tasks.start_soon(arrive, arrivals, "b")
            await anyio.sleep(0.01)
            assert await arrive(arrivals, "c") is None
            assert arrivals.turned_away == 1
            await anyio.sleep_forever()
    assert (arrivals._outside, arrivals.turned_away) == (0, 1), "who is stopped was not turned away"


async def test_the_oldest_of_the_fullest_address_gives_way_once_it_had_its_time() -> None:
    arrivals = Arrivals()
    few = [await arrive(arrivals, "a") for _ in range(10)]
    many = [await arrive(arrivals, "b") for _ in range(MAX_UNPROVEN - 10)]
    await anyio.sleep(PATIENCE_SECONDS)
    assert await arrive(arrivals, "c") is not None
    assert [one for one in (*few, *many) if one.scope.cancel_called] == many[:1]
    assert arrivals.turned_away == 1


async def test_who_has_joined_takes_no_room() -> None:
    arrivals = Arrivals()
    for _ in range(3 * MAX_UNPROVEN):
        arrival = await arrive(arrivals, "a")
        assert arrival is not None
        prove(arrival)


async def test_who_is_gone_takes_no_room() -> None:
    arrivals = Arrivals()
    for _ in range(3 * MAX_UNPROVEN):
        arrival = await arrive(arrivals, "a")
        assert arrival is not None
        arrivals.leave(arrival)
    assert arrivals.turned_away == 0


async def test_an_address_may_have_a_limit_of_its_own() -> None:
    arrivals = Arrivals()
    mine = [await arrive(arrivals, "a", 3) for _ in range(3)]
    assert await arrive(arrivals, "a", 3) is None
    assert await arrive(arrivals, "b", 3) is not None
    await anyio.sleep(PATIENCE_SECONDS)
    assert await arrive(arrivals, "a", 3) is not None
    assert [one.scope.cancel_called for one in mine] == [True, False, False]
