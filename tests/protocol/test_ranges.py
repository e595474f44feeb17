"""Ranges against a set."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cellnet.protocol.ranges import Ranges

parts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30)


@given(parts)
def test_ranges_hold_what_a_set_would_and_none_touches_the_next(added: list[tuple[int, int]]) -> None:
    ranges, model = Ranges(), set[int]()
    for start, stop in added:
        ranges.add(start, stop)
        model |= set(range(start, stop))
        assert {number for number in range(-1, 42) if number in ranges} == model
        held = ranges.below(100)
        assert [number for first, last in held for number in range(first, last)] == sorted(model)
        assert all(first < last for first, last in held)
        assert all(one[1] < other[0] for one, other in pairwise(held))
        assert len(ranges) == len(held)


@given(parts, st.integers(0, 5))
def test_the_lowest_come_first(added: list[tuple[int, int]], limit: int) -> None:
    ranges = Ranges()
    for start, stop in added:
        ranges.add(start, stop)
    assert ranges.below(limit) == ranges.below(100)[:limit]


def test_a_million_numbers_in_a_row_cost_as_much_as_one() -> None:
    ranges = Ranges()
    for number in range(1, 1000):
        ranges.add(number, number + 1)
    ranges.add(1000, 1_000_001)
    assert (len(ranges), ranges.below(1)) == (1, [(1, 1_000_001)])
    assert 1_000_000 in ranges
    assert 1_000_001 not in ranges
