"""What a cell is asked: each request runs once, and its reply is kept until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.errors import RemoteProtocolError, Unreachable
from cellnet.protocol import answering as answering_module
from cellnet.protocol.answering import HOLD_SECONDS, RECORD_BYTES, RECORD_SECONDS
from cellnet.protocol.envelope import MAX_RANGES, Status, unpack_ranges
from cellnet.protocol.events import Cancelled, Message
from cellnet.protocol.frames import Kind, pack
from tests.protocol.conftest import MINUTE, Net, request_body
from tests.protocol.halves import A, Answerer, C

if TYPE_CHECKING:
    from collections.abc import Callable


def payloads(answerer: Answerer) -> list[bytes]:
    """Return what started since the last call."""
    return [message.payload for message in answerer.happened(Message)]


# Once


def test_a_request_that_comes_again_does_not_run_again_and_gets_the_same_reply() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, payload=b"?", counter=1)
    (message,) = answerer.happened()
    assert (message.origin, message.epoch, message.sequence, message.payload) == (A, 1, 1, b"?")
    assert not message.doubt
    answerer.request(session, 1, payload=b"?", counter=2)
    assert answerer.answers() == [(1, Status.WORKING)]
    answerer.answer(message.number, payload=b"!")
    answerer.request(session, 1, payload=b"?", counter=3)
    replies = answerer.take(Kind.REPLY)
    assert [(frame.answer.status, frame.answer.payload) for frame in replies] == [(Status.OK, b"!")] * 2
    assert [frame.answer.counter for frame in replies] == [1, 3]
    assert [frame.numbers for frame in replies] == [(session, 2), (session, 3)]
    assert (answerer.happened(), answerer.refused) == ([], 2)


def test_a_frame_that_comes_again_is_not_even_answered_again() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, counter=4)
    answerer.take()
    answerer.request(session, 1, counter=4)
    answerer.event(session, counter=4)
    answerer.settled(session, (1, 2), counter=4)
    assert (answerer.take(), answerer.refused) == ([], 3)
    assert [type(event) for event in answerer.happened()] == [Message]


def test_the_same_sequence_from_another_origin_or_another_start_is_another_request() -> None:
    answerer = Answerer()
    for origin, epoch, payload in ((A, 1, b"1"), (C, 1, b"2"), (A, 2, b"3")):
        session = answerer.open(origin, epoch=epoch)
        answerer.request(session, 1, origin=origin, payload=payload)
    events = answerer.happened()
    assert [event.payload for event in events if isinstance(event, Message)] == [b"1", b"2", b"3"]
    assert [event.number for event in events if isinstance(event, Cancelled)] == [events[0].number]
    assert answerer.answering.records == 2
    assert answerer.answering.running == 3
    answerer.answering.stopped(events[0].number)
    assert answerer.answering.running == 2


def test_the_same_request_in_another_session_of_one_start_is_the_same() -> None:
    answerer = Answerer()
    first = answerer.open()
    answerer.request(first, 1)
    second = answerer.open(nonce=2)
    assert second != first
    answerer.take()
    answerer.request(second, 1)
    assert answerer.answers() == [(1, Status.WORKING)]
    (message,) = answerer.happened(Message)
    answerer.answer(message.number)
    assert [frame.numbers[0] for frame in answerer.take(Kind.REPLY)] == [second]


def test_what_may_have_run_at_an_earlier_start_is_said_to_the_owner() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, doubt=True)
    (message,) = answerer.happened()
    assert message.doubt
    answerer.answer(message.number, Status.UNKNOWN)
    assert answerer.answers() == [(1, Status.UNKNOWN)]


# Deadlines


def test_a_message_ends_when_its_asker_said_whatever_relays_say() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, within=MINUTE, within_ms=2000)
    answerer.request(session, 2, within=2, within_ms=60_000)
    answerer.event(session, within_ms=2000)
    assert [message.deadline for message in answerer.happened()] == [answerer.now + 2] * 3
    answerer.now += 2 + RECORD_SECONDS
    answerer.answering.expire(answerer.now)
    assert answerer.answering.records == 2
    answerer.answering.expire(answerer.now + 0.1)
    assert answerer.answering.records == 0
    assert [type(event) for event in answerer.happened()] == [Cancelled] * 2


def test_what_waits_for_its_turn_until_its_deadline_never_starts() -> None:
    net = Net.tree("A")
    for number in range(3):
        net.request("server", "A", topic="hold", payload=str(number).encode(), key="k", deadline=net.now + 5)
    net.tick(10)
    assert [message.payload for message in net.received("A", Message)] == [b"0"]
    assert len(net.received("A", Cancelled)) == 1


def test_what_waits_for_its_turn_does_not_start_after_its_deadline_though_its_record_is_kept_a_little_longer() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, key="k")
    answerer.request(session, 2, key="k", within=1)
    answerer.now += 1 + RECORD_SECONDS / 2
    answerer.answering.expire(answerer.now)
    (first,) = answerer.happened()
    answerer.answer(first.number)
    assert answerer.happened() == []
    assert answerer.answering.records == 1


def test_a_request_that_comes_after_its_deadline_was_noted_does_not_run() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, within=1)
    answerer.now += 3
    answerer.answering.expire(answerer.now)
    answerer.happened()
    answerer.request(session, 1)
    assert (answerer.happened(), answerer.answers()) == ([], [])


# The owner's side


def test_a_late_end_of_a_message_is_harmless() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2):
        answerer.request(session, sequence)
    first, second = answerer.happened(Message)
    answerer.take()
    answerer.answer(99)
    answerer.answering.stopped(99)
    answerer.answer(first.number)
    answerer.answer(first.number, Status.RAISED)
    answerer.answering.stopped(first.number)
    answerer.settled(session, (1, 3))
    assert answerer.happened() == [Cancelled(second.number)]
    answerer.answer(second.number)
    answerer.answer(second.number)
    answerer.answering.stopped(second.number)
    assert answerer.answers() == [(1, Status.OK)]
    assert (answerer.answering.running, answerer.answering.records, answerer.answering.cached_bytes) == (0, 0, 0)


def test_what_is_stopped_gives_no_answer_and_is_not_cancelled_again() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, key="k")
    answerer.request(session, 2, key="k")
    (message,) = answerer.happened()
    answerer.answering.stopped(message.number)
    assert [event.sequence for event in answerer.happened()] == [2]
    answerer.settled(session, (1, 2))
    assert answerer.happened() == []
    assert answerer.answers() == []
    assert (answerer.answering.running, answerer.answering.records) == (1, 1)


def test_an_answer_that_cannot_leave_is_counted_and_kept() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    answerer.error = Unreachable("no link")
    answerer.answer(answerer.happened()[0].number)
    assert answerer.refused == 1
    answerer.error = None
    answerer.request(session, 1)
    assert answerer.answers() == [(1, Status.OK)]


# Settled


def test_below_the_floor_nothing_is_kept_and_nothing_runs() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2, 4):
        answerer.request(session, sequence)
    answerer.request(session, 5, floor=4)
    assert [type(event) for event in answerer.happened()] == [Message] * 3 + [Cancelled] * 2 + [Message]
    assert answerer.answering.records == 2
    answerer.request(session, 3, floor=1)
    answerer.request(session, 2, floor=2)
    assert answerer.happened() == []
    answerer.event(session, floor=6)
    assert answerer.answering.records == 0


def test_a_settlement_counts_only_from_the_same_origin_in_its_session_and_only_once() -> None:
    answerer = Answerer()
    session = answerer.open()
    other = answerer.open(C)
    answerer.request(session, 1)
    answerer.request(other, 1, origin=C)
    answerer.happened()
    answerer.take()
    answerer.settled(session, (1, 2), origin=C)
    answerer.settled(other + 1, (1, 2))
    assert [(frame.destination, frame.kind) for frame in answerer.take()] == [(C, Kind.CLOSED), (A, Kind.CLOSED)]
    assert answerer.answering.records == 2
    answerer.settled(session, (1, 2))
    answerer.settled(session, (1, 2))
    (cancelled,) = answerer.happened()
    assert isinstance(cancelled, Cancelled)
    assert answerer.answering.records == 1


def test_what_is_settled_together_does_not_start_one_another() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2, 3, 4):
        answerer.request(session, sequence, key="k")
    (first,) = answerer.happened()
    answerer.settled(session, (1, 2), (2, 4))
    assert answerer.happened() == [Cancelled(first.number)]
    answerer.answering.stopped(first.number)
    assert [event.sequence for event in answerer.happened()] == [4]


def test_what_is_settled_twice_at_once_ends_once() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2):
        answerer.request(session, sequence)
    first, second = answerer.happened()
    answerer.settled(session, (1, 2), (1, 3), (1, 10**9))
    assert answerer.happened() == [Cancelled(first.number), Cancelled(second.number)]
    assert answerer.answering.records == 0


def test_a_request_that_was_settled_before_it_came_does_not_run() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.settled(session, (3, 10**9))
    answerer.request(session, 3)
    answerer.request(session, 2)
    assert [event.sequence for event in answerer.happened()] == [2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        pack(),
        pack([[1, 2]], 1),
        pack([[n, n + 1] for n in range(1, 2 * MAX_RANGES + 3, 2)]),
        *(pack([one]) for one in ([2, 1], [1, 1], [0, 1], [-1, 1], [1], [1, 2, 3], ["1", 2], [1, True], [1.0, 2], 1)),
    ],
)
def test_a_settlement_that_is_malformed_settles_nothing(body: bytes) -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    with pytest.raises(RemoteProtocolError):
        answerer.answering.settled_received(A, pack(session, 60), body, answerer.now)
    with pytest.raises(RemoteProtocolError):
        answerer.answering.settled_received(A, pack(session, "60"), pack([[1, 2]]), answerer.now)
    assert answerer.answering.records == 1


def test_all_who_asked_are_told_what_may_have_run() -> None:
    answerer = Answerer()
    session = answerer.open(C)
    for sequence in (1, 2, 4):
        answerer.request(session, sequence, origin=C)
    answerer.open(A, request=request_body(1))
    answerer.settled(session, (2, 3), origin=C)
    answerer.wait(1)
    answerer.take()
    answerer.answering.drained(answerer.now)
    told = {drained.destination: unpack_ranges(drained.body) for drained in answerer.take(Kind.DRAINED)}
    assert told == {C: [[(1, 2), (4, 5)]], A: [[(1, 2)]]}
    answerer.request(session, 5, origin=C)
    answerer.event(session, origin=C)
    assert answerer.open(A, nonce=1) == 0
    assert [frame.kind for frame in answerer.take()] == [Kind.REPLY, Kind.CLOSED]
    assert [message.sequence for message in answerer.happened(Message)] == [1, 2, 4, 1]


# Events


def test_events_are_not_remembered_and_pass_when_a_cell_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "MAX_RECORDS", 0)
    answerer = Answerer()
    session = answerer.open()
    answerer.take()
    for payload in (b"1", b"2"):
        answerer.event(session, payload)
    answerer.event(session, b"3", key="k")
    events = answerer.happened(Message)
    assert [event.payload for event in events] == [b"1", b"2", b"3"]
    assert (answerer.answering.records, answerer.answering.running) == (0, 0)
    for event in events:
        answerer.answer(event.number)
    assert (answerer.take(), answerer.answering.cached_bytes, answerer.answering.running) == ([], 0, 0)


def test_an_event_with_a_key_that_was_overtaken_by_another_does_not_run() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.event(session, b"2", counter=2, key="k")
    answerer.event(session, b"1", counter=1, key="k")
    answerer.event(session, b"0", counter=3)
    assert payloads(answerer) == [b"2", b"0"]
    assert answerer.refused == 1


def test_a_limited_number_of_messages_of_one_asker_waits_and_more_events_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering_module, "MAX_HELD", 2)
    answerer = Answerer()
    session = answerer.open()
    for number in range(4):
        answerer.event(session, str(number).encode(), key="k")
    assert answerer.refused == 1
    answerer.request(session, 1, key="k", payload=b"4")
    answerer.event(session, b"5")
    assert answerer.refused == 2
    started = []
    while messages := answerer.happened(Message):
        started += [message.payload for message in messages]
        for message in messages:
            answerer.answer(message.number)
    assert started == [b"0", b"1", b"2", b"4"]


# Ordering keys


def test_requests_with_one_key_run_one_after_the_other_and_one_that_waits_is_worked_on() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 2, key="k", after=1)
    answerer.request(session, 1, key="k")
    answerer.take()
    answerer.request(session, 2, key="k", after=1)
    assert answerer.answers() == [(2, Status.WORKING)]
    (first,) = answerer.happened()
    assert first.sequence == 1
    answerer.answer(first.number)
    (second,) = answerer.happened()
    assert second.sequence == 2


@pytest.mark.parametrize("end", [lambda a, _s, m: a.answer(m.number), lambda a, s, _m: a.settled(s, (1, 2))])
def test_a_request_that_names_one_that_ended_need_not_wait(end: Callable[[Answerer, int, Message], None]) -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    end(answerer, session, answerer.happened()[0])
    answerer.happened()
    answerer.request(session, 2, key="k", after=1)
    assert [event.sequence for event in answerer.happened()] == [2]


def test_a_request_that_follows_one_that_will_never_come_starts_when_that_is_settled() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 2, key="k", after=1)
    assert answerer.happened() == []
    answerer.settled(session, (1, 2))
    assert [event.sequence for event in answerer.happened()] == [2]


def test_another_start_of_an_asker_does_not_wait_for_what_an_earlier_one_left_waiting() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2):
        answerer.request(session, sequence, key="k")
    answerer.event(session, key="k")
    (first,) = answerer.happened()
    later = answerer.open(epoch=2)
    assert answerer.happened() == [Cancelled(first.number)]
    answerer.answering.stopped(first.number)
    answerer.request(later, 1, key="k")
    assert [(event.epoch, event.sequence) for event in answerer.happened()] == [(2, 1)]
    assert answerer.answering.running == 1


def test_another_start_of_an_asker_waits_for_what_still_runs_of_an_earlier_one() -> None:
    answerer = Answerer()
    answerer.request(answerer.open(), 1, key="k")
    (first,) = answerer.happened()
    later = answerer.open(epoch=2)
    answerer.request(later, 2, key="k", after=1)  # another 1, which is late
    answerer.request(later, 3, key="other")
    answerer.happened()
    answerer.answering.stopped(first.number)
    assert answerer.happened() == []
    answerer.request(later, 1, key="k")
    (second,) = answerer.happened()
    assert (second.epoch, second.sequence) == (2, 1)
    answerer.answer(second.number)
    assert [(event.epoch, event.sequence) for event in answerer.happened()] == [(2, 2)]


def test_a_request_that_was_given_up_neither_begins_when_its_turn_comes_nor_when_it_comes_again() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2, 3):
        answerer.request(session, sequence, key="k", after=sequence - 1)
    (first,) = answerer.happened()
    answerer.settled(session, given_up=(2, 9))
    assert answerer.answering.running == 2
    answerer.answer(first.number)
    assert [event.sequence for event in answerer.happened()] == [3]
    answerer.take()
    answerer.request(session, 2, key="k", after=1)
    assert answerer.happened() == []
    assert answerer.answers() == [(2, Status.WORKING)]
    answerer.settled(session, (1, 4))
    assert answerer.answering.records == 0


def test_requests_that_were_given_up_take_room_until_they_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2, 3):
        answerer.request(session, sequence, key="k")
    before = answerer.answering.cached_bytes
    for _ in range(2):
        answerer.settled(session, given_up=(2, 3))
    assert answerer.answering.cached_bytes == before + 2 * RECORD_BYTES
    monkeypatch.setattr(answering_module, "CACHE_BYTES", before + 2 * RECORD_BYTES)
    answerer.take()
    answerer.request(session, 4)
    assert answerer.answers() == [(4, Status.BUSY)]
    answerer.settled(session, (1, 4))
    assert answerer.answering.cached_bytes == before
    answerer.request(session, 4)
    assert [event.sequence for event in answerer.happened(Message)] == [1, 4]


def test_a_request_that_was_given_up_while_it_runs_is_stopped_and_keeps_its_record() -> None:
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2):
        answerer.request(session, sequence, key=str(sequence))
    first, second = answerer.happened()
    answerer.answer(first.number)
    answerer.settled(session, given_up=(1, 2))
    assert answerer.happened() == [Cancelled(second.number)]
    answerer.answering.stopped(second.number)
    answerer.request(session, 2, key="2")
    assert answerer.happened() == []


def test_who_follows_a_request_that_was_given_up_waits_also_for_those_before_that_have_not_come() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 2, key="k", after=1)
    answerer.settled(session, given_up=(2,))
    answerer.request(session, 3, key="k", after=2)
    answerer.request(session, 1, key="k")
    (first,) = answerer.happened()
    assert first.sequence == 1
    answerer.answer(first.number)
    answerer.settled(session, (1, 3))
    assert [event.sequence for event in answerer.happened()] == [3]


def test_who_follows_a_request_that_expired_waits_also_for_those_before_that_have_not_come() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 2, key="k", after=1, within=1)
    answerer.request(session, 3, key="k", after=2, within=1)
    answerer.now += 3
    answerer.answering.expire(answerer.now)
    answerer.request(session, 4, key="k", after=3)
    assert answerer.happened() == []
    answerer.request(session, 1, key="k")
    (first,) = answerer.happened()
    assert first.sequence == 1
    answerer.answer(first.number)
    assert [event.sequence for event in answerer.happened()] == [4]


# OPEN and OPENED


def test_opened_waits_a_moment_for_the_reply_to_what_open_carried_and_goes_ahead_of_it() -> None:
    answerer = Answerer()
    answerer.open(request=request_body(1))
    assert answerer.take() == []
    answerer.answer(answerer.happened()[0].number)
    opened, reply = answerer.take()
    assert (opened.kind, reply.kind) == (Kind.OPENED, Kind.REPLY)
    assert (reply.numbers, reply.answer.counter) == ((opened.granted, 1), 0)
    assert answerer.wait(1) == []
    answerer.open(C, request=request_body(1))
    assert answerer.wait(1) == [(HOLD_SECONDS, Kind.OPENED)]


def test_an_open_that_comes_again_gets_the_same_session_and_its_request_runs_once() -> None:
    answerer = Answerer()
    answerer.open(request=request_body(1))
    first = answerer.wait(1) and answerer.take()[0].granted
    assert answerer.open(attempt=1, request=request_body(1)) == first
    assert [frame.kind for frame in answerer.take()] == [Kind.OPENED, Kind.REPLY]
    answerer.request(first, 2)
    assert answerer.open(attempt=2) == first
    assert len(answerer.happened(Message)) == 2


def test_opened_says_since_when_a_cell_could_be_asked() -> None:
    answerer = Answerer()
    answerer.now += 1.9999
    answerer.open(attempt=3)
    assert [frame.numbers for frame in answerer.take()] == [(3, 1999)]


def test_an_open_that_is_malformed_is_nobodys() -> None:
    answerer = Answerer()
    with pytest.raises(RemoteProtocolError):
        answerer.answering.open_received(A, pack(0), b"", 200.0, 100.0)
    with pytest.raises(RemoteProtocolError):
        answerer.answering.open_received(A, pack(0, 1), b"\x00\x01\x90", 200.0, 100.0)
    for request in (b"\xff\xff", b"\x00\x00", request_body(1)[:-1] + b"\xff" * 70_000):
        with pytest.raises(RemoteProtocolError):
            answerer.open(request=request)
    assert (answerer.answering.records, answerer.happened()) == (0, [])


def test_a_message_that_is_malformed_runs_nothing() -> None:
    answerer = Answerer()
    session = answerer.open()
    for header, body in ((pack(session), request_body(1)), (pack(session, 60), b"garbage")):
        with pytest.raises(RemoteProtocolError):
            answerer.answering.message_received(A, Kind.REQUEST, header, body, 200.0, 100.0)
    assert answerer.happened() == []
