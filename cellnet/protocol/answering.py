"""What a cell was asked: each request runs once, however often it arrives, and its reply is kept until it is settled.

The duplicate filter is that of RIFL (Lee et al., SOSP 2015): a completion record for each request, which the asker
frees by saying what it no longer waits for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cellnet.errors import NotExecuted, RemoteProtocolError
from cellnet.protocol.envelope import MAX_RANGES, Answer, Content, Order, Status, part
from cellnet.protocol.events import Cancelled, Message
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.lanes import MAX_HELD, Lanes
from cellnet.protocol.ranges import Ranges
from cellnet.protocol.sealing import Window

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable

    from cellnet.fqcn import FQCN
    from cellnet.protocol.events import Event
    from cellnet.protocol.timers import Timers

__all__ = ["Answering"]

MAX_ASKERS = 65536
"""Cells whose sessions are remembered; one that has nothing open makes room for another."""
MAX_RECORDS = 4096
"""Requests of one asker that are not settled, and gaps in between; beyond it, it is told ``BUSY``."""
MAX_INCOMING = 16384
"""Requests that a cell may be working on at a time, of all askers."""
CACHE_BYTES = 64 << 20
"""Replies that are kept. When it is full nothing new begins, so it is only exceeded by what has begun."""
RECORD_BYTES = 200
HOLD_SECONDS = 0.02
"""How long OPENED waits for the answer to the request that came with OPEN."""
NOTICE_SECONDS = 60.0
"""How long OPENED and CLOSED may travel."""


class Answering:
    """The answerer's side of all sessions of one cell."""

    def __init__(
        self,
        me: Callable[[], FQCN | None],
        epoch: int,
        events: deque[Event],
        send: Callable[[FQCN, Kind, bytes, bytes, float], None],
        timers: Timers,
        entropy: Callable[[int], bytes],
    ) -> None:
        """Begin with no sessions.

        :param me: returns what this cell is called now
        :param send: sends a frame, or raises ``NotExecuted``
        """
        self.refused = 0
        """Frames that were repetitions, or belonged to no session."""
        self.cached_bytes = 0
        self.running = 0
        """Requests whose handlers wait for their turn, or have not ended."""
        self._me = me
        self._epoch = epoch
        self._events = events
        self._send = send
        self._timers = timers
        self._entropy = entropy
        self.started = math.inf
        """When this cell had its first link; whatever it was asked came later."""
        self._askers: dict[FQCN, _Asker] = {}
        self._sessions: dict[int, _Session] = {}
        self._messages: dict[int, tuple[_Asker, Message]] = {}
        self._made = 0

    @property
    def records(self) -> int:
        """How many requests are remembered, answered or not."""
        return sum(len(asker.records) for asker in self._askers.values())

    # Frames.

    def open_received(self, origin: FQCN, header: bytes, body: bytes, expires: float, now: float) -> None:
        """Take an OPEN, and the request that it may carry, and answer both.

        :raises RemoteProtocolError: if it is malformed
        """
        _none, attempt = unpack(header, int, int)
        first, request = part(body)
        epoch, destination = unpack(first, int, str)
        if destination != str(self._me()):
            self.refused += 1  # a relay lost its way
            return
        asker = self._askers.get(origin)
        if asker is not None and epoch < asker.epoch:
            self._close(origin, 0, attempt, f"a later start of {origin} is known", now)
            return
        if asker is not None and epoch > asker.epoch:
            self._forget(asker)
            asker = None
        if asker is None:
            if len(self._askers) >= MAX_ASKERS and not self._make_room():
                self._close(origin, 0, attempt, "too many cells have open requests here", now)
                return
            asker = self._askers[origin] = _Asker(origin, epoch)
        session = asker.offered
        if session is None:
            session = asker.offered = _Session(int.from_bytes(self._entropy(8), "big") >> 1, asker)
            self._sessions[session.number] = session
        age_ms = int((now - min(self.started, now)) * 1000)
        session.opened = pack(session.number, attempt), pack(self._epoch, age_ms, epoch), now + NOTICE_SECONDS
        if request:
            self._take(session, 0, request, expires)
            self._timers.at(now + HOLD_SECONDS, lambda _now: self._say_opened(session))
        else:
            self._say_opened(session)

    def message_received(self, origin: FQCN, header: bytes, body: bytes, expires: float, now: float) -> None:
        """Take a REQUEST or an EVENT.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        session = self._session(origin, number, counter, now)
        if session is not None:
            self._take(session, counter, body, expires)

    def _take(self, session: _Session, counter: int, body: bytes, expires: float) -> None:
        first, second = part(body)
        order, content = Order.unpack(first), Content.unpack(second)
        asker = session.asker
        if order.floor > asker.floor:
            self._settle_ranges(asker, [(asker.floor, order.floor)])
            asker.floor = order.floor
        if order.sequence == 0:
            late = order.key and counter < session.last_keyed  # it was overtaken: too late is not at all
            if not late and asker.lanes.held < MAX_HELD:
                session.last_keyed = counter if order.key else session.last_keyed
                self._begin(asker, order, content, expires)
            else:
                self.refused += 1
        elif order.sequence in asker.settled:
            self.refused += 1
        elif (record := asker.records.get(order.sequence)) is not None:
            self.refused += 1
            status, encoding, payload = record.reply or (Status.WORKING, 0, b"")
            self._answer(session, Answer(order.sequence, counter, status, encoding, payload), expires)
        elif self._is_full(asker):
            self._answer(session, Answer(order.sequence, counter, Status.BUSY, 0, b""), expires)
        else:
            record = asker.records[order.sequence] = _Record(expires, counter)
            self.running += 1
            record.message = self._begin(asker, order, content, expires)

    def settled_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a SETTLED: these requests need no record any more, and no handler.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        ranges = _ranges(body)
        session = self._session(origin, number, counter, now)
        if session is not None:
            self._settle_ranges(session.asker, ranges)

    # The owner's side.

    def answer(self, message: int, status: Status, encoding: int, payload: bytes) -> None:
        """Answer a request, or say that an event was handled. Nothing is sent if nobody wants the answer any more."""
        asker, taken = self._messages.pop(message, (None, None))
        if asker is None or taken is None:
            return
        record = asker.records.get(taken.sequence)
        if record is not None and record.message == message:
            record.reply = (status, encoding, payload)
            self.cached_bytes += RECORD_BYTES + len(payload)
            session = asker.current or asker.offered
            if session is not None:
                self._answer(session, Answer(taken.sequence, record.counter, *record.reply), record.expires)
        self._ended(asker, taken)

    def stopped(self, message: int) -> None:
        """Note that a handler ended without an answer, as its time was over or nobody wanted one."""
        asker, taken = self._messages.pop(message, (None, None))
        if asker is not None and taken is not None:
            self._ended(asker, taken)

    def expire(self, now: float) -> None:
        """Forget what nobody can want any more, as its deadline passed."""
        for asker in self._askers.values():
            over = [sequence for sequence, record in asker.records.items() if record.expires < now]
            if over:
                self._settle(asker, over, [(sequence, sequence + 1) for sequence in over])

    # Sessions.

    def _session(self, origin: FQCN, number: int, counter: int, now: float) -> _Session | None:
        session = self._sessions.get(number)
        if session is None or session.asker.origin != origin:
            self.refused += 1
            self._close(origin, number, counter, "no such session", now)
            return None
        if not session.window.accept(counter):
            self.refused += 1
            return None
        asker = session.asker
        if session is asker.offered:  # only now is it known that the OPEN was no repetition of an old one
            self._drop(asker.current)
            asker.current, asker.offered = session, None
        return session

    def _say_opened(self, session: _Session) -> None:
        if session.opened is not None:
            header, body, expires = session.opened
            session.opened = None
            self._try_send(session.asker.origin, Kind.OPENED, header, body, expires)

    def _close(self, origin: FQCN, number: int, counter: int, reason: str, now: float) -> None:
        self._try_send(origin, Kind.CLOSED, pack(number, counter), pack(reason), now + NOTICE_SECONDS)

    def _drop(self, session: _Session | None) -> None:
        if session is not None:
            del self._sessions[session.number]

    def _make_room(self) -> bool:
        """Forget an asker that has nothing open; look only at a few, the longest known first."""
        for asker, _number in zip(list(self._askers.values()), range(64), strict=False):
            if not asker.records:
                self._forget(asker)
                return True
        return False

    def _forget(self, asker: _Asker) -> None:
        """Forget an asker that ended, and stop what it wanted."""
        self._settle(asker, list(asker.records), [])
        asker.lanes = Lanes()  # what still waits there is of no use to a later start
        self._drop(asker.current)
        self._drop(asker.offered)
        del self._askers[asker.origin]

    # Records.

    def _is_full(self, asker: _Asker) -> bool:
        return (
            self.running >= MAX_INCOMING
            or len(asker.records) + len(asker.settled) >= MAX_RECORDS
            or self.cached_bytes >= CACHE_BYTES
        )

    def _begin(self, asker: _Asker, order: Order, content: Content, expires: float) -> int:
        """Let a message run, or hold it until its turn; return the number by which the owner knows it."""
        self._made += 1
        message = Message(
            self._made, asker.origin, asker.epoch, order.sequence, order.doubt, order.key, *content, expires
        )
        if order.key:
            unsettled = order.after if order.after and order.after not in asker.settled else 0
            if unsettled and (record := asker.records.get(unsettled)) is not None and record.reply is not None:
                unsettled = 0
            self._messages[message.number] = asker, message
            self._let_begin(asker.lanes.add(message, unsettled))
        else:
            if order.sequence:
                self._messages[message.number] = asker, message
            self._events.append(message)
        return message.number

    def _let_begin(self, messages: Iterable[Message]) -> None:
        self._events.extend(messages)

    def _ended(self, asker: _Asker, message: Message) -> None:
        self.running -= message.wants_reply
        self._let_begin(asker.lanes.ended(message))

    def _settle_ranges(self, asker: _Asker, ranges: list[tuple[int, int]]) -> None:
        records = asker.records
        gone = []
        for start, stop in ranges:
            if stop - start < len(records):
                gone += [sequence for sequence in range(start, stop) if sequence in records]
            else:
                gone += [sequence for sequence in records if start <= sequence < stop]
        self._settle(asker, gone, ranges)

    def _settle(self, asker: _Asker, gone: list[int], ranges: list[tuple[int, int]]) -> None:
        """Nobody wants these requests any more: neither their replies nor that they run, or run on.

        :param gone: those of them that there are records of
        """
        for start, stop in ranges:
            asker.settled.add(start, stop)
        withdrawn = []
        for sequence in gone:
            record = asker.records.pop(sequence)
            if record.reply is not None:
                self.cached_bytes -= RECORD_BYTES + len(record.reply[2])
                continue
            _asker, message = self._messages.get(record.message, (None, None))
            if message is None:
                continue  # its handler was stopped before
            if asker.lanes.withdraw(message):
                withdrawn.append(message)
            else:
                self._events.append(Cancelled(message.number))
        # Only now: what is withdrawn together does not start one another.
        for message in withdrawn:
            del self._messages[message.number]
            self._ended(asker, message)
        for start, stop in ranges:
            self._let_begin(asker.lanes.settled(start, stop))

    # Sending.

    def _answer(self, session: _Session, answer: Answer, expires: float) -> None:
        self._say_opened(session)
        session.sent += 1
        self._try_send(session.asker.origin, Kind.REPLY, pack(session.number, session.sent), answer.pack(), expires)

    def _try_send(self, destination: FQCN, kind: Kind, header: bytes, body: bytes, expires: float) -> None:
        try:
            self._send(destination, kind, header, body, expires)
        except NotExecuted:
            self.refused += 1  # the asker will ask again, if it still can


def _ranges(body: bytes) -> list[tuple[int, int]]:
    values = unpack(body, list)[0]
    if len(values) > MAX_RANGES:
        raise RemoteProtocolError("a SETTLED names too many ranges")
    for value in values:
        if type(value) is not list or len(value) != 2 or not all(type(n) is int for n in value):
            raise RemoteProtocolError("a SETTLED has a malformed range")
        if not 0 < value[0] < value[1]:
            raise RemoteProtocolError("a SETTLED has an impossible range")
    return [(start, stop) for start, stop in values]


class _Asker:
    """One start of one cell that asks: what it asked, and is not settled."""

    __slots__ = ("current", "epoch", "floor", "lanes", "offered", "origin", "records", "settled")

    def __init__(self, origin: FQCN, epoch: int) -> None:
        self.origin = origin
        self.epoch = epoch
        self.floor = 1
        self.records: dict[int, _Record] = {}
        self.settled = Ranges()
        self.lanes = Lanes()
        self.current: _Session | None = None
        self.offered: _Session | None = None


class _Session:
    __slots__ = ("asker", "last_keyed", "number", "opened", "sent", "window")

    def __init__(self, number: int, asker: _Asker) -> None:
        self.number = number
        self.asker = asker
        self.window = Window()
        self.sent = 0
        self.last_keyed = 0
        """The highest counter of an event with an ordering key."""
        self.opened: tuple[bytes, bytes, float] | None = None
        """OPENED, until it is sent: best together with the first reply."""


class _Record:
    __slots__ = ("counter", "expires", "message", "reply")

    def __init__(self, expires: float, counter: int) -> None:
        self.expires = expires
        self.counter = counter
        self.message = 0
        self.reply: tuple[Status, int, bytes] | None = None
