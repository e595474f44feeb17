"""Cells as their users see them, in networks in memory."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest

from cellnet import (
    FQCN,
    Busy,
    Cell,
    CellError,
    ConfigurationError,
    ConnectDeadline,
    DeadlineBeforeExecution,
    DeadlineExceeded,
    HandshakeError,
    Indeterminate,
    InvalidName,
    LocalProtocolError,
    RemoteError,
    Request,
    StillBusy,
    StillUnreachable,
    Unreachable,
)
from cellnet.drivers.memory import MemoryDriver

if TYPE_CHECKING:
    from cellnet.testing import Network

pytestmark = pytest.mark.anyio


async def echo(request: Request) -> object:
    return request.payload


async def origin(request: Request) -> str:
    return str(request.origin)


async def fail(request: Request) -> None:
    raise ValueError("the data are not there")


async def stall(after: float, seconds: float) -> None:
    """Stop the whole event loop for a while, as a busy machine does."""
    await anyio.sleep(after)
    time.sleep(seconds)  # noqa: ASYNC251  # that is the point


async def never(request: Request) -> None:
    await anyio.sleep_forever()


HANDLERS = {"echo": echo, "origin": origin, "fail": fail, "never": never}


@pytest.mark.parametrize(
    "payload", [None, b"", b"\0bytes", "text", 7, -1.5, True, [1, [2]], {"a": {"b": b"c"}, 3: None}]
)
async def test_a_payload_comes_back_as_it_was_sent(network: Network, payload: object) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        answer = await server.request("R1.C1", "echo", payload)
        assert answer == payload
        assert type(answer) is type(payload)


async def test_arrays_travel_inside_payloads_and_arrive_read_only(network: Network) -> None:
    model = {"w": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.zeros(0, np.float32), "n": 3}
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        answer = await server.request("R1.C1", "echo", model)
    assert np.array_equal(answer["w"], model["w"])
    assert answer["b"].dtype == np.float32
    assert answer["n"] == 3
    assert not answer["w"].flags.writeable


@pytest.mark.parametrize(
    ("asker", "asked"),
    [
        ("server", "R1.C1"),
        ("R1.C1", "server"),
        ("R1.C1", "R1.C2"),
        ("R1.C1", "R2.C3"),
        ("R1", "R2"),
        ("R1.C1", "R1.C1"),
    ],
)
async def test_any_cell_reaches_any_other_and_is_known_by_its_full_name(
    network: Network, asker: str, asked: str
) -> None:
    async with network.tree(relays=2, clients=2, handlers=HANDLERS):
        assert await network[asker].request(asked, "origin") == asker


async def test_a_message_between_neighbours_of_one_relay_does_not_go_higher(network: Network) -> None:
    async with network.tree(relays=2, clients=2, handlers=HANDLERS) as server:
        before = [link.frames_received for link in server.statistics().links]
        await network["R1.C1"].request("R1.C2", "echo")
        assert [link.frames_received for link in server.statistics().links] == before


async def test_the_error_of_a_handler_reaches_the_caller_with_its_name_and_its_text(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with pytest.raises(RemoteError, match=r"R1\.C1: ValueError: the data are not there") as caught:
            await server.request("R1.C1", "fail")
        assert (caught.value.source, caught.value.code) == ("R1.C1", "ValueError")


async def test_a_topic_that_nobody_handles_is_answered_with_those_that_are(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with pytest.raises(RemoteError, match=r"no handler for 'ecko' .*echo, fail") as caught:
            await server.request("R1.C1", "ecko")
        assert caught.value.code == "no-handler"


@pytest.mark.parametrize("name", ["R1.C9", "R9.C1", "X"])
async def test_a_cell_that_is_not_present_is_unreachable_from_everywhere(network: Network, name: str) -> None:
    async with network.tree(relays=2, clients=1, handlers=HANDLERS) as server:
        for cell in (server, network["R2.C2"], network["R1.C1"]):
            with anyio.fail_after(5), pytest.raises(Unreachable, match=f"no cell {name} is present") as at_once:
                await cell.request(name, "echo", once=False)
            assert not isinstance(at_once.value, TimeoutError)
            with anyio.fail_after(0.5), pytest.raises(StillUnreachable, match=f"no cell {name} is present"):
                await cell.request(name, "echo")


@pytest.mark.parametrize("name", ["", "R1..C1", "R1.C1.", "server.a.b", "R1.Ç"])
async def test_a_malformed_name_is_refused_before_anything_is_sent(network: Network, name: str) -> None:
    async with network.tree(relays=1, clients=1) as server:
        with pytest.raises(InvalidName):
            await server.request(name, "echo")


async def test_a_payload_of_an_unknown_type_is_refused_by_name(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        with pytest.raises(LocalProtocolError, match="Random"):
            await server.request("R1.C1", "echo", {"rng": random.Random()})


async def test_an_event_arrives_and_nobody_answers(network: Network) -> None:
    seen = anyio.Event()

    async def note(request: Request) -> None:
        assert request.payload == {"round": 1}
        seen.set()

    async with network.tree(relays=1, clients=1, handlers={"note": note}) as server:
        await network["R1.C1"].send("server", "note", {"round": 1})
        with anyio.fail_after(5):
            await seen.wait()
        assert ["reply" in link.frames_sent for link in server.statistics().links] == [False]


async def test_the_deadline_is_the_scope_and_its_end_is_told_as_an_outcome(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with anyio.fail_after(0.2), pytest.raises(DeadlineExceeded, match=r"R1\.C1 did not answer never") as caught:
            await server.request("R1.C1", "never")
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, Indeterminate)


async def test_a_deadline_is_told_as_an_outcome_even_if_the_machine_was_too_busy_to_notice_in_time(
    network: Network,
) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        told = False
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stall, 0.1, 0.3)
                with pytest.raises(DeadlineExceeded):
                    await server.request("R1.C1", "never")
                told = True
        assert told


async def test_a_cancellation_before_the_deadline_passes_through_untouched(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with anyio.move_on_after(30) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.request, "R1.C1", "never")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


async def test_a_request_that_never_had_room_to_leave_was_provably_not_executed(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        monkeypatch.setattr("cellnet.protocol.connection.BUDGET_BYTES", 0)
        with anyio.fail_after(0.2), pytest.raises(DeadlineBeforeExecution, match="no room to send echo") as caught:
            await server.request("R1.C1", "echo")
        assert isinstance(caught.value, TimeoutError)
        with anyio.fail_after(0.2), pytest.raises(DeadlineBeforeExecution, match="no room to send echo"):
            await server.send("R1.C1", "echo")


async def test_a_scope_that_has_passed_cancels_as_anywhere_else(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with anyio.move_on_after(0) as scope:
            await server.request("R1.C1", "never")
        assert scope.cancelled_caught
        with anyio.move_on_after(0) as scope:
            await server.send("R1.C1", "echo")
        assert scope.cancelled_caught


async def test_cancelling_the_caller_cancels_the_far_handler(network: Network) -> None:
    started, ended = anyio.Event(), anyio.Event()

    async def work(request: Request) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with network.tree(relays=1, clients=1, handlers={"work": work}) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.request, "R1.C1", "work")
            with anyio.fail_after(5):
                await started.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await ended.wait()
        assert server.statistics().pending == 0


async def test_a_nested_request_inherits_the_callers_deadline(network: Network) -> None:
    async def ask_further(request: Request) -> object:
        return await network["R1.C1"].request("R1", "left")

    async def left(request: Request) -> float:
        return anyio.current_effective_deadline() - anyio.current_time()

    async with network.tree(relays=1, clients=1, handlers={"ask": ask_further, "left": left}) as server:
        with anyio.fail_after(3):
            left_there = await server.request("R1.C1", "ask")
        assert 2 < left_there < 3


async def test_every_cell_that_a_pattern_means_answers_a_broadcast_once(network: Network) -> None:
    async with network.tree(relays=2, clients=3, handlers=HANDLERS) as server:
        async with server.broadcast("*.*", "origin") as replies:
            answers = [(str(reply.source), reply.result()) async for reply in replies]
        assert sorted(answers) == [(f"R{1 + (n > 3)}.C{n}", "server") for n in range(1, 7)]


async def test_a_client_broadcasts_across_the_tree_as_the_server_does(network: Network) -> None:
    async with network.tree(relays=2, clients=2, handlers=HANDLERS):
        async with network["R1.C1"].broadcast(">", "origin") as replies:
            answers = {str(reply.source): reply.result() async for reply in replies}
        assert answers == dict.fromkeys(["R1", "R1.C2", "R2", "R2.C3", "R2.C4"], "R1.C1")


async def test_a_broadcast_crosses_each_link_once(network: Network) -> None:
    async with network.tree(relays=2, clients=5, handlers=HANDLERS) as server:
        async with server.broadcast("*.*", "echo", bytes(1000)) as replies:
            assert len([reply async for reply in replies]) == 10
        assert [link.frames_sent["broadcast"] for link in server.statistics().links] == [1, 1]


async def test_failures_inside_a_broadcast_are_replies_and_not_exceptions(network: Network) -> None:
    async with network.tree(relays=1, clients=2, handlers=HANDLERS) as server:
        with anyio.fail_after(1):
            async with server.broadcast(["R1.C1", "R1.C9", "R9"], "fail") as replies:
                errors = {str(reply.source): type(reply.error) async for reply in replies}
        assert errors == {"R1.C1": RemoteError, "R1.C9": StillUnreachable, "R9": StillUnreachable}


async def test_leaving_a_broadcast_cancels_the_rest(network: Network) -> None:
    running, ended = set(), anyio.Event()

    async def work(request: Request) -> None:
        number = len(running)
        running.add(number)
        if number == 0:
            return
        try:
            await anyio.sleep_forever()
        finally:
            running.discard(number)
            if running == {0}:
                ended.set()

    async with network.tree(relays=1, clients=3, handlers={"work": work}) as server:
        async with server.broadcast("R1.*", "work") as replies:
            with anyio.fail_after(5):
                (await anext(replies)).result()
                while len(running) < 3:
                    await anyio.sleep(0.001)
        with anyio.fail_after(5):
            await ended.wait()


async def test_a_broadcast_ends_at_its_deadline_with_a_reply_for_everyone(network: Network) -> None:
    async with network.tree(relays=1, clients=2, handlers=HANDLERS) as server:
        with anyio.fail_after(0.3):
            async with server.broadcast("R1.*", "never") as replies:
                errors = [type(reply.error) async for reply in replies]
        assert errors == [DeadlineExceeded, DeadlineExceeded]


async def test_a_broadcast_to_nobody_is_over_at_once(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        began = anyio.current_time()
        async with server.broadcast("X.*", "echo") as replies:
            assert [reply async for reply in replies] == []
        assert anyio.current_time() - began < 5


async def test_a_cell_that_ends_leaves_and_fails_what_was_asked_of_it(network: Network) -> None:
    driver = MemoryDriver()
    async with Cell("server", drivers={"memory": driver}) as server:
        await server.listen("memory://server")
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with anyio.fail_after(5), pytest.raises(Indeterminate, match="the way to C1 broke"):
                    await server.request("C1", "never", once=False)

            async with Cell("C1", handlers={"never": never}, drivers={"memory": driver}) as client:
                await client.connect("memory://server")
                tasks.start_soon(ask)
                while not client.statistics().handling:
                    await anyio.sleep(0.001)
        assert server.members() == []


async def test_a_lost_parent_is_joined_again_and_presence_comes_back(network: Network) -> None:
    driver = MemoryDriver()
    async with Cell("R1", drivers={"memory": driver}) as relay, Cell("C1", drivers={"memory": driver}) as client:
        for _life in range(2):
            async with Cell("server", drivers={"memory": driver}, handlers=HANDLERS) as server:
                await server.listen("memory://server")
                if not _life:
                    await relay.connect("memory://server")
                    await relay.listen("memory://r1")
                    await client.connect("memory://r1")
                with anyio.fail_after(10):
                    await server.wait_present(["R1.C1"])
                    assert await client.request("server", "origin") == "R1.C1"
            with anyio.fail_after(5):
                await relay.wait_disconnected()
            with pytest.raises(Unreachable):
                await client.request("server", "origin", once=False)


async def test_of_two_holders_of_one_name_the_first_keeps_it_and_the_other_is_told(network: Network) -> None:
    driver = MemoryDriver()
    async with (
        Cell("server", drivers={"memory": driver}) as server,
        Cell("C1", drivers={"memory": driver}, handlers=HANDLERS) as second,
    ):
        await server.listen("memory://server")
        async with Cell("C1", drivers={"memory": driver}) as first:
            await first.connect("memory://server")
            with (
                pytest.raises(ConnectDeadline, match="another C1 is connected and answers"),
                anyio.fail_after(2),
            ):
                await second.connect("memory://server")
            assert len(server.members()) == 1
        with anyio.fail_after(5):
            await second.connect("memory://server")
        assert await server.request("C1", "origin") == "server"


async def test_connecting_waits_for_a_parent_that_comes_later(network: Network) -> None:
    driver = MemoryDriver()
    async with Cell("server", drivers={"memory": driver}) as server, Cell("C1", drivers={"memory": driver}) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect, "memory://server")
            await anyio.wait_all_tasks_blocked()
            await server.listen("memory://server")
            with anyio.fail_after(5):
                await server.wait_present(["C1"])
        assert client.fqcn == FQCN("C1")


async def test_connecting_in_vain_ends_with_the_last_reason(network: Network) -> None:
    async with Cell("C1") as client:
        with pytest.raises(ConnectDeadline, match=r"tcp://127\.0\.0\.1:1.*refused"), anyio.fail_after(0.3):
            await client.connect("tcp://127.0.0.1:1")
        with pytest.raises(LocalProtocolError, match="before it has joined"):
            _ = client.fqcn


async def test_a_relay_without_a_parent_asks_its_children_to_come_back(network: Network) -> None:
    driver = MemoryDriver()
    async with Cell("R1", drivers={"memory": driver}) as relay, Cell("C1", drivers={"memory": driver}) as client:
        await relay.listen("memory://r1")
        with pytest.raises(ConnectDeadline, match="R1 has not joined its own parent yet"), anyio.fail_after(0.3):
            await client.connect("memory://r1")


async def test_more_children_than_allowed_are_turned_away_with_the_number(network: Network) -> None:
    driver = MemoryDriver()
    async with Cell("server", drivers={"memory": driver}, max_children=1) as server:
        await server.listen("memory://server")
        async with Cell("C1", drivers={"memory": driver}) as one, Cell("C2", drivers={"memory": driver}) as two:
            await one.connect("memory://server")
            with pytest.raises(ConnectDeadline, match="server has 1 children already"), anyio.fail_after(0.3):
                await two.connect("memory://server")


async def test_a_hundred_children_warn_and_do_not_stop(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cellnet"):
        async with network.tree(relays=1, clients=101, handlers=HANDLERS) as server:
            assert await server.request("R1.C101", "origin") == "server"
    assert [record.getMessage() for record in caplog.records] == ["R1 has 100 children: below 100 is recommended"]


async def test_what_the_body_raises_comes_out_as_it_is(network: Network) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with Cell("server"), Cell("C1"):
            raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"):
        async with network.tree(relays=1, clients=1):
            raise KeyError("mine")


async def test_too_many_answers_are_not_awaited(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.protocol.asking.MAX_PENDING", 1)
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.request, "R1.C1", "never")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="already waits for 1"):
            await server.request("R1.C1", "echo")
        tasks.cancel_scope.cancel()


async def test_too_many_requests_at_a_time_are_answered_busy(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.protocol.answering.MAX_INCOMING", 1)
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.request, "R1.C1", "never")
        while not network["R1.C1"].statistics().handling:
            await anyio.sleep(0.001)
        with pytest.raises(Busy):
            await server.request("R1.C1", "echo", once=False)
        with anyio.fail_after(0.5), pytest.raises(StillBusy, match="works on as many requests as it may"):
            await server.request("R1.C1", "echo")
        tasks.cancel_scope.cancel()


async def test_events_beyond_the_handlers_that_may_run_are_dropped_and_counted(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.inbox.MAX_HANDLERS", 2)
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        for _number in range(5):
            await server.send("R1.C1", "never")
        client = network["R1.C1"]
        with anyio.fail_after(5):
            while client.statistics().refused < 3:
                await anyio.sleep(0.001)
        assert client.statistics().handling == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "no address"),
        ("tcp://host", "no address"),
        ("tcp://host:99999", "no address"),
        ("carrier://pigeon:1", "no driver for 'carrier'"),
        ("tcp://127.0.0.1:0", "mtls needs credentials"),
    ],
)
async def test_an_address_that_cannot_be_is_refused(network: Network, url: str, message: str) -> None:
    async with Cell("server") as server:
        with pytest.raises(ConfigurationError, match=message):
            await server.listen(url, security="mtls")


async def test_errors_of_the_library_are_one_tree(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        with pytest.raises(CellError):
            await server.request("R1.C9", "echo", once=False)
    assert issubclass(HandshakeError, CellError)
