"""What costs a cell much more than those who cause it: each may do it so often, and a little more with time."""

from __future__ import annotations

from cellnet.protocol.budget import Budget


def test_a_stock_is_spent_and_fills_up_with_time_but_never_over() -> None:
    budget = Budget(2, 0.5, 9)
    assert [budget.spend("a", 100.0) for _ in range(3)] == [True, True, False]
    assert not budget.spend("a", 101.9)
    assert [budget.spend("a", 102.0) for _ in range(2)] == [True, False]
    assert [budget.spend("a", 1000.0) for _ in range(3)] == [True, True, False]


def test_each_has_a_stock_of_its_own() -> None:
    budget = Budget(1, 1, 9)
    assert [budget.spend(one, 0.0) for one in ("a", None, "a", None)] == [True, True, False, False]


def test_of_a_limited_number_a_stock_is_remembered_and_a_full_one_makes_room() -> None:
    budget = Budget(2, 1, 2)
    assert budget.spend("a", 0.0)
    assert budget.spend("a", 0.5)
    assert budget.spend("b", 0.5)
    assert not budget.spend("c", 0.9)
    assert len(budget) == 2
    assert budget.spend("a", 1.0)
    assert budget.spend("c", 1.5)
    assert len(budget) == 2
    assert not budget.spend("b", 1.5)
