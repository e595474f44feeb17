"""The two tables of one cell's messages: what it waits for, and what it works on."""

from __future__ import annotations

from typing import Any

import pytest

from cellnet.errors import Busy, LocalProtocolError, PayloadTooLarge, RemoteProtocolError, Unreachable
from cellnet.fqcn import FQCN
from cellnet.protocol import exchange as module
from cellnet.protocol.events import Cancelled, Failed, Message, MessageKey, Replied
from cellnet.protocol.exchange import (
    MAX_NAMES,
    MAX_TOPIC,
    Exchange,
    Status,
    broadcast_body,
    names,
    split_broadcast,
)
from cellnet.protocol.frames import INLINE_LIMIT, pack, unpack

A, B, C = FQCN("A"), FQCN("B"), FQCN("A.C")
EPOCH = 7


@pytest.fixture
def exchange() -> Exchange:
    return Exchange(EPOCH)


def reply(
    exchange: Exchange, source: FQCN, sequence: int, *, epoch: int = EPOCH, status: int = 0, payload: bytes = b"!"
) -> list[Replied | Failed]:
    return list(exchange.reply_received(source, pack(sequence, epoch, status, 1, {}), payload))


def ask(exchange: Exchange, sequence: int, *, origin: FQCN = A, deadline: float = 10.0, **changes: Any) -> Any:
    fields = {"sequence": sequence, "epoch": 3, "topic": "t", "encoding": 1, "extra": {}} | changes
    payload = fields.pop("payload", b"?")
    wants_reply = fields.pop("wants_reply", True)
    return exchange.message_received(origin, pack(*fields.values()), payload, deadline, wants_reply=wants_reply)


def test_every_message_has_a_number_of_its_own_and_the_epoch(exchange: Exchange) -> None:
    first, header = exchange.header("t", 2, b"")
    second, _header = exchange.header("t", 2, b"")
    assert unpack(header, int, int, str, int, dict) == [first, EPOCH, "t", 2, {}]
    assert second == first + 1


def test_a_topic_or_payload_that_no_cell_would_take_is_the_callers_error(exchange: Exchange) -> None:
    exchange.header("t" * MAX_TOPIC, 1, bytes(INLINE_LIMIT))
    with pytest.raises(LocalProtocolError, match="a topic of 256 characters"):
        exchange.header("t" * (MAX_TOPIC + 1), 1, b"")
    with pytest.raises(PayloadTooLarge, match="a payload of 65537 bytes"):
        exchange.header("t", 1, bytes(INLINE_LIMIT + 1))


def test_each_destination_answers_once(exchange: Exchange) -> None:
    exchange.expect(1, (A, B))
    assert reply(exchange, A, 1) == [Replied(1, A, Status.OK, 1, b"!")]
    assert reply(exchange, A, 1) == []
    assert exchange.pending == 1
    assert reply(exchange, B, 1, status=Status.RAISED) == [Replied(1, B, Status.RAISED, 1, b"!")]
    assert exchange.pending == 0
    assert reply(exchange, B, 1) == []


def test_replies_that_nobody_asked_for_are_no_news(exchange: Exchange) -> None:
    exchange.expect(1, (A,))
    assert reply(exchange, A, 2) == []
    assert reply(exchange, B, 1) == []
    assert reply(exchange, A, 1, epoch=EPOCH - 1) == []
    assert exchange.pending == 1


def test_a_reply_may_say_that_there_was_no_room(exchange: Exchange) -> None:
    exchange.expect(1, (A,))
    (failed,) = reply(exchange, A, 1, status=Status.BUSY)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Busy)


@pytest.mark.parametrize(("status", "size"), [(3, 0), (255, 0), (0, INLINE_LIMIT + 1)])
def test_a_reply_of_unknown_status_or_too_large_is_malformed(exchange: Exchange, status: int, size: int) -> None:
    exchange.expect(1, (A,))
    with pytest.raises(RemoteProtocolError):
        reply(exchange, A, 1, status=status, payload=bytes(size))
    assert exchange.pending == 1


def test_answers_are_awaited_only_up_to_the_limit(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    exchange.expect(1, (A, B))
    with pytest.raises(Busy, match="waits for 2 answers"):
        exchange.expect(2, (A, B))
    exchange.expect(3, (A,))
    assert exchange.forget(1) == [A, B]
    assert exchange.forget(1) == []
    exchange.expect(4, (A, B))
    assert exchange.pending == 3


def test_nobody_is_awaited_when_nobody_was_asked(exchange: Exchange) -> None:
    exchange.expect(1, ())
    assert exchange.pending == 0
    assert exchange.forget(1) == []


def test_a_failure_ends_what_it_names_of_the_epoch_it_names(exchange: Exchange) -> None:
    exchange.expect(1, (A, B))
    error = Unreachable("gone")
    assert list(exchange.fail(1, EPOCH + 1, [A], error)) == []
    assert list(exchange.fail(2, EPOCH, [A], error)) == []
    assert list(exchange.fail(1, EPOCH, [A, C], error)) == [Failed(1, A, error)]
    assert exchange.pending == 1


def test_a_lost_way_ends_what_was_asked_over_it_and_cancels_what_was_asked_from_there(exchange: Exchange) -> None:
    exchange.expect(1, (A, B, C))
    exchange.expect(2, (B,))
    ask(exchange, 1, origin=C)
    ask(exchange, 2, origin=B)
    news = list(exchange.lost(lambda cell: cell in (A, C)))
    assert [(e.sequence, e.destination, type(e.error).__name__) for e in news if isinstance(e, Failed)] == [
        (1, A, "Indeterminate"),
        (1, C, "Indeterminate"),
    ]
    assert [e for e in news if isinstance(e, Cancelled)] == [Cancelled(MessageKey(C, 3, 1))]
    assert exchange.pending == 2


def test_a_request_is_taken_once_while_it_is_worked_on(exchange: Exchange) -> None:
    message = ask(exchange, 5)
    assert message == Message(MessageKey(A, 3, 5), "t", 1, b"?", 10.0, wants_reply=True)
    assert ask(exchange, 5) is None
    assert isinstance(ask(exchange, 5, epoch=4), Message)
    assert isinstance(ask(exchange, 5, origin=B), Message)
    assert exchange.answer(message.key) == 10.0
    assert exchange.answer(message.key) is None


def test_events_are_not_remembered(exchange: Exchange) -> None:
    assert isinstance(ask(exchange, 5, wants_reply=False), Message)
    assert isinstance(ask(exchange, 5, wants_reply=False), Message)
    assert exchange.answer(MessageKey(A, 3, 5)) is None


def test_requests_are_taken_only_up_to_the_limit(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCOMING", 2)
    ask(exchange, 1)
    ask(exchange, 2)
    assert ask(exchange, 3) == MessageKey(A, 3, 3)
    assert isinstance(ask(exchange, 3, wants_reply=False), Message)
    exchange.answer(MessageKey(A, 3, 1))
    assert isinstance(ask(exchange, 3), Message)


def test_requests_that_nobody_answered_make_room_when_their_deadline_passed(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INCOMING", 2)
    ask(exchange, 1, deadline=10.0)
    ask(exchange, 2, deadline=20.0)
    exchange.expire(10.0)
    assert ask(exchange, 3) == MessageKey(A, 3, 3)
    exchange.expire(10.1)
    assert isinstance(ask(exchange, 3), Message)
    assert exchange.answer(MessageKey(A, 3, 1)) is None
    assert exchange.answer(MessageKey(A, 3, 2)) == 20.0


@pytest.mark.parametrize(
    "changes", [{"topic": "t" * 256}, {"payload": bytes(INLINE_LIMIT + 1)}, {"extra": 0}, {"encoding": -1}]
)
def test_a_message_that_breaks_a_limit_is_malformed(exchange: Exchange, changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        ask(exchange, 1, **changes)


def test_a_cancel_is_news_only_while_the_message_is_worked_on(exchange: Exchange) -> None:
    ask(exchange, 5)
    assert list(exchange.cancel_received(B, pack(5, 3))) == []
    assert list(exchange.cancel_received(A, pack(5, 4))) == []
    assert list(exchange.cancel_received(A, pack(5, 3))) == [Cancelled(MessageKey(A, 3, 5))]
    assert list(exchange.cancel_received(A, pack(5, 3))) == []


def test_a_broadcasts_body_is_a_header_and_a_payload() -> None:
    assert split_broadcast(broadcast_body(b"header", b"payload")) == (b"header", b"payload")
    assert split_broadcast(broadcast_body(b"header", b"")) == (b"header", b"")


@pytest.mark.parametrize("body", [b"\x00\x01", b"\x00\x05abcd", b"\xff\xff" + bytes(100)])
def test_a_broadcasts_body_that_is_cut_short_is_malformed(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        split_broadcast(body)


def test_a_frame_names_a_limited_number_of_valid_cells() -> None:
    assert names(["A", "server"]) == [A, FQCN("server")]
    assert len(names(["A"] * MAX_NAMES)) == MAX_NAMES
    wrong: list[list[object]] = [["A"] * (MAX_NAMES + 1), ["A", 1], ["A", None], ["a..b"], [["A"]], ["server.a.b"]]
    for values in wrong:
        with pytest.raises(RemoteProtocolError):
            names(values)
