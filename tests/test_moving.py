"""A cell with several parents: it joins the next one when its parent stays away, and goes back when that is well."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest

from cellnet import Cell, ConfigurationError, ConnectError, Parent
from cellnet import uplink as uplink_module
from cellnet.drivers import built_in
from cellnet.uplink import HEALTHY_SECONDS, PATIENCE_SECONDS, Preference, Uplink, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cellnet import Request, Stream

pytestmark = pytest.mark.anyio
HERE = "tcp://127.0.0.1:0"


# The order


def test_a_parent_that_is_lost_is_tried_alone_for_as_long_as_a_restart_takes() -> None:
    order = Preference(3)
    assert [order.failed(now) for now in (10.0, 10.3, 10.7)] == [False] * 3
    assert order.current == 0
    assert order.failed(10 + PATIENCE_SECONDS)
    assert order.current == 1
    assert order.failed(11.5)
    assert order.current == 2
    assert not order.failed(12)  # once round: it is time for a pause
    assert (order.current, order.moves) == (0, 3)
    assert order.failed(13)


def test_who_has_joined_is_patient_again() -> None:
    order = Preference(2)
    order.failed(0), order.failed(1)
    assert order.current == 1
    order.joined()
    assert not order.failed(50)
    assert order.current == 1
    assert order.failed(51)
    assert order.current == 0


def test_an_only_parent_is_dialled_for_ever() -> None:
    order = Preference(1)
    assert not any(order.failed(now) for now in range(100))
    assert (order.current, list(order.preferred)) == (0, [])


def test_a_cell_goes_back_only_to_who_was_well_all_the_time() -> None:
    order = Preference(3)
    order.failed(0), order.failed(1), order.failed(2)
    assert (order.current, list(order.preferred)) == (2, [0, 1])
    order.joined()
    for now in range(10, 60, 10):
        assert not order.seen(0, now, is_reached=now != 30)
        assert not order.seen(1, now, is_reached=True)
    assert not order.seen(0, 10 + HEALTHY_SECONDS, is_reached=True)  # it was away in between
    assert not order.seen(1, 10 + HEALTHY_SECONDS - 1, is_reached=True)
    assert order.seen(1, 10 + HEALTHY_SECONDS, is_reached=True)
    assert (order.current, list(order.preferred)) == (1, [0])
    assert not order.seen(0, 10 + HEALTHY_SECONDS, is_reached=True)


def test_who_was_well_before_the_cell_went_elsewhere_is_watched_anew() -> None:
    order = Preference(3)
    order.failed(0), order.failed(1), order.failed(2)
    order.joined()
    assert not order.seen(0, 10, is_reached=True)
    assert not order.seen(1, 10, is_reached=True)
    assert order.seen(0, 10 + HEALTHY_SECONDS, is_reached=True)
    order.joined()
    order.failed(100), order.failed(101), order.failed(102)
    assert order.current == 2
    assert not order.seen(1, 110, is_reached=True)


def test_more_parents_than_there_may_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="4 parents to choose from, not 5"):
        Preference(5)


# Dialling


class Dialled:
    """An uplink to three parents, each dial of which goes as the test says."""

    def __init__(self) -> None:
        self.ways = [Way.to(Parent(f"tcp://127.0.0.1:{port}"), None, built_in()) for port in (1, 2, 3)]
        self.dialled: list[int] = []
        self.failures: list[str] = []
        self.joins = 0
        self.says: list[Callable[[], None] | None] = []
        """For each dial: what happens once it is joined; None if it is not."""
        self.uplink = Uplink(self.ways, self._dial, failed=lambda error: self.failures.append(str(error)), leave=_leave)

    async def dial(self) -> str:
        return str(await self.uplink.dial(self._joined))

    async def _dial(self, way: Way, joined: Callable[[], None]) -> ConnectError:
        self.dialled.append(way.address.port)
        then = self.says.pop(0)
        if then is None:
            return ConnectError(f"nobody at {way.address.port}")
        joined()
        then()
        await anyio.sleep(0.05)
        return ConnectError(f"{way.address.port} left")

    def _joined(self) -> None:
        self.joins += 1


def _leave() -> None:
    return


async def test_a_parent_that_took_the_cell_in_is_dialled_alone_again_whatever_was_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink_module, "PATIENCE_SECONDS", 0.02)
    dialled = Dialled()
    dialled.says = [None, None, _leave]
    assert await dialled.dial() == "nobody at 1"
    await anyio.sleep(0.03)
    assert await dialled.dial() == "2 left"
    assert dialled.dialled == [1, 1, 2]
    assert dialled.failures == ["nobody at 1"]  # the one after which another was dialled at once


async def test_a_parent_that_took_the_cell_in_has_more_time_than_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_module, "ATTEMPT_SECONDS", 0.01)
    dialled = Dialled()
    dialled.says = [_leave]
    assert await dialled.dial() == "1 left"


async def test_a_parent_that_is_left_for_another_did_not_fail() -> None:
    dialled = Dialled()
    dialled.says = [dialled.uplink.again, _leave]
    assert await dialled.dial() == "1 left"
    assert (dialled.dialled, dialled.joins, dialled.failures) == ([1, 1], 2, [])


# Cells


class Tree:
    """A server, two relays and a client that may join either; each relay can end by itself."""

    def __init__(self, scheme: str = "tcp") -> None:
        self.here = f"{scheme}://127.0.0.1:0"
        self.runs: Counter[int] = Counter()
        self.server = Cell("server", handlers={"count": self._count})
        self.client = Cell("C1", handlers={"count": self._count, "sum": self._sum}, streams={"echo": self._echo})
        self.urls: dict[str, str] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Tree]:
        async with self.server, anyio.create_task_group() as tasks:
            self.urls["server"] = await self.server.listen(self.here)
            for name in ("R1", "R2"):
                await tasks.start(self.relay, name)
            async with self.client:
                await self.client.connect(self.urls["R1"], others=[Parent(self.urls["R2"])])
                yield self
            tasks.cancel_scope.cancel()

    async def relay(self, name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.CancelScope() as self.scopes[name]:
            async with Cell(name) as cell:
                await cell.connect(self.urls["server"])
                self.urls[name] = await cell.listen(self.urls.get(name, self.here))
                task_status.started()
                await anyio.sleep_forever()

    async def has_name(self, name: str) -> None:
        while str(self.client.fqcn) != name:
            await anyio.sleep(0.01)

    async def _count(self, request: Request) -> int:
        self.runs[request.payload] += 1
        await anyio.sleep(0.05)
        return int(request.payload)

    async def _sum(self, request: Request) -> float:
        return float(request.payload.sum())

    async def _echo(self, stream: Stream) -> None:
        async for data in stream:
            await stream.send(data)


async def test_what_was_asked_both_ways_is_answered_once_when_the_parent_ends_and_the_next_is_joined() -> None:
    answers: Counter[int] = Counter()

    async def ask(cell: Cell, destination: str, number: int) -> None:
        answers[await cell.request(destination, "count", number)] += 1

    with anyio.fail_after(30):
        async with Tree().running() as tree, anyio.create_task_group() as asking:
            for number in range(0, 400, 2):
                if number == 100:
                    tree.scopes["R1"].cancel()
                asking.start_soon(ask, tree.server, "R1.C1", number)
                asking.start_soon(ask, tree.client, "server", number + 1)
                await anyio.sleep(0.01)
            with anyio.fail_after(5):
                await tree.has_name("R2.C1")
    assert set(answers.values()) == set(tree.runs.values()) == {1}
    assert len(answers) == len(tree.runs) == 400


async def test_a_large_payload_and_a_stream_go_on_below_the_next_parent() -> None:
    array = np.ones(64 << 18, "f4")
    with anyio.fail_after(60):
        async with Tree().running() as tree:
            async with tree.server.open_stream("R1.C1", "echo") as stream:
                got = 0
                for number in range(200):
                    if number == 50:
                        tree.scopes["R1"].cancel()
                    await stream.send(bytes([number]) * 1000)
                    want = (number + 1) * 1000
                    while got < want:
                        data = await stream.receive()
                        assert set(data) <= {*range(number + 1)}
                        got += len(data)
                await tree.has_name("R2.C1")
                assert got == 200_000
                await tree.server.wait_present(["R1.C1"])
                assert tree.client.statistics().moves == 1
            assert await tree.server.request("R1.C1", "sum", array) == len(array)
            assert await tree.client.request("R1.C1", "sum", array) == len(array)  # which is itself


async def test_a_payload_that_is_under_way_arrives_whole_when_its_receiver_moves() -> None:
    array = np.arange(48 << 18, dtype="f4")
    with anyio.fail_after(60):
        async with Tree().running() as tree, anyio.create_task_group() as asking:
            result: list[float] = []

            async def ask() -> None:
                result.append(await tree.server.request("R1.C1", "sum", array))

            asking.start_soon(ask)
            while tree.client.statistics().contents_wanted == 0:
                await anyio.sleep(0.001)
            tree.scopes["R1"].cancel()
        assert result == [pytest.approx(float(array.sum()), rel=1e-6)]


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_a_cell_goes_back_to_its_parent_when_that_has_been_well_for_long_enough(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uplink_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(uplink_module, "HEALTHY_SECONDS", 0.5)
    caplog.set_level("INFO", "cellnet.link")
    with anyio.fail_after(30):
        async with Tree(scheme).running() as tree, anyio.create_task_group() as tasks:
            tree.scopes["R1"].cancel()
            await tree.has_name("R2.C1")
            await tasks.start(tree.relay, "R1")
            caplog.clear()
            await tree.has_name("R1.C1")
            assert await tree.server.request("R2.C1", "count", 1) == 1
            tasks.cancel_scope.cancel()
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "refused" in line]  # of those who only look
    assert len([line for line in said if line.startswith("going back to the parent at")]) == 1


async def test_a_parent_that_takes_the_dial_and_says_nothing_does_not_hold_a_cell_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink_module, "ATTEMPT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.fail_after(10):
        async with Cell("server") as server, Cell("C1") as cell:
            url = await server.listen(HERE)
            await cell.connect(f"tcp://127.0.0.1:{silent.getsockname()[1]}", others=[Parent(url)])
            assert str(cell.fqcn) == "C1"
