"""What is told of a session as a whole: what is settled, who follows whom, and events."""

from __future__ import annotations

import pytest

from cellnet.errors import Busy, Unreachable
from cellnet.protocol import asking as asking_module
from cellnet.protocol.envelope import MAX_RANGES
from cellnet.protocol.frames import INLINE_LIMIT, Kind
from tests.protocol.conftest import MINUTE
from tests.protocol.halves import Asker, B, Sent

# What is settled


def test_what_is_settled_is_told_after_ten_seconds_and_once() -> None:
    asker = Asker.opened_to(B)
    assert asker.wait(MINUTE) == [(10, Kind.SETTLED)]
    assert asker.settled() == [[[1, 2]]]
    asker.ask()
    asker.wait(5)
    asker.reply(2)
    asker.ask()
    asker.reply(3)
    asker.take()
    assert asker.wait(MINUTE) == [(10, Kind.SETTLED)]
    assert asker.settled() == [[[1, 4]]]
    assert len(asker.timers) == 0


def test_what_is_settled_is_told_at_once_when_a_mebibyte_of_answers_is_kept() -> None:
    asker = Asker.opened_to(B)
    for sequence in range(2, 2 + 17):
        asker.ask()
        asker.reply(sequence, payload=bytes(INLINE_LIMIT))
        assert asker.settled() == ([[[1, 18]]] if sequence == 17 else [])


def test_every_request_says_up_to_where_nothing_is_pending() -> None:
    asker = Asker.opened_to(B)
    for _ in range(3):
        asker.ask()
    asker.reply(3)
    asker.ask()
    asker.reply(2)
    asker.ask()
    asker.tell()
    assert [(frame.order.sequence, frame.order.floor) for frame in asker.take()] == [
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 4),
        (0, 4),
    ]


def test_only_the_lowest_ranges_of_what_is_settled_are_told_at_a_time() -> None:
    asker = Asker.opened_to(B)
    for _ in range(2 * 70):
        asker.ask()
    for sequence in range(2, 140, 2):
        asker.reply(sequence)
    asker.take()
    asker.wait(10)
    assert asker.settled() == [[[1, 3], *([n, n + 1] for n in range(4, 130, 2))]]


def test_a_settlement_that_cannot_leave_is_counted_and_forgotten() -> None:
    asker = Asker.opened_to(B)
    asker.error = Unreachable("no link")
    assert asker.wait(MINUTE) == [(10, Kind.SETTLED)]
    assert asker.refused == 1


def test_what_was_given_up_is_settled_when_nothing_before_it_with_its_key_is_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking_module, "MAX_PENDING", 3)
    asker = Asker.opened_to(B)
    calls = [asker.ask(key="k") for _ in range(3)]
    asker.give_up(calls[1])
    assert asker.told()[-1] == [[[1, 2]], [[3, 4]]]
    with pytest.raises(Busy):
        asker.ask()
    asker.reply(2)
    assert asker.settled() == [[[1, 4]]]
    asker.ask()
    asker.ask()


def test_of_what_was_given_up_and_is_not_settled_the_latest_are_told() -> None:
    asker = Asker.opened_to(B)
    calls = [asker.ask(key=key) for key in ("j", "k") for _ in range(MAX_RANGES + 2)]
    for call in calls[1 : MAX_RANGES + 2]:
        asker.give_up(call)
    first = 2  # the number of the first call
    assert asker.told()[-1][1] == [[first + 2, first + MAX_RANGES + 2]]
    asker.reply(first)
    assert asker.told() == [[[[1, first + MAX_RANGES + 2]], []]]


def test_the_answerer_is_told_at_once_that_nobody_need_wait_for_what_never_came() -> None:
    asker = Asker.opened_to(B)
    for key in ("k", ""):
        call = asker.ask(key=key)
        asker.ask(key=key)
        counter = asker.take(Kind.REQUEST)[0].numbers[1]
        asker.nack(7, counter)
        asker.give_up(call)
        assert len(asker.settled()) == (1 if key else 0)


# Ordering keys


def orders(frames: list[Sent]) -> list[tuple[int, str, int]]:
    return [(order.sequence, order.key, order.after) for order in (frame.order for frame in frames)]


def test_a_message_with_a_key_names_the_one_before_it_that_is_not_answered() -> None:
    asker = Asker.opened_to(B)
    for key in ("k", "l", "k", "k", ""):
        asker.ask(key=key)
    asker.tell(key="k")
    asker.tell(key="m")
    assert orders(asker.take()) == [
        (2, "k", 0),
        (3, "l", 0),
        (4, "k", 2),
        (5, "k", 4),
        (6, "", 0),
        (0, "k", 5),
        (0, "m", 0),
    ]
    asker.reply(4)
    asker.reply(3)
    asker.wait(2)
    assert orders(asker.take()) == [(2, "k", 0), (5, "k", 2), (6, "", 0)]


def test_a_message_with_a_key_names_none_that_was_given_up() -> None:
    asker = Asker.opened_to(B)
    _first, second = asker.ask(key="k"), asker.ask(key="k")
    asker.take()
    asker.give_up(second)
    asker.ask(key="k")
    asker.tell(key="k")
    assert orders(asker.take(Kind.REQUEST, Kind.EVENT)) == [(4, "k", 2), (0, "k", 4)]


def test_an_event_that_waits_for_its_session_follows_the_request_before_it_unless_that_was_answered() -> None:
    asker = Asker.opened_to(B)
    first = asker.ask(key="k")
    asker.closed(7, 1)
    asker.tell(key="k")
    asker.ask(key="k")
    asker.tell(key="k")
    asker.give_up(first)
    asker.take()
    asker.opened(8, 2)
    assert orders(asker.take(Kind.EVENT, Kind.REQUEST)) == [(0, "k", 0), (0, "k", 3), (3, "k", 0)]


# Events


def test_an_event_waits_for_its_session_and_is_sent_once() -> None:
    asker = Asker()
    asker.tell("one")
    asker.tell("two", within=1)
    asker.wait(1.5)
    asker.tell("three")
    asker.take()
    asker.opened()
    assert [frame.content.topic for frame in asker.take(Kind.EVENT)] == ["one", "two", "three"]
    assert (asker.asking.untold, asker.asking.pending) == (0, 0)
    asker.ask()
    asker.closed(7, 9)
    asker.opened(8, 2)
    assert asker.kinds() == [Kind.REQUEST, Kind.OPEN, Kind.REQUEST]


def test_an_event_that_waited_and_cannot_leave_is_counted_but_a_later_one_is_refused() -> None:
    asker = Asker()
    asker.tell()
    asker.error = Unreachable("no link")
    asker.opened()
    assert asker.refused == 1
    with pytest.raises(Unreachable):
        asker.tell()
