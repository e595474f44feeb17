"""What is broken is seen: each bug is planted in the core, and found in a few seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cellnet.errors import StillUnreachable, Unreachable
from cellnet.fqcn import FQCN
from cellnet.link import Backoff
from cellnet.protocol import connection as connection_module
from cellnet.protocol.answering import Answering
from cellnet.protocol.asking import Asking
from cellnet.protocol.connection import Connection
from cellnet.protocol.envelope import Order
from cellnet.protocol.events import Replied
from cellnet.protocol.exchange import Exchange
from cellnet.protocol.frames import unpack
from cellnet.protocol.lanes import Lanes
from cellnet.protocol.presence import Presence
from cellnet.protocol.sealing import Window
from cellnet.protocol.session import Pending
from cellnet.protocol.switch import Switch
from cellnet.simulation import Run, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.events import Message
    from cellnet.protocol.session import Session

SEEDS = 20
SOON = 0.3
"""As in test_simulation.py."""

Plant = Callable[..., Any]
"""Takes a method, and returns what is to be in its place."""


def does_nothing(_original: Plant) -> Plant:
    return lambda *_args, **_kwargs: None


def says_yes(_original: Plant) -> Plant:
    return lambda *_args: True


# In a session.


def runs_a_second_copy(original: Plant) -> Plant:
    def planted(answering: Answering, session: Any, counter: int, order: bytes, *rest: Any) -> None:
        session.asker.records.pop(Order.unpack(order).sequence, None)
        original(answering, session, counter, order, *rest)

    return planted


def ignores_the_floor(original: Plant) -> Plant:
    def planted(answering: Answering, session: Any, *args: Any) -> None:
        session.asker.floor = 1 << 62
        original(answering, session, *args)

    return planted


def takes_a_reply_twice(original: Plant) -> Plant:
    def planted(asking: Asking, *args: Any) -> None:
        original(asking, *args)
        if asking._events and isinstance(asking._events[-1], Replied):
            asking._events.append(asking._events[-1])

    return planted


def gives_anothers_answer(original: Plant) -> Plant:
    last = [b"nothing"]

    def planted(asking: Asking, *args: Any) -> None:
        original(asking, *args)
        if asking._events and isinstance(asking._events[-1], Replied):
            replied = asking._events.pop()
            last.append(replied.payload)
            asking._events.append(replied._replace(payload=last.pop(0)))

    return planted


def promises_that_it_did_not_run(original: Plant) -> Plant:
    def planted(asking: Asking, session: Session, pending: Any, _error: Exception, now: float) -> None:
        original(asking, session, pending, Unreachable("surely"), now)

    return planted


def settles_and_tells_nobody(_original: Plant) -> Plant:
    def planted(asking: Asking, session: Session, pending: Any, _error: Exception, now: float) -> None:
        asking._finish(session, pending, now)

    return planted


def goes_on_waiting(_original: Plant) -> Plant:
    def planted(asking: Asking, call: int, _now: float) -> list[Any]:
        return [
            (destination, pending.verdict(destination)) for destination, pending in asking._calls.get(call, {}).items()
        ]

    return planted


def takes_another_start_for_the_same(original: Plant) -> Plant:
    def planted(*args: Any, restarted: bool) -> None:
        original(*args, restarted=False)

    return planted


def lets_begin_at_once(_original: Plant) -> Plant:
    def planted(_lanes: Lanes, message: Message, _after: int) -> Iterator[Message]:
        yield message

    return planted


# On a link.


def believes_whoever_speaks(_original: Plant) -> Plant:
    def planted(_switch: Switch, connection: Connection, frame: Any) -> None:
        origin, destination = unpack(frame.header, str, (str, type(None)))
        connection.bind(frame.label, FQCN(origin), None if destination is None else FQCN(destination))

    return planted


def waits_as_long_as_all_others(original: Plant) -> Plant:
    def planted(backoff: Backoff, now: float) -> float:
        original(backoff, now)
        return min(backoff.early_cap, backoff.base * 2.0 ** (backoff._failures - 1))

    return planted


faulty = partial(simulate, cells=12, faults=60)
hostile = partial(faulty, hostile=True)


@pytest.mark.parametrize(
    ("owner", "method", "bug", "run", "said"),
    [
        (Answering, "_take", runs_a_second_copy, faulty, "it ran 2 times"),
        (Asking, "opened", takes_another_start_for_the_same, faulty, "it ran 2 times"),
        (Window, "accept", says_yes, hostile, "it ran 2 times"),
        (Lanes, "add", lets_begin_at_once, faulty, "ended, which has the same key"),
        (Asking, "reply_received", takes_a_reply_twice, faulty, "ended twice: ok, then ok"),
        (Asking, "reply_received", gives_anothers_answer, faulty, "it was given another's answer"),
        (Asking, "_fail", promises_that_it_did_not_run, faulty, "it was told not executed, and ran"),
        (Asking, "_fail", settles_and_tells_nobody, faulty, "the endpoint awaits"),
        (Asking, "give_up", goes_on_waiting, faulty, "the endpoint awaits"),
        (Answering, "_settle", does_nothing, faulty, "answers kept"),
        (Answering, "_take", ignores_the_floor, faulty, "answers kept"),
        (Exchange, "_look_by", does_nothing, faulty, "answers kept"),
        (Connection, "release", does_nothing, faulty, "over dead links"),
        (Presence, "announce", does_nothing, faulty, "missing among the cells known below"),
        (Switch, "bind", believes_whoever_speaks, hostile, " in the name of "),
        (Backoff, "failed", waits_as_long_as_all_others, faulty, "they would all come at once"),
    ],
)
def test_a_planted_bug_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    bug: Callable[[Plant], Plant],
    run: Callable[[int], Run],
    said: str,
) -> None:
    monkeypatch.setattr(owner, method, bug(getattr(owner, method)))
    assert is_seen(said, run)


@pytest.mark.parametrize(
    ("owner", "name", "value", "said"),
    [
        (Pending, "verdict", lambda *_args: StillUnreachable("surely"), "it was told not executed, and ran"),
        (connection_module, "DEAD_SECONDS", 1e9, "it asked after the repair, and was not answered"),
        (connection_module, "BUDGET_BYTES", 1 << 40, "bytes wait for one link"),
    ],
)
def test_a_wrong_constant_or_judgement_is_seen(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any, said: str
) -> None:
    monkeypatch.setattr(owner, name, value)
    assert is_seen(said, faulty)


def test_a_cell_that_never_says_what_it_no_longer_wants_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "_tell_settled", lambda *_args: None)
    assert any(simulate(seed, faults=0).history.longest_in_vain() > SOON for seed in range(SEEDS))


def is_seen(said: str, run: Callable[[int], Run]) -> bool:
    return any(said in violation for seed in range(SEEDS) for violation in run(seed).violations())
