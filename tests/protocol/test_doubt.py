"""What an earlier start of an answerer may have run: that is said to the next one, and to nobody else."""

from __future__ import annotations

import pytest

from cellnet.errors import Indeterminate
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Failed
from cellnet.protocol.frames import Kind
from tests.protocol.halves import Asker, B


@pytest.mark.parametrize("epoch", [1, 2])
def test_what_was_in_doubt_is_doubtful_for_another_start_of_the_answerer(epoch: int) -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.ask(once=False)
    asker.ask()
    asker.nack(7, 3)
    asker.closed(7, 1)
    asker.closed(7, 2)
    asker.take()
    asker.opened(8, 2, epoch=epoch)
    sent = asker.take(Kind.REQUEST)
    failed = asker.happened(Failed)
    if epoch == 1:
        assert [(frame.order.sequence, frame.order.doubt) for frame in sent] == [(2, False), (3, False), (4, False)]
        assert failed == []
    else:
        assert [(frame.order.sequence, frame.order.doubt) for frame in sent] == [(2, False), (4, False)]
        assert [type(one.error) for one in failed] == [Indeterminate]


@pytest.mark.parametrize(
    ("attempt", "age", "sent", "doubt"), [(1, 0, 0, None), (2, 3.01, 1, False), (2, 2.0, 1, True), (2, 0, 1, True)]
)
def test_what_the_first_open_carried_is_doubtful_if_another_was_answered_by_a_young_cell(
    attempt: int, age: float, sent: int, doubt: bool | None
) -> None:
    asker = Asker()
    asker.ask()
    asker.wait(3)
    asker.take()
    asker.opened(7, attempt, age=age)
    frames = asker.take()
    assert len(frames) == sent
    if frames:
        assert (frames[0].order.sequence, frames[0].order.doubt) == (1, doubt)
    else:
        assert asker.wait(2) == [(2, Kind.REQUEST)]


@pytest.mark.parametrize(("age", "doubt"), [(3.3, False), (0.2, True)])
def test_an_opened_that_may_have_travelled_for_long_is_asked_for_again(age: float, doubt: bool) -> None:
    asker = Asker()
    asker.ask()
    asker.wait(3)
    asker.take()
    asker.opened(7, 2, age=2.5)  # started before the first OPEN, if it was under way for more than half a second
    assert asker.kinds() == [Kind.OPEN]
    asker.wait(0.2)
    asker.opened(7, 3, age=age)
    assert [frame.order.doubt for frame in asker.take()] == [doubt]


def test_an_opened_that_a_later_open_overtook_leaves_it_to_the_answer_to_that_one() -> None:
    asker = Asker()
    asker.ask()
    asker.wait(7)
    asker.take()
    asker.opened(7, 2, age=4.0)  # this cell was stopped meanwhile, and then there was a third OPEN
    assert asker.take() == []
    asker.wait(0.1)
    asker.opened(7, 3, age=7.2)
    assert [frame.order.doubt for frame in asker.take()] == [False]


@pytest.mark.parametrize(("age", "doubt"), [(7.0, []), (7.006, []), (7.008, [False])])
def test_two_clocks_may_differ_by_a_thousandth(age: float, doubt: list[bool]) -> None:
    asker = Asker()
    asker.ask()
    asker.wait(7)
    asker.opened(7, 2, age=age)  # there is a third OPEN by now
    assert [frame.order.doubt for frame in asker.take(Kind.REQUEST)] == doubt


def test_what_the_first_open_carried_and_was_settled_is_not_sent_again() -> None:
    asker = Asker()
    asker.give_up(asker.ask())
    asker.ask()
    asker.take()
    asker.opened()
    request, settled = asker.take()
    assert (request.kind, request.order.sequence, request.order.floor) == (Kind.REQUEST, 2, 2)
    assert settled.kind is Kind.SETTLED
    session = asker.asking.sessions.known(B)
    assert session is not None
    assert list(session.flying) == [1]


def test_what_an_answerer_no_longer_knows_ends_in_doubt() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.closed(7, 9)
    asker.opened(8, 2, epoch=2)
    assert asker.take(Kind.REQUEST)[-1].order.doubt
    asker.reply(2, Status.UNKNOWN, session=8)
    (failed,) = asker.happened(Failed)
    assert isinstance(failed.error, Indeterminate)


def test_an_answerer_that_started_as_the_first_open_was_on_its_way_is_asked_thrice_again_and_then_in_doubt() -> None:
    asker = Asker()
    began = asker.now
    asker.ask()
    asker.wait(3)
    asker.take()
    asker.opened(7, 2, age=2.5)
    for attempt in range(3, 6):  # whenever it answers, it may be older than what it was asked, or younger
        assert asker.kinds() == [Kind.OPEN]
        asker.wait(0.2)
        asker.opened(7, attempt, age=asker.now - began - 0.1)
    (request,) = asker.take()
    assert (request.kind, request.order.doubt) == (Kind.REQUEST, True)
