"""Contents leave one link after the other, and the event loop sees to all else in between."""

from __future__ import annotations

from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

from cellnet.turn import Turn

pytestmark = pytest.mark.anyio


async def test_of_many_links_the_one_that_had_the_last_turn_may_send_at_once_and_none_while_others_wait() -> None:
    turn, one, other = Turn(), object(), object()
    turn.begin()
    assert not turn.take(one), "it had no turn yet"
    async with turn.wait(one):
        turn.begin()
        assert not turn.take(one)
    turn.begin()
    assert [turn.take(one) for _ in range(3)] == [True, False, False]
    assert not turn.take(one)
    turn.begin()
    assert not turn.take(other), "its turn comes when the loop has seen to all else"
    assert not turn.take(one), "the turn of one was passed on"
    async with turn.wait(other):
        pass
    turn.begin()
    assert turn.take(other)


async def test_between_two_turns_whoever_else_is_ready_runs() -> None:
    turn, said = Turn(), list[str]()

    async def send(name: str) -> None:
        for _ in range(2):
            async with turn.wait(turn):
                said.append(name)

    async def work() -> None:
        while len([name for name in said if name != "work"]) < 6:
            said.append("work")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for name in ("A", "B", "C"):
            tasks.start_soon(send, name)
        tasks.start_soon(work)
    assert not [pair for pair in pairwise(said) if "work" not in pair]


async def test_the_turn_of_one_that_is_cancelled_goes_on_to_the_next() -> None:
    turn, reached = Turn(), anyio.Event()

    async def give_up() -> None:
        with anyio.CancelScope() as scope:
            async with turn.wait(turn):
                scope.cancel()

    async def go_on() -> None:
        async with turn.wait(turn):
            reached.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up)
        tasks.start_soon(go_on)
    assert reached.is_set()
