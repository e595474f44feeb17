"""Who spends too much is refused, alone, and has a full stock again in time."""

from __future__ import annotations

from cellnet.protocol.budget import Budget


def test_a_full_stock_is_spent_at_once_and_fills_up_again_at_its_pace() -> None:
    budget = Budget(3, 2, 10)
    assert [budget.spend("A", 0.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.spend("A", 0.4), budget.spend("A", 0.5), budget.spend("A", 0.6)] == [False, True, False]
    assert [budget.spend("A", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_one_spender_takes_nothing_from_another() -> None:
    budget = Budget(1, 1, 10)
    assert [budget.spend(name, 0.0) for name in ("A", "A", "B", None, None)] == [True, False, True, True, False]


def test_of_many_spenders_those_that_are_full_again_are_forgotten() -> None:
    budget = Budget(2, 1, 3)
    assert [budget.spend(number, 0.0) for number in range(5)] == [True, True, True, False, False]
    assert len(budget) == 3
    assert budget.spend(0, 0.9)
    assert budget.spend(4, 1.25)
    assert len(budget) == 2
    assert [budget.spend(0, 1.25), budget.spend(0, 1.25)] == [True, False]
