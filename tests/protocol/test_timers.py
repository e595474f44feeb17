"""Things to do at a time: in order, once, not when cancelled, and without a trace when they are cancelled early."""

from __future__ import annotations

import math
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from cellnet.protocol.timers import Timer, Timers


def test_what_is_due_is_done_in_order_of_time_and_then_of_making() -> None:
    timers, done = Timers(), list[tuple[str, float]]()
    for name, when in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.5), ("later", 2.1)):
        timers.at(when, lambda now, name=name: done.append((name, now)))  # type: ignore[misc]
    assert timers.due == 1.0
    timers.run(0.9)
    assert done == []
    timers.run(2.0)
    assert done == [("a", 2.0), ("b", 2.0), ("c", 2.0), ("d", 2.0)]
    assert timers.due == 2.1


def test_an_empty_queue_is_never_due() -> None:
    timers = Timers()
    assert timers.due == math.inf
    timers.run(math.inf)


def test_what_is_never_due_is_done_at_the_end_of_time() -> None:
    timers, done = Timers(), list[float]()
    timers.at(math.inf, done.append)
    timers.run(1e300)
    assert done == []
    timers.run(math.inf)
    assert done == [math.inf]


def test_what_is_added_meanwhile_is_done_at_once_if_it_is_due() -> None:
    timers, done = Timers(), list[str]()

    def first(now: float) -> None:
        timers.at(now, lambda _now: done.append("now"))
        timers.at(now + 0.1, lambda _now: done.append("later"))

    timers.at(1.0, first)
    timers.run(1.0)
    assert done == ["now"]
    timers.run(1.1)
    assert done == ["now", "later"]


def test_what_is_cancelled_is_not_done_and_not_due() -> None:
    timers, done = Timers(), list[float]()
    first, second = timers.at(1.0, done.append), timers.at(2.0, done.append)
    first.cancel()
    first.cancel()
    assert timers.due == 2.0
    timers.run(2.0)
    assert done == [2.0]
    second.cancel()
    assert (timers.due, len(timers)) == (math.inf, 0)


def test_one_action_may_cancel_another_that_is_due_too() -> None:
    timers, done = Timers(), list[float]()
    timers.at(1.0, lambda _now: second.cancel())
    second = timers.at(1.0, done.append)
    timers.run(1.0)
    assert done == []


def test_what_is_cancelled_long_before_its_time_does_not_pile_up() -> None:
    timers = Timers()
    kept = [timers.at(1e9 + number, lambda _now: None) for number in range(100)]
    for _ in range(10_000):
        timers.at(1e9, lambda _now: None).cancel()
        assert len(timers) < 100 + 200
    assert timers.due == 1e9
    for timer in kept:
        timer.cancel()
    assert timers.due == math.inf
    assert len(timers) == 0


@given(st.lists(st.tuples(st.sampled_from(["at", "cancel", "run"]), st.integers(0, 300)), max_size=400))
def test_whatever_is_made_and_cancelled_exactly_the_rest_is_done(steps: list[tuple[str, int]]) -> None:
    timers, done, now = Timers(), list[int](), 0
    made: list[tuple[int, Timer]] = []
    open_: dict[int, int] = {}
    expected: list[int] = []
    for step, number in steps:
        if step == "at":
            name = len(made)
            made.append((number, timers.at(number, partial(lambda name, _now: done.append(name), name))))
            open_[name] = number
        elif step == "cancel" and made:
            name = number % len(made)
            made[name][1].cancel()
            open_.pop(name, None)
        elif step == "run":
            now = number
            due = sorted((when, name) for name, when in open_.items() if when <= now)
            expected += [name for _when, name in due]
            for _when, name in due:
                del open_[name]
            timers.run(now)
        assert timers.due == min(open_.values(), default=math.inf)
        assert done == expected
        assert len(timers) >= len(open_)
