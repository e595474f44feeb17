"""How many strangers a cell bears, and which of them gives way."""

from __future__ import annotations

import anyio
import pytest

from cellnet.arrivals import MAX_UNPROVEN, PATIENCE_SECONDS, Arrival, Arrivals
from cellnet.fqcn import FQCN
from cellnet.protocol.connection import Connection
from cellnet.protocol.handshake import Handshake, Neighbour, Self
from tests.protocol.conftest import MEMORY, NONCE, WALL

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time: object) -> object:
    return virtual_time


def arrive(arrivals: Arrivals, address: str, per_address: int | None = None) -> Arrival | None:
    return arrivals.admit(address, anyio.CancelScope(), per_address)


def prove(arrival: Arrival) -> None:
    arrival.connection = Connection(Handshake(Self("R1", "relay", 1), MEMORY, NONCE, WALL), is_listener=True, now=0.0)
    arrival.connection.neighbour = Neighbour(FQCN("R1.C1"), "C1", "client", 1, "")


async def test_while_all_have_just_come_one_more_is_turned_away() -> None:
    arrivals = Arrivals()
    assert all(arrive(arrivals, "a") for _ in range(MAX_UNPROVEN))
    assert arrive(arrivals, "b") is None
    assert arrivals.turned_away == 1


async def test_the_oldest_of_the_fullest_address_gives_way_once_it_had_its_time() -> None:
    arrivals = Arrivals()
    few = [arrive(arrivals, "a") for _ in range(10)]
    many = [arrive(arrivals, "b") for _ in range(MAX_UNPROVEN - 10)]
    await anyio.sleep(PATIENCE_SECONDS)
    assert arrive(arrivals, "c") is not None
    assert [one for one in (*few, *many) if one.scope.cancel_called] == many[:1]
    assert arrivals.turned_away == 1


async def test_who_has_joined_takes_no_room() -> None:
    arrivals = Arrivals()
    for _ in range(3 * MAX_UNPROVEN):
        arrival = arrive(arrivals, "a")
        assert arrival is not None
        prove(arrival)


async def test_who_is_gone_takes_no_room() -> None:
    arrivals = Arrivals()
    for _ in range(3 * MAX_UNPROVEN):
        arrival = arrive(arrivals, "a")
        assert arrival is not None
        arrivals.leave(arrival)
    assert arrivals.turned_away == 0


async def test_an_address_may_have_a_limit_of_its_own() -> None:
    arrivals = Arrivals()
    mine = [arrive(arrivals, "a", 3) for _ in range(3)]
    assert arrive(arrivals, "a", 3) is None
    assert arrive(arrivals, "b", 3) is not None
    await anyio.sleep(PATIENCE_SECONDS)
    assert arrive(arrivals, "a", 3) is not None
    assert [one.scope.cancel_called for one in mine] == [True, False, False]
