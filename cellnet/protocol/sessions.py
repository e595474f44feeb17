"""The sessions that a cell opens to others: asked for until there is an answer, left when a way breaks."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from cellnet.errors import Busy, HandshakeError, NotExecuted, Unreachable
from cellnet.protocol.channel import Channel
from cellnet.protocol.claim import names
from cellnet.protocol.envelope import join, read_name
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.session import MAX_PAUSE_SECONDS, MAX_SILENCE_SECONDS, PAUSE_SECONDS, SILENCE_SECONDS, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cellnet.fqcn import FQCN
    from cellnet.protocol.introduction import Introducer
    from cellnet.protocol.session import Pending
    from cellnet.protocol.timers import Timers

__all__ = ["Sessions"]

MAX_SESSIONS = 65536
"""Cells with which a cell has sessions; one with nothing pending makes room for another."""
LOOKED_AT = 64
"""How many of the least recently used are looked at for one that can go."""
CLOCK_MARGIN = 1.001
"""By how much two clocks may differ in speed."""
MAX_UNCLEAR = 3
"""How often an OPENED that leaves in doubt what the first OPEN carried is asked for again. If the answerer was started
while that was on its way, no answer will ever be clear."""


class User(Protocol):
    """Who sends in sessions, and is told how they stand."""

    def wants(self, session: Session, now: float) -> bool:
        """Return whether anybody waits for a session to be open."""
        ...

    def opened(self, session: Session, carried: Pending | None, now: float, *, restarted: bool) -> None:
        """Take the news that a session is open.

        :param carried: the request that came with OPEN, and need not be sent
        :param restarted: whether an earlier start was there before, which may have run what is in doubt
        """
        ...

    def not_opened(self, session: Session, error: NotExecuted, now: float) -> None:
        """Take the news that a session could not be opened for now."""
        ...


class Sessions:
    """A table of sessions, by the cells that answer."""

    def __init__(
        self,
        introducer: Introducer,
        send: Callable[[FQCN, Kind, bytes, bytes, float], None],
        timers: Timers,
        random: Callable[[], float],
        user: User,
    ) -> None:
        """Begin with none.

        :param send: sends a frame, or raises ``NotExecuted``
        :param random: draws from 0 to 1, for the jitter of pauses
        """
        self.refused = 0
        """Frames that were repetitions, or belonged to no session."""
        self._introducer = introducer
        self._send = send
        self._timers = timers
        self._random = random
        self._user = user
        self._sessions: OrderedDict[FQCN, Session] = OrderedDict()
        self._open: dict[int, Session] = {}
        """By number."""
        self._next_sequence = 1

    def known(self, destination: FQCN) -> Session | None:
        """Return the session to a cell, if there is one."""
        return self._sessions.get(destination)

    def __len__(self) -> int:
        return len(self._sessions)

    def to(self, destination: FQCN) -> Session:
        """Return the session to a cell; it may not be open yet.

        :raises Busy: if there are too many, and all are in use
        """
        session = self._sessions.get(destination)
        if session is not None:
            self._sessions.move_to_end(destination)
            return session
        if len(self._sessions) >= MAX_SESSIONS:
            self._make_room()
        session = self._sessions[destination] = Session(destination, self._next_sequence)
        return session

    def those(self, are_meant: Callable[[FQCN], bool]) -> Iterator[Session]:
        """Return the sessions to some cells."""
        return iter([session for session in self._sessions.values() if are_meant(session.at)])

    def in_use(self, source: FQCN, number: int) -> tuple[Session, Channel] | None:
        """Return the session that is open under this number, if it is one with *source*, wherever that is now."""
        session = self._open.get(number)
        if session is None or (session.at != source and session.at.base_name != source.base_name):
            return None
        return session, session.open_channel

    def read(self, source: FQCN, kind: Kind, header: bytes, body: bytes) -> tuple[Session, bytes] | None:
        """Return the session in which a frame came, and what it says; None if it belongs to none, or came before.

        :raises RemoteProtocolError: if it is malformed, or sealed by another
        """
        number, counter = unpack(header, int, int)
        found = self.in_use(source, number)
        said = found[1].unwrap(kind, counter, body) if found is not None else None
        if found is None or said is None:
            self.refused += 1
            return None
        session, _channel = found
        session.at = source  # it may have moved
        return session, said

    # Opening.

    def want(self, session: Session, now: float) -> None:
        """Open a session for one more message; it need not wait as long as those before had to."""
        if session.opening is None or now >= session.earliest:
            session.silence = SILENCE_SECONDS
            self.open(session, now)
        elif session.opening.when > session.earliest:
            session.stop_opening()
            session.silence = SILENCE_SECONDS
            session.opening = self._timers.at(session.earliest, partial(self.open, session))

    def open(self, session: Session, now: float) -> None:
        """Send OPEN, and again until there is an answer or nobody waits for one."""
        session.stop_opening()
        if not self._user.wants(session, now):
            return
        introduction = session.introduction = session.introduction or self._introducer.ask(
            session.destination, session.name
        )
        if introduction is None:
            self.fail(session, Unreachable(f"{session.destination} cannot be reached: this cell has no parent"), now)
            return
        session.name = introduction.me.fqcn
        session.attempt += 1
        session.is_pausing = False
        session.earliest = now + SILENCE_SECONDS
        # Only the first OPEN carries a request: if it was lost, and the answerer restarted since, nobody could know
        # whether it ran. One that belongs to a broadcast waits for the others. And there is no seal for it yet.
        may_carry = session.attempt == 1 and introduction.me.credentials is None
        carried = session.first_alone if may_carry else None
        request = session.body(carried, now) if carried is not None else b""
        header, body = pack(0, session.attempt), join(introduction.hello(), request)
        try:
            self._send(session.destination, Kind.OPEN, header, body, session.wanted_until(now))
        except NotExecuted as error:
            self.fail(session, error, now)
            return
        if carried is not None:
            carried.in_doubt = 1
            session.carried, session.unclear = (carried, now), 0
        session.opening = self._timers.at(now + session.silence, partial(self.open, session))
        session.silence = min(2 * session.silence, MAX_SILENCE_SECONDS)

    def fail(self, session: Session, error: NotExecuted, now: float) -> None:
        """Try again later, as long as somebody waits for it."""
        session.stop_opening()
        session.is_pausing = True
        session.earliest = now + PAUSE_SECONDS
        self._user.not_opened(session, error, now)
        if self._user.wants(session, now):
            session.pause = min(2 * session.pause, MAX_PAUSE_SECONDS)
            pause = session.pause * (0.5 + self._random() / 2)
            session.opening = self._timers.at(now + pause, partial(self.open, session))

    def lose(self, session: Session, error: NotExecuted, now: float) -> None:
        """Leave a session because the way broke, or the answerer stops, and try again soon.

        Whoever is there then may be another start: that is asked before anything is sent.
        """
        self._leave(session)
        session.introduction = None
        session.pause = PAUSE_SECONDS / 2
        self.fail(session, error, now)

    def lose_former(self, session: Session, error: NotExecuted, now: float) -> bool:
        """Leave a session with a cell that is not where it was any more; return whether that is so.

        It moved there, and has moved on, or was started anew elsewhere: under its first name it may be found.
        """
        if session.at == session.destination or not isinstance(error, Unreachable):
            return False
        self.lose(session, error, now)
        return True

    # Frames.

    def opened_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take an OPENED.

        :raises RemoteProtocolError: if it is malformed
        """
        attempt, age_ms = unpack(header, int, int)
        asked, _me = names(body, is_reply=True)
        session = self._sessions.get(asked)
        if session is None or session.opening is None or session.introduction is None or attempt > session.attempt:
            self.refused += 1
            return
        age = age_ms / 1000
        if attempt > 1 and session.carried is not None and self._is_unclear(session, attempt, age, now):
            if attempt == session.attempt:  # else the answer to a later OPEN is under way
                session.unclear += 1
                self.open(session, now)
            return
        try:
            opened = session.introduction.opened(body, origin)
        except HandshakeError as error:
            self.refused += 1
            if error.code != "wrong-answer":  # which another OPEN was given, perhaps an earlier start's
                self.fail(session, Unreachable(f"{origin} could not prove who it is: {error}"), now)
            return
        session.stop_opening()
        restarted = session.epoch not in (0, opened.epoch)
        carried = self._carried(session, attempt, age, now)
        self._leave(session)
        session.begin(Channel(opened.session, opened.seal), opened.epoch, origin)
        self._open[opened.session] = session
        self._user.opened(session, carried, now, restarted=restarted)

    def closed_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a CLOSED: the answerer does not know the session, or refused to open one.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        reason, digest, name = unpack(body, str, bytes, str)
        session = None if number else self._sessions.get(read_name(name))
        if session is not None and session.attempt == counter and session.asks_with(digest):
            self.open_refused(session, counter, Unreachable(f"{origin} refused: {reason[:200]}"), now)
        elif (found := self.in_use(origin, number)) is not None:
            session, channel = found
            session.not_delivered(counter, is_certain=not channel.is_sealed)
            self._leave(session)
            self.open(session, now)
        else:
            self.refused += 1

    def open_refused(self, session: Session, attempt: int, error: NotExecuted, now: float) -> None:
        """Take the news that an OPEN was not delivered, or not accepted."""
        if attempt == 1 and session.carried is not None:
            session.carried[0].in_doubt = 0
            session.carried = None
        if attempt == session.attempt and session.opening is not None:
            self.fail(session, error, now)

    def _carried(self, session: Session, attempt: int, age: float, now: float) -> Pending | None:
        """Return the request that came with this OPEN; one that came with another may have run before.

        :param age: seconds since the answerer was started, at least
        """
        if session.carried is None:
            return None
        (pending, sent), session.carried = session.carried, None
        if session.pending.get(pending.sequence) is not pending:
            return None
        if attempt == 1:
            return pending
        pending.is_doubtful = age <= (now - sent) * CLOCK_MARGIN
        return None

    def _is_unclear(self, session: Session, attempt: int, age: float, now: float) -> bool:
        """Whether an answerer that was old enough may only look too young, as its OPENED travelled for long."""
        assert session.carried is not None  # noqa: S101  # its caller has looked
        _pending, sent = session.carried
        last = session.earliest - SILENCE_SECONDS
        may_be_old = attempt < session.attempt or age > (last - sent) * CLOCK_MARGIN
        return session.unclear < MAX_UNCLEAR and age <= (now - sent) * CLOCK_MARGIN and may_be_old

    def _leave(self, session: Session) -> None:
        """Send no more in a session. Who is to be there may have moved, and is looked for under its first name."""
        if session.channel is not None:
            self._open.pop(session.channel.number, None)
        session.channel, session.at = None, session.destination

    def _make_room(self) -> None:
        for session in list(islice(self._sessions.values(), LOOKED_AT)):
            if not session.is_wanted:
                session.stop_settling()
                # The answerer may remember what was settled: numbers are not used again.
                self._next_sequence = max(self._next_sequence, session.next_sequence)
                self._leave(session)
                del self._sessions[session.destination]
                return
        raise Busy(f"this cell has requests open at {len(self._sessions)} cells")
