"""The checker of histories finds each kind of wrong."""

from __future__ import annotations

import pytest

from cellnet.simulation.history import History, Outcome


def history(*ran: str, outcome: Outcome | None, told_at: float = 1.0, right: bool = True) -> History:
    """Return the history of one request from A to B that ran at these places."""
    made = History()
    made.asked("1", "A", "B", deadline=10.0)
    for where in ran:
        made.ran("1", where, 0.5)
    if outcome is not None:
        made.told("1", outcome, told_at, value_is_right=right)
    return made


@pytest.mark.parametrize(
    ("ran", "outcome"),
    [
        (("B",), Outcome.OK),
        (("B",), Outcome.RAISED),
        ((), Outcome.NOT_EXECUTED),
        ((), Outcome.CANCELLED),
        (("B",), Outcome.CANCELLED),
    ],
)
def test_what_agrees_is_no_violation(ran: tuple[str, ...], outcome: Outcome) -> None:
    assert history(*ran, outcome=outcome).violations() == []


@pytest.mark.parametrize(
    ("ran", "outcome", "said"),
    [
        (("B", "B"), Outcome.OK, "it ran 2 times"),
        (("B", "B"), Outcome.CANCELLED, "it ran 2 times"),
        ((), Outcome.OK, "it was told ok, and never ran"),
        (("B",), Outcome.NOT_EXECUTED, "it was told not executed, and ran"),
        (("C",), Outcome.OK, "it ran at C"),
        (("B",), None, "its caller was never told"),
        (("B",), Outcome.INDETERMINATE, "it was told indeterminate, but nobody died and no deadline passed"),
    ],
)
def test_what_does_not_agree_is_named(ran: tuple[str, ...], outcome: Outcome | None, said: str) -> None:
    assert history(*ran, outcome=outcome).violations() == [f"1 (A to B): {said}"]


def test_doubt_is_fair_where_the_destination_died_or_the_deadline_passed() -> None:
    assert history("B", outcome=Outcome.INDETERMINATE, told_at=9.96).violations() == []
    died = history(outcome=Outcome.INDETERMINATE)
    died.died("B", 0.7)
    assert died.violations() == []
    too_late = history(outcome=Outcome.INDETERMINATE)
    too_late.died("B", 1.5)
    assert too_late.violations()


def test_another_requests_answer_and_a_second_end_and_what_nobody_asked_are_seen() -> None:
    wrong = history("B", outcome=Outcome.OK, right=False)
    wrong.told("1", Outcome.OK, 2.0)
    wrong.ran("2", "B", 2.0)
    assert wrong.violations() == ["1 ended twice: ok, then ok", "2 ran at B, and nobody had asked it"]
    assert history("B", outcome=Outcome.OK, right=False).violations() == ["1 (A to B): it was given another's answer"]


def test_what_overtakes_within_a_key_is_seen_and_across_keys_it_may() -> None:
    made = History()
    for number, key in (("1", "x"), ("2", "y"), ("3", "x"), ("4", None)):
        made.asked(number, "A", "B", deadline=9, key=key)
    for number in ("4", "3", "2", "1"):
        made.ran(number, "B", 1.0)
        made.told(number, Outcome.OK, 2.0)
    assert made.violations() == ["3 ran before 1 (A to B, key x)"]
    assert made.counts() == {"ok": 4, "raised": 0, "not executed": 0, "indeterminate": 0, "cancelled": 0}


def test_a_lenient_history_allows_doubt_and_nothing_else() -> None:
    made = History(strict=False)
    for number in ("1", "2"):
        made.asked(number, "A", "B", deadline=10.0)
        made.ran(number, "B", 0.5)
    made.told("1", Outcome.INDETERMINATE, 1.0)
    made.told("2", Outcome.NOT_EXECUTED, 1.0)
    assert made.violations() == ["2 (A to B): it was told not executed, and ran"]
    assert made.outcome("1") is Outcome.INDETERMINATE
