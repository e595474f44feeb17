"""Payloads for many: a large one leaves its sender once for each child, and each relay gives it to all below it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from cellnet import LocalProtocolError, RemoteError
from cellnet.protocol import chunks

if TYPE_CHECKING:
    from cellnet import Cell, Request
    from cellnet.testing import Network

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
MIB = 1 << 20
MODEL = random.Random(0).randbytes(10 * MIB)


async def size(request: Request) -> int:
    assert request.payload == MODEL[: len(request.payload)]
    return len(request.payload)


HANDLERS = {"size": size}


def sent(cell: Cell) -> int:
    return sum(link.bytes_sent for link in cell.statistics().links)


async def sizes(cell: Cell, destinations: str, payload: object) -> list[int]:
    async with cell.broadcast(destinations, "size", payload) as replies:
        return [reply.result() async for reply in replies]


async def test_ten_mebibytes_to_fifty_cells_under_two_relays_leave_the_server_twice(network: Network) -> None:
    async with network.tree(relays=2, clients=25, handlers=HANDLERS) as server:
        before = sent(server)
        assert await sizes(server, "*.*", MODEL) == [10 * MIB] * 50
        assert sent(server) - before <= 21 * MIB
        relay = network["R1"].statistics()
        assert (relay.contents_passing, relay.passing_bytes) == (0, 0)
        assert 10 * MIB < relay.kept_bytes < 10.1 * MIB


async def test_what_is_shared_is_sent_in_any_number_of_messages_and_fetched_once(network: Network) -> None:
    models: list[object] = []

    async def hand_out(_request: Request) -> object:
        return models[0]

    handlers = HANDLERS | {"model": hand_out}
    async with network.tree(relays=1, clients=8, handlers=handlers) as server, server.share(MODEL) as model:
        models.append(model)
        before = sent(server)
        for number in range(1, 5):
            assert await server.request(f"R1.C{number}", "size", model) == 10 * MIB
        for number in range(5, 9):
            assert await network[f"R1.C{number}"].request("server", "model") == MODEL
        assert await sizes(server, "R1.*", model) == [10 * MIB] * 8
        assert sent(server) - before < 10.5 * MIB


async def test_what_is_shared_no_longer_cannot_be_had(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        async with server.share(MODEL) as model:
            pass
        with pytest.raises(RemoteError, match="ContentLost") as lost:
            await server.request("R1.C1", "size", model)
        assert "gone" in str(lost.value)


async def test_others_have_their_turn_while_a_large_payload_is_digested(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "LISTING_BYTES", MIB)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with network.tree(relays=1, clients=1) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        async with server.share(MODEL):
            assert turns >= 5
        tasks.cancel_scope.cancel()


async def test_what_is_too_large_for_an_object_goes_to_each_on_its_own(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.contents.MAX_SHARED_BYTES", MIB)
    async with network.tree(relays=1, clients=3, handlers=HANDLERS) as server:
        before = sent(server)
        assert await sizes(server, "R1.*", MODEL) == [10 * MIB] * 3
        assert sent(server) - before > 30 * MIB


async def test_small_payloads_are_shared_too(network: Network) -> None:
    async with network.tree(relays=1, clients=2, handlers=HANDLERS) as server, server.share(MODEL[:100]) as small:
        assert await sizes(server, "R1.*", small) == [100, 100]
        assert await server.request("R1.C1", "size", small) == 100


async def test_what_cannot_be_sent_cannot_be_shared(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        with pytest.raises(LocalProtocolError):
            async with server.share(object()):
                pass
