"""One cell of the network: all its links, the routes between them, and the messages that are its own.

The owner drives it with five verbs. ``open`` and ``close`` tell of links, ``receive`` of bytes, ``tick`` of time;
``events`` is what came of it. Bytes to send wait in each connection, which wakes its owner. A frame that follows a
route turns round here: if it is for another cell it goes to the connection towards that cell, and nothing above
this file hears of it.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from cellnet.errors import (
    Busy,
    CellError,
    ConnectError,
    HandshakeError,
    NotExecuted,
    RefusedByPeer,
    RemoteProtocolError,
    Unreachable,
)
from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.connection import Connection
from cellnet.protocol.events import Attached, LinkFailed
from cellnet.protocol.exchange import Exchange
from cellnet.protocol.frames import FIRST_ROUTED, Kind, pack, unpack
from cellnet.protocol.handshake import NONCE_BYTES, Handshake, Self
from cellnet.protocol.presence import Presence
from cellnet.protocol.routing import Router, Side
from cellnet.protocol.switch import Switch

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterable

    from cellnet.credentials import Credentials
    from cellnet.protocol.events import Event, MessageKey
    from cellnet.protocol.exchange import Status
    from cellnet.protocol.frames import Frame
    from cellnet.protocol.handshake import Neighbour, Transport

__all__ = ["MAX_CHILDREN", "Endpoint"]

MAX_CHILDREN = 4096


class Endpoint:
    """The protocol of one cell, without a clock, a socket or a task."""

    def __init__(
        self,
        name: str,
        epoch: int,
        *,
        entropy: Callable[[int], bytes],
        wall: Callable[[], datetime.datetime],
        max_children: int = MAX_CHILDREN,
    ) -> None:
        self.name = name
        self.max_children = max_children
        self.router: Router[Connection] = Router(FQCN(ROOT) if name == ROOT else None)
        self.exchange = Exchange(epoch)
        self.events: deque[Event] = deque()
        self.connections: dict[Connection, None] = {}
        self.children: dict[FQCN, Connection] = {}
        self.switch = Switch(self.router, self.exchange, self.events)
        self._presence = Presence(self.router, self.events)
        self._entropy = entropy
        self._wall = wall

    @property
    def fqcn(self) -> FQCN | None:
        """This cell's name, once its parent gave it one."""
        return self.router.fqcn

    # Links.

    def open(
        self, transport: Transport, *, is_listener: bool, now: float, role: str, credentials: Credentials | None = None
    ) -> Connection:
        """Begin the handshake on a new link.

        :param role: what this cell says it is; with credentials, it must be what they say
        """
        me = Self(self.name, role, self.exchange.epoch, credentials)
        handshake = Handshake(me, transport, self._entropy(NONCE_BYTES), self._wall())
        connection = Connection(handshake, is_listener=is_listener, now=now)
        self.connections[connection] = None
        if is_listener:
            connection.send_hello()
        return connection

    def receive(self, connection: Connection, data: memoryview | bytes, now: float) -> None:
        """Take bytes that arrived on a link. Whatever is wrong with them ends that link and nothing else."""
        received = connection.statistics.frames_received
        try:
            for frame in connection.receive(data, now):
                if connection not in self.connections:
                    return
                received[frame.kind] += 1
                if frame.kind >= FIRST_ROUTED:
                    self.switch.receive(connection, frame, now)
                else:
                    self._control(connection, frame, now)
        except CellError as error:
            self._refuse(connection, error)

    def close(self, connection: Connection) -> None:
        """Forget a link that ended. Safe to repeat."""
        if connection not in self.connections:
            return
        del self.connections[connection]
        neighbour = connection.neighbour
        if neighbour is None:
            return
        if connection.is_listener:
            del self.children[neighbour.fqcn]
            self._presence.left(neighbour.fqcn, connection)
        else:
            self.router.parent = None
        self.switch.connection_lost(connection)

    def tick(self, now: float, jitter: float) -> None:
        """Let time pass: send keepalives, end dead links. To be called every few seconds."""
        self.exchange.expire(now)
        parent = self.router.parent
        for connection in list(self.connections):
            if connection.is_listener and parent is not None and parent.is_full:
                connection.not_read(now)
            reason = connection.tick(now, jitter)
            if reason is not None:
                self._fail(connection, ConnectError(reason))

    def goodbye(self, reason: str) -> None:
        """Tell every neighbour that this cell ends."""
        for connection in self.connections:
            connection.go_away(reason)

    # Messages of our own.

    def next_connection(self, destination: FQCN) -> Connection | None:
        """Return the link over which a message to *destination* would leave; None for ourselves.

        :raises Unreachable: if there is none
        """
        return self.switch.next_connection(destination)

    def request(self, destination: FQCN, topic: str, encoding: int, payload: bytes, *, deadline: float) -> int:
        """Send a request; return its sequence number.

        :raises Unreachable: if no link leads to *destination*
        :raises Busy: if too many answers are awaited, or the link is more than full
        """
        self.next_connection(destination)
        sequence, header = self.exchange.header(topic, encoding, payload)
        self.exchange.expect(sequence, (destination,))
        try:
            self.switch.send(destination, Kind.REQUEST, header, payload, deadline)
        except Busy:
            self.exchange.forget(sequence)
            raise
        return sequence

    def send(self, destination: FQCN, topic: str, encoding: int, payload: bytes, *, deadline: float) -> None:
        """Send an event.

        :raises Unreachable: if no link leads to *destination*
        :raises Busy: if the link is more than full
        """
        _sequence, header = self.exchange.header(topic, encoding, payload)
        self.switch.send(destination, Kind.EVENT, header, payload, deadline)

    def broadcast(
        self, destinations: Iterable[FQCN], topic: str, encoding: int, payload: bytes, *, deadline: float
    ) -> int:
        """Send a request to many cells, over each link once; return its sequence number.

        :raises Unreachable: if this cell has not joined a parent yet
        :raises Busy: if too many answers are awaited
        """
        if self.fqcn is None:
            raise Unreachable(f"{self.name} has not joined its parent yet")
        wanted = sorted(set(destinations))
        sequence, header = self.exchange.header(topic, encoding, payload)
        self.exchange.expect(sequence, wanted)
        self.switch.broadcast(wanted, header, payload, deadline)
        return sequence

    def cancel(self, sequence: int, *, deadline: float) -> None:
        """No longer want answers to *sequence*, and tell those who still work on it."""
        header = pack(sequence, self.exchange.epoch)
        for destination in self.exchange.forget(sequence):
            with suppress(NotExecuted):
                self.switch.send(destination, Kind.CANCEL, header, b"", deadline)

    def reply(self, key: MessageKey, status: Status, encoding: int, payload: bytes) -> None:
        """Answer a message. Nothing is sent if nobody wants the answer any more."""
        deadline = self.exchange.answer(key)
        if deadline is not None:
            self.switch.reply(key, status, encoding, payload, deadline)

    # Frames about the link itself.

    def _control(self, connection: Connection, frame: Frame, now: float) -> None:
        kind = frame.kind
        if kind is Kind.REFUSED:
            code, message, temporary = unpack(frame.header, str, str, bool)
            raise RefusedByPeer(message, code, temporary=temporary)
        if connection.neighbour is None:
            self._handshake(connection, frame)
        elif kind is Kind.BIND:
            self.switch.bind(connection, frame)
        elif kind is Kind.PRESENCE and connection.is_listener:
            for name in self._presence.received(connection, frame.body):
                self.switch.members_lost(connection, Side(name, below=True))
        elif kind is Kind.LOST:
            self.switch.lost_received(connection, frame)
        elif kind is Kind.NACK:
            self.switch.nack_received(connection, frame)
        elif kind is Kind.GOAWAY:
            (reason,) = unpack(frame.header, str)
            self._fail(connection, ConnectError(f"{connection.neighbour.name} ended the link: {reason}"))
        elif kind is not Kind.PING:
            raise RemoteProtocolError(f"{kind.name} is not allowed here")

    def _handshake(self, connection: Connection, frame: Frame) -> None:
        kind = frame.kind
        if kind is Kind.JOIN and connection.is_listener:
            self._join(connection, frame)
        elif kind is Kind.HELLO and not connection.is_listener:
            connection.send_join(frame.header)
        elif kind is Kind.WELCOME and not connection.is_listener:
            fqcn, parent = connection.handshake.welcome_received(frame.header, frame.body)
            self._attach(connection, fqcn, parent)
        else:
            raise RemoteProtocolError(f"{kind.name} is not allowed during the handshake")

    def _join(self, connection: Connection, frame: Frame) -> None:
        if self.fqcn is None:
            raise HandshakeError(f"{self.name} has not joined its own parent yet", "not-joined", temporary=True)
        neighbour = connection.handshake.join_received(frame.header, frame.body, self.fqcn)
        holder = self.children.get(neighbour.fqcn)
        if holder is not None and holder.neighbour is not None and holder.neighbour.epoch > neighbour.epoch:
            raise HandshakeError(f"a later start of {neighbour.name} is connected", "stale-epoch", temporary=True)
        if holder is None and len(self.children) >= self.max_children:
            raise HandshakeError(f"{self.name} has {len(self.children)} children already", "full", temporary=True)
        if holder is not None:
            self._fail(holder, ConnectError(f"{neighbour.name} connected anew"))
        if not self._presence.joined(neighbour, connection):
            raise HandshakeError(f"{self.name} knows as many cells as it may", "full", temporary=True)
        self.children[neighbour.fqcn] = connection
        connection.neighbour = neighbour
        connection.send_welcome(neighbour)

    def _attach(self, connection: Connection, fqcn: FQCN, parent: Neighbour) -> None:
        if self.fqcn is not None and self.router.parent is not None:
            raise HandshakeError(f"{self.name} has a parent already", "two-parents")
        if self.fqcn != fqcn:
            # Names below us begin with ours: who joined under the old one must join again.
            for child in list(self.children.values()):
                self._fail(child, ConnectError(f"{self.name} is now {fqcn}"))
            self.switch.renamed()
        self.router.fqcn = fqcn
        self.router.parent = connection
        connection.neighbour = parent
        self._presence.announce(connection)
        self.events.append(Attached(connection, fqcn, parent))

    def _refuse(self, connection: Connection, error: CellError) -> None:
        """End a link because of what arrived on it, and tell the other side why, unless it told us."""
        if isinstance(error, RefusedByPeer):
            pass
        elif connection.neighbour is not None:
            connection.go_away(str(error))
        elif isinstance(error, HandshakeError):
            connection.refuse(error.code, str(error), temporary=error.temporary)
        else:
            connection.refuse("protocol", str(error), temporary=False)
        self._fail(connection, error)

    def _fail(self, connection: Connection, error: CellError) -> None:
        self.close(connection)
        self.events.append(LinkFailed(connection, error))
