"""The messages of one cell: what it asks and what it is asked, without knowledge of links and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol.answering import Answering
from cellnet.protocol.asking import Asking
from cellnet.protocol.frames import Kind
from cellnet.protocol.introduction import Introducer

if TYPE_CHECKING:
    import datetime
    from collections import deque
    from collections.abc import Callable

    from cellnet.errors import NotExecuted
    from cellnet.fqcn import FQCN
    from cellnet.protocol.claim import Party
    from cellnet.protocol.events import Event
    from cellnet.protocol.switch import Switch
    from cellnet.protocol.timers import Timer, Timers

__all__ = ["Exchange"]

_MESSAGES = frozenset({Kind.REQUEST, Kind.EVENT, Kind.BROADCAST})
EXPIRE_SECONDS = 1.5
"""How long after a deadline requests are looked through for those whose deadline passed."""


class Exchange:
    """Both sides of all sessions of one cell."""

    def __init__(
        self,
        me: Callable[[], Party | None],
        events: deque[Event],
        switch: Switch,
        timers: Timers,
        *,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
        wall: Callable[[], datetime.datetime],
    ) -> None:
        introducer = Introducer(me, entropy, wall)
        self.asking = Asking(introducer, events, switch.send, switch.broadcast, timers, random, entropy)
        self.answering = Answering(introducer, events, switch.send, timers)
        self._timers = timers
        self._look: Timer | None = None

    @property
    def pending(self) -> int:
        """How many answers are awaited."""
        return self.asking.pending

    @property
    def refused(self) -> int:
        """Frames that were repetitions, belonged to no session, or could not be sent."""
        return self.asking.sessions.refused + self.answering.refused

    def received(self, origin: FQCN, kind: Kind, header: bytes, body: bytes, expires: float, now: float) -> None:
        """Take a frame that is for this cell.

        :raises RemoteProtocolError: if it is malformed
        """
        asking, answering = self.asking, self.answering
        if kind in _MESSAGES:
            answering.message_received(origin, kind, header, body, expires, now)
            self._look_by(expires, now)
        elif kind is Kind.REPLY:
            asking.reply_received(origin, header, body, now)
        elif kind is Kind.DRAINED:
            asking.drained_received(origin, header, body, now)
        elif kind is Kind.SETTLED:
            answering.settled_received(origin, header, body, now)
        elif kind is Kind.OPEN:
            answering.open_received(origin, header, body, expires, now)
            self._look_by(expires, now)
        elif kind is Kind.OPENED:
            asking.sessions.opened_received(origin, header, body, now)
        else:
            asking.sessions.closed_received(origin, header, body, now)

    def nack_received(self, destination: FQCN, session: int, counter: int, error: NotExecuted, now: float) -> None:
        """Take the news that a transmission of ours was not delivered."""
        self.asking.nack_received(destination, session, counter, error, now)

    def lost(self, is_lost: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that the way to some cells broke. What they asked goes on: they will ask for the answer."""
        self.asking.lost(is_lost, now)

    def named(self, now: float) -> None:
        """Take the news that this cell has a name, or another one. Who asked it will ask for the answer there."""
        self.answering.begin(now)
        self.asking.moved(now)

    def _look_by(self, expires: float, now: float) -> None:
        """Look for what is over when the first can be, but not for each on its own."""
        when = max(expires, now) + EXPIRE_SECONDS
        if self._look is None or when < self._look.when:
            if self._look is not None:
                self._look.cancel()
            self._look = self._timers.at(when, self._expire)

    def _expire(self, now: float) -> None:
        self._look = None
        self.answering.expire(now)
        if (first := self.answering.first_deadline()) is not None:
            self._look_by(first, now)
