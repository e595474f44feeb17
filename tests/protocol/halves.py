"""One cell alone, in virtual time: an asker, an answerer or both, and the frames that it sends."""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from cellnet.errors import Busy, NotExecuted, Unreachable
from cellnet.fqcn import FQCN
from cellnet.protocol.answering import Answering
from cellnet.protocol.asking import Asking
from cellnet.protocol.claim import Party
from cellnet.protocol.envelope import Answer, Content, Entry, Order, Status, part
from cellnet.protocol.exchange import Exchange
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.introduction import Introducer
from cellnet.protocol.timers import Timers
from tests.protocol.conftest import MINUTE, WALL, drawer, granted, open_body, opened_body, request_body

if TYPE_CHECKING:
    from cellnet.protocol.events import Event

A, B, C = FQCN("A"), FQCN("B"), FQCN("C")


class Sent(NamedTuple):
    """A frame that was sent."""

    destination: FQCN
    kind: Kind
    header: bytes
    body: bytes
    expires: float

    @property
    def numbers(self) -> tuple[int, int]:
        """Session and counter, or 0 and attempt."""
        session, counter = unpack(self.header, int, int)
        return session, counter

    @property
    def granted(self) -> int:
        """The session that OPENED grants."""
        return granted(self.body)

    @property
    def order(self) -> Order:
        """Of a REQUEST or an EVENT; or of the request that OPEN carries."""
        return Order.unpack(part(part(self.body)[1] if self.kind is Kind.OPEN else self.body)[0])

    @property
    def content(self) -> Content:
        return Content.unpack(part(part(self.body)[1] if self.kind is Kind.OPEN else self.body)[1])

    @property
    def answer(self) -> Answer:
        return Answer.unpack(self.body)


class Half:
    """What both halves have: a clock, events, and a record of what was sent."""

    def __init__(self, name: FQCN, epoch: int) -> None:
        self.name: FQCN | None = name
        self.epoch = epoch
        self.entropy = drawer(f"{name} {epoch}")
        self.introducer = Introducer(self.party, self.entropy, lambda: WALL)
        self.now = 100.0
        self.timers = Timers()
        self.events: deque[Event] = deque()
        self.error: NotExecuted | None = None
        """What sending raises from now on, if anything."""
        self.sent: list[Sent] = []
        self.tried: list[tuple[float, Kind]] = []
        """When something was sent, or failed to be."""
        self.random = 1.0
        """What is drawn from now on; with 1, pauses have their full length."""

    def party(self) -> Party | None:
        return None if self.name is None else Party(self.name, self.epoch)

    def take(self, *kinds: Kind) -> list[Sent]:
        """Return the frames of these kinds that were sent since the last call."""
        found = [frame for frame in self.sent if not kinds or frame.kind in kinds]
        self.sent.clear()
        return found

    def kinds(self) -> list[Kind]:
        return [frame.kind for frame in self.take()]

    def happened(self, *kinds: type) -> list[Any]:
        """Return the events of these kinds since the last call."""
        found = [event for event in self.events if not kinds or isinstance(event, kinds)]
        self.events.clear()
        return found

    def wait(self, seconds: float) -> list[tuple[float, Kind]]:
        """Let time pass; return what was sent meanwhile or failed to be, and after how many seconds."""
        start, end, before = self.now, self.now + seconds, len(self.tried)
        while self.timers.due <= end:
            self.now = max(self.now, self.timers.due)
            self.timers.run(self.now)
        self.now = end
        return [(round(when - start, 6), kind) for when, kind in self.tried[before:]]

    def send(self, destination: FQCN, kind: Kind, header: bytes, body: bytes, expires: float) -> None:
        self.tried.append((self.now, kind))
        if self.error is not None:
            raise self.error
        self.sent.append(Sent(destination, kind, header, body, expires))


class Asker(Half):
    """A cell that asks, and is told what a test wants it to hear."""

    def __init__(self, epoch: int = 1) -> None:
        super().__init__(A, epoch)
        self.asking = Asking(
            self.introducer,
            self.events,
            self.send,
            self.broadcast,
            self.timers,
            lambda: self.random,
            self.entropy,
        )
        self.broadcasts: list[tuple[list[Entry], Content]] = []
        self.asked: dict[FQCN, bytes] = {}
        """The body of the last OPEN to each cell."""
        self._counters = count(1)

    def send(self, destination: FQCN, kind: Kind, header: bytes, body: bytes, expires: float) -> None:
        super().send(destination, kind, header, body, expires)
        if kind is Kind.OPEN:
            self.asked[destination] = body

    def broadcast(self, entries: list[Entry], content: bytes, expires: float) -> None:
        assert expires > self.now
        self.broadcasts.append((entries, Content.unpack(content)))

    @classmethod
    def opened_to(cls, *names: FQCN) -> Asker:
        """Return one that was answered once by each of these, in sessions from 7 on."""
        asker = cls()
        for number, name in enumerate(names, 7):
            asker.ask(name)
            asker.opened(number, source=name)
            asker.reply(1, session=number, source=name)
        asker.take(), asker.happened()
        return asker

    def ask(
        self,
        *names: FQCN,
        topic: str = "t",
        payload: bytes = b"",
        within: float = MINUTE,
        once: bool = True,
        key: str = "",
    ) -> int:
        content = Content.of(topic, 0, payload, key)
        return self.asking.ask(names or [B], content, deadline=self.now + within, now=self.now, once=once, key=key)

    def tell(self, topic: str = "news", *, to: FQCN = B, within: float = MINUTE, key: str = "") -> None:
        content = Content.of(topic, 0, b"", key)
        self.asking.tell(to, content, deadline=self.now + within, now=self.now, key=key)

    def give_up(self, call: int) -> list[tuple[FQCN, str]]:
        """Want no more answers to a call; return who owed one, and the kind of error."""
        return [(name, type(error).__name__) for name, error in self.asking.give_up(call, self.now)]

    def opened(
        self,
        session: int = 7,
        attempt: int = 1,
        *,
        source: FQCN = B,
        at: FQCN | None = None,
        epoch: int = 1,
        age: float = 0.0,
    ) -> None:
        body = opened_body(self.asked[source], session, epoch=epoch)
        self.asking.sessions.opened_received(at or source, pack(attempt, int(age * 1000)), body, self.now)

    def closed(self, session: int, counter: int, *, source: FQCN = B, at: FQCN | None = None) -> None:
        hello = part(self.asked.get(source, bytes(2)))[0]
        body = pack("no such session", sha256(hello).digest(), str(source))
        self.asking.sessions.closed_received(at or source, pack(session, counter), body, self.now)

    def reply(
        self,
        sequence: int,
        status: int = Status.OK,
        payload: bytes = b"",
        *,
        session: int = 7,
        source: FQCN = B,
        counter: int | None = None,
        to: int = 0,
    ) -> None:
        """Answer a request.

        :param counter: of the reply; the next one, unless it says otherwise
        :param to: the counter of the transmission that is answered
        """
        counter = next(self._counters) if counter is None else counter
        body = Answer(sequence, to, status, 0, payload).pack()
        self.asking.reply_received(source, pack(session, counter), body, self.now)

    def nack(self, session: int, counter: int, *, source: FQCN = B, busy: bool = False) -> None:
        error = Busy("full") if busy else Unreachable("gone")
        self.asking.nack_received(source, session, counter, error, self.now)

    def settled(self) -> list[list[list[int]]]:
        """Return what each SETTLED since the last call told."""
        return [told[0] for told in self.told()]

    def told(self) -> list[list[list[list[int]]]]:
        """Return what each SETTLED since the last call told, and of what it said that nobody wants it to begin."""
        return [unpack(frame.body, list, list) for frame in self.take(Kind.SETTLED)]

    def lost(self, *names: FQCN) -> None:
        self.asking.lost(names.__contains__, self.now)

    @property
    def refused(self) -> int:
        return self.asking.sessions.refused


class Answerer(Half):
    """A cell that is asked, by frames that a test makes."""

    def __init__(self, epoch: int = 1) -> None:
        super().__init__(B, epoch)
        self.answering = Answering(self.introducer, self.events, self.send, self.timers)
        self.answering.started = self.now
        self.counters = count(1)

    def open(
        self,
        origin: FQCN = A,
        *,
        epoch: int = 1,
        nonce: int = 0,
        attempt: int = 1,
        request: bytes = b"",
        within: float = MINUTE,
        to: FQCN = B,
    ) -> int:
        """Ask for a session; return its number, or 0 if none was granted yet.

        :param nonce: makes it another OPEN than the last, and no repetition
        """
        body = open_body(str(origin), str(to), epoch=epoch, nonce=nonce, request=request)
        self.answering.open_received(origin, pack(0, attempt), body, self.now + within, self.now)
        opened = [frame for frame in self.sent if frame.kind is Kind.OPENED and frame.destination == origin]
        return opened[-1].granted if opened else 0

    def request(
        self,
        session: int,
        sequence: int,
        *,
        origin: FQCN = A,
        counter: int | None = None,
        payload: bytes = b"",
        within: float = MINUTE,
        **ordered: Any,
    ) -> None:
        """Send a REQUEST; *ordered* is what its order says besides."""
        self._message(Kind.REQUEST, session, sequence, origin, counter, payload, within, ordered)

    def event(
        self, session: int, payload: bytes = b"", *, origin: FQCN = A, counter: int | None = None, **ordered: Any
    ) -> None:
        self._message(Kind.EVENT, session, 0, origin, counter, payload, MINUTE, ordered)

    def settled(
        self,
        session: int,
        *ranges: tuple[int, int],
        given_up: tuple[int, ...] = (),
        origin: FQCN = A,
        counter: int | None = None,
    ) -> None:
        counter = next(self.counters) if counter is None else counter
        body = pack([list(one) for one in ranges], [[one, one + 1] for one in given_up])
        self.answering.settled_received(origin, pack(session, counter), body, self.now)

    def answer(self, message: int, status: Status = Status.OK, payload: bytes = b"") -> None:
        self.answering.answer(message, status, 0, payload)

    def answers(self) -> list[tuple[int, int]]:
        """Return sequence and status of the replies since the last call."""
        return [(frame.answer.sequence, frame.answer.status) for frame in self.take(Kind.REPLY)]

    @property
    def refused(self) -> int:
        return self.answering.refused

    def _message(
        self,
        kind: Kind,
        session: int,
        sequence: int,
        origin: FQCN,
        counter: int | None,
        payload: bytes,
        within: float,
        ordered: dict[str, Any],
    ) -> None:
        counter = next(self.counters) if counter is None else counter
        body = request_body(sequence, payload=payload, **ordered)
        self.answering.message_received(origin, kind, pack(session, counter), body, self.now + within, self.now)


class Cell(Half):
    """Both halves of a cell, without links."""

    def __init__(self, name: FQCN, epoch: int = 1, *, now: float = 100.0) -> None:
        super().__init__(name, epoch)
        self.now = now
        self.random = 0.5
        self.exchange = Exchange(
            self.party,
            self.events,
            self,  # type: ignore[arg-type]
            self.timers,
            entropy=self.entropy,
            random=lambda: self.random,
            wall=lambda: WALL,
        )
        self.exchange.answering.started = now

    def broadcast(self, entries: list[Entry], content: bytes, expires: float) -> None:
        raise AssertionError("cells that have one session each send no broadcasts")

    def hear(self, source: FQCN, frame: Sent) -> None:
        """Take a frame that another cell sent just now."""
        milliseconds = int((frame.expires - self.now) * 1000)
        expires = self.now + milliseconds / 1000
        self.exchange.received(source, frame.kind, frame.header, frame.body, expires, self.now)
