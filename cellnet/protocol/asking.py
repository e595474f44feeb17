"""What a cell asks others: sessions are opened, requests repeated until they are answered, and doubt is counted.

Every transmission of a request is in doubt until something certain is heard of it. What was never in doubt, or is no
longer, was not executed. See ``docs/decisions/0004-requests-that-survive.md``.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from cellnet.errors import (
    Busy,
    DeadlineBeforeExecution,
    DeadlineExceeded,
    Indeterminate,
    NotExecuted,
    StillBusy,
    StillUnreachable,
    Unreachable,
)
from cellnet.protocol.envelope import Answer, Entry, Order, Status, join
from cellnet.protocol.events import Failed, Replied
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.session import (
    MAX_PAUSE_SECONDS,
    MAX_SILENCE_SECONDS,
    PAUSE_SECONDS,
    SILENCE_SECONDS,
    Group,
    Pending,
    Session,
)

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable

    from cellnet.errors import DeliveryError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.envelope import Content
    from cellnet.protocol.events import Event
    from cellnet.protocol.timers import Timers

__all__ = ["Asking"]

MAX_PENDING = 65536
"""Messages, counted by destination, that a cell may wait for at a time."""
MAX_SESSIONS = 65536
"""Cells with which a cell has sessions; one with nothing pending makes room for another."""
GATHER_SECONDS = 0.5
"""How long a broadcast waits for sessions that are not open yet; who comes later gets a request of its own."""
SETTLE_SECONDS = 10.0
"""How long after an answer the answerer is told that it may forget, unless another request says so before."""
MANY_BYTES = 1 << 20
"""So many bytes of answers are told to be forgotten at once."""
MAX_RANGES = 64
CLOCK_MARGIN = 1.001
"""By how much two clocks may differ in speed."""
RESTARTED = "it may have run before {} was restarted"


class Asking:
    """The asker's side of all sessions of one cell."""

    def __init__(
        self,
        epoch: int,
        events: deque[Event],
        send: Callable[[FQCN, Kind, bytes, bytes, float], None],
        broadcast: Callable[[list[Entry], bytes, float], None],
        timers: Timers,
        random: Callable[[], float],
    ) -> None:
        """Begin with no sessions.

        :param send: sends a frame, or raises ``NotExecuted``
        :param broadcast: sends one content to many, each with an entry of its own
        :param random: draws from 0 to 1, for the jitter of pauses
        """
        self.refused = 0
        """Frames that were repetitions, or belonged to no session."""
        self.repeated = 0
        """Transmissions after the first."""
        self._epoch = epoch
        self._events = events
        self._send = send
        self._broadcast = broadcast
        self._timers = timers
        self._random = random
        self._calls: dict[int, dict[FQCN, Pending]] = {}
        self._sessions: OrderedDict[FQCN, Session] = OrderedDict()
        self._numbers: dict[int, Session] = {}
        self._waiting = 0
        self._made = 0

    @property
    def pending(self) -> int:
        """How many answers are awaited, and events that could not leave yet."""
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
        self._made += 1
        call = self._made
        pendings = {}
        for destination in wanted:
            session = self._session(destination)
            pendings[destination] = session.add(Pending(call, content, deadline, key, repeats=once))
        if pendings:
            self._calls[call] = pendings
        self._waiting += len(pendings)
        group = Group() if len(pendings) > 1 else None
        for destination, pending in list(pendings.items()):
            self._begin(self._sessions[destination], pending, group, now)
        if group is not None:
            if group.missing:
                group.timer = self._timers.at(now + GATHER_SECONDS, partial(self._leave_together, group))
            else:
                self._leave_together(group, now)
        return call

    def tell(self, destination: FQCN, content: Content, *, deadline: float, now: float, key: str) -> None:
        """Send an event, once the session is open.

        :raises Busy: if too much is awaited
        :raises Unreachable: if no link leads there, and the session is open
        """
        session = self._session(destination)
        if session.number:
            self._send_event(session, content, key, deadline)
            return
        self._check_room(1)
        self._waiting += 1
        session.events.append((content, key, deadline))
        if session.opening is None:
            self._open(session, now)

    def give_up(self, call: int, now: float) -> list[tuple[FQCN, DeliveryError]]:
        """Want no more answers to a call; return who still owed one, and what is known of that."""
        owed = []
        for destination, pending in list(self._calls.get(call, {}).items()):
            session = self._sessions[destination]
            owed.append((destination, _judge(destination, pending)))
            self._finish(session, pending, now)
            if pending.in_doubt:
                self._tell_settled(session, now)
        return owed

    # Frames.

    def opened_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take an OPENED.

        :raises RemoteProtocolError: if it is malformed
        """
        number, attempt = unpack(header, int, int)
        epoch, age_ms = unpack(body, int, int)
        session = self._sessions.get(origin)
        if session is None or session.opening is None or attempt > session.attempt or number in self._numbers:
            self.refused += 1
            return
        session.opening.cancel()
        session.opening = None
        restarted = session.epoch not in (0, epoch)
        carried = self._carried(session, attempt, age_ms / 1000, now)
        session.begin(number, epoch)
        self._numbers[number] = session
        if carried is not None:
            session.flying[0] = carried
        for content, key, deadline in session.take_events():
            self._waiting -= 1
            if deadline > now:
                self._try_event(session, content, key, deadline)
        for pending in list(session.pending.values()):
            if restarted and pending.in_doubt:
                self._fail(session, pending, Indeterminate(RESTARTED.format(origin)), now)
            elif pending is carried:
                self._again(session, pending, now + pending.silence)
            elif pending.group is not None:
                self._gather(session, pending, pending.group, now)
            else:
                self._transmit(session, pending, now)
        if session.has_untold:
            self._tell_settled(session, now)

    def _carried(self, session: Session, attempt: int, age: float, now: float) -> Pending | None:
        """Return the request that came with this OPEN; end one that came with another, if it is in doubt for good.

        :param age: seconds since the answerer was started, at least
        """
        if session.first is None:
            return None
        (pending, sent), session.first = session.first, None
        if session.pending.get(pending.sequence) is not pending:
            return None
        if attempt == 1:
            return pending
        if pending.in_doubt and age < (now - sent) * CLOCK_MARGIN:
            self._fail(session, pending, Indeterminate(RESTARTED.format(session.destination)), now)
        return None

    def closed_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a CLOSED: the answerer does not know the session, or refused to open one.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        (reason,) = unpack(body, str)
        session = self._sessions.get(origin)
        if session is None or session.number != number or (not number and session.attempt != counter):
            self.refused += 1
        elif number:
            if (pending := session.flying.pop(counter, None)) is not None:
                pending.in_doubt -= 1
            self._leave_session(session)
            self._open(session, now)
        else:
            self._opening_failed(session, Unreachable(f"{origin} refused: {reason[:200]}"), now)

    def reply_received(self, source: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a REPLY. What was not asked, or was answered already, is dropped.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        session = self._numbers.get(number)
        if session is None or session.destination != source or not session.window.accept(counter):
            self.refused += 1
            return
        answer = Answer.unpack(body)
        pending = session.pending.get(answer.sequence)
        if pending is None:
            self.refused += 1
        elif answer.status == Status.WORKING:
            pending.silence = MAX_SILENCE_SECONDS
            self._again(session, pending, now + MAX_SILENCE_SECONDS)
        elif answer.status == Status.BUSY:
            if session.flying.pop(answer.counter, None) is pending:
                pending.in_doubt -= 1
            error = Busy(f"{source} works on as many requests as it may")
            self._bad_news(session, pending, error, now)
        else:
            self._finish(session, pending, now)
            session.kept_bytes += len(answer.payload)
            if session.kept_bytes >= MANY_BYTES:
                self._tell_settled(session, now)
            self._events.append(Replied(pending.call, source, answer.status, answer.encoding, answer.payload))

    def nack_received(self, destination: FQCN, number: int, counter: int, error: NotExecuted, now: float) -> None:
        """Take the news that one transmission was not delivered."""
        session = self._sessions.get(destination)
        if session is None or number != session.number:
            self.refused += 1
        elif not number:
            if counter == 1 and session.first is not None:
                session.first[0].in_doubt = 0
                session.first = None
            if counter == session.attempt and session.opening is not None:
                self._opening_failed(session, error, now)
        elif (pending := session.flying.pop(counter, None)) is not None:
            pending.in_doubt -= 1
            self._bad_news(session, pending, error, now)

    def lost(self, is_lost: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that the way to some cells broke: what was under way there is sent again soon."""
        for destination in [name for name in self._sessions if is_lost(name)]:
            session = self._sessions[destination]
            for pending in list(session.pending.values()):
                if not pending.repeats and pending.in_doubt:
                    self._fail(session, pending, Indeterminate(f"the way to {destination} broke: it may have run"), now)
            # Whoever is there when there is a way again may be another start: that is asked before anything is sent.
            self._leave_session(session)
            session.pause = PAUSE_SECONDS
            self._opening_failed(session, Unreachable(f"the way to {destination} broke"), now)

    def reachable(self, is_reachable: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that there is a way again: what waits for one goes now."""
        for destination in [name for name in self._sessions if is_reachable(name)]:
            session = self._sessions[destination]
            if not session.number:
                self._open(session, now)
                continue
            for pending in list(session.pending.values()):
                if pending.error is not None:
                    self._transmit(session, pending, now)

    # Sessions.

    def _session(self, destination: FQCN) -> Session:
        session = self._sessions.get(destination)
        if session is not None:
            self._sessions.move_to_end(destination)
            return session
        if len(self._sessions) >= MAX_SESSIONS:
            self._make_room()
        session = self._sessions[destination] = Session(destination)
        return session

    def _leave_session(self, session: Session) -> None:
        self._numbers.pop(session.number, None)
        session.number = 0

    def _make_room(self) -> None:
        for session in [session for session, _ in zip(self._sessions.values(), range(64), strict=False)]:
            if not session.pending and not session.events:
                self._leave_session(session)
                if session.settling is not None:
                    session.settling.cancel()
                del self._sessions[session.destination]
                return
        raise Busy(f"this cell has requests open at {len(self._sessions)} cells")

    def _open(self, session: Session, now: float) -> None:
        """Send OPEN, and again until there is an answer or nobody waits for one."""
        if session.opening is not None:
            session.opening.cancel()
            session.opening = None
        if not session.pending and not session.events:
            return
        session.attempt += 1
        carried = None
        if session.attempt == 1:  # an answerer that is restarted in between cannot know what came with the first
            carried = next((one for one in session.pending.values() if one.group is None), None)
        request = self._body(session, carried) if carried is not None else b""
        header, body = pack(0, session.attempt), join(pack(self._epoch), request)
        try:
            self._send(session.destination, Kind.OPEN, header, body, session.deadline(now))
        except NotExecuted as error:
            self._opening_failed(session, error, now)
        else:
            if carried is not None:
                carried.in_doubt = 1
                session.first = carried, now
            session.opening = self._timers.at(now + session.silence, partial(self._open, session))
            session.silence = min(2 * session.silence, MAX_SILENCE_SECONDS)

    def _opening_failed(self, session: Session, error: NotExecuted, now: float) -> None:
        if session.opening is not None:
            session.opening.cancel()
            session.opening = None
        for pending in list(session.pending.values()):
            pending.error = error
            if not pending.repeats:
                self._fail(session, pending, error, now)
        session.events = [event for event in session.events if event[2] > now]
        if session.pending or session.events:
            session.pause = min(2 * session.pause, MAX_PAUSE_SECONDS)
            session.opening = self._timers.at(
                now + session.pause * (0.5 + self._random() / 2), partial(self._open, session)
            )

    # Requests.

    def _check_room(self, more: int) -> None:
        if self._waiting + more > MAX_PENDING:
            raise Busy(f"this cell already waits for {self._waiting} answers")

    def _begin(self, session: Session, pending: Pending, group: Group | None, now: float) -> None:
        pending.over = self._timers.at(pending.deadline, partial(self._deadline_passed, session, pending))
        if session.number:
            if group is None:
                self._transmit(session, pending, now)
            else:
                group.ready.append((session, pending))
            return
        if group is not None:
            pending.group = group
            group.missing += 1
        if session.opening is None:
            self._open(session, now)

    def _gather(self, session: Session, pending: Pending, group: Group, now: float) -> None:
        """Note that one more request of a broadcast can leave."""
        pending.group = None
        group.ready.append((session, pending))
        group.missing -= 1
        if not group.missing and group.timer is not None:
            self._leave_together(group, now)

    def _leave_together(self, group: Group, now: float) -> None:
        """Send a broadcast to those whose sessions are open; those that are not go their own way."""
        if group.timer is not None:
            group.timer.cancel()
        ready = [(session, one) for session, one in group.ready if session.pending.get(one.sequence) is one]
        for pending in [one for owed in self._calls.values() for one in owed.values() if one.group is group]:
            pending.group = None
        if not ready:
            return
        entries = []
        for session, pending in ready:
            session.counter += 1
            order = Order(pending.sequence, session.floor, pending.key, session.predecessor(pending))
            entries.append(Entry(session.destination, session.number, session.counter, order.pack()))
            self._sent(session, pending, session.counter, now)
        content = ready[0][1].content
        self._broadcast(entries, content.pack(), ready[0][1].deadline)

    def _transmit(self, session: Session, pending: Pending, now: float) -> None:
        """Send a request, for the first time or again."""
        if pending.again is not None:
            pending.again.cancel()
            pending.again = None
        session.counter += 1
        header = pack(session.number, session.counter)
        try:
            self._send(session.destination, Kind.REQUEST, header, self._body(session, pending), pending.deadline)
        except NotExecuted as error:
            self._bad_news(session, pending, error, now)
        else:
            self._sent(session, pending, session.counter, now)

    @staticmethod
    def _body(session: Session, pending: Pending) -> bytes:
        order = Order(pending.sequence, session.floor, pending.key, session.predecessor(pending))
        return join(order.pack(), pending.content.pack())

    def _sent(self, session: Session, pending: Pending, counter: int, now: float) -> None:
        self.repeated += pending.error is not None or pending.in_doubt > 0
        pending.error = None
        pending.in_doubt += 1
        pending.counters.append(counter)
        session.flying[counter] = pending
        if pending.repeats:
            self._again(session, pending, now + pending.silence)
            pending.silence = min(2 * pending.silence, MAX_SILENCE_SECONDS)

    def _send_event(self, session: Session, content: Content, key: str, deadline: float) -> None:
        session.counter += 1
        header, body = (
            pack(session.number, session.counter),
            join(Order(0, session.floor, key, 0).pack(), content.pack()),
        )
        self._send(session.destination, Kind.EVENT, header, body, deadline)

    def _try_event(self, session: Session, content: Content, key: str, deadline: float) -> None:
        try:
            self._send_event(session, content, key, deadline)
        except NotExecuted:
            self.refused += 1  # an event is sent once

    def _bad_news(self, session: Session, pending: Pending, error: NotExecuted, now: float) -> None:
        """Send a request again after a pause, or give it up if it is sent only once."""
        pending.error = error
        if not pending.repeats:
            self._fail(session, pending, error, now)
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
        if session.number:
            self._transmit(session, pending, now)
        elif session.opening is None:
            self._open(session, now)

    def _deadline_passed(self, session: Session, pending: Pending, now: float) -> None:
        pending.over = None
        self._fail(session, pending, _judge(session.destination, pending), now)
        if pending.in_doubt:
            self._tell_settled(session, now)

    def _fail(self, session: Session, pending: Pending, error: DeliveryError, now: float) -> None:
        self._finish(session, pending, now)
        self._events.append(Failed(pending.call, session.destination, error))

    def _finish(self, session: Session, pending: Pending, now: float) -> None:
        """Wait no longer for an answer."""
        for timer in (pending.again, pending.over):
            if timer is not None:
                timer.cancel()
        for counter in pending.counters:
            session.flying.pop(counter, None)
        session.remove(pending)
        self._waiting -= 1
        owed = self._calls[pending.call]
        del owed[session.destination]
        if not owed:
            del self._calls[pending.call]
        if session.settling is None:
            session.settling = self._timers.at(now + SETTLE_SECONDS, partial(self._tell_settled, session))

    def _tell_settled(self, session: Session, now: float) -> None:
        """Tell the answerer what it may forget. If that is lost, the next request says it, or the deadline."""
        if session.settling is not None:
            session.settling.cancel()
            session.settling = None
        session.has_untold = not session.number
        session.kept_bytes = 0
        if session.number:
            session.counter += 1
            ranges = [list(one) for one in session.settled.below(MAX_RANGES)]
            try:
                self._send(
                    session.destination,
                    Kind.SETTLED,
                    pack(session.number, session.counter),
                    pack(ranges),
                    now + MAX_SILENCE_SECONDS,
                )
            except NotExecuted:
                self.refused += 1


def _judge(destination: FQCN, pending: Pending) -> DeliveryError:
    """Return what is known of a request when its time is over."""
    if pending.in_doubt:
        return DeadlineExceeded(f"{destination} did not answer {pending.content.topic} in time: it may have run")
    if isinstance(pending.error, Busy):
        return StillBusy(str(pending.error))
    if pending.error is not None:
        return StillUnreachable(str(pending.error))
    return DeadlineBeforeExecution(f"{pending.content.topic} could not be sent to {destination} in time")
