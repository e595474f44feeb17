"""What asker and answerer agree on about order and doubt, also when frames are lost, late, or come again."""

from __future__ import annotations

import pytest

from cellnet.errors import Indeterminate
from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.answering import MAX_RECORDS
from cellnet.protocol.envelope import Content, Status
from cellnet.protocol.events import Failed, Message, Replied
from cellnet.protocol.frames import Kind
from cellnet.protocol.lanes import Lanes
from tests.protocol.conftest import MINUTE, Net, request_body
from tests.protocol.halves import A, Answerer, Asker, B, C, Cell
from tests.protocol.world import World


def keyed(sequence: int) -> Message:
    return Message(sequence, A, 1, sequence, False, "k", "t", 0, b"", 60.0)


def started(answerer: Answerer) -> list[int]:
    return [event.sequence for event in answerer.happened(Message)]


def test_a_request_that_waits_does_not_start_because_one_that_follows_it_came() -> None:
    lanes = Lanes()
    assert list(lanes.add(keyed(2), 1)) == []
    assert list(lanes.add(keyed(3), 2)) == []  # says nothing of 1, which was lost and comes again
    assert list(lanes.add(keyed(1), 0)) == [keyed(1)]
    assert list(lanes.ended(keyed(1))) == [keyed(2)]


@pytest.mark.parametrize("after", [0, 2])
def test_a_request_that_waits_does_not_start_because_of_an_event(after: int) -> None:
    lanes = Lanes()
    assert list(lanes.add(keyed(2), 1)) == []
    event = keyed(0)._replace(number=9)
    assert [one.sequence for one in lanes.add(event, after)] in ([], [0])  # it may go first, and 2 may not
    assert lanes.held == (1 if after == 0 else 2)


def test_a_request_that_was_given_up_does_not_let_the_next_one_overtake_the_one_before_it() -> None:
    asker, answerer = Cell(A), Cell(B)

    def ask(payload: bytes, key: str = "k") -> int:
        content = Content.of("t", 0, payload, key)
        return asker.exchange.asking.ask([B], content, deadline=160.0, now=asker.now, once=True, key=key)

    def bring(*lost: int) -> None:
        for _ in range(3):
            for number, frame in enumerate(asker.take()):
                if number not in lost:
                    answerer.hear(A, frame)
            for frame in answerer.take():
                asker.hear(B, frame)

    ask(b"0", key="")
    bring()
    answerer.wait(0.1)
    bring()
    calls = [ask(payload) for payload in (b"1", b"2", b"3")]
    bring(0, 1)
    asker.exchange.asking.give_up(calls[1], asker.now)
    bring()
    asker.wait(3)  # the first is sent again
    bring()
    assert [event.payload for event in answerer.happened(Message)] == [b"0", b"1"]


def test_a_request_that_comes_again_and_follows_nobody_any_more_need_not_wait() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    answerer.request(session, 3, key="k", after=2)
    assert started(answerer) == [1]
    answerer.request(session, 3, key="k", after=0)  # 2 was given up; 1 still runs, so the floor stays
    assert started(answerer) == [3]


def test_an_event_that_waits_for_its_turn_is_forgotten_when_its_time_is_over() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.event(session, key="k", after=1, within_ms=1000)
    answerer.now += 100
    answerer.answering.expire(answerer.now)
    assert len(answerer.answering._messages) == 0


def test_nothing_is_kept_of_what_an_earlier_start_of_an_asker_left_waiting() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1, key="k")
    answerer.event(session, key="k")
    answerer.open(epoch=2)
    answerer.answering.stopped(answerer.happened(Message)[0].number)
    assert len(answerer.answering._messages) == 0


def test_closed_to_an_open_of_an_earlier_start_says_nothing_of_the_first_open_of_a_later_one() -> None:
    asker, answerer = Asker(epoch=2), Answerer()
    asker.ask(once=False)
    answerer.open(epoch=2, request=request_body(1))
    assert started(answerer) == [1]
    answerer.open(epoch=1, attempt=1)  # it was under way for long
    (closed,) = answerer.take(Kind.CLOSED)
    asker.asking.sessions.closed_received(B, closed.header, closed.body, asker.now)
    assert [type(failed.error) for failed in asker.happened(Failed)] in ([], [Indeterminate])


def test_nothing_is_kept_of_a_request_that_the_first_open_carried_once_it_was_answered() -> None:
    asker = Asker()
    asker.ask(C)
    asker.opened(source=C)
    asker.reply(1, source=C)
    session = asker.asking.sessions.known(C)
    assert session is not None
    assert session.flying == {}


def test_what_ran_until_just_before_its_deadline_is_not_said_to_be_not_executed() -> None:
    asker, answerer = Cell(A), Cell(B)
    content = Content.of("t", 0, b"", "")
    asker.exchange.asking.ask([B], content, deadline=101.0009, now=asker.now, once=True, key="")
    for _ in range(2):
        for frame in asker.take():
            answerer.hear(A, frame)
        answerer.wait(0.1 if answerer.now == 100 else 0)
        for frame in answerer.take():
            asker.hear(B, frame)
        asker.exchange.asking.tell(B, content, deadline=200.0, now=asker.now, key="")
    assert len(answerer.happened(Message)) == 2
    answerer.now = 101.0005
    answerer.exchange.answering.expire(answerer.now)
    answerer.exchange.answering.drained(answerer.now)
    for frame in answerer.take(Kind.DRAINED):
        asker.now = answerer.now
        asker.hear(B, frame)
    asker.wait(1)
    assert [isinstance(failed.error, Indeterminate) for failed in asker.happened(Failed)] == [True]


def test_an_asker_cannot_make_a_cell_remember_any_number_of_ranges() -> None:
    answerer = Answerer()
    session = answerer.open()
    for frame in range(100):
        answerer.settled(session, *((start, start + 1) for start in range(200 * frame + 2, 200 * frame + 130, 2)))
    (asker,) = answerer.answering._askers
    assert len(asker.settled) == MAX_RECORDS


def test_a_request_that_its_owner_was_too_busy_for_runs_when_it_comes_again() -> None:
    answerer = Answerer()
    session = answerer.open()
    answerer.request(session, 1)
    (message,) = answerer.happened(Message)
    answerer.answer(message.number, Status.BUSY)
    assert answerer.answers() == [(1, Status.BUSY)]
    assert answerer.answering.records == 0
    answerer.request(session, 1)
    assert started(answerer) == [1]


def test_a_cell_that_was_given_another_name_answers_those_who_knew_it_under_the_old_one() -> None:
    net = Net.tree("A.C", "B", "D")
    for number in range(3):
        net.request("D", "A.C", payload=str(number).encode())
    net.request("D", "A.C", topic="hold")
    net.tick(1)
    net.cut("A.C")
    net.connect("A.C", parent="B")
    net.run()
    net.request("D", "B.C", payload=b"again")
    net.tick(1)
    (*_lost, answer) = net.outcomes("D")
    assert isinstance(answer, Replied)
    assert answer.payload == b"again"
    net.tick(MINUTE + 5)
    assert net["A.C"].exchange.answering.records == 0


def test_a_request_that_waited_while_its_cell_got_another_name_says_under_which_it_was_asked() -> None:
    net = Net.tree("A.C", "B", "D")
    for payload in (b"runs", b"waits"):
        net.request("D", "A.C", topic="hold", payload=payload, key="k")
    net.tick(1)
    net.cut("A.C")
    net.connect("A.C", parent="B")
    net.run()
    (first,) = net.received("A.C", Message)
    net["A.C"].ended(first.number, Status.OK, 0, b"", net.now)
    net.run()
    assert [(one.payload, str(one.answerer)) for one in net.received("A.C", Message)] == [
        (b"runs", "A.C"),
        (b"waits", "A.C"),
    ]


def test_what_ran_under_a_name_does_not_run_again_when_its_cell_comes_back_to_it() -> None:
    net = Net.tree("A.R", "B")
    net.request("server", "A.R")
    net.tick(1)
    net.request("server", "A.R", topic="hold", payload=b"in doubt")
    net.run()
    for parent in ("B", "A"):
        net.cut("A.R")
        net.connect("A.R", parent=parent)
        net.run()
    net.tick(MINUTE + 5)
    assert [message.payload for message in net.received("A.R", Message) if not message.doubt] == [b"?", b"in doubt"]


def test_what_ran_at_one_process_does_not_run_again_at_another_that_was_started_before() -> None:
    world = World()
    server = world.start(ROOT, "")
    first = world.start("A", ROOT)
    world.dial(first)
    world.run()
    standby = world.start("A", ROOT)
    world.dial(standby)
    world.wait(10)
    assert not standby.is_joined
    (wire,) = world.of(first)
    wire.vanishes = "up"
    world.ask(server, [FQCN("A")], "echo")
    world.run()
    assert world.runs[b"0", FQCN("A")] == 1
    world.kill(first)
    world.dial(standby)
    world.wait(5)  # or the world sees that it ran twice
