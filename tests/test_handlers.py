"""Handlers, whether plain functions or coroutine functions, and what leaves a cell together."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from cellnet import Cell, DeadlineExceeded, RemoteError
from cellnet import neighbours as neighbours_module

if TYPE_CHECKING:
    from cellnet import Request
    from cellnet.testing import Network

pytestmark = pytest.mark.anyio
LARGE = np.arange(100_000)


def double(request: Request) -> object:
    return request.payload * 2


def total(request: Request) -> int:
    return int(request.payload.sum())


def large(_request: Request) -> object:
    return LARGE


def broken(request: Request) -> object:
    raise ValueError(f"not with {request.payload}")


def strange(_request: Request) -> object:
    return object()


async def later(request: Request) -> object:
    await anyio.sleep(0.01)
    return request.payload


class Callable:
    """What is called as a function is, and waits."""

    async def __call__(self, request: Request) -> object:
        return await later(request)


HANDLERS: dict[str, Any] = {
    "double": double,
    "total": total,
    "large": large,
    "broken": broken,
    "strange": strange,
    "later": later,
    "callable": Callable(),
    "partial": functools.partial(later),
    "lambda": lambda request: later(request),
}


async def test_a_plain_function_is_a_handler_whatever_the_size_of_payload_and_answer(network: Network) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        assert await server.request("R1.C1", "double", 21) == 42
        assert await server.request("R1.C1", "total", LARGE) == LARGE.sum()
        assert (await server.request("R1.C1", "large") == LARGE).all()


@pytest.mark.parametrize(
    ("topic", "said"), [("broken", "ValueError: not with 5"), ("strange", "LocalProtocolError: a payload cannot hold")]
)
async def test_what_a_plain_function_raises_reaches_the_caller(network: Network, topic: str, said: str) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        with pytest.raises(RemoteError, match=said):
            await server.request("R1.C1", topic, 5)
        assert await server.request("R1.C1", "double", 1) == 2


@pytest.mark.parametrize("topic", ["later", "callable", "partial", "lambda"])
async def test_whatever_is_to_be_awaited_is_awaited(network: Network, topic: str) -> None:
    async with network.tree(relays=1, clients=1, handlers=HANDLERS) as server:
        assert await server.request("R1.C1", topic, "x") == "x"


async def test_plain_functions_answer_in_the_order_in_which_they_were_asked(network: Network) -> None:
    asked: list[object] = []
    seen: list[object] = []
    handlers = {"note": lambda request: seen.append(request.payload)}

    async def ask(server: Cell, number: int) -> None:
        asked.append(number)
        await server.request("R1.C1", "note", number, key="k")

    async with network.tree(relays=1, clients=1, handlers=handlers) as server, anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(ask, server, number)
    assert len(seen) == 200
    assert seen == asked


@pytest.mark.parametrize("topic", ["double", "unknown"])
async def test_thousands_of_messages_in_one_read_are_taken_one_after_the_other(
    network: Network, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not one inside the other: Python would not go so deep
    monkeypatch.setattr(neighbours_module, "MANY_CALLS", 10**6)
    answers: list[object] = []

    async def ask(server: Cell) -> None:
        try:
            answers.append(await server.request("R1.C1", topic, 1))
        except RemoteError as error:
            answers.append(error.code)

    async with network.tree(clients=1, handlers=HANDLERS) as server:
        await server.request("R1.C1", "double", 1)
        async with anyio.create_task_group() as tasks:
            for _ in range(3000):
                tasks.start_soon(ask, server)
    assert answers == [2 if topic == "double" else "no-handler"] * 3000


async def test_what_many_calls_send_at_a_time_leaves_in_few_batches(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network.tree(clients=1, handlers=HANDLERS) as server:
        await server.request("R1.C1", "double", 1)
        batches = 0
        flush = server._neighbours.flush

        def counted() -> None:
            nonlocal batches
            batches += bool(server._neighbours._ready)
            flush()

        monkeypatch.setattr(server._neighbours, "flush", counted)
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(server.request, "R1.C1", "double", 1)
        assert 4 <= batches <= 12  # 32 calls at a time, and what the answers cause


async def test_a_deadline_passes_while_a_large_payload_is_held(network: Network) -> None:
    async def never(_request: Request) -> None:
        await anyio.sleep_forever()

    async with network.tree(clients=1, handlers={"never": never}) as server:
        with pytest.raises(DeadlineExceeded), anyio.fail_after(0.3):
            await server.request("R1.C1", "never", LARGE)
        assert not server._endpoint.plane.offers


async def test_an_event_that_was_sent_leaves_even_if_its_sender_fails_next() -> None:
    came: list[object] = []
    async with Cell("C1", handlers={"note": lambda request: came.append(request.payload)}) as client:
        for number in range(20):
            with pytest.raises(KeyError):
                async with Cell("server") as server:
                    url = await server.listen("tcp://127.0.0.1:0")
                    await client.connect(url, reconnect=False)
                    await server.request("C1", "note", "first")
                    await server.send("C1", "note", number)
                    raise KeyError
            await client.wait_disconnected()
    assert [number for number in came if number != "first"] == list(range(20))
