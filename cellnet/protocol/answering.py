"""What a cell was asked: each request runs once, however often it arrives, and its reply is kept until it is settled.

The duplicate filter is that of RIFL (Lee et al., SOSP 2015): a completion record for each request, which the asker
frees by saying what it no longer waits for.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING

from cellnet.errors import Busy, HandshakeError, NotExecuted
from cellnet.protocol.askers import Asker, Askers, Record, Served
from cellnet.protocol.claim import names
from cellnet.protocol.connection import MAX_REASON
from cellnet.protocol.envelope import MAX_RANGES, Answer, Content, Order, Status, pack_ranges, part, unpack_ranges
from cellnet.protocol.events import Cancelled, Message
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.lanes import MAX_HELD
from cellnet.protocol.ranges import Ranges

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection, Iterable

    from cellnet.fqcn import FQCN
    from cellnet.protocol.events import Event
    from cellnet.protocol.introduction import Introducer
    from cellnet.protocol.timers import Timers

__all__ = ["Answering"]

MAX_RECORDS = 4096
"""Requests of one asker that are not settled, and gaps in between; places kept. Beyond it, it is told ``BUSY``."""
MAX_INCOMING = 16384
"""Requests that a cell may be working on at a time, of all askers; of one, no more than are left for the others."""
CACHE_BYTES = 64 << 20
"""Replies that are kept. When it is full nothing new begins, so it is only exceeded by what has begun."""
RECORD_BYTES = 200
HOLD_SECONDS = 0.02
"""How long OPENED waits for the answer to the request that came with OPEN."""
RECORD_SECONDS = 1.0
"""How long a record is kept beyond the deadline of its request."""
NOTICE_SECONDS = 60.0
"""How long OPENED and CLOSED may travel."""


class Answering:
    """The answerer's side of all sessions of one cell."""

    def __init__(
        self,
        introducer: Introducer,
        events: deque[Event],
        send: Callable[[FQCN, Kind, bytes, bytes, float], None],
        timers: Timers,
    ) -> None:
        """Begin with no sessions.

        :param send: sends a frame, or raises ``NotExecuted``
        """
        self.refused = 0
        """Frames that were repetitions, or belonged to no session."""
        self.cached_bytes = 0
        self.running = 0
        """Requests whose handlers wait for their turn, or have not ended."""
        self.is_draining = False
        """Whether it takes nothing new any more."""
        self._events = events
        self._send = send
        self._timers = timers
        self.started = math.inf
        """Since when this cell can be asked."""
        self._askers = Askers(introducer, self._forgotten)
        self._messages: dict[int, tuple[Asker, Message]] = {}
        self._made = 0

    @property
    def records(self) -> int:
        """How many requests are remembered, answered or not."""
        return sum(len(asker.records) for asker in self._askers)

    def begin(self, now: float) -> None:
        """Note that it can be asked from now on, unless it could before."""
        self.started = min(self.started, now)

    # Frames.

    def open_received(self, origin: FQCN, header: bytes, body: bytes, expires: float, now: float) -> None:
        """Take an OPEN, and the request that it may carry, and answer both.

        :raises RemoteProtocolError: if it is malformed
        """
        _none, attempt = unpack(header, int, int)
        hello, request = part(body)
        try:
            if self.is_draining:
                raise Busy("it is being stopped")
            session = self._askers.offer(origin, hello, now)
        except (Busy, HandshakeError) as error:
            self.refused += 1
            self._close(origin, 0, attempt, str(error), now, hello)
            return
        age_ms = int((now - min(self.started, now)) * 1000)
        session.opened = pack(attempt, age_ms), now + NOTICE_SECONDS
        if request and not session.channel.is_sealed:
            self._take(session, 0, *part(request), expires, now)
            self._timers.at(now + HOLD_SECONDS, lambda _now: self._say_opened(session))
        else:
            self._say_opened(session)

    def message_received(
        self, origin: FQCN, kind: Kind, header: bytes, body: bytes, expires: float, now: float
    ) -> None:
        """Take a REQUEST, an EVENT, or this cell's part of a BROADCAST.

        :raises RemoteProtocolError: if it is malformed, or sealed by another
        """
        number, counter = unpack(header, int, int)
        session = self._askers.session(origin, number)
        if session is None:
            self._refuse(origin, number, counter, now)
            return
        if kind is Kind.BROADCAST:
            parts = session.channel.unwrap_entry(counter, *part(body))
        else:
            said = session.channel.unwrap(kind, counter, body)
            parts = None if said is None else part(said)
        if parts is None:
            self.refused += 1
        else:
            self._askers.use(session)
            self._take(session, counter, *parts, expires, now)

    def _take(self, session: Served, counter: int, first: bytes, second: bytes, expires: float, now: float) -> None:
        order, content = Order.unpack(first), Content.unpack(second)
        expires = min(expires, now + order.within_ms / 1000)  # what relays say is never more than what the asker said
        asker = session.asker
        if order.floor > asker.floor:
            self._settle_ranges(asker, [(asker.floor, order.floor)])
            asker.floor = order.floor
        if order.sequence == 0:
            late = order.key and counter < session.last_keyed  # it was overtaken: too late is not at all
            if not late and asker.lanes.held < MAX_HELD and not self.is_draining:
                session.last_keyed = counter if order.key else session.last_keyed
                self._begin(session, order, content, expires)
            else:
                self.refused += 1
        elif order.sequence in asker.settled:
            self.refused += 1
        elif (record := asker.records.get(order.sequence)) is not None:
            self.refused += 1
            if record.message in self._messages and order.key:
                _asker, message = self._messages[record.message]
                self._let_begin(asker.lanes.follow(message, self._unended(asker, order.after)))
            status, encoding, payload = record.reply or (Status.WORKING, 0, b"")
            self._answer(session, Answer(order.sequence, counter, status, encoding, payload), expires)
        elif self._is_full(asker, order.after):
            self._answer(session, Answer(order.sequence, counter, Status.BUSY, 0, b""), expires)
        else:
            record = asker.records[order.sequence] = Record(expires, counter)
            self.running += 1
            record.message = self._begin(session, order, content, expires)

    def settled_received(self, origin: FQCN, header: bytes, body: bytes, now: float) -> None:
        """Take a SETTLED: some requests need no record any more, others only no handler.

        :raises RemoteProtocolError: if it is malformed
        """
        number, counter = unpack(header, int, int)
        session = self._askers.session(origin, number)
        if session is None:
            self._refuse(origin, number, counter, now)
            return
        said = session.channel.unwrap(Kind.SETTLED, counter, body)
        if said is None:
            self.refused += 1
        else:
            self._askers.use(session)
            asker, (settled, given_up) = session.asker, unpack_ranges(said, 2)
            self._settle_ranges(asker, settled)
            records = [asker.records[sequence] for sequence in _recorded(asker, given_up)]
            self._give_up([record for record in records if record.reply is None and not record.is_given_up], asker)

    # The owner's side.

    def answer(self, message: int, status: Status, encoding: int, payload: bytes) -> None:
        """Answer a request, or say that an event was handled. Nothing is sent if nobody wants the answer any more."""
        asker, taken = self._messages.pop(message, (None, None))
        if asker is None or taken is None:
            return
        record = asker.records.get(taken.sequence)
        if record is not None and record.message == message:
            if status is Status.BUSY:  # it did not run, and may when it comes again
                del asker.records[taken.sequence]
            else:
                record.reply = (status, encoding, payload)
                self.cached_bytes += RECORD_BYTES + len(payload)
            session = asker.current or asker.offered
            assert session is not None  # noqa: S101  # it was asked in one
            answer = Answer(taken.sequence, record.counter, status, encoding, payload)
            self._answer(session, answer, record.expires)
        self._ended(asker, taken)

    def stopped(self, message: int) -> None:
        """Note that a handler ended without an answer, as its time was over or nobody wanted one."""
        asker, taken = self._messages.pop(message, (None, None))
        if asker is not None and taken is not None:
            self._ended(asker, taken)

    def drain(self) -> None:
        """Begin nothing any more, not even what waits for its turn."""
        self.is_draining = True
        for asker in self._askers:
            for message in asker.lanes.clear():
                del self._messages[message.number]
                if message.wants_reply:
                    self.running -= 1
                    del asker.records[message.sequence]

    def drained(self, now: float) -> None:
        """Tell all askers what may have run: nothing else did, and nothing will."""
        self.drain()
        for asker in self._askers:
            session = asker.current or asker.offered
            assert session is not None  # noqa: S101  # each is known by one
            self._say_opened(session)
            header, body = session.channel.wrap(Kind.DRAINED, pack_ranges(_covering(asker.records)))
            self._try_send(session.at, Kind.DRAINED, header, body, now + NOTICE_SECONDS)

    def first_deadline(self) -> float | None:
        """Return when the first request or event that is remembered is over."""
        records = (record.expires for asker in self._askers for record in asker.records.values())
        held = (message.deadline for asker in self._askers for message in asker.lanes)
        return min((*records, *held), default=None)

    def expire(self, now: float) -> None:
        """Forget what nobody can want any more, as its deadline passed."""
        for asker in self._askers:
            # What waits for its turn never runs. Else there is a record as long as somebody may ask for it: what was
            # rounded on the way, and clocks of other speeds, may make the asker's deadline a little later.
            late = {message.number for message in asker.lanes if message.deadline < now}
            over = [
                sequence
                for sequence, record in asker.records.items()
                if record.expires + RECORD_SECONDS < now or record.message in late
            ]
            if over:
                self._settle(asker, over, [(sequence, sequence + 1) for sequence in over])
            for message in asker.lanes:
                if message.number in late:  # an event, of which there is no record
                    asker.lanes.withdraw(message)
                    del self._messages[message.number]

    # Sessions.

    def _say_opened(self, session: Served) -> None:
        if session.opened is not None:
            header, expires = session.opened
            session.opened = None
            self._try_send(session.at, Kind.OPENED, header, session.introduction, expires)

    def _refuse(self, origin: FQCN, number: int, counter: int, now: float) -> None:
        self.refused += 1
        self._close(origin, number, counter, "no such session", now)

    def _close(self, origin: FQCN, number: int, counter: int, reason: str, now: float, hello: bytes = b"") -> None:
        digest, name = (sha256(hello).digest(), str(names(hello)[1])) if hello else (b"", "")
        body = pack(reason[:MAX_REASON], digest, name)
        self._try_send(origin, Kind.CLOSED, pack(number, counter), body, now + NOTICE_SECONDS)

    def _forgotten(self, asker: Asker) -> None:
        """Stop what an asker wanted that ended."""
        self._settle(asker, list(asker.records), [])
        for message in asker.lanes.clear():
            del self._messages[message.number]

    # Records.

    def _is_full(self, asker: Asker, after: int) -> bool:
        return (
            self.is_draining
            # What one asker may have is never more than what is left for all others.
            or len(asker.records) >= MAX_INCOMING - self.running
            or len(asker.records) + len(asker.settled) >= MAX_RECORDS
            or self.cached_bytes >= CACHE_BYTES
            or (asker.lanes.left >= MAX_RECORDS and self._unended(asker, after) > 0)  # not the one that all wait for
        )

    def _begin(self, session: Served, order: Order, content: Content, expires: float) -> int:
        """Let a message run, or hold it until its turn; return the number by which the owner knows it."""
        asker, self._made = session.asker, self._made + 1
        said = order.sequence, order.doubt, order.key, *content
        message = Message(self._made, asker.origin, asker.epoch, *said, expires, asker.name, session.at)
        if order.key:
            self._messages[message.number] = asker, message
            self._let_begin(asker.lanes.add(message, self._unended(asker, order.after)))
        else:
            if order.sequence:
                self._messages[message.number] = asker, message
            self._events.append(message)
        return message.number

    @staticmethod
    def _unended(asker: Asker, sequence: int) -> int:
        """Return a request if it may still run, or follows one that may, else 0."""
        record = asker.records.get(sequence)
        if sequence in asker.settled or (record is not None and record.reply is not None):
            return sequence if sequence in asker.lanes else 0
        return sequence

    def _let_begin(self, messages: Iterable[Message]) -> None:
        self._events.extend(messages)

    def _ended(self, asker: Asker, message: Message) -> None:
        self.running -= message.wants_reply
        self._let_begin(asker.lanes.ended(message))

    def _settle_ranges(self, asker: Asker, ranges: list[tuple[int, int]]) -> None:
        self._settle(asker, _recorded(asker, ranges), ranges)
        for start, stop in ranges:
            self._let_begin(asker.lanes.settled(start, stop))

    def _settle(self, asker: Asker, gone: list[int], ranges: list[tuple[int, int]]) -> None:
        """Nobody wants these requests any more: neither their replies nor that they run, or run on.

        :param gone: those of them that there are records of
        """
        for start, stop in ranges:
            asker.settled.add(start, stop)
        if (excess := len(asker.settled) - MAX_RECORDS) > 0:  # only who lies has so many gaps: its lowest are closed
            lowest = asker.settled.below(excess + 1)
            asker.settled.add(lowest[0][0], lowest[-1][1])
        unanswered = []
        for sequence in gone:
            record = asker.records.pop(sequence)
            if record.is_given_up:
                self.cached_bytes -= RECORD_BYTES
            if record.reply is None:
                unanswered.append(record)
            else:
                self.cached_bytes -= RECORD_BYTES + len(record.reply[2])
        self._stop(asker, unanswered)

    def _give_up(self, records: list[Record], asker: Asker) -> None:
        """Let none of these begin, or run on, and keep their places: who follows waits until they are settled."""
        for record in records:
            record.is_given_up = True
        self.cached_bytes += RECORD_BYTES * len(records)
        self._stop(asker, records)

    def _stop(self, asker: Asker, records: list[Record]) -> None:
        """Let none of these begin, or run on."""
        withdrawn = []
        for record in records:
            _asker, message = self._messages.get(record.message, (None, None))
            if message is not None and asker.lanes.withdraw(message):
                withdrawn.append(message)
            elif message is not None:  # else its handler was stopped before
                self._events.append(Cancelled(message.number))
        # Only now: what is withdrawn together does not start one another.
        for message in withdrawn:
            del self._messages[message.number]
            self._ended(asker, message)

    # Sending.

    def _answer(self, session: Served, answer: Answer, expires: float) -> None:
        self._say_opened(session)
        header, body = session.channel.wrap(Kind.REPLY, answer.pack())
        self._try_send(session.at, Kind.REPLY, header, body, expires)

    def _try_send(self, destination: FQCN, kind: Kind, header: bytes, body: bytes, expires: float) -> None:
        try:
            self._send(destination, kind, header, body, expires)
        except NotExecuted:
            self.refused += 1  # the asker will ask again, if it still can


def _recorded(asker: Asker, ranges: list[tuple[int, int]]) -> list[int]:
    """Return the requests in these ranges, which may overlap, of which there are records."""
    found: list[int] = []
    for start, stop in ranges:
        if stop - start < len(asker.records):
            found += [sequence for sequence in range(start, stop) if sequence in asker.records]
        else:
            found += [sequence for sequence in asker.records if start <= sequence < stop]
    return list(dict.fromkeys(found))


def _covering(sequences: Collection[int]) -> Ranges:
    """Return ranges that hold these numbers; also those in between, if else they were too many."""
    ranges = Ranges()
    for sequence in sequences:
        ranges.add(sequence, sequence + 1)
    if len(ranges) > MAX_RANGES:
        ranges.add(min(sequences), max(sequences) + 1)
    return ranges
