"""What a cell asks others: sessions are opened, requests repeated until they are answered, and doubt is counted.

Every transmission of a request is in doubt until something certain is heard of it. What was never in doubt, or is no
longer, was not executed. See ``docs/decisions/0004-requests-that-survive.md``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cellnet.errors import Busy, NotExecuted, Unreachable
from cellnet.protocol.envelope import Answer, Entry, Status, unpack_ranges
from cellnet.protocol.events import Failed, Replied
from cellnet.protocol.frames import Kind
from cellnet.protocol.gathering import Gathering
from cellnet.protocol.sealing import KEY_BYTES, seal_content
from cellnet.protocol.session import (
    MAX_PAUSE_SECONDS,
    MAX_SILENCE_SECONDS,
    SILENCE_SECONDS,
    Pending,
    Untold,
)
from cellnet.protocol.sessions import Sessions

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable

    from cellnet.errors import DeliveryError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.envelope import Content
    from cellnet.protocol.events import Event
    from cellnet.protocol.introduction import Introducer
    from cellnet.protocol.session import Session
    from cellnet.protocol.timers import Timers

__all__ = ["Asking"]

MAX_PENDING = 65536
"""Messages, counted by destination, that a cell may wait for at a time."""
SETTLE_SECONDS = 10.0
"""How long after an answer the answerer is told that it may forget, unless another request says so before."""
MANY_BYTES = 1 << 20
"""So many bytes of answers are told to be forgotten at once."""


class Asking:
    """The asker's side of all sessions of one cell."""

    def __init__(
        self,
        introducer: Introducer,
        events: deque[Event],
        send: Callable[[FQCN, Kind, bytes, bytes, float], None],
        broadcast: Callable[[list[Entry], bytes, float], None],
        timers: Timers,
        random: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        """Begin with no sessions.

        :param send: sends a frame, or raises ``NotExecuted``
        :param broadcast: sends one content to many, each with an entry of its own
        :param random: draws from 0 to 1, for the jitter of pauses
        :param entropy: returns as many bytes as it is asked for, which nobody can guess
        """
        self.sessions = Sessions(introducer, send, timers, random, self)
        self.repeated = 0
        """Transmissions after the first."""
        self.untold = 0
        """Events that wait for their session."""
        self._events = events
        self._send = send
        self._broadcast = broadcast
        self._timers = timers
        self._random = random
        self._entropy = entropy
        self._calls: dict[int, dict[FQCN, Pending]] = {}
        self._waiting = 0
        self._lingering = 0
        """Requests that nobody waits for, and that are not settled."""
        self._made = 0

    @property
    def pending(self) -> int:
        """How many answers are awaited."""
        return self._waiting

    # The owner's side.

    def ask(
        self, destinations: Iterable[FQCN], content: Content, *, deadline: float, now: float, once: bool, key: str
    ) -> int:
        """Send a request to each of *destinations*; return the number of the call.

        :param once: whether to repeat it until it is answered
        :param key: its ordering key; empty for none
        :raises Busy: if too much is awaited
        """
        wanted = list(dict.fromkeys(destinations))
        self._check_room(len(wanted))
        sessions = [self.sessions.to(destination) for destination in wanted]
        self._made += 1
        call = self._made
        pendings = [session.add(Pending(call, content, deadline, key, repeats=once)) for session in sessions]
        if pendings:
            self._calls[call] = dict(zip(wanted, pendings, strict=True))
        self._waiting += len(pendings)
        gathering = Gathering(self._timers, self._leave_together) if len(pendings) > 1 else None
        for session, pending in zip(sessions, pendings, strict=True):
            self._begin(session, pending, gathering, now)
        if gathering is not None:
            gathering.begin(now)
        return call

    def tell(self, destination: FQCN, content: Content, *, deadline: float, now: float, key: str) -> None:
        """Send an event, once the session is open.

        :raises Busy: if too much is awaited
        :raises Unreachable: if no link leads there, and the session is open
        """
        session = self.sessions.to(destination)
        event = Untold(content, key, session.last(key), deadline)
        if session.channel is not None:
            self._send_event(session, event, now)
            return
        self._check_room(1)
        self.untold += 1
        session.events.append(event)
        self.sessions.want(session, now)

    def give_up(self, call: int, now: float) -> list[tuple[FQCN, DeliveryError]]:
        """Want no more answers to a call; return who still owed one, and what is known of that."""
        owed = []
        wanted = list(self._calls.get(call, {}).items())
        for _destination, pending in wanted:
            if pending.gathering is not None:
                pending.gathering.cancel()
        for destination, pending in wanted:
            session = self.sessions.to(destination)
            owed.append((destination, pending.verdict(destination)))
            self._finish(session, pending, now)
        return owed

    # What becomes of sessions.

    def wants(self, session: Session, now: float) -> bool:
        """Return whether anybody waits for a session to be open; forget the events whose time is over."""
        self.untold -= session.drop_late_events(now)
        return session.is_wanted

    def opened(self, session: Session, carried: Pending | None, now: float, *, restarted: bool) -> None:
        """Send what waited for a session, and again what is in doubt."""
        if carried is not None:
            session.flying[0] = carried
            carried.counters.append(0)
        self._send_events(session, now)
        for pending in list(session.pending.values()):
            if pending is carried:
                self._again(session, pending, now + pending.silence)
                continue
            pending.is_doubtful |= restarted and pending.in_doubt > 0
            if pending.is_doubtful and not pending.repeats:
                self._fail(session, pending, pending.doubt(session.destination, "it was restarted"), now)
            elif pending.gathering is not None:
                pending.gathering.ready(session, pending, now)
            else:
                self._transmit(session, pending, now)
        if session.has_untold:
            self._tell_settled(session, now)

    def not_opened(self, session: Session, error: NotExecuted, now: float) -> None:
        """Note why nothing can be sent; end what is sent only once, and what nobody waits for any more."""
        for pending in list(session.pending.values()):
            pending.error = error
            if not pending.repeats:
                self._give_up_on(session, pending, error, now)

    def moved(self, now: float) -> None:
        """Take the news that this cell has another name: whoever it asked is to learn where the answers go now."""
        for session in self.sessions.those(lambda _name: True):
            self.sessions.lose(session, Unreachable("this cell has moved"), now)

    # Frames.

    def reply_received(self, source: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a REPLY. What was not asked, or was answered already, is dropped.

        :raises RemoteProtocolError: if it is malformed
        """
        read = self.sessions.read(source, Kind.REPLY, header, body)
        if read is None:
            return
        session, said = read
        answer = Answer.unpack(said)
        pending = session.pending.get(answer.sequence)
        if pending is None:
            self.sessions.refused += 1
        elif answer.status == Status.WORKING:
            pending.silence = MAX_SILENCE_SECONDS
            self._again(session, pending, now + MAX_SILENCE_SECONDS)
        elif answer.status == Status.BUSY:
            session.not_delivered(answer.counter, is_certain=True)
            error = Busy(f"{source} works on as many requests as it may")
            self._bad_news(session, pending, error, now)
        elif answer.status == Status.UNKNOWN:
            self._fail(session, pending, pending.doubt(source, "it was restarted"), now)
        else:
            self._finish(session, pending, now, is_answered=True)
            session.kept_bytes += len(answer.payload)
            if session.kept_bytes >= MANY_BYTES:
                self._tell_settled(session, now)
            self._events.append(
                Replied(pending.call, session.destination, answer.status, answer.encoding, answer.payload)
            )

    def drained_received(self, source: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a DRAINED: what the answerer does not name did not run, and goes to its next start.

        :raises RemoteProtocolError: if it is malformed
        """
        if (read := self.sessions.read(source, Kind.DRAINED, header, body)) is not None:
            session, said = read
            session.ran_only(*unpack_ranges(said))
            self.sessions.lose(session, Unreachable(f"{source} is being stopped"), now)

    def nack_received(self, destination: FQCN, number: int, counter: int, error: NotExecuted, now: float) -> None:
        """Take the news that one transmission was not delivered."""
        if not number:
            if (session := self.sessions.known(destination)) is not None:
                self.sessions.open_refused(session, counter, error, now)
        elif (found := self.sessions.in_use(destination, number)) is not None:
            session, channel = found
            pending = session.not_delivered(counter, is_certain=not channel.is_sealed)
            if pending is not None:
                self._bad_news(session, pending, error, now)
        else:
            self.sessions.refused += 1

    def lost(self, is_lost: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that the way to some cells broke: what was under way there is sent again soon."""
        for session in self.sessions.those(is_lost):
            self.sessions.lose(session, Unreachable(f"the way to {session.destination} broke"), now)

    def reachable(self, is_reachable: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that there is a way again: what waits for one goes now."""
        for session in self.sessions.those(is_reachable):
            if session.is_pausing:
                self.sessions.open(session, now)
            elif session.channel is not None:
                for pending in [one for one in session.pending.values() if one.error is not None]:
                    self._transmit(session, pending, now)

    # Requests.

    def _check_room(self, more: int) -> None:
        if self._waiting + self._lingering + self.untold + more > MAX_PENDING:
            raise Busy(f"this cell already waits for {self._waiting} answers")

    def _begin(self, session: Session, pending: Pending, gathering: Gathering | None, now: float) -> None:
        pending.over = self._timers.at(pending.deadline, partial(self._deadline_passed, session, pending))
        if session.channel is None:
            if gathering is not None:
                gathering.wait_for(pending)
            self.sessions.want(session, now)
        elif gathering is not None:
            gathering.ready(session, pending, now)
        else:
            self._transmit(session, pending, now)

    def _leave_together(self, ready: list[tuple[Session, Pending]], now: float) -> None:
        """Send a broadcast to those whose sessions are open."""
        first, one = ready[0]
        content, deadline, key, digest = one.content.pack(), one.deadline, b"", b""
        if first.open_channel.is_sealed:  # then all are
            key = self._entropy(KEY_BYTES)
            content, digest = seal_content(content, key)
        entries = []
        for session, pending in ready:
            order = session.order(pending, now).pack()
            entries.append(session.open_channel.wrap_entry(session.at, order, key, digest))
            self._sent(session, pending, now)
        self._broadcast(entries, content, deadline)

    def _transmit(self, session: Session, pending: Pending, now: float) -> None:
        """Send a request, for the first time or again."""
        if session.channel is None:
            return  # it was lost with the one before, and this one leaves once there is another
        if pending.again is not None:
            pending.again.cancel()
            pending.again = None
        header, body = session.open_channel.wrap(Kind.REQUEST, session.body(pending, now))
        try:
            self._send(session.at, Kind.REQUEST, header, body, pending.deadline)
        except NotExecuted as error:
            self._bad_news(session, pending, error, now)
        else:
            self._sent(session, pending, now)

    def _sent(self, session: Session, pending: Pending, now: float) -> None:
        counter = session.open_channel.sent
        self.repeated += pending.error is not None or pending.in_doubt > 0
        pending.error = None
        pending.in_doubt += 1
        pending.counters.append(counter)
        session.flying[counter] = pending
        if pending.repeats:
            self._again(session, pending, now + pending.silence)
            pending.silence = min(2 * pending.silence, MAX_SILENCE_SECONDS)

    def _send_event(self, session: Session, event: Untold, now: float) -> None:
        header, body = session.open_channel.wrap(Kind.EVENT, session.event_body(event, now))
        self._send(session.at, Kind.EVENT, header, body, event.deadline)

    def _send_events(self, session: Session, now: float) -> None:
        events, session.events = session.events, []
        self.untold -= len(events)
        for event in events:
            try:
                self._send_event(session, event, now)
            except NotExecuted:
                self.sessions.refused += 1  # an event is sent once

    def _bad_news(self, session: Session, pending: Pending, error: NotExecuted, now: float) -> None:
        """Send a request again after a pause, or give it up if it is sent only once."""
        pending.error = error
        if self.sessions.lose_former(session, error, now):
            return
        if not pending.repeats:
            self._give_up_on(session, pending, error, now)
            return
        pause = pending.pause * (0.5 + self._random() / 2)
        pending.pause = min(2 * pending.pause, MAX_PAUSE_SECONDS)
        pending.silence = SILENCE_SECONDS
        self._again(session, pending, now + pause)

    def _again(self, session: Session, pending: Pending, when: float) -> None:
        if pending.again is not None:
            pending.again.cancel()
        pending.again = self._timers.at(when, partial(self._repeat, session, pending))

    def _repeat(self, session: Session, pending: Pending, now: float) -> None:
        pending.again = None
        if session.channel is not None:
            self._transmit(session, pending, now)
        else:
            self.sessions.want(session, now)

    def _deadline_passed(self, session: Session, pending: Pending, now: float) -> None:
        pending.over = None
        self._fail(session, pending, pending.verdict(session.destination), now)

    def _give_up_on(self, session: Session, pending: Pending, error: NotExecuted, now: float) -> None:
        """End what is not repeated after bad news."""
        self._fail(session, pending, pending.doubt(session.destination, str(error)) if pending.in_doubt else error, now)

    def _fail(self, session: Session, pending: Pending, error: DeliveryError, now: float) -> None:
        self._finish(session, pending, now)
        self._events.append(Failed(pending.call, session.destination, error))

    def _finish(self, session: Session, pending: Pending, now: float, *, is_answered: bool = False) -> None:
        """Wait no longer for an answer, and see to it that the answerer hears of that, at once if it matters there."""
        for timer in (pending.again, pending.over):
            if timer is not None:
                timer.cancel()
        for counter in pending.counters:
            session.flying.pop(counter, None)
        settled = session.remove(pending)
        self._waiting -= 1
        self._lingering += 1 - settled
        owed = self._calls[pending.call]
        del owed[session.destination]
        if not owed:
            del self._calls[pending.call]
        if pending.gathering is not None:
            pending.gathering.drop(pending, now)
        may_run = settled > 1 or (pending.in_doubt > 0 and not is_answered)
        is_waited_for = pending.key in session.keys and settled > is_answered
        if may_run or is_waited_for:
            self._tell_settled(session, now)
        elif session.settling is None:
            session.settling = self._timers.at(now + SETTLE_SECONDS, partial(self._tell_settled, session))

    def _tell_settled(self, session: Session, now: float) -> None:
        """Tell the answerer what it may forget. If that is lost, the next request says it, or the deadline."""
        session.stop_settling()
        session.has_untold = session.channel is None
        session.kept_bytes = 0
        if session.channel is not None:
            header, body = session.channel.wrap(Kind.SETTLED, session.settlement())
            try:
                self._send(session.at, Kind.SETTLED, header, body, now + MAX_SILENCE_SECONDS)
            except NotExecuted:
                self.sessions.refused += 1
