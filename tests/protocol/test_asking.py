"""What a cell asks: requests are repeated until they are answered, and what is said of one is never a guess."""

from __future__ import annotations

from itertools import accumulate

import pytest

from cellnet.errors import (
    Busy,
    DeadlineBeforeExecution,
    DeadlineExceeded,
    Indeterminate,
    RemoteProtocolError,
    StillBusy,
    StillUnreachable,
    Unreachable,
)
from cellnet.fqcn import FQCN
from cellnet.protocol import asking as asking_module
from cellnet.protocol.claim import names
from cellnet.protocol.envelope import Answer, Content, Status, part
from cellnet.protocol.events import Failed, Replied
from cellnet.protocol.frames import Kind, pack
from tests.protocol.conftest import MINUTE
from tests.protocol.halves import A, Asker, B, C

D, X_B, Y_B = FQCN("D"), FQCN("X.B"), FQCN("Y.B")


def error_of(asker: Asker) -> type:
    (failed,) = asker.happened(Failed)
    return type(failed.error)


# Answers


def test_the_first_reply_ends_a_request_and_a_second_one_is_no_news() -> None:
    asker = Asker.opened_to(B)
    call = asker.ask()
    asker.reply(2, payload=b"!")
    asker.reply(2, payload=b"?")
    assert asker.happened() == [Replied(call, B, Status.OK, 0, b"!")]
    assert (asker.refused, asker.asking.pending) == (1, 0)


def test_what_the_handler_raised_is_an_answer() -> None:
    asker = Asker.opened_to(B)
    call = asker.ask(once=False)
    asker.reply(2, Status.RAISED, b"why")
    assert asker.happened() == [Replied(call, B, Status.RAISED, 0, b"why")]


def test_a_reply_from_another_source_in_another_session_or_heard_before_is_no_news() -> None:
    asker = Asker.opened_to(B, C)
    asker.ask(B)
    asker.ask(C)
    asker.reply(2, source=A)
    asker.reply(2, source=C)
    asker.reply(2, session=8)
    asker.reply(2, session=0)
    asker.reply(2, session=9)
    asker.reply(1, counter=50)
    asker.reply(2, counter=50)
    asker.reply(3)
    assert (asker.happened(), asker.asking.pending) == ([], 2)
    assert asker.refused == 8
    asker.reply(2)
    asker.reply(2, session=8, source=C)
    assert [event.source for event in asker.happened()] == [B, C]


def test_a_reply_in_a_session_that_was_left_is_no_news() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.closed(7, 2)
    asker.reply(2)
    asker.opened(8, 2)
    asker.reply(2)
    assert (asker.happened(), asker.refused) == ([], 2)
    asker.reply(2, session=8)
    assert len(asker.happened(Replied)) == 1


@pytest.mark.parametrize("body", [b"", b"\xff\xff", Answer(2, 0, 5, 0, b"").pack()])
def test_a_malformed_reply_leaves_the_request_pending(body: bytes) -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    with pytest.raises(RemoteProtocolError):
        asker.asking.reply_received(B, pack(7, 60), body, asker.now)
    with pytest.raises(RemoteProtocolError):
        asker.asking.reply_received(B, pack(7, "60"), body, asker.now)
    assert asker.asking.pending == 1
    asker.reply(2)
    assert len(asker.happened(Replied)) == 1


# Limits


def test_the_limit_of_what_is_awaited_counts_by_destination_and_a_refused_call_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking_module, "MAX_PENDING", 3)
    asker = Asker.opened_to(B)
    asker.ask(B, C)
    asker.take()
    with pytest.raises(Busy, match="already waits for 2 answers"):
        asker.ask(B, A)
    assert len(asker.asking.sessions) == 2
    asker.ask(B, B)
    for refused in (lambda: asker.ask(B), lambda: asker.tell(to=A), lambda: asker.tell(to=C)):
        with pytest.raises(Busy):
            refused()
    asker.tell(to=B)
    assert asker.asking.pending == 3
    assert len(asker.asking.sessions) == 3
    asker.reply(3)
    asker.tell(to=C)
    assert [frame.order.sequence for frame in asker.take(Kind.REQUEST)] == [3]


def test_unanswered_requests_make_room_at_their_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "MAX_PENDING", 2)
    asker = Asker()
    asker.ask(B, within=1)
    asker.tell(to=C, within=1)
    with pytest.raises(Busy):
        asker.ask(A)
    asker.wait(1)
    asker.ask(A)
    assert asker.asking.pending == 1
    asker.wait(1)  # an event is forgotten when its OPEN would be repeated
    asker.ask(A)
    assert (asker.asking.pending, asker.asking.untold) == (2, 0)


def test_a_call_to_nobody_asks_nobody() -> None:
    asker = Asker()
    content = Content.of("t", 0, b"", "")
    call = asker.asking.ask([], content, deadline=MINUTE, now=0.0, once=True, key="")
    assert asker.give_up(call) == []
    assert (asker.take(), asker.asking.pending) == ([], 0)


# Giving up


def test_giving_up_on_nothing_returns_nothing() -> None:
    asker = Asker.opened_to(B)
    call = asker.ask()
    asker.reply(2)
    for number in (0, call, call + 1):
        assert asker.give_up(number) == []
    assert asker.settled() == []


def test_who_still_owes_an_answer_is_told_when_it_is_given_up_and_the_answerers_too_if_they_may_know() -> None:
    asker = Asker.opened_to(B, C)
    call = asker.ask(B, C, A)
    asker.wait(0.5)
    assert [entry.destination for entry in asker.broadcasts[0][0]] == [B, C]
    asker.reply(2)
    asker.nack(8, 1, source=C)
    assert asker.give_up(call) == [(C, "StillUnreachable"), (A, "DeadlineBeforeExecution")]
    assert asker.settled() == []
    assert asker.give_up(asker.ask(B)) == [(B, "DeadlineExceeded")]
    assert asker.settled() == [[[1, 4]]]
    assert (asker.asking.pending, asker.happened(Failed)) == (0, [])


def test_what_waits_for_the_others_of_its_broadcast_is_given_up_before_it_leaves() -> None:
    asker = Asker.opened_to(B)
    for cells in ((B, C), (C, B)):
        assert asker.give_up(asker.ask(*cells)) == [(name, "DeadlineBeforeExecution") for name in cells]
    asker.wait(5)
    assert asker.broadcasts == []


def test_what_is_given_up_while_its_session_is_left_is_told_in_the_next_one() -> None:
    asker = Asker.opened_to(B)
    call = asker.ask()
    asker.ask()
    asker.closed(7, 3)
    asker.give_up(call)
    assert asker.settled() == []
    asker.opened(8, 2)
    assert [frame.kind for frame in asker.sent] == [Kind.REQUEST, Kind.SETTLED]
    assert asker.settled() == [[[1, 3]]]


# Repetition


def test_without_news_a_request_is_sent_again_ever_more_rarely() -> None:
    asker = Asker.opened_to(B)
    asker.ask(within=200)
    times = list(accumulate([2, 4, 8, 16, 30, 30, 30, 30, 30]))
    assert [one for one in asker.wait(199) if one[1] is Kind.REQUEST] == [(when, Kind.REQUEST) for when in times]
    requests = asker.take(Kind.REQUEST)
    assert [frame.numbers for frame in requests] == [(7, counter) for counter in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11)]
    assert {(frame.order.sequence, frame.order.floor) for frame in requests} == {(2, 2)}
    assert asker.asking.repeated == 9


def test_what_is_worked_on_is_asked_for_every_30_seconds() -> None:
    asker = Asker.opened_to(B)
    asker.ask(within=100)
    asker.wait(1)
    asker.reply(2, Status.WORKING)
    asker.take()
    times = [when for when, kind in asker.wait(90) if kind is Kind.REQUEST]
    assert times == [30, 60, 90]
    assert asker.happened() == []


@pytest.mark.parametrize("random", [0.0, 1.0])
@pytest.mark.parametrize("by", ["nack", "busy"])
def test_after_bad_news_a_request_is_sent_again_after_pauses_that_double_with_jitter(by: str, random: float) -> None:
    asker = Asker.opened_to(B)
    asker.random = random
    asker.ask()
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1):
        counter = asker.take(Kind.REQUEST)[-1].numbers[1]
        if by == "busy":
            asker.reply(2, Status.BUSY, to=counter)
        else:
            asker.nack(7, counter)
        when = round((0.5 + random / 2) * pause, 6)
        assert asker.wait(when) == [(when, Kind.REQUEST)]


def test_after_bad_news_and_a_new_transmission_silence_is_short_again() -> None:
    asker = Asker.opened_to(B)
    asker.ask(within=200)
    asker.wait(65)
    counter = asker.take(Kind.REQUEST)[-1].numbers[1]
    asker.nack(7, counter)
    assert asker.wait(6.1) == [(0.05, Kind.REQUEST), (2.05, Kind.REQUEST), (6.05, Kind.REQUEST)]


def test_a_request_that_cannot_leave_is_tried_again_after_pauses() -> None:
    asker = Asker.opened_to(B)
    asker.error = Busy("the link is full")
    asker.ask(within=1)
    pauses = [0.05, 0.1, 0.2, 0.4]
    assert asker.wait(0.9) == [(round(when, 6), Kind.REQUEST) for when in accumulate(pauses)]
    asker.wait(1)
    assert error_of(asker) is StillBusy


def test_a_nack_is_news_only_of_a_transmission_that_is_under_way_in_this_session() -> None:
    asker = Asker.opened_to(B)
    asker.ask(once=False)
    for number, counter, source in ((7, 2, B), (8, 1, B), (7, 1, C), (0, 1, C)):
        asker.nack(number, counter, source=source)
        assert asker.happened() == []
    asker.nack(7, 1)
    assert error_of(asker) is Unreachable
    asker.nack(7, 1)
    assert asker.happened() == []


def test_a_counter_of_an_earlier_session_is_not_taken_for_one_of_the_present_session() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.ask()
    asker.wait(2)
    asker.reply(2)
    asker.closed(7, 99)
    asker.opened(8, 2)
    assert asker.take(Kind.REQUEST)[-1].numbers == (8, 1)
    asker.nack(8, 4)
    assert [kind for _when, kind in asker.wait(1)] == []
    asker.ask(once=False)
    asker.reply(3, session=8)
    asker.happened()
    asker.nack(8, 2)
    assert error_of(asker) is Unreachable


# What is said at the end


@pytest.mark.parametrize(
    ("news", "error"),
    [
        ((), DeadlineExceeded),
        (("nack",), StillUnreachable),
        (("full",), StillBusy),
        (("busy",), StillBusy),
        (("working",), DeadlineExceeded),
        (("again", "nack"), DeadlineExceeded),
    ],
)
def test_at_its_deadline_a_request_ends_as_what_is_known_of_it(news: tuple[str, ...], error: type) -> None:
    asker = Asker.opened_to(B)
    asker.ask(within=3)
    if "again" in news:
        asker.wait(2.5)
    asker.wait(0.499)
    counter = asker.take(Kind.REQUEST)[-1].numbers[1]
    if "nack" in news or "full" in news:
        asker.error = Unreachable("gone") if "nack" in news else Busy("full")
        asker.nack(7, counter, busy="full" in news)
    elif news:
        asker.reply(2, Status[news[0].upper()], to=counter)
        asker.error = Busy("full")
    asker.wait(3)
    assert error_of(asker) is error


def test_what_the_first_open_carried_and_found_no_room_was_not_executed() -> None:
    asker = Asker()
    asker.ask(within=1)
    asker.opened()
    asker.reply(1, Status.BUSY, to=0)
    asker.error = Busy("full")
    asker.wait(1)
    assert error_of(asker) is StillBusy


def test_what_could_not_be_sent_at_all_was_not_executed() -> None:
    asker = Asker()
    asker.ask(within=1)
    asker.nack(0, 1)
    asker.wait(1)
    assert error_of(asker) is StillUnreachable
    asker = Asker.opened_to(B)
    asker.ask(B, C, within=0.3)
    asker.wait(1)
    assert [type(failed.error) for failed in asker.happened(Failed)] == [DeadlineBeforeExecution] * 2


def test_what_is_in_doubt_from_an_earlier_session_is_not_said_to_be_not_executed() -> None:
    asker = Asker.opened_to(B)
    asker.ask(once=False)
    asker.closed(7, 9)
    asker.nack(0, 2)
    assert error_of(asker) is Indeterminate


def test_the_answerer_is_told_at_once_of_what_ended_at_its_deadline_and_may_still_run() -> None:
    asker = Asker.opened_to(B)
    asker.ask(within=1)
    asker.wait(1)
    assert error_of(asker) is DeadlineExceeded
    assert asker.settled() == [[[1, 3]]]


# A new name


def test_what_is_in_doubt_when_the_cell_moves_is_asked_again_under_the_name_that_it_had() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.ask()
    asker.nack(7, 1)
    asker.take()
    asker.name = C
    asker.asking.moved(asker.now)
    asker.reply(2)
    assert asker.happened() == []  # it was asked in a session that is left
    asker.wait(1)
    assert [names(part(frame.body)[0]) for frame in asker.take(Kind.OPEN)] == [(A, B)]
    asker.opened(8, 2)
    assert [(frame.destination, frame.order.sequence) for frame in asker.take(Kind.REQUEST)] == [(B, 2), (B, 3)]
    asker.ask(D)
    assert [names(part(frame.body)[0]) for frame in asker.take(Kind.OPEN)] == [(C, D)]


def test_who_moved_and_says_so_is_asked_where_it_is_and_answers_under_the_name_that_it_had() -> None:
    asker, moved = Asker.opened_to(X_B), Y_B
    call = asker.ask(X_B)
    asker.take()
    asker.asking.lost(X_B.__eq__, asker.now)
    asker.wait(1)
    asker.opened(8, 2, source=X_B, at=moved)
    assert [frame.destination for frame in asker.take(Kind.REQUEST)] == [moved]
    asker.reply(2, session=8, source=C)  # who is another
    assert asker.happened() == []
    asker.reply(2, session=8, source=moved)
    assert [(event.call, event.source) for event in asker.happened(Replied)] == [(call, X_B)]
    asker.ask(moved)  # is another session, with requests of its own
    assert [names(part(frame.body)[0]) for frame in asker.take(Kind.OPEN)] == [(A, moved)]
    asker.opened(9, source=moved)
    asker.ask(X_B), asker.ask(moved)
    asker.reply(3, session=8, source=moved), asker.reply(2, session=9, source=moved)
    assert [event.source for event in asker.happened(Replied)] == [X_B, moved]
    asker.closed(8, 3, source=X_B, at=moved)
    assert [frame.destination for frame in asker.take(Kind.OPEN)] == []
    asker.ask(X_B)
    assert [frame.destination for frame in asker.take(Kind.OPEN)] == [X_B]


def test_where_an_answerer_is_is_learned_from_each_answer() -> None:
    asker = Asker.opened_to(X_B)
    asker.ask(X_B)
    asker.take()
    asker.reply(2, session=7, source=Y_B)  # it has moved, and nobody told of the way that broke
    assert [event.source for event in asker.happened(Replied)] == [X_B]
    asker.ask(X_B)
    (sent,) = asker.take(Kind.REQUEST)
    assert sent.destination == Y_B
    asker.nack(*sent.numbers, source=Y_B, busy=True)
    asker.wait(1)
    (sent,) = asker.take(Kind.REQUEST)
    assert sent.destination == Y_B
    asker.closed(*sent.numbers, source=X_B, at=FQCN("Z.B"))
    assert [frame.destination for frame in asker.take(Kind.OPEN)] == [X_B]


def test_who_is_not_where_it_was_last_is_looked_for_under_its_first_name() -> None:
    asker = Asker.opened_to(X_B)
    asker.ask(X_B)
    asker.take()
    asker.reply(2, session=7, source=Y_B)
    asker.ask(X_B)
    (sent,) = asker.take(Kind.REQUEST)
    asker.nack(*sent.numbers, source=Y_B)
    asker.wait(1)
    assert [(frame.kind, frame.destination) for frame in asker.take()] == [(Kind.OPEN, X_B)]


def test_who_answers_from_where_no_way_leads_is_looked_for_under_its_first_name() -> None:
    asker = Asker()
    for _ in range(3):  # the first of which OPEN carries
        asker.ask(X_B)
    asker.error = Unreachable("no cell Y.B is present")
    asker.opened(source=X_B, at=Y_B, attempt=1)
    asker.wait(0.3)
    asker.error = None
    asker.take()
    asker.wait(1)
    assert [(frame.kind, frame.destination) for frame in asker.take()] == [(Kind.OPEN, X_B)]


def test_who_is_asked_by_two_former_names_has_two_sessions() -> None:
    asker, moved = Asker(), FQCN("Z.B")
    calls = [asker.ask(X_B), asker.ask(Y_B)]
    asker.opened(7, source=X_B, at=moved), asker.opened(8, source=Y_B, at=moved)
    assert [frame.destination for frame in asker.take(Kind.REQUEST)] == []  # OPEN carried them
    asker.reply(1, session=9, source=moved)
    assert asker.refused == 1
    for number, call, name in zip((8, 7), reversed(calls), (Y_B, X_B), strict=True):
        asker.reply(1, session=number, source=moved)
        assert [(event.call, event.source) for event in asker.happened(Replied)] == [(call, name)]
    asker.ask(X_B), asker.ask(Y_B)
    asker.asking.lost(moved.__eq__, asker.now)
    assert asker.asking.sessions._open == {}
    asker.take()
    asker.asking.reachable(X_B.__eq__, asker.now)  # which it is called again
    assert [frame.destination for frame in asker.take(Kind.OPEN)] == [X_B]
    asker.reply(1, session=7, source=moved)
    assert asker.refused == 2


def test_an_answer_from_a_cell_with_another_base_name_is_none() -> None:
    asker = Asker()
    asker.ask(X_B)
    asker.opened(8, source=X_B, at=C)
    assert asker.asking.sessions.refused == 1
    assert asker.take(Kind.REQUEST) == []
