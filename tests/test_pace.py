"""How much is sent at a time: more while it leaves quickly, little when it does not."""

from __future__ import annotations

from cellnet.pace import QUICK_SECONDS, SLOW_SECONDS, Pace


def test_it_doubles_as_long_as_much_leaves_quickly() -> None:
    pace = Pace(64, 400)
    sizes = []
    for _ in range(4):
        pace.sent(pace.size, QUICK_SECONDS / 2)
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


def test_it_is_least_again_after_what_was_slow_however_little_it_was() -> None:
    pace = Pace(64, 400)
    pace.sent(64, 0.0)
    pace.sent(1, SLOW_SECONDS * 1.01)
    assert pace.size == 64
