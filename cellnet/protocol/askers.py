"""Those who ask a cell: one start of each, the session that it uses, and what it asked."""

from __future__ import annotations

from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

from cellnet.errors import Busy, HandshakeError
from cellnet.protocol.budget import Budget
from cellnet.protocol.channel import Channel
from cellnet.protocol.claim import names
from cellnet.protocol.lanes import Lanes
from cellnet.protocol.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cellnet.fqcn import FQCN
    from cellnet.protocol.envelope import Status
    from cellnet.protocol.introduction import Introducer

__all__ = ["Asker", "Askers", "Record", "Served"]

MAX_ASKERS = 65536
"""Cells whose sessions are remembered; one that has nothing open makes room for another."""
INTRODUCTIONS, INTRODUCTIONS_PER_SECOND = 1024, 100
"""How many introductions are judged at once, and in the long run, of all the cells that a neighbour speaks for. Each
costs about a millisecond. An answered one that comes again costs nothing."""
MAX_NEIGHBOURS = 8192
LOOKED_AT = 64
"""How many of those known for longest are looked at for one that can go."""


class Asker:
    """One start of one cell that asks: what it asked, and is not settled."""

    __slots__ = ("current", "epoch", "floor", "lanes", "name", "offered", "origin", "records", "settled")

    def __init__(self, name: FQCN, origin: FQCN, epoch: int, lanes: Lanes) -> None:
        self.name = name
        """Of this cell, as it was asked: under another name it is another one, with requests numbered anew."""
        self.origin = origin
        """What it called itself when it first asked; it may have moved since."""
        self.epoch = epoch
        self.floor = 1
        self.records: dict[int, Record] = {}
        self.settled = Ranges()
        self.lanes = lanes
        """What runs there of an earlier start of the same cell goes before what bears its key."""
        self.current: Served | None = None
        """The session that it uses."""
        self.offered: Served | None = None
        """The one that it asked for last, if it did not use it yet."""


class Served:
    """The answerer's end of a session."""

    __slots__ = ("asker", "at", "channel", "digest", "introduction", "last_keyed", "opened")

    def __init__(self, asker: Asker, at: FQCN, channel: Channel, digest: bytes, introduction: bytes) -> None:
        self.asker = asker
        self.at = at
        """Where the asker is: what it was called when it opened this one."""
        self.channel = channel
        self.digest = digest
        """Of the introduction in the OPEN that asked for it."""
        self.introduction = introduction
        """The body of OPENED."""
        self.last_keyed = 0
        """The highest counter of an event with an ordering key."""
        self.opened: tuple[bytes, float] | None = None
        """OPENED's header and end, until it is sent: best together with the first reply."""


class Record:
    """One request that was taken."""

    __slots__ = ("counter", "expires", "is_given_up", "message", "reply")

    def __init__(self, expires: float, counter: int) -> None:
        self.expires = expires
        self.counter = counter
        """Of the transmission that was taken."""
        self.message = 0
        """By which the owner knows it."""
        self.is_given_up = False
        """Whether nobody wants it to begin, and it is not settled yet."""
        self.reply: tuple[Status, int, bytes] | None = None


class Askers:
    """A table of those who ask, by name, and of their sessions, by number."""

    def __init__(self, introducer: Introducer, forgotten: Callable[[Asker], None]) -> None:
        """Begin with none.

        :param forgotten: is called with an asker before it is forgotten
        """
        self._introducer = introducer
        self._forgotten = forgotten
        self._askers: dict[tuple[FQCN, FQCN], Asker] = {}
        """By the names of both."""
        self._sessions: dict[int, Served] = {}
        self._budget = Budget(INTRODUCTIONS, INTRODUCTIONS_PER_SECOND, MAX_NEIGHBOURS)

    def __len__(self) -> int:
        return len(self._askers)

    def __iter__(self) -> Iterator[Asker]:
        return iter(self._askers.values())

    def session(self, origin: FQCN, number: int) -> Served | None:
        """Return the session of an asker by its number."""
        session = self._sessions.get(number)
        return session if session is not None and session.at == origin else None

    def offer(self, origin: FQCN, hello: bytes, now: float) -> Served:
        """Return the session that an OPEN asks for, which is the same for the same OPEN.

        :raises HandshakeError: if the asker is not who it should be, or was started again since
        :raises Busy: if there is no room for another asker, or its neighbour brings too many
        :raises RemoteProtocolError: if the introduction is malformed
        """
        digest = sha256(hello).digest()
        asker_name, name = names(hello)
        asker = self._askers.get((name, asker_name))
        for session in (asker.current, asker.offered) if asker is not None else ():
            if session is not None and session.digest == digest and session.at == origin:
                return session
        if not self._budget.spend(self._introducer.neighbour(origin), now):
            raise Busy("too many cells introduced themselves at once")
        said, number, asked = self._introducer.answer(origin, hello)
        if asker is not None and asked.epoch < asker.epoch:
            raise HandshakeError(f"a later start of {origin} is known", "stale-epoch")
        if asker is not None and asked.epoch > asker.epoch:
            self._forget(asker)
            asker = self._askers[name, asker_name] = Asker(name, asker_name, asked.epoch, asker.lanes)
        if asker is None:
            self._make_room()
            asker = self._askers[name, asker_name] = Asker(name, asker_name, asked.epoch, Lanes())
        self._drop(asker.offered)
        session = asker.offered = Served(asker, origin, Channel(number, asked.seal), digest, said)
        self._sessions[number] = session
        return session

    def use(self, session: Served) -> None:
        """Note that the asker uses a session: only now is it known that its OPEN was no repetition of an old one."""
        asker = session.asker
        if session is asker.offered:
            self._drop(asker.current)
            asker.current, asker.offered = session, None

    def _drop(self, session: Served | None) -> None:
        if session is not None:
            del self._sessions[session.channel.number]

    def _make_room(self) -> None:
        if len(self._askers) < MAX_ASKERS:
            return
        for key, asker in list(islice(self._askers.items(), LOOKED_AT)):
            if not asker.records and asker.lanes.is_idle:
                self._forget(asker)
                return
            self._askers[key] = self._askers.pop(key)  # others are looked at next time
        raise Busy("too many cells have open requests here")

    def _forget(self, asker: Asker) -> None:
        self._forgotten(asker)
        self._drop(asker.current)
        self._drop(asker.offered)
        del self._askers[asker.name, asker.origin]
