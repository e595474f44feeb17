"""Broadcasts: they wait for sessions a little, and leave together as far as they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.protocol.envelope import Order, part
from cellnet.protocol.frames import Kind
from tests.protocol.conftest import Net
from tests.protocol.halves import A, Asker, B, C

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN


def test_a_broadcast_leaves_at_once_in_sessions_that_are_open() -> None:
    asker = Asker.opened_to(B, C)
    asker.ask(B, C, B, payload=b"!")
    ((entries, content),) = asker.broadcasts
    assert [(e.destination, e.session, e.counter, Order.unpack(e.order).sequence) for e in entries] == [
        (B, 7, 1, 2),
        (C, 8, 1, 2),
    ]
    assert content.payload == b"!"
    assert asker.take() == []
    assert asker.wait(3) == [(2, Kind.REQUEST), (2, Kind.REQUEST)]


def test_a_broadcast_waits_for_sessions_for_half_a_second_and_who_comes_later_is_asked_alone() -> None:
    asker = Asker.opened_to(B)
    asker.ask(B, C, A)
    assert [part(frame.body)[1] for frame in asker.take(Kind.OPEN)] == [b"", b""]
    asker.wait(0.2)
    asker.opened(8, source=C)
    asker.wait(0.29)
    assert asker.broadcasts == []
    asker.wait(0.01)
    assert [[entry.destination for entry in entries] for entries, _content in asker.broadcasts] == [[B, C]]
    asker.opened(9, source=A)
    assert [(frame.destination, frame.order.sequence) for frame in asker.take()] == [(A, 1)]


@pytest.mark.parametrize("order", [(B, C), (C, B)])
def test_a_broadcast_leaves_as_soon_as_nobody_is_missing(order: tuple[FQCN, FQCN]) -> None:
    asker = Asker()
    asker.ask(B, C)
    asker.opened(7, source=order[0])
    assert asker.broadcasts == []
    asker.opened(8, source=order[1])
    assert len(asker.broadcasts) == 1


def test_a_broadcast_does_not_wait_for_those_that_failed() -> None:
    net = Net.tree("A", "B")
    net.request("server", "A", "B", "X", once=False)
    net.run()
    assert len(net.outcomes("server")) == 3


def test_a_broadcast_leaves_without_those_whose_session_was_left_again() -> None:
    asker = Asker.opened_to(B, C)
    asker.ask(B, C, A)
    asker.closed(7, 99)
    asker.wait(0.5)
    assert [[entry.destination for entry in entries] for entries, _content in asker.broadcasts] == [[C]]
    asker.opened(9, 2)
    assert [(frame.kind, frame.order.sequence) for frame in asker.take(Kind.REQUEST)] == [(Kind.REQUEST, 2)]


def test_a_broadcast_that_nobody_could_take_in_time_is_asked_one_by_one() -> None:
    asker = Asker()
    asker.ask(B, C)
    asker.wait(0.5)
    assert asker.broadcasts == []
    asker.opened(7, source=B)
    asker.opened(8, source=C)
    assert [frame.kind for frame in asker.take(Kind.REQUEST)] == [Kind.REQUEST] * 2
