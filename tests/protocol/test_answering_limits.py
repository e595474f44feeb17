"""What a cell takes at a time: beyond it, it is busy, and notes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol import answering as answering_module
from cellnet.protocol.answering import RECORD_BYTES
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message
from cellnet.protocol.frames import Kind
from tests.protocol.conftest import request_body
from tests.protocol.halves import A, Answerer, C

if TYPE_CHECKING:
    import pytest


def test_a_cell_works_on_a_limited_number_of_requests_and_one_asker_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering_module, "MAX_INCOMING", 4)
    answerer = Answerer()
    sessions = {origin: answerer.open(origin) for origin in (A, C)}
    for sequence in (1, 2, 3):
        answerer.request(sessions[A], sequence)
    assert answerer.take(Kind.REPLY)[-1].answer == (3, 3, Status.BUSY, 0, b"")
    first, _second = answerer.happened()
    for sequence in (1, 2):
        answerer.request(sessions[C], sequence, origin=C)
    assert answerer.answers() == [(2, Status.BUSY)]
    assert [event.origin for event in answerer.happened()] == [C]
    answerer.answer(first.number)
    answerer.request(sessions[A], 4, floor=2)
    assert [event.sequence for event in answerer.happened()] == [4]


def test_replies_are_kept_up_to_a_number_of_bytes_and_then_nothing_new_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "CACHE_BYTES", 1000)
    answerer = Answerer()
    session = answerer.open()
    for sequence in (1, 2):
        answerer.request(session, sequence)
    first, second = answerer.happened()
    answerer.answer(first.number, payload=bytes(1000 - RECORD_BYTES))
    answerer.take()
    answerer.request(session, 3)
    assert (answerer.answers(), answerer.happened()) == ([(3, Status.BUSY)], [])
    answerer.answer(second.number, payload=bytes(500))
    assert answerer.answering.cached_bytes == 1500 + RECORD_BYTES
    answerer.request(session, 1)
    assert answerer.answers() == [(2, Status.OK), (1, Status.OK)]
    answerer.settled(session, (1, 2))
    answerer.request(session, 3)
    assert answerer.answering.cached_bytes == 500 + RECORD_BYTES
    assert [event.sequence for event in answerer.happened()] == [3]


def test_one_asker_has_a_limited_number_of_records_and_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "MAX_RECORDS", 4)
    answerer = Answerer()
    session = answerer.open()
    answerer.settled(session, (2, 3), (4, 5))
    for sequence in (1, 3, 5):
        answerer.request(session, sequence)
    assert answerer.answers() == [(5, Status.BUSY)]
    answerer.settled(session, (1, 2))
    answerer.request(session, 5)
    assert answerer.answers() == []
    assert [event.sequence for event in answerer.happened(Message)] == [1, 3, 5]
    other = answerer.open(C)
    answerer.request(other, 1, origin=C)
    assert len(answerer.happened(Message)) == 1


def test_a_busy_cell_notes_nothing_of_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering_module, "MAX_RECORDS", 0)
    answerer = Answerer()
    session = answerer.open(request=request_body(1))
    assert answerer.answers() == [(1, Status.BUSY)]
    answerer.request(session, 1)
    assert answerer.answers() == [(1, Status.BUSY)]
    assert (answerer.answering.records, answerer.answering.running, answerer.happened()) == (0, 0, [])


def test_places_are_kept_for_a_limited_number_of_requests_that_expired_as_they_waited_for_one_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answering_module, "MAX_RECORDS", 4)
    answerer = Answerer()
    session = answerer.open()
    for sequence in (2, 3, 4, 5):
        answerer.request(session, sequence, key="k", after=sequence - 1, within=1)
        answerer.now += 3
        answerer.answering.expire(answerer.now)
    answerer.take()
    answerer.request(session, 6, key="k", after=5)
    answerer.request(session, 7, key="other")
    assert answerer.answers() == [(6, Status.BUSY)]
    answerer.request(session, 1, key="k")
    assert [event.sequence for event in answerer.happened(Message)] == [7, 1]
    answerer.settled(session, (1, 2))
    answerer.request(session, 6, key="k", after=5)
    assert answerer.answers() == []
