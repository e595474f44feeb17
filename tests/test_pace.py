"""How much is sent at a time: more while it leaves quickly, little when it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.pace import SLOW_SECONDS, Pace

QUICK = SLOW_SECONDS / 3


def test_it_doubles_as_long_as_much_leaves_quickly() -> None:
    pace = Pace(64, 400)
    sizes = []
    for _ in range(4):
        pace.sent(pace.size, QUICK)
        sizes.append(pace.size)
    assert sizes == [128, 256, 400, 400]


def test_little_that_leaves_quickly_says_nothing_of_much() -> None:
    pace = Pace(64, 400)
    pace.sent(32, 0.0)
    assert pace.size == 64


def test_it_stays_as_it_is_when_much_takes_its_time() -> None:
    pace = Pace(64, 400)
    pace.sent(64, 0.0)
    pace.sent(128, SLOW_SECONDS)
    assert pace.size == 128


@pytest.mark.parametrize(("seconds", "size"), [(SLOW_SECONDS * 2, 200), (SLOW_SECONDS * 5, 80), (10.0, 64)])
def test_after_what_was_slow_it_is_what_would_not_have_been(seconds: float, size: int) -> None:
    pace = Pace(64, 400)
    for _ in range(3):
        pace.sent(pace.size, QUICK)
    pace.sent(400, seconds)
    assert pace.size == size


def test_even_little_that_is_slow_makes_it_least() -> None:
    pace = Pace(64, 400)
    pace.sent(64, 0.0)
    pace.sent(1, SLOW_SECONDS * 1.01)
    assert pace.size == 64


@given(rate=st.floats(1e3, 1e10))
def test_at_a_steady_rate_a_batch_takes_as_long_as_it_should(rate: float) -> None:
    pace = Pace(64 << 10, 1 << 30)
    for _ in range(40):
        pace.sent(pace.size, pace.size / rate)
    assert pace.size / rate <= SLOW_SECONDS or pace.size == pace.least
    assert pace.size / rate >= SLOW_SECONDS / 2 * 0.99 or pace.size == pace.most
