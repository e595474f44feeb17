"""Those who ask: an answerer knows one start of each, and the session that it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from cellnet.fqcn import FQCN
from cellnet.protocol import askers as askers_module
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message, Replied
from cellnet.protocol.frames import Kind, pack, unpack
from tests.protocol.conftest import MINUTE, Net, open_body, request_body
from tests.protocol.halves import A, Answerer, B, C

if TYPE_CHECKING:
    import pytest

    from tests.protocol.halves import Sent


def reasons(frames: list[Sent]) -> list[str]:
    return [unpack(frame.body, str, bytes, str)[0] for frame in frames if frame.kind is Kind.CLOSED]


def test_an_open_that_comes_from_where_its_asker_moved_to_is_answered_there() -> None:
    answerer, was, moved = Answerer(), FQCN("X.A"), FQCN("Y.A")
    session = answerer.open(was)
    body = open_body("X.A", "B")
    answerer.answering.open_received(moved, pack(0, 1), body, answerer.now + MINUTE, answerer.now)
    first, second = answerer.take(Kind.OPENED)
    assert (first.destination, second.destination) == (was, moved)
    assert second.granted != session == first.granted


def test_an_earlier_start_of_an_asker_is_refused_and_changes_nothing() -> None:
    answerer = Answerer()
    session = answerer.open(epoch=5)
    answerer.request(session, 1)
    answerer.take()
    answerer.open(epoch=4, attempt=3, request=request_body(2))
    (closed,) = answerer.take()
    assert (closed.numbers, reasons([closed])) == ((0, 3), ["a later start of A is known"])
    answerer.request(session, 2)
    assert [message.sequence for message in answerer.happened(Message)] == [1, 2]


def test_a_later_start_of_an_asker_ends_the_sessions_of_the_earlier_one() -> None:
    answerer = Answerer()
    session = answerer.open(epoch=4)
    answerer.request(session, 1)
    offered = answerer.open(epoch=4, nonce=1)
    later = answerer.open(epoch=5)
    answerer.take()
    for number in (session, offered):
        answerer.request(number, 2)
    assert reasons(answerer.take()) == ["no such session"] * 2
    answerer.request(later, 2)
    assert [(message.epoch, message.sequence) for message in answerer.happened(Message)] == [(4, 1), (5, 2)]


def test_the_session_in_use_stays_until_a_frame_comes_in_the_new_one() -> None:
    answerer = Answerer()
    first = answerer.open()
    answerer.request(first, 1)
    second = answerer.open(nonce=1)
    third = answerer.open(nonce=2)
    answerer.take()
    answerer.request(first, 2)
    assert answerer.take() == []
    answerer.request(second, 3)
    assert reasons(answerer.take()) == ["no such session"]  # as another was offered since
    answerer.request(third, 4)
    answerer.request(first, 5)
    assert reasons(answerer.take()) == ["no such session"]
    assert [message.sequence for message in answerer.happened()] == [1, 2, 4]


def test_a_session_belongs_to_one_origin() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, origin=C)
    answerer.request(0, 1)
    assert [frame.numbers for frame in answerer.take(Kind.CLOSED)] == [(session, 1), (0, 2)]
    assert answerer.happened() == []
    assert answerer.refused == 2


def test_an_open_for_another_cell_or_from_another_is_refused() -> None:
    answerer = Answerer()
    answerer.open(to=C)
    answerer.name = None
    answerer.open()
    assert reasons(answerer.take()) == [
        "an introduction from A to C came to B as one from A",
        "this cell has no name yet",
    ]


def test_a_cell_may_ask_itself() -> None:
    answerer = Answerer()
    session = answerer.open(B)
    answerer.request(session, 1, origin=B)
    assert len(answerer.happened(Message)) == 1


def test_an_asker_without_records_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(askers_module, "MAX_ASKERS", 2)
    answerer = Answerer()
    sessions = {origin: answerer.open(origin) for origin in (A, B)}
    answerer.request(sessions[A], 1)
    answerer.take()
    other = answerer.open(C)
    answerer.request(sessions[B], 1, origin=B)
    answerer.request(other, 1, origin=C)
    answerer.open(B)
    assert reasons(answerer.take()) == ["no such session", "too many cells have open requests here"]
    assert [message.origin for message in answerer.happened()] == [A, C]
    answerer.settled(sessions[A], (1, 2))
    assert answerer.open(B)
    assert len(answerer.answering._askers) == 2


def test_a_neighbour_that_brings_too_many_introductions_waits_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(askers_module, "INTRODUCTIONS", 3)
    monkeypatch.setattr(askers_module, "INTRODUCTIONS_PER_SECOND", 2)
    answerer = Answerer()
    for nonce in range(4):
        answerer.open(nonce=nonce)
    answerer.open(nonce=2)  # which is known already, and costs nothing
    assert answerer.kinds() == [Kind.OPENED] * 3 + [Kind.CLOSED, Kind.OPENED]
    answerer.open(B)
    answerer.now += 0.5
    answerer.open(nonce=4)
    answerer.open(nonce=5)
    assert reasons(answerer.take()) == ["too many cells introduced themselves at once"]


def test_what_an_earlier_start_asked_is_not_answered_any_more() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    answerer.open(epoch=2)
    answerer.take()
    answerer.answer(answerer.happened(Message)[0].number)
    assert (answerer.answers(), answerer.answering.running) == ([], 0)


class EpochMachine(RuleBasedStateMachine):
    """Starts of one asker that overlap in any way, their frames repeated and late: only the last known one is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.answerer = Answerer()
        self.known = 0
        """The latest epoch that opened a session."""
        self.sessions: list[tuple[int, int, int]] = []
        """Epoch, nonce and number of all that were ever granted."""
        self.current = self.offered = 0
        self.nonces: dict[int, int] = {}
        self.started: set[tuple[int, int]] = set()

    @rule(epoch=st.integers(1, 4), nonce=st.integers(0, 2), carries=st.booleans())
    def open(self, epoch: int, nonce: int, carries: bool) -> None:
        request = request_body(nonce + 1, payload=bytes([epoch])) if carries else b""
        number = self.answerer.open(epoch=epoch, nonce=nonce, request=request)
        self.answerer.wait(0.1)
        frames = self.answerer.take()
        if epoch < self.known:
            assert reasons(frames) == ["a later start of A is known"]
            assert number == 0
        else:
            assert reasons(frames) == []
            (opened,) = (frame for frame in frames if frame.kind is Kind.OPENED)
            if epoch > self.known:
                self.current = self.offered = 0
            self.known = epoch
            if opened.granted != self.current:
                self.offered = opened.granted
            self.sessions.append((epoch, nonce, opened.granted))
        self.check(epoch)

    @precondition(lambda self: self.sessions)
    @rule(pick=st.integers(0, 20), sequence=st.integers(1, 6))
    def request(self, pick: int, sequence: int) -> None:
        epoch, _nonce, number = self.sessions[pick % len(self.sessions)]
        self.answerer.request(number, sequence, payload=bytes([epoch]))
        frames = self.answerer.take()
        if number in (self.current, self.offered):
            assert reasons(frames) == []
            assert all(frame.answer.status == Status.WORKING for frame in frames)
            self.current, self.offered = number, (0 if number == self.offered else self.offered)
        else:
            assert reasons(frames) == ["no such session"]
        self.check(epoch)

    def check(self, epoch: int) -> None:
        for message in self.answerer.happened(Message):
            assert epoch == self.known == message.epoch == message.payload[0]
            assert (message.epoch, message.sequence) not in self.started
            self.started.add((message.epoch, message.sequence))


TestEpochMachine = EpochMachine.TestCase
TestEpochMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_whoever_has_nothing_open_makes_room_for_another_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(askers_module, "MAX_ASKERS", 2)
    monkeypatch.setattr(askers_module, "LOOKED_AT", 1)
    net = Net.tree("A", "B", "C")
    net.request("A", "server", topic="hold", deadline=net.now + 10 * MINUTE)
    net.request("B", "server")
    net.tick(15)
    net.request("C", "server")
    net.tick(15)
    assert [type(outcome) for outcome in net.outcomes("C")] == [Replied]
