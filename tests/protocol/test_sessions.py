"""The sessions that a cell opens: asked for until there is an answer, left when a way breaks, forgotten when idle."""

from __future__ import annotations

from itertools import accumulate

import pytest

from cellnet.errors import Busy, Indeterminate, RemoteProtocolError, StillUnreachable, Unreachable
from cellnet.fqcn import FQCN
from cellnet.protocol import asking as asking_module
from cellnet.protocol import sessions as sessions_module
from cellnet.protocol.envelope import Status, part
from cellnet.protocol.events import Failed, Message, Replied
from cellnet.protocol.frames import Kind, pack
from tests.protocol.conftest import MINUTE, Net, opened_body
from tests.protocol.halves import A, Asker, B, C

# Asking for one


def test_a_session_is_asked_for_with_the_first_message_and_not_before() -> None:
    asker = Asker()
    assert asker.wait(MINUTE) == []
    asker.ask(payload=b"?")
    (opening,) = asker.take()
    assert (opening.destination, opening.kind, opening.numbers) == (B, Kind.OPEN, (0, 1))
    assert (opening.order.sequence, opening.content.payload) == (1, b"?")
    assert opening.expires == asker.now + MINUTE


def test_a_session_is_asked_for_until_there_is_an_answer_and_ever_more_rarely() -> None:
    asker = Asker()
    asker.ask(within=200)
    pauses = [2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert asker.wait(199) == [(when, Kind.OPEN) for when in accumulate(pauses)]
    openings = asker.take()
    assert [opening.numbers for opening in openings] == [(0, attempt) for attempt in range(1, 11)]
    assert len({part(opening.body)[0] for opening in openings}) == 1
    asker.opened(attempt=10)
    assert asker.kinds() == [Kind.REQUEST]


def test_only_the_first_open_carries_a_request_which_may_have_run_if_it_was_lost() -> None:
    asker = Asker()
    asker.ask()
    asker.wait(3)
    first, second = asker.take(Kind.OPEN)
    assert len(first.body) > len(second.body)
    asker.ask(C)
    assert asker.take()[0].order.sequence == 1


@pytest.mark.parametrize("random", [0.0, 1.0])
def test_after_bad_news_a_session_is_asked_for_after_pauses_that_double_with_jitter(random: float) -> None:
    asker = Asker()
    asker.random = random
    asker.error = Unreachable("no link")
    asker.ask()
    share = 0.5 + random / 2
    pauses = [share * pause for pause in (0.1, 0.2, 0.4, 0.8, *[1] * 12)]
    expected = [(round(when, 6), Kind.OPEN) for when in accumulate(pauses)]
    assert asker.wait(6) == [one for one in expected if one[0] <= 6]
    asker.error = None
    asker.wait(2)
    asker.opened(attempt=len(asker.tried))
    asker.lost(B)
    asker.error = Unreachable("no link")
    assert asker.wait(0.3)[:2] == [(round(share * 0.05, 6), Kind.OPEN), (round(share * 0.15, 6), Kind.OPEN)]


def test_another_message_need_not_wait_as_long_as_those_before_had_to() -> None:
    asker = Asker()
    asker.ask(within=200)
    asker.wait(31)  # the last OPEN was a second ago, the next would go in 29
    asker.ask(within=200)
    assert asker.wait(29) == [(1, Kind.OPEN), (3, Kind.OPEN), (7, Kind.OPEN), (15, Kind.OPEN)]
    asker.ask(within=200)
    assert asker.wait(0) == [(0, Kind.OPEN)] or asker.tried[-1] == (asker.now, Kind.OPEN)


def test_another_message_during_a_pause_waits_until_50_ms_after_the_last_failure() -> None:
    asker = Asker()
    asker.error = Unreachable("no link")
    asker.ask()
    asker.wait(7.2)  # the pauses are 2 s by now, and the last began 0.1 s ago
    before = len(asker.tried)
    asker.ask()
    assert len(asker.tried) == before + 1
    asker.ask()
    assert len(asker.tried) == before + 1
    assert asker.wait(0.05) == [(0.05, Kind.OPEN)]


def test_a_session_is_not_asked_for_when_nobody_waits_any_more() -> None:
    asker = Asker()
    call = asker.ask()
    asker.tell(within=5)
    asker.give_up(call)
    assert [kind for _when, kind in asker.wait(MINUTE)] == [Kind.OPEN]
    assert asker.asking.untold == 0
    assert len(asker.timers) == 0


def test_a_cell_without_a_name_asks_for_no_session_until_it_has_one() -> None:
    asker = Asker()
    asker.name = None
    asker.ask(within=5)
    asker.ask(once=False)
    assert asker.wait(3) == []
    (failed,) = asker.happened(Failed)
    assert str(failed.error) == "B cannot be reached: this cell has no parent"
    asker.name = A
    assert [kind for _when, kind in asker.wait(1.9)] == [Kind.OPEN]
    assert asker.take()[0].order.sequence == 1


@pytest.mark.parametrize(("keys", "carries"), [("kk", False), ("kj", True), ("-k", True), ("k-", True), ("--", True)])
def test_an_open_carries_no_request_that_follows_an_event(keys: str, carries: bool) -> None:
    asker = Asker()
    asker.name = None
    event, request = (key.strip("-") for key in keys)
    asker.tell(key=event)
    asker.ask(key=request)
    asker.name = A
    asker.wait(1.9)
    (opening,) = asker.take(Kind.OPEN)
    assert bool(part(opening.body)[1]) is carries
    asker.opened()
    assert [kind for kind in asker.kinds() if kind is not Kind.OPEN] == [Kind.EVENT, Kind.REQUEST][: 2 - carries]


def test_an_open_carries_a_request_that_an_event_follows() -> None:
    asker = Asker()
    asker.name = None
    asker.ask(key="k")
    asker.tell(key="k")
    asker.name = A
    asker.wait(1.9)
    (opening,) = asker.take(Kind.OPEN)
    assert opening.order.sequence == 1


# The answer to OPEN


def test_an_opened_that_answers_nothing_is_no_news() -> None:
    asker = Asker()
    asker.ask()
    asker.ask(C)
    body = opened_body(asker.asked[B], 7)
    for source, attempt in ((FQCN("X"), 1), (B, 2)):
        asker.asking.sessions.opened_received(source, pack(attempt, 0), body, asker.now)
    asker.asking.sessions.opened_received(C, pack(1, 0), opened_body(asker.asked[C], 7), asker.now)
    assert asker.refused == 2
    asker.opened()
    assert asker.wait(1) == []
    asker.opened(8)
    assert asker.refused == 3
    asker.reply(1, session=8)
    assert asker.happened() == []
    asker.reply(1)
    assert [event.source for event in asker.happened(Replied)] == [B]


def test_an_opened_that_answers_an_earlier_start_or_another_open_is_no_news() -> None:
    earlier = Asker()
    earlier.ask()
    asker = Asker(epoch=2)
    asker.ask()
    for asked in (earlier.asked[B], Asker.opened_to(B).asked[B]):
        asker.asking.sessions.opened_received(B, pack(1, 0), opened_body(asked, 7), asker.now)
    assert asker.refused == 2
    assert asker.wait(3) == [(2, Kind.OPEN)]
    asker.opened(attempt=1)
    assert asker.asking.sessions.in_use(B, 7)


def test_an_opened_that_nobody_waits_for_any_more_is_no_news() -> None:
    asker = Asker()
    asker.give_up(asker.ask())
    asker.wait(3)
    asker.opened()
    assert asker.refused == 1
    asker.ask()
    assert asker.kinds() == [Kind.OPEN, Kind.OPEN]


def test_who_cannot_prove_who_it_is_is_asked_again_after_a_pause() -> None:
    asker = Asker()
    asker.ask(within=3)
    asker.ask(once=False)
    forged = opened_body(asker.asked[B], 7).replace(b"\x01\xa0\xa1B", b"\x02\xa0\xa1B")
    asker.asking.sessions.opened_received(B, pack(1, 0), forged, asker.now)
    (failed,) = asker.happened(Failed)
    assert str(failed.error).startswith("B could not prove who it is: B speaks version 2")
    assert asker.wait(1) == [(0.1, Kind.OPEN)]
    asker.opened(attempt=2)
    assert asker.asking.sessions.in_use(B, 7)


@pytest.mark.parametrize("body", [b"", b"garbage", pack(1, 0, 1)])
def test_an_opened_that_is_malformed_changes_nothing(body: bytes) -> None:
    asker = Asker()
    asker.ask()
    with pytest.raises(RemoteProtocolError):
        asker.asking.sessions.opened_received(B, pack(1, 0), body, asker.now)
    with pytest.raises(RemoteProtocolError):
        asker.asking.sessions.opened_received(B, pack("1", 0), opened_body(asker.asked[B], 7), asker.now)
    asker.opened()
    asker.reply(1)
    assert len(asker.happened(Replied)) == 1


def test_closed_to_an_open_is_bad_news_about_it_and_what_it_carried_did_not_run() -> None:
    asker = Asker()
    asker.ask(within=0.05)
    asker.closed(0, 2)
    assert asker.refused == 1
    asker.closed(0, 1)
    assert asker.wait(1) == []
    (failed,) = asker.happened(Failed)
    assert isinstance(failed.error, StillUnreachable)
    assert str(failed.error) == "B refused: no such session"


def test_closed_in_a_session_leads_to_another_open_at_once_and_what_is_pending_is_sent_again() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.ask()
    asker.take()
    asker.closed(8, 1)
    asker.closed(7, 1, source=C)
    asker.closed(0, 1)
    assert asker.kinds() == []
    asker.closed(7, 1)
    assert [frame.numbers for frame in asker.take()] == [(0, 2)]
    asker.closed(7, 2)
    assert asker.kinds() == []
    assert asker.refused == 4
    asker.opened(8, 2)
    assert [(f.numbers, f.order.sequence, f.order.doubt) for f in asker.take()] == [
        ((8, 1), 2, False),
        ((8, 2), 3, False),
    ]


def test_a_nack_of_another_open_than_the_last_is_no_news() -> None:
    asker = Asker()
    asker.nack(0, 1)
    asker.ask()
    asker.nack(0, 2)
    assert asker.wait(1) == []
    asker.nack(0, 1)
    assert asker.wait(1) == [(0.1, Kind.OPEN)]
    asker.nack(0, 1)
    assert asker.wait(4) == [(3.1, Kind.OPEN)]


# Broken ways


def test_a_lost_way_ends_only_what_went_over_it_and_is_not_repeated() -> None:
    asker = Asker.opened_to(B, C)
    for name in (B, C):
        asker.ask(name, once=False)
        asker.ask(name)
    asker.take()
    asker.lost(B)
    (failed,) = asker.happened(Failed)
    assert (failed.destination, type(failed.error)) == (B, Indeterminate)
    assert "the way to B broke" in str(failed.error)
    assert asker.asking.pending == 3
    assert asker.wait(1) == [(0.05, Kind.OPEN)]
    asker.opened(9, 2)
    assert [frame.numbers for frame in asker.take(Kind.REQUEST)] == [(9, 1)]
    asker.reply(3, session=8, source=C)
    asker.reply(3, session=9)
    assert [event.source for event in asker.happened(Replied)] == [C, B]


def test_a_session_that_was_not_granted_before_the_way_was_lost_is_asked_for_anew() -> None:
    asker = Asker()
    asker.ask()
    before = opened_body(asker.asked[B], 7)
    asker.lost(B)
    asker.wait(1)
    asker.asking.sessions.opened_received(B, pack(1, 0), before, asker.now)
    assert asker.refused == 1
    asker.opened(8, 2)
    assert asker.asking.sessions.in_use(B, 8)


def test_when_a_session_was_granted_the_next_one_is_asked_for_without_patience() -> None:
    asker = Asker()
    asker.ask()
    asker.wait(31)
    asker.opened(attempt=5)
    asker.closed(7, 1)
    assert asker.wait(3) == [(2, Kind.OPEN)]
    asker.error = Unreachable("no link")
    asker.wait(20)
    asker.error = None
    asker.wait(2)
    asker.opened(8, asker.take(Kind.OPEN)[-1].numbers[1])
    asker.closed(8, 1)
    asker.nack(0, asker.take(Kind.OPEN)[-1].numbers[1])
    assert asker.wait(1) == [(0.1, Kind.OPEN)]


def test_what_is_in_use_is_left_when_the_way_is_lost_and_its_replies_are_no_news() -> None:
    asker = Asker.opened_to(B)
    asker.ask()
    asker.lost(B)
    asker.reply(2)
    assert asker.refused == 1
    assert asker.happened() == []


def test_when_there_is_a_way_again_what_waits_for_one_goes_at_once() -> None:
    asker = Asker.opened_to(C)
    asker.error = Unreachable("no link")
    asker.ask(B)
    asker.ask(C)
    asker.wait(5)
    asker.error = None
    asker.asking.reachable({B}.__contains__, asker.now)
    assert [(frame.destination, frame.kind) for frame in asker.take()] == [(B, Kind.OPEN)]
    asker.asking.reachable({B, C}.__contains__, asker.now)
    assert [(frame.destination, frame.kind) for frame in asker.take()] == [(C, Kind.REQUEST)]
    asker.asking.reachable({B, C}.__contains__, asker.now)
    assert asker.take() == []


# Forgotten


@pytest.mark.parametrize("pause", [1, 15])
def test_a_session_that_was_forgotten_is_not_mistaken_for_the_old_one(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 1)
    net = Net.tree("A", "B")
    for number, name in enumerate(("A", "B", "A")):
        net.request("server", name, payload=str(number).encode())
        net.tick(pause)
    assert [o.payload for o in net.outcomes("server") if isinstance(o, Replied)] == [b"0", b"1", b"2"]
    assert len(net["server"].exchange.asking.sessions) == 1


def test_a_request_that_finds_no_room_for_a_session_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 2)
    net = Net.tree("A", "B", "C")
    for name in ("A", "B"):
        net.request("server", name, topic="hold")
    net.run()
    for destinations in (["C"], ["B", "C"], ["C", "A"]):
        with pytest.raises(Busy, match="this cell has requests open at 2 cells"):
            net.request("server", *destinations)
    net.run()
    assert net["server"].exchange.pending == 2
    for name in ("A", "B"):
        (message,) = net.received(name, Message)
        net[name].ended(message.number, Status.OK, 0, b"", net.now)
    net.run()
    assert [type(outcome) for outcome in net.outcomes("server")] == [Replied, Replied]
    net.request("server", "C", "A")
    net.run()
    assert [type(outcome) for outcome in net.outcomes("server")] == [Replied, Replied]
    assert [message.sequence for message in net.received("A", Message)] == [1, 2]
    assert net["server"].exchange.pending == 0


def test_there_may_be_a_session_for_each_answer_that_a_cell_waits_for() -> None:
    """Else a broadcast could find no room for its last destinations but that of its first."""
    assert sessions_module.MAX_SESSIONS >= asking_module.MAX_PENDING
