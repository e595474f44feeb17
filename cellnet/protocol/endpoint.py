"""One cell of the network: all its links, the routes between them, and the messages that are its own.

The owner drives it with five verbs. ``open`` and ``close`` tell of links, ``receive`` of bytes, ``tick`` of time,
which is wanted when it is ``due``; ``events`` is what came of it. Bytes to send wait in each connection, which wakes
its owner. A frame that follows a route turns round here: if it is for another cell it goes to the connection towards
that cell, and nothing above this file hears of it.
"""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from cellnet.errors import CellError, ConnectError, HandshakeError, RefusedByPeer, RemoteProtocolError
from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.claim import Party
from cellnet.protocol.connection import Connection
from cellnet.protocol.envelope import Content
from cellnet.protocol.events import Attached, LinkFailed
from cellnet.protocol.exchange import Exchange
from cellnet.protocol.fencing import STALE_EPOCH, Fencing, StaleEpoch
from cellnet.protocol.frames import FIRST_ROUTED, Kind, unpack
from cellnet.protocol.handshake import NONCE_BYTES, Handshake, Self
from cellnet.protocol.plane import BULK, Plane
from cellnet.protocol.presence import Presence
from cellnet.protocol.routing import Router, Side
from cellnet.protocol.runs import Runs
from cellnet.protocol.switch import Switch
from cellnet.protocol.timers import Timers

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable

    from cellnet.credentials import Credentials
    from cellnet.errors import DeliveryError
    from cellnet.protocol.envelope import Status
    from cellnet.protocol.events import Event
    from cellnet.protocol.frames import Frame
    from cellnet.protocol.handshake import Neighbour, Transport

__all__ = ["MAX_CHILDREN", "Endpoint"]

MAX_CHILDREN = 4096
MAX_LAST_EPOCH = 2**64 - 2**17
"""A later one that is told of cannot be true: no clock says so."""
TICK_SECONDS = 0.5
"""To a multiple of this, keepalives and the ends of dead links are rounded up: many links are looked after together."""


class Endpoint:
    """The protocol of one cell, without a clock, a socket or a task."""

    def __init__(
        self,
        name: str,
        epoch: int,
        *,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
        wall: Callable[[], datetime.datetime],
        max_children: int = MAX_CHILDREN,
    ) -> None:
        """Make a cell without links.

        :param entropy: returns as many bytes as it is asked for, which nobody can guess
        :param random: draws from 0 to 1, for the jitter of pauses
        """
        self.name = name
        self.max_children = max_children
        self.router: Router[Connection] = Router(FQCN(ROOT) if name == ROOT else None)
        self.events: deque[Event] = deque()
        self.connections: dict[Connection, None] = {}
        self.children: dict[FQCN, Connection] = {}
        self.timers = Timers()
        self.switch = Switch(self.router)
        self.exchange = Exchange(
            self._party, self.events, self.switch, self.timers, entropy=entropy, random=random, wall=wall
        )
        self.switch.local = self.exchange
        self.plane = Plane(self.router, self.connections, self.timers, entropy=entropy, random=random)
        self._epoch = epoch
        self.credentials: Credentials | None = None
        """With which what this cell sends is sealed; without them, nothing is."""
        self._fencing = Fencing(self.timers, self._admit, self._refuse, lambda: self._is_deaf)
        self._presence = Presence(self.router, self.events)
        self._runs, self._entropy, self._random, self._wall = Runs(self.router), entropy, random, wall

    @property
    def fqcn(self) -> FQCN | None:
        """This cell's name, once its parent gave it one."""
        return self.router.fqcn

    # Links.

    def open(
        self, transport: Transport, *, is_listener: bool, now: float, role: str, credentials: Credentials | None = None
    ) -> Connection:
        """Begin the handshake on a new link.

        :param role: what this cell says it is; with credentials, it must be what they say. What it connects with,
            and the root listens with, it also shows to those with whom it opens sessions
        """
        if credentials is not None and (not is_listener or self.name == ROOT):
            self.credentials = credentials
        me = Self(self.name, role, self._epoch, credentials, self.router.names)
        handshake = Handshake(me, transport, self._entropy(NONCE_BYTES), self._wall())
        connection = Connection(handshake, is_listener=is_listener, now=now)
        self.connections[connection] = None
        if self.name == ROOT:  # others can be asked once they have a name
            self.exchange.answering.begin(now)
        if is_listener:
            connection.send_hello()
        self._tick_later(connection)
        return connection

    def receive(self, connection: Connection, data: memoryview | bytes, now: float, room: int = 0) -> None:
        """Take bytes that arrived on a link. Whatever is wrong with them ends that link and nothing else.

        :param data: is not to be used again before :meth:`keep`, as contents may still lie there; it is written into
        :param room: how many bytes at the front of *data* are room for what the connection holds, and not new
        """
        contents = None if connection.neighbour is None else partial(self._content_came, connection, now)
        try:
            for frame in connection.receive(data, now, room, self._runs, contents):
                if connection not in self.connections:
                    break
                connection.statistics.frames_received[frame.kind] += 1
                if frame.kind >= FIRST_ROUTED:
                    self.switch.receive(connection, frame, now)
                elif frame.kind in BULK and connection.neighbour is not None:
                    self.plane.received(connection, frame, now)
                else:
                    self._control(connection, frame, now)
        except CellError as error:
            self._refuse(connection, error, now)
        self.switch.deliver_own(now)

    def _content_came(self, connection: Connection, now: float, label: int, offset: int, data: memoryview) -> None:
        connection.statistics.frames_received[Kind.DATA] += 1
        self.plane.data_received(connection, now, label, offset, data)

    def close(self, connection: Connection, now: float) -> None:
        """Forget a link that ended. Safe to repeat."""
        self._forget(connection, now)
        self.switch.deliver_own(now)

    def keep(self, *, lent: bool = False) -> bool:
        """Copy what passes and has not left, unless it is lent, as :meth:`Transit.keep` says."""
        return self.plane.transit.keep(lent=lent)

    @property
    def due(self) -> float:
        """When :meth:`tick` next has something to do. It may come earlier after any other call."""
        return self.timers.due

    def tick(self, now: float) -> None:
        """Let time pass: send what is due again, send keepalives, end dead links."""
        self.timers.run(now)
        self.switch.deliver_own(now)

    def goodbye(self, reason: str) -> None:
        """Tell every neighbour that this cell ends."""
        for connection in self.connections:
            if connection.neighbour is not None:
                connection.go_away(reason)
            else:
                connection.refuse("not-joined", reason, temporary=True)

    # Messages of our own.

    def next_connection(self, destination: FQCN) -> Connection | None:
        """Return the link over which a message would leave; None for ourselves, or if there is none."""
        return self.switch.next_connection(destination)

    def request(
        self,
        destinations: Iterable[FQCN],
        topic: str,
        encoding: int,
        payload: bytes,
        *,
        deadline: float,
        now: float,
        once: bool = True,
        key: str = "",
    ) -> int:
        """Ask cells; return the number of the call, of which each of them will be heard once.

        :param once: whether to send it again until it is answered; else it is sent once
        :param key: what bears the same key runs at a destination in the order of these calls; empty for none
        :raises Busy: if too many answers are awaited
        :raises LocalProtocolError: if topic, key or payload is one that no cell would take
        """
        content = Content.of(topic, encoding, payload, key)
        call = self.exchange.asking.ask(destinations, content, deadline=deadline, now=now, once=once, key=key)
        self.switch.deliver_own(now)
        return call

    def send(
        self,
        destination: FQCN,
        topic: str,
        encoding: int,
        payload: bytes,
        *,
        deadline: float,
        now: float,
        key: str = "",
    ) -> None:
        """Send an event, at most once.

        :raises Unreachable: if it is known that no link leads to *destination*
        :raises Busy: if the link is more than full, or too much waits to be sent
        :raises LocalProtocolError: if topic, key or payload is one that no cell would take
        """
        content = Content.of(topic, encoding, payload, key)
        self.exchange.asking.tell(destination, content, deadline=deadline, now=now, key=key)
        self.switch.deliver_own(now)

    def give_up(self, call: int, now: float) -> list[tuple[FQCN, DeliveryError]]:
        """Want no more answers to *call*, and tell those who still work on it.

        :returns: who still owed an answer, and what is known of that
        """
        owed = self.exchange.asking.give_up(call, now)
        self.switch.deliver_own(now)
        return owed

    def ended(self, message: int, status: Status, encoding: int, payload: bytes, now: float) -> None:
        """Say that a message was handled, and how. Nobody is told any more who no longer wants to know."""
        self.exchange.answering.answer(message, status, encoding, payload)
        self.switch.deliver_own(now)

    def stopped(self, message: int, now: float) -> None:
        """Say that the handler of a message was stopped and gives no answer."""
        self.exchange.answering.stopped(message)
        self.switch.deliver_own(now)

    def drain(self) -> None:
        """Take no more messages; those that began may end."""
        self.exchange.answering.drain()

    def drained(self, now: float) -> None:
        """Tell those who asked what may have run, so that they can ask our next start for the rest."""
        self.exchange.answering.drained(now)
        self.switch.deliver_own(now)

    # Frames about the link itself.

    def _control(self, connection: Connection, frame: Frame, now: float) -> None:
        kind = frame.kind
        if kind is Kind.REFUSED:
            code, message, temporary, last_epoch = unpack(frame.header, str, str, bool, int)
            if code == STALE_EPOCH and self.fqcn is None and self._epoch <= last_epoch <= MAX_LAST_EPOCH:
                # The clock was set back. Nobody knows this start by its epoch, so it may have another one. Others may
                # be told of the same last one, and take the next at the same time: so it is drawn.
                self._epoch, temporary = last_epoch + 1 + int.from_bytes(self._entropy(2), "big"), True
            raise RefusedByPeer(message, code, temporary=temporary)
        if connection.neighbour is None:
            self._handshake(connection, frame, now)
        elif kind is Kind.BIND:
            self.switch.bind(connection, frame)
        elif kind is Kind.PRESENCE and connection.is_listener:
            for name in self._presence.received(connection, frame.body):
                self.switch.members_lost(connection, Side(name, below=True), now)
            self._reachable(self.router.holds, now)
        elif kind is Kind.LOST:
            self.switch.lost_received(connection, frame, now)
        elif kind is Kind.NACK:
            self.switch.nack_received(connection, frame, now)
        elif kind is Kind.GOAWAY:
            reason = f"{connection.neighbour.name} ended the link: {unpack(frame.header, str)[0]}"
            self._fail(connection, ConnectError(reason), now)
        elif kind is Kind.PROBE and not connection.is_listener:
            connection.control(Kind.ALIVE)
        elif kind is Kind.ALIVE and connection.is_listener:
            self._fencing.alive(connection, now)
        elif kind is not Kind.PING:
            raise RemoteProtocolError(f"{kind.name} is not allowed here")

    def _handshake(self, connection: Connection, frame: Frame, now: float) -> None:
        kind = frame.kind
        if kind is Kind.JOIN and connection.is_listener:
            self._join(connection, frame, now)
        elif kind is Kind.HELLO and not connection.is_listener:
            connection.send_join(frame.header)
        elif kind is Kind.WELCOME and not connection.is_listener:
            fqcn, parent = connection.handshake.welcome_received(frame.header, frame.body)
            self._attach(connection, fqcn, parent, now)
        else:
            raise RemoteProtocolError(f"{kind.name} is not allowed during the handshake")

    def _join(self, connection: Connection, frame: Frame, now: float) -> None:
        if self.fqcn is None:
            raise HandshakeError(f"{self.name} has not joined its own parent yet", "not-joined", temporary=True)
        neighbour = connection.handshake.join_received(frame.header, frame.body, self.fqcn)
        if self._fencing.claim(connection, neighbour, self.children.get(neighbour.fqcn), now):
            self._take_in(connection, neighbour, now)

    def _admit(self, connection: Connection, neighbour: Neighbour, now: float) -> None:
        """Take in who had to wait for its name."""
        try:
            self._take_in(connection, neighbour, now)
        except HandshakeError as error:
            self._refuse(connection, error, now)

    def _take_in(self, connection: Connection, neighbour: Neighbour, now: float) -> None:
        holder = self.children.get(neighbour.fqcn)
        if holder is None and len(self.children) >= self.max_children:
            raise HandshakeError(f"{self.name} has {len(self.children)} children already", "full", temporary=True)
        if holder is not None:
            self._fail(holder, ConnectError(f"{neighbour.name} connected anew"), now)
        if not self._presence.joined(neighbour, connection):
            raise HandshakeError(f"{self.name} knows as many cells as it may", "full", temporary=True)
        self._fencing.admitted(neighbour)
        self.children[neighbour.fqcn] = connection
        connection.neighbour = neighbour
        connection.send_welcome(neighbour)
        self._reachable((neighbour.fqcn, *neighbour.former).__contains__, now)

    def _attach(self, connection: Connection, fqcn: FQCN, parent: Neighbour, now: float) -> None:
        if self.fqcn is not None and self.router.parent is not None:
            raise HandshakeError(f"{self.name} has a parent already", "two-parents")
        before, self.router.fqcn = self.fqcn, fqcn
        if before != fqcn:
            # Names below us begin with ours: who joined under the old one, or waits for that, must join again.
            renamed = f"{self.name} is now {fqcn}"
            self._fencing.renamed(HandshakeError(renamed, "not-joined", temporary=True), now)
            for child in list(self.children.values()):
                self._fail(child, ConnectError(renamed), now)
            self.exchange.named(now)
            self.switch.renamed()
        self.router.parent = connection
        connection.neighbour = parent
        self._presence.announce(connection)
        self.events.append(Attached(connection, fqcn, parent))
        self._reachable(lambda name: not fqcn.is_ancestor_of(name), now)

    def _reachable(self, is_reachable: Callable[[FQCN], bool], now: float) -> None:
        self.exchange.asking.reachable(is_reachable, now)
        self.plane.reachable(is_reachable, now)

    def _refuse(self, connection: Connection, error: CellError, now: float) -> None:
        """End a link because of what arrived on it, and tell the other side why, unless it told us."""
        if isinstance(error, RefusedByPeer):
            pass
        elif connection.neighbour is not None:
            connection.go_away(str(error))
        elif isinstance(error, HandshakeError):
            last_epoch = error.last if isinstance(error, StaleEpoch) else 0
            connection.refuse(error.code, str(error), temporary=error.temporary, last_epoch=last_epoch)
        else:
            connection.refuse("protocol", str(error), temporary=False)
        self._fail(connection, error, now)

    def _fail(self, connection: Connection, error: CellError, now: float) -> None:
        self._forget(connection, now)
        self.events.append(LinkFailed(connection, error))

    def _forget(self, connection: Connection, now: float) -> None:
        if connection not in self.connections:
            return
        del self.connections[connection]
        if (neighbour := connection.neighbour) is not None:
            if connection.is_listener:
                del self.children[neighbour.fqcn]
                self._presence.left(neighbour.fqcn, connection)
            else:
                self.router.parent = None
            self.switch.connection_lost(connection, now)
            self.plane.connection_lost(connection, now)
        self._fencing.left(connection, now)

    def _party(self) -> Party | None:
        return None if self.fqcn is None else Party(self.fqcn, self._epoch, self.credentials, self.router.former)

    # Time.

    @property
    def _is_deaf(self) -> bool:
        """Whether nothing is read from children now, as the link to the parent is full."""
        return self.router.parent is not None and self.router.parent.is_full

    def _tick_later(self, connection: Connection) -> None:
        due = math.ceil(connection.due(self._random()) / TICK_SECONDS) * TICK_SECONDS
        self.timers.at(due, partial(self._tick, connection))

    def _tick(self, connection: Connection, now: float) -> None:
        if connection not in self.connections:
            return
        if connection.is_listener and self._is_deaf:
            connection.not_read(now)
        if (reason := connection.tick(now)) is not None:
            self._fail(connection, ConnectError(reason), now)
        else:
            self._tick_later(connection)
