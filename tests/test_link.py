"""Links under load, and the pauses between attempts to make one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, HandshakeError
from cellnet.drivers.base import CLEAR, Address
from cellnet.drivers.memory import MemoryDriver
from cellnet.drivers.path import Path
from cellnet.errors import ConfigurationError, ConnectError, RefusedByPeer
from cellnet.link import Backoff, is_permanent

if TYPE_CHECKING:
    import pathlib

    from cellnet import Request
    from tests.conftest import Issue


async def echo(request: Request) -> object:
    return request.payload


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["clear", "tls", "mtls"])
async def test_many_large_messages_at_once_arrive_whole_over_two_hops(issue: Issue, mode: str) -> None:
    server, relay, client = issue("server", "server"), issue("R1", "relay"), issue("C1", "client")
    async with Cell("server") as top, Cell("R1") as middle, Cell("C1", handlers={"echo": echo}) as leaf:
        await middle.connect(await top.listen("tcp://localhost:0", server, security=mode), relay, security=mode)
        await leaf.connect(await middle.listen("tcp://localhost:0", relay, security=mode), client, security=mode)
        with anyio.fail_after(30):
            await top.wait_present(["R1.C1"])
            answers: dict[int, bool] = {}

            async def ask(number: int) -> None:
                payload = number.to_bytes(2, "big") * 32000
                answers[number] = await top.request("R1.C1", "echo", payload) == payload

            # What is under way at a time stays below the budget of one child, so that none is answered Busy.
            for start in range(0, 300, 15):
                async with anyio.create_task_group() as tasks:
                    for number in range(start, start + 15):
                        tasks.start_soon(ask, number)
        assert len(answers) == 300
        assert all(answers.values())


@pytest.mark.anyio
async def test_senders_wait_for_a_neighbour_that_is_slow_and_none_is_lost(tmp_path: pathlib.Path) -> None:
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as leaf:
        await leaf.connect(await top.listen(f"unix://{tmp_path}/s"))
        answers = []

        async def ask(number: int) -> None:
            answers.append(len(await leaf.request("server", "echo", bytes(65536))))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(200):  # 12.5 MiB, with room for 1 MiB
                    tasks.start_soon(ask, number)
        assert answers == [65536] * 200


def test_pauses_are_jittered_short_in_the_first_minute_and_bounded_after_it() -> None:
    backoff = Backoff(random.Random(1))
    early = [backoff.failed(now=n / 10) for n in range(500)]
    late = [backoff.failed(now=100 + n) for n in range(500)]
    assert early[0] <= 0.5
    assert max(early) <= 2
    assert 9 < max(late) <= 10
    assert min(late) < 1 < sum(late) / len(late) < 6


def test_pauses_begin_anew_after_a_success() -> None:
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(Longest())
    for n in range(20):
        backoff.failed(now=100 * n)
    backoff.succeeded()
    assert [backoff.failed(now=5000 + n) for n in range(4)] == [0.5, 1, 2, 2]


@pytest.mark.anyio
async def test_a_dial_in_memory_waits_while_a_hundred_and_twenty_eight_streams_wait_to_be_accepted() -> None:
    driver, address = MemoryDriver(), Address.parse("memory://server")
    listener = await driver.listen(address, CLEAR)
    through = anyio.Event()

    async def dial() -> None:
        await driver.connect(address, CLEAR)
        through.set()

    with anyio.fail_after(5):
        for _ in range(128):
            await driver.connect(address, CLEAR)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dial)
            await anyio.wait_all_tasks_blocked()
            assert not through.is_set()
            await listener.accept()
            await through.wait()
    listener.close()


@pytest.mark.anyio
async def test_a_dial_in_memory_that_waits_is_told_when_the_listener_closes() -> None:
    driver, address = MemoryDriver(), Address.parse("memory://server")
    listener = await driver.listen(address, CLEAR)

    async def dial() -> None:
        with pytest.raises(ConnectError, match="nobody answers at memory://server: the listener closed"):
            await driver.connect(address, CLEAR)

    with anyio.fail_after(5):
        for _ in range(128):
            await driver.connect(address, CLEAR)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dial)
            await anyio.wait_all_tasks_blocked()
            listener.close()


@pytest.mark.anyio
async def test_a_stream_in_memory_that_nobody_accepted_ends_when_the_listener_closes() -> None:
    driver, address = MemoryDriver(), Address.parse("memory://server")
    listener = await driver.listen(address, CLEAR)
    link = await driver.connect(address, CLEAR)
    listener.close()
    with anyio.fail_after(5):
        assert await link.fill(memoryview(bytearray(10))) == 0


@pytest.mark.anyio
async def test_a_dial_in_memory_that_is_given_up_leaves_nothing_on_its_path() -> None:
    path = Path()
    driver, address = MemoryDriver().over(path), Address.parse("memory://server")
    listener = await driver.listen(address, CLEAR)
    for _ in range(128):
        await driver.connect(address, CLEAR)
    for _ in range(10):
        with anyio.move_on_after(0.001):
            await driver.connect(address, CLEAR)
    await listener.accept()
    await driver.connect(address, CLEAR)
    assert len(path._wires) == 129
    listener.close()


@pytest.mark.anyio
async def test_a_cell_in_memory_that_is_cancelled_is_gone_for_its_neighbours_at_once() -> None:
    driver = MemoryDriver()
    async with Cell("server", drivers={"memory": driver}) as top:
        url = await top.listen("memory://server")
        with anyio.fail_after(5):
            with anyio.CancelScope() as scope:
                async with Cell("C1", drivers={"memory": driver}) as leaf:
                    await leaf.connect(url)
                    await top.wait_present(["C1"])
                    scope.cancel()
                    await anyio.sleep_forever()
            await anyio.wait_all_tasks_blocked()
        assert top.members() == []


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (ConnectError("nobody answers"), False),
        (HandshakeError("wrong project"), True),
        (RefusedByPeer("full", "full", temporary=True), False),
        (ConfigurationError("no such driver"), True),
    ],
)
def test_only_what_somebody_must_change_ends_the_attempts(error: Exception, permanent: bool) -> None:
    assert is_permanent(error) is permanent  # type: ignore[arg-type]  # all are CellErrors
