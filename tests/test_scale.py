"""A thousand clients in one process: what it costs in processor time, at the usual pace and without coverage."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.testing import Network
from tests.pace import Stopwatch

if TYPE_CHECKING:
    from cellnet import Request

pytestmark = [pytest.mark.anyio, pytest.mark.measured, pytest.mark.timeout(120)]
CPU_SECONDS = 10


async def echo(request: Request) -> object:
    return request.payload


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_thousand_clients_take_a_request_each_a_broadcast_and_talk_across_branches(backend: str, depth: int) -> None:
    # In a process of its own: what other tests have left on the heap makes it a third slower.
    command = [sys.executable, "-m", "tests.test_scale", backend, str(depth)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    spent, said = json.loads(ran.stdout)
    assert spent < CPU_SECONDS, said


async def one_federation(depth: int) -> Stopwatch:
    """Bring a thousand clients up, use them, take them down; return what it cost."""
    network = Network()
    watch = Stopwatch()
    async with network.tree(relays=10, clients=100, depth=depth, handlers={"echo": echo}) as server:
        clients = [name for name in network.cells if name.base_name.startswith("C")]
        assert len(clients) == 1000
        watch.lap()
        for number, name in enumerate(clients, 1):
            assert await server.request(name, "echo", b"x") == b"x"
            if number % 250 == 0:
                watch.lap()
        async with server.broadcast(clients, "echo", bytes(1000)) as replies:
            assert len([reply.result() async for reply in replies]) == 1000
        watch.lap()
        for number, (here, there) in enumerate(zip(clients, islice(cycle(clients), 500, None), strict=False), 1):
            assert await network[here].request(there, "echo", b"y") == b"y"
            if number % 250 == 0:
                watch.lap()
    watch.lap()
    return watch


async def test_a_relay_four_deep_carries_many_requests_at_once(network: Network) -> None:
    async with network.tree(relays=2, clients=10, depth=4, handlers={"echo": echo}) as server:
        clients = [name for name in network.cells if name.base_name.startswith("C")]
        answers: list[object] = []

        async def ask(number: int) -> None:
            answers.append(await server.request(clients[number % len(clients)], "echo", number))

        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(ask, number)
        assert sorted(answers) == list(range(1000))  # type: ignore[type-var]  # they are numbers


if __name__ == "__main__":
    watch = anyio.run(one_federation, int(sys.argv[2]), backend=sys.argv[1])
    json.dump([watch.spent, str(watch)], sys.stdout)
