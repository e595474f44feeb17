"""Frames that follow a route: to the next neighbour, to several of them, or to this cell's own messages.

What goes wrong on the way goes back along the route, label by label: NACK for one message that was not delivered,
LOST for a route that broke. So an origin hears of a fault at once, although no cell on the way remembers messages.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

from cellnet.errors import Busy, InvalidName, NotExecuted, RemoteProtocolError, Unreachable
from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol.connection import MAX_REASON, Route
from cellnet.protocol.envelope import MAX_ENTRIES, Entry, join, read_name
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.routing import Side
from cellnet.protocol.runs import REFUSABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.frames import Frame
    from cellnet.protocol.routing import Router

__all__ = ["Switch"]

MAX_OWN_ROUTES = 8192
"""Routes from this cell that are remembered; the least recently used one is forgotten."""
_TOLD = frozenset({Kind.REQUEST, Kind.OPEN})
"""Whose origin is told when they are refused."""
_NACK_ERRORS: dict[str, type[NotExecuted]] = {"unreachable": Unreachable, "busy": Busy}


class Local(Protocol):
    """Who takes what is for this cell."""

    def received(self, origin: FQCN, kind: Kind, header: bytes, body: bytes, expires: float, now: float) -> None:
        """Take a frame."""
        ...

    def nack_received(self, destination: FQCN, session: int, counter: int, error: NotExecuted, now: float) -> None:
        """Take the news that a frame of ours was not delivered."""
        ...

    def lost(self, is_lost: Callable[[FQCN], bool], now: float) -> None:
        """Take the news that the way to some cells broke."""
        ...


class Switch:
    """The middle of a cell: every routed frame passes here, whether it came from a link or from the cell itself."""

    local: Local
    """To be set before the first frame."""

    def __init__(self, router: Router[Connection]) -> None:
        self.refused = 0
        """Frames that could be neither delivered nor forwarded."""
        self._router = router
        self._own: OrderedDict[FQCN | None, Route] = OrderedDict()
        self._to_self: deque[tuple[Kind, bytes, bytes, float]] = deque()
        self._undelivered: deque[tuple[Entry, NotExecuted]] = deque()

    # Frames of this cell.

    def next_connection(self, destination: FQCN) -> Connection | None:
        """Return the link towards *destination*; None if there is none, or that is this cell."""
        return None if self._router.is_me(destination) else self._router.next_hop(destination)

    def send(self, destination: FQCN, kind: Kind, header: bytes, payload: bytes, expires: float) -> None:
        """Send a frame of our own, over a link or to ourselves.

        :raises Unreachable: if no link leads to *destination*
        :raises Busy: if the link is more than full
        """
        if self._router.is_me(destination):
            self._to_self.append((kind, header, payload, expires))
            return
        out = self._router.next_hop(destination)
        if out is None:
            raise self._unreachable(destination)
        if not out.forward(self._route(destination), kind, header, payload, expires=expires):
            raise self._full(out)

    def broadcast(self, entries: list[Entry], content: bytes, expires: float) -> None:
        """Send one content to many cells, over each link once."""
        self._split(self._route(None), entries, content, expires, MAX_HOPS)

    def deliver_own(self, now: float) -> None:
        """Deliver what this cell sent to itself, and the news of what it could not send.

        Not done while it is sent, so that nobody hears of a frame's fate before it has noted that it was sent.
        """
        me = self._router.fqcn
        while self._to_self or self._undelivered:
            if self._to_self:
                assert me is not None  # noqa: S101  # who has no name sends nothing
                kind, header, body, expires = self._to_self.popleft()
                self.local.received(me, kind, header, body, expires, now)
            else:
                entry, error = self._undelivered.popleft()
                self.local.nack_received(entry.destination, entry.session, entry.counter, error, now)

    # Frames from a link.

    def bind(self, connection: Connection, frame: Frame) -> None:
        """Take a BIND. A neighbour may speak only for the cells on its side of the link.

        :raises RemoteProtocolError: if it speaks for another, or the names are malformed
        """
        fields = unpack(frame.header, str, (str, type(None)))
        try:
            origin = FQCN(fields[0])
            destination = None if fields[1] is None else FQCN(fields[1])
        except InvalidName as error:
            raise RemoteProtocolError(str(error)) from None
        if not self._far_side(connection).holds(origin):
            raise RemoteProtocolError(f"a neighbour may not speak for {origin}")
        connection.bind(frame.label, origin, destination)

    def receive(self, connection: Connection, frame: Frame, now: float) -> None:
        """Take a frame that follows a route.

        Its header is the origin's, which may be far away, and the neighbour only forwarded it: if that is malformed,
        the frame is refused, and the link stays.

        :raises RemoteProtocolError: if what the neighbour itself wrote is malformed, or the label was never bound
        """
        route = connection.routes.get(frame.label)
        if route is None:
            raise RemoteProtocolError(f"a frame bears label {frame.label}, which was never bound")
        if (frame.kind is Kind.BROADCAST) != (route.destination is None):
            raise RemoteProtocolError(f"{frame.kind.name} does not fit its route")
        if frame.hop > MAX_HOPS:
            raise RemoteProtocolError(f"a frame may cross {frame.hop} more links: {MAX_HOPS} are allowed")
        entries = Entry.unpack(unpack(frame.header, list)[0]) if route.destination is None else []
        expires = now + frame.remaining_ms / 1000
        try:
            if frame.remaining_ms == 0:
                self.refused += 1
            elif route.destination is None:
                self._split(route, entries, frame.body, expires, frame.hop - 1, now)
            elif self._router.is_me(route.destination):
                self.local.received(route.origin, frame.kind, frame.header, frame.body, expires, now)
            else:
                self._forward(route, route.destination, frame, expires)
        except RemoteProtocolError:
            self.refused += 1

    def _far_side(self, connection: Connection) -> Side:
        """Return the other side of a link: a child's subtree, or all that is outside our own."""
        if connection.is_listener:
            assert connection.neighbour is not None  # noqa: S101  # no frame comes here before the handshake is done
            return Side(connection.neighbour.fqcn, below=True)
        assert self._router.fqcn is not None  # noqa: S101  # as above
        return Side(self._router.fqcn, below=False)

    def _forward(self, route: Route, destination: FQCN, frame: Frame, expires: float) -> None:
        out = self._router.next_hop(destination)
        error: NotExecuted
        if out is None or out is route.source:
            error = self._unreachable(destination)
        elif frame.hop <= 1:
            error = self._hops_used_up()
        elif (out.refuses_new and frame.kind in REFUSABLE) or not out.forward(
            route, frame.kind, frame.header, frame.body, expires=expires, hop=frame.hop - 1
        ):
            error = self._full(out)
        else:
            route.checked = self._router.version  # those that follow are not looked at so closely
            return
        if frame.kind in _TOLD:
            session, counter = unpack(frame.header, int, int)
            self._nack(route, error, [Entry(destination, session, counter, b"")])
        else:
            self.refused += 1

    def _split(
        self, route: Route, entries: list[Entry], content: bytes, expires: float, hop: int, now: float | None = None
    ) -> None:
        """Send one copy per link, or a few if more destinations lie behind it than one frame may name."""
        groups: dict[Connection, list[Entry]] = {}
        for entry in entries:
            if self._router.is_me(entry.destination):
                self._take_own(route, entry, content, expires, now)
            elif (out := self._router.next_hop(entry.destination)) is None or out is route.source:
                self._nack(route, self._unreachable(entry.destination), [entry])
            else:
                groups.setdefault(out, []).append(entry)
        for out, group in groups.items():
            if hop < 1:
                self._nack(route, self._hops_used_up(), group)
            elif out.refuses_new and route.source is not None:
                self._nack(route, self._full(out), group)
            else:
                branch = route.branch(out)
                for start in range(0, len(group), MAX_ENTRIES):
                    part = group[start : start + MAX_ENTRIES]
                    header = pack([entry.fields() for entry in part])
                    if not out.forward(branch, Kind.BROADCAST, header, content, expires=expires, hop=hop):
                        self._nack(route, self._full(out), part)

    def _take_own(self, route: Route, entry: Entry, content: bytes, expires: float, now: float | None) -> None:
        header, body = pack(entry.session, entry.counter), join(entry.order, content)
        if now is None:
            self._to_self.append((Kind.BROADCAST, header, body, expires))
        else:
            self.local.received(route.origin, Kind.BROADCAST, header, body, expires, now)

    # Bad news.

    def nack_received(self, connection: Connection, frame: Frame, now: float) -> None:
        """Take a NACK: it is about a message of ours, or goes one link further back.

        :raises RemoteProtocolError: if it is malformed
        """
        code, message, values = unpack(frame.header, str, str, list)
        entries = _nacked(values)
        kind = _NACK_ERRORS.get(code)
        if kind is None:
            raise RemoteProtocolError(f"a NACK gives the unknown reason {code[:40]!r}")
        route = connection.owner(frame.label)
        if route is None or (route.destination is not None and [e.destination for e in entries] != [route.destination]):
            self.refused += 1  # the label was given to another route meanwhile
        elif route.source is None:
            for entry in entries:
                error = kind(message[:MAX_REASON])
                self.local.nack_received(entry.destination, entry.session, entry.counter, error, now)
        else:
            self._send_nack(route.source, route.source_label, code, message, entries)

    def lost_received(self, connection: Connection, frame: Frame, now: float) -> None:
        """Take a LOST: one of our routes broke further on.

        :raises RemoteProtocolError: if it is malformed
        """
        text, below = unpack(frame.header, str, bool)
        side = Side(read_name(text), below)
        route = connection.owner(frame.label)
        if route is None or not (route.destination is None or side.holds(route.destination)):
            return  # the label was given to another route meanwhile
        if route.destination is not None:
            connection.release(route)
        if route.source is None:
            far = self._far_side(connection)
            self.local.lost(lambda cell: side.holds(cell) and far.holds(cell), now)
        else:
            self._send_lost(route, side)

    def connection_lost(self, connection: Connection, now: float) -> None:
        """Forget the routes that came in over a link that ended, and tell the origins of those that led out."""
        for route in connection.routes.values():
            route.end()
        self._lost(connection, list(connection.routes_out()), self._far_side(connection), now)

    def members_lost(self, connection: Connection, side: Side, now: float) -> None:
        """Tell the origins of routes to these cells, which were behind *connection*, that they left.

        Broadcasts are not told here: the cell that lost the link does so, along their labels.
        """
        routes = [route for route in connection.routes_out() if route.destination and side.holds(route.destination)]
        self._lost(connection, routes, side, now)

    def renamed(self) -> None:
        """Forget the routes that begin here, as this cell has another name now."""
        self._own.clear()

    def _lost(self, connection: Connection, routes: Iterable[Route], side: Side, now: float) -> None:
        for route in routes:
            connection.release(route)
            self._send_lost(route, side)
        self.local.lost(side.holds, now)

    @staticmethod
    def _send_lost(route: Route, side: Side) -> None:
        if route.source is not None:
            route.source.control(Kind.LOST, str(side.name), side.below, label=route.source_label)

    def _nack(self, route: Route, error: NotExecuted, entries: list[Entry]) -> None:
        self.refused += 1
        if route.source is None:
            self._undelivered.extend((entry, error) for entry in entries)
            return
        code = "busy" if isinstance(error, Busy) else "unreachable"
        self._send_nack(route.source, route.source_label, code, str(error), entries)

    @staticmethod
    def _send_nack(source: Connection, label: int, code: str, reason: str, entries: list[Entry]) -> None:
        values = [[str(entry.destination), entry.session, entry.counter] for entry in entries]
        source.control(Kind.NACK, code, reason[:MAX_REASON], values, label=label)

    def _unreachable(self, destination: FQCN) -> Unreachable:
        me = self._router.fqcn
        if me is None or (self._router.parent is None and not me.is_root and not me.is_ancestor_of(destination)):
            return Unreachable(f"{destination} cannot be reached: {me or 'this cell'} has no link to a parent")
        return Unreachable(f"no cell {destination} is present below {me}")

    def _hops_used_up(self) -> Unreachable:
        return Unreachable(f"a message used up its {MAX_HOPS} hops at {self._router.fqcn}")

    def _full(self, out: Connection) -> Busy:
        assert out.neighbour is not None  # noqa: S101  # routes lead only to neighbours
        return Busy(f"the link from {self._router.fqcn} to {out.neighbour.fqcn} is full: its receiver is too slow")

    def _route(self, destination: FQCN | None) -> Route:
        """Return the route from this cell to *destination*; None is for broadcasts."""
        route = self._own.get(destination)
        if route is None:
            me = self._router.fqcn
            assert me is not None  # noqa: S101  # a cell without a name has no links to send over
            if len(self._own) >= MAX_OWN_ROUTES:
                self._own.popitem(last=False)
            route = self._own[destination] = Route(me, destination)
        else:
            self._own.move_to_end(destination)
        return route


def _nacked(values: list[object]) -> list[Entry]:
    return Entry.unpack([[*value, b""] if isinstance(value, list) else value for value in values])
