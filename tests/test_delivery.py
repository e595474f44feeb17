"""What callers rely on when many messages are under way: no deadlock, order, and few bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message, Replied
from tests.protocol.conftest import Net, Project
from tests.protocol.contents import Checked, content, fetch, share

if TYPE_CHECKING:
    from cellnet import Request
    from cellnet.testing import Network

MANY = 1000
MIB = 1 << 20


@pytest.mark.anyio
async def test_a_thousand_handlers_that_wait_for_a_cell_that_waits_for_theirs_all_end(network: Network) -> None:
    waiting, most = 0, 0

    async def first(_request: Request) -> object:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        answer = await network["R.A"].request("B", "second")
        waiting -= 1
        return answer

    async def second(_request: Request) -> object:
        return await network["B"].request("R.A", "third")

    async def third(_request: Request) -> object:
        while most < MANY:  # until all of them wait
            await anyio.sleep(0.01)
        return "done"

    handlers = {"first": first, "second": second, "third": third}
    async with network.run(["R.A", "B"], handlers=handlers) as server:
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await server.request("R.A", "first"))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(MANY):
                    tasks.start_soon(ask)
        assert answers == ["done"] * MANY


@pytest.mark.anyio
async def test_three_thousand_events_with_one_key_are_handled_in_order_one_at_a_time(network: Network) -> None:
    seen: list[object] = []
    running = 0

    async def note(request: Request) -> None:
        nonlocal running
        assert running == 0
        running += 1
        if request.payload % 100 == 0:
            await anyio.sleep(0.001)
        seen.append(request.payload)
        running -= 1

    async with network.run(["R.A", "S.B"], handlers={"note": note}):
        for number in range(3 * MANY):
            await network["R.A"].send("S.B", "note", number, key="k")
        with anyio.fail_after(60):
            while len(seen) < 3 * MANY:
                await anyio.sleep(0.01)
        assert seen == list(range(3 * MANY))


@pytest.mark.anyio
async def test_what_waits_for_room_leaves_in_the_order_of_the_calls(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.protocol.connection.BUDGET_BYTES", 20_000)
    called, seen = [], []

    async def note(request: Request) -> None:
        seen.append(request.payload[0])

    async def call(number: int) -> None:
        called.append(number)
        if number % 2:
            await network["R.A"].request("S.B", "note", [number, bytes(5_000)], key="k")
        else:
            await network["R.A"].send("S.B", "note", [number, bytes(5_000)], key="k")

    async with network.run(["R.A", "S.B"], handlers={"note": note}):
        await network["R.A"].request("S.B", "note", [-1], key="k")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(call, number)
            await network["R.A"].request("S.B", "note", [300], key="k")
    assert seen == [-1, *called, 300]


def test_a_broadcast_to_a_thousand_sealed_cells_leaves_the_server_once_per_relay() -> None:
    project, net = Project(), Net()
    server = project.server()
    net.add("server")
    clients = []
    for relay in (f"R{number}" for number in range(10)):
        own = project.relay(relay)
        net.add(relay)
        net.connect(relay, credentials=(server, own), roles=("server", "relay"))
        net.run()
        for client in (f"{relay}-C{number}" for number in range(MANY // 10)):
            net.add(f"{relay}.{client}")
            assert own.listening is not None
            credentials = own.listening, project.cell(client, parents=(relay,))
            net.connect(f"{relay}.{client}", credentials=credentials, roles=("relay", "client"))
            clients.append(f"{relay}.{client}")
        net.run()
    for turn in range(2):  # the sessions are opened, and then they are there
        before = sent(net)
        net.request("server", *clients, topic="hold", payload=bytes([turn]) * 65536)
        net.tick(1)
        for name in clients:
            net[name].ended(net.received(name, Message)[-1].number, Status.OK, 0, b"", net.now)
        net.run()
        assert len([o for o in net.outcomes("server") if isinstance(o, Replied)]) == MANY
        assert sent(net) - before <= 2 * MIB
    assert all(net["server"].exchange.asking.sessions.to(FQCN(name)).open_channel.is_sealed for name in clients)
    whole = content(2 * MIB)
    held, before = share(net, "server", whole), sent(net)
    sinks = [Checked(held.content) for _ in clients]
    for name, sink in zip(clients, sinks, strict=True):
        fetch(net, name, "server", held, sink)
    net.tick(1)
    assert all(sink.bytes == whole and sink.outcomes == ["whole"] for sink in sinks)
    assert sent(net) - before <= 10.5 * len(whole)


def sent(net: Net) -> int:
    """Return the bytes that left the server."""
    return sum(connection.statistics.bytes_sent for connection in net["server"].connections)
