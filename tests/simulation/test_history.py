"""The checker of histories finds each kind of wrong."""

from __future__ import annotations

import pytest

from cellnet.simulation.history import History, Outcome


def history(*ran: str, outcome: Outcome | None, told_at: float = 1.0, right: bool = True) -> History:
    """Return the history of one request from A to B that ran at these places."""
    made = History()
    made.asked("1", "A", "B", deadline=10.0)
    for where in ran:
        made.ran("1", where, 0.5, asked_by="A")
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
    wrong.ran("2", "B", 2.0, asked_by="A")
    assert wrong.violations() == ["1 ended twice: ok, then ok", "2 ran at B, and nobody had asked it"]
    assert history("B", outcome=Outcome.OK, right=False).violations() == ["1 (A to B): it was given another's answer"]


def test_what_overtakes_within_a_key_is_seen_and_across_keys_it_may() -> None:
    made = History()
    for number, key in (("1", "x"), ("2", "y"), ("3", "x"), ("4", None)):
        made.asked(number, "A", "B", deadline=9, key=key)
    for number in ("4", "3", "2", "1"):
        made.ran(number, "B", 1.0, asked_by="A")
        made.ended(number, "B", 1.0)
        made.told(number, Outcome.OK, 2.0)
    assert made.violations() == ["3 ran before 1 (A to B, key x)"]
    assert made.counts() == {"ok": 4, "raised": 0, "not executed": 0, "indeterminate": 0, "cancelled": 0}


def test_what_begins_before_an_earlier_one_with_the_same_key_ended_is_seen() -> None:
    made = History()
    for number, key in (("1", "x"), ("2", "y"), ("3", None), ("4", "x")):
        made.asked(number, "A", "B", deadline=9, key=key)
        made.ran(number, "B", 1.0, asked_by="A")
        made.told(number, Outcome.OK, 2.0)
    assert made.violations() == ["4 began at B before 1 ended, which has the same key"]


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "runs"])
@pytest.mark.parametrize("is_restarted", [True, False], ids=["restarted", "same start"])
@pytest.mark.parametrize("called", ["R1.A", "R2.A"])
def test_a_key_orders_what_one_start_asks_and_what_is_asked_under_one_name(
    has_ended: bool, is_restarted: bool, called: str
) -> None:
    made = History()
    for number in ("1", "2"):
        made.asked(number, "A", "B", deadline=9, key="x")
        if is_restarted and number == "1":
            made.died("A", 0.5)
    for number, name in (("2", called), ("1", "R1.A")):
        made.ran(number, "B", 1.0, asked_by="A", called=name)
        if has_ended:
            made.ended(number, "B", 1.0)
        made.told(number, Outcome.INDETERMINATE, 9.0)
    found = ["2 ran before 1 (A to B, key x)"]
    if not has_ended:
        found.insert(0, "1 began at B before 2 ended, which has the same key")
    assert made.violations() == ([] if is_restarted and called == "R2.A" else found)


def test_whoever_dies_runs_nothing_any_more() -> None:
    made = History()
    for number in ("1", "2"):
        made.asked(number, "A", "B", deadline=9, key="x")
        made.ran(number, "B", 1.0, asked_by="A")
        made.told(number, Outcome.CANCELLED, 2.0)
        made.died("B", 3.0)
    assert made.violations() == []


def test_a_request_in_the_name_of_another_is_seen() -> None:
    made = History()
    made.asked("1", "A", "B", deadline=9)
    made.ran("1", "B", 1.0, asked_by="C")
    made.told("1", Outcome.OK, 2.0)
    assert made.violations() == ["1 ran at B in the name of C, and A asked it"]


def test_what_was_refused_may_still_run_only_where_somebody_sends_it_again() -> None:
    for has_replays in (False, True):
        made = History(has_replays=has_replays)
        made.asked("1", "A", "B", deadline=9)
        made.told("1", Outcome.NOT_EXECUTED, 1.0)
        made.ran("1", "B", 2.0, asked_by="A")
        assert made.violations() == ([] if has_replays else ["1 (A to B): it was told not executed, and ran"])


def test_it_is_known_who_was_in_doubt_and_how_long_somebody_worked_in_vain() -> None:
    made = History()
    assert made.longest_in_vain() == 0
    for number, key in (("1", "x"), ("2", None)):
        made.asked(number, "A", "B", deadline=10.0, key=key)
        made.ran(number, "B", 0.5, asked_by="A")
        made.told(number, Outcome.INDETERMINATE, 9.96)
        made.ended(number, "B", 11.0)
    assert made.in_doubt(with_key=True) == ["1"]
    assert made.in_doubt(with_key=False) == ["2"]
    assert made.longest_in_vain() == pytest.approx(1.04)
    assert made.outcome("1") is Outcome.INDETERMINATE
    assert made.violations() == []
