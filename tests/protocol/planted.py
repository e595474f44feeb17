"""Bugs, to be planted: what a test that looks for such a bug must find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellnet.protocol import answering as answering_module
from cellnet.protocol.answering import Answering
from cellnet.protocol.askers import Askers
from cellnet.protocol.connection import Connection
from cellnet.protocol.envelope import Order
from cellnet.protocol.fencing import Fencing
from cellnet.protocol.presence import Presence
from cellnet.protocol.ranges import Ranges

if TYPE_CHECKING:
    import pytest

__all__ = [
    "a_recorded_open_ends_the_session_in_use",
    "a_request_that_came_before_runs_again",
    "an_answer_to_a_probe_is_ignored",
    "an_older_epoch_is_accepted",
    "drained_does_not_name_what_ran",
    "labels_are_not_released",
    "presence_is_not_announced",
]


def presence_is_not_announced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Presence, "announce", lambda _self, _parent: None)


def labels_are_not_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Connection, "release", lambda _self, route: setattr(route, "out", None))


def an_older_epoch_is_accepted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fencing, "admitted", lambda _self, _neighbour: None)


def an_answer_to_a_probe_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fencing, "alive", lambda _self, _holder, _now: None)


def a_request_that_came_before_runs_again(patch: pytest.MonkeyPatch) -> None:
    take = Answering._take

    def forgetful(self: Answering, session: Any, counter: int, first: bytes, *more: Any) -> None:
        session.asker.records.pop(Order.unpack(first).sequence, None)
        take(self, session, counter, first, *more)

    patch.setattr(Answering, "_take", forgetful)


def drained_does_not_name_what_ran(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answering_module, "_covering", lambda _sequences: Ranges())


def a_recorded_open_ends_the_session_in_use(patch: pytest.MonkeyPatch) -> None:
    offer = Askers.offer

    def use_at_once(self: Askers, *asked: Any) -> Any:
        session = offer(self, *asked)
        self.use(session)
        return session

    patch.setattr(Askers, "offer", use_at_once)
