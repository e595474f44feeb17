"""Frames that follow a route: to the next neighbour, to several of them, or to this cell's own messages.

What goes wrong on the way goes back along the route, label by label: NACK for one message that was not delivered,
LOST for a route that broke. So an origin hears of a fault at once, although no cell on the way remembers messages.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from cellnet.errors import Busy, DeliveryError, InvalidName, NotExecuted, RemoteProtocolError, Unreachable
from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol.connection import MAX_REASON, Route
from cellnet.protocol.events import Message
from cellnet.protocol.exchange import MAX_NAMES, Status, broadcast_body, names, split_broadcast
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.routing import Side

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.events import Event, MessageKey
    from cellnet.protocol.exchange import Exchange
    from cellnet.protocol.frames import Frame
    from cellnet.protocol.routing import Router

__all__ = ["Switch"]

MAX_OWN_ROUTES = 8192
"""Routes from this cell that are remembered; the least recently used one is forgotten."""
_NACK_ERRORS: dict[str, type[DeliveryError]] = {"unreachable": Unreachable, "busy": Busy}


class Switch:
    """The middle of a cell: every routed frame passes here, whether it came from a link or from the cell itself."""

    def __init__(self, router: Router[Connection], exchange: Exchange, events: deque[Event]) -> None:
        self.refused = 0
        """Frames that could be neither delivered nor forwarded."""
        self._router = router
        self._exchange = exchange
        self._events = events
        self._own: OrderedDict[FQCN | None, Route] = OrderedDict()

    # Frames of this cell.

    def next_connection(self, destination: FQCN) -> Connection | None:
        """Return the link towards *destination*; None if that is this cell.

        :raises Unreachable: if there is none
        """
        if destination == self._router.fqcn:
            return None
        connection = self._router.next_hop(destination)
        if connection is None:
            raise self._unreachable(destination)
        return connection

    def send(self, destination: FQCN, kind: Kind, header: bytes, payload: bytes, expires: float) -> None:
        """Send a frame of our own, over a link or to ourselves.

        :raises Unreachable: if no link leads to *destination*
        :raises Busy: if the link is more than full
        """
        out = self.next_connection(destination)
        if out is None:
            self._deliver(destination, kind, header, payload, expires)
        elif not out.forward(self._route(destination), kind, header, payload, expires=expires):
            raise self._full(out)

    def broadcast(self, destinations: list[FQCN], header: bytes, payload: bytes, expires: float) -> None:
        """Send one message to many cells; those that cannot be reached fail at once."""
        me = self._router.fqcn
        if me in destinations:
            self._deliver(me, Kind.REQUEST, header, payload, expires)
        others = [name for name in destinations if name != me]
        self._split(self._route(None), others, broadcast_body(header, payload), expires, MAX_HOPS)

    def reply(self, key: MessageKey, status: Status, encoding: int, payload: bytes, expires: float) -> None:
        """Answer a message. An origin that cannot be reached any more, or does not read, gets no answer."""
        header = pack(key.sequence, key.epoch, int(status), encoding, {})
        try:
            self.send(key.origin, Kind.REPLY, header, payload, expires)
        except NotExecuted:
            self.refused += 1

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
        targets = names(unpack(frame.header, list)[0]) if route.destination is None else []
        expires = now + frame.remaining_ms / 1000
        try:
            if frame.remaining_ms == 0:
                self.refused += 1
            elif route.destination is None:
                self._broadcast_received(route, frame, targets, expires)
            elif route.destination == self._router.fqcn:
                self._deliver(route.origin, frame.kind, frame.header, frame.body, expires)
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

    def _deliver(self, origin: FQCN, kind: Kind, header: bytes, body: bytes, expires: float) -> None:
        if kind is Kind.REPLY:
            answers = list(self._exchange.reply_received(origin, header, body))
            self._events.extend(answers)
            self.refused += not answers
        elif kind is Kind.CANCEL:
            self._events.extend(self._exchange.cancel_received(origin, header))
        else:
            wants_reply = kind is Kind.REQUEST
            message = self._exchange.message_received(origin, header, body, expires, wants_reply=wants_reply)
            if isinstance(message, Message):
                self._events.append(message)
            elif message is None:
                self.refused += 1
            else:
                self.reply(message, Status.BUSY, 0, b"", expires)

    def _forward(self, route: Route, destination: FQCN, frame: Frame, expires: float) -> None:
        out = self._router.next_hop(destination)
        error: DeliveryError
        if out is None or out is route.source:
            error = self._unreachable(destination)
        elif frame.hop <= 1:
            error = self._hops_used_up()
        elif (out.refuses_new and frame.kind in (Kind.REQUEST, Kind.EVENT)) or not out.forward(
            route, frame.kind, frame.header, frame.body, expires=expires, hop=frame.hop - 1
        ):
            error = self._full(out)
        else:
            return
        if frame.kind is Kind.REQUEST:
            self._nack(route, frame.header, error, [destination])
        self.refused += 1

    def _broadcast_received(self, route: Route, frame: Frame, destinations: list[FQCN], expires: float) -> None:
        me = self._router.fqcn
        if me in destinations:
            header, payload = split_broadcast(frame.body)
            self._deliver(route.origin, Kind.REQUEST, header, payload, expires)
            destinations = [name for name in destinations if name != me]
        self._split(route, destinations, frame.body, expires, frame.hop - 1)

    def _split(self, route: Route, destinations: list[FQCN], body: bytes, expires: float, hop: int) -> None:
        """Send one copy per link, or a few if more destinations lie behind it than one frame may name."""
        groups, unreachable = self._router.split(destinations)
        for name in unreachable:
            self._undelivered(route, body, self._unreachable(name), [name])
        for out, group in groups.items():
            if out is route.source:
                self._undelivered(route, body, self._unreachable(group[0]), group)
            elif hop < 1:
                self._undelivered(route, body, self._hops_used_up(), group)
            elif out.refuses_new and route.source is not None:
                self._undelivered(route, body, self._full(out), group)
            else:
                branch = route.branch(out)
                for start in range(0, len(group), MAX_NAMES):
                    part = group[start : start + MAX_NAMES]
                    header = pack([str(name) for name in part])
                    if not out.forward(branch, Kind.BROADCAST, header, body, expires=expires, hop=hop):
                        self._undelivered(route, body, self._full(out), part)

    # Bad news.

    def nack_received(self, connection: Connection, frame: Frame) -> None:
        """Take a NACK: it is about a message of ours, or goes one link further back.

        :raises RemoteProtocolError: if it is malformed
        """
        sequence, epoch, code, message, values = unpack(frame.header, int, int, str, str, list)
        destinations = names(values)
        kind = _NACK_ERRORS.get(code)
        if kind is None:
            raise RemoteProtocolError(f"a NACK gives the unknown reason {code[:40]!r}")
        route = connection.owner(frame.label)
        if route is None or (route.destination is not None and destinations != [route.destination]):
            self.refused += 1  # the label was given to another route meanwhile
        elif route.source is None:
            self._events.extend(self._exchange.fail(sequence, epoch, destinations, kind(message[:MAX_REASON])))
        else:
            self._send_nack(route.source, route.source_label, sequence, epoch, code, message, destinations)

    def lost_received(self, connection: Connection, frame: Frame) -> None:
        """Take a LOST: one of our routes broke further on.

        :raises RemoteProtocolError: if it is malformed
        """
        text, below = unpack(frame.header, str, bool)
        (name,) = names([text])
        side = Side(name, below)
        route = connection.owner(frame.label)
        if route is None or not (route.destination is None or side.holds(route.destination)):
            return  # the label was given to another route meanwhile
        if route.destination is not None:
            connection.release(route)
        if route.source is None:
            far = self._far_side(connection)
            self._events.extend(self._exchange.lost(lambda cell: side.holds(cell) and far.holds(cell)))
        else:
            self._send_lost(route, side)

    def connection_lost(self, connection: Connection) -> None:
        """Forget the routes that came in over a link that ended, and tell the origins of those that led out."""
        for route in connection.routes.values():
            route.end()
        self._lost(connection, list(connection.routes_out()), self._far_side(connection))

    def members_lost(self, connection: Connection, side: Side) -> None:
        """Tell the origins of routes to these cells, which were behind *connection*, that they left.

        Broadcasts are not told here: the cell that lost the link does so, along their labels.
        """
        routes = [route for route in connection.routes_out() if route.destination and side.holds(route.destination)]
        self._lost(connection, routes, side)

    def renamed(self) -> None:
        """Forget the routes that begin here, as this cell has another name now."""
        self._own.clear()

    def _lost(self, connection: Connection, routes: Iterable[Route], side: Side) -> None:
        for route in routes:
            connection.release(route)
            self._send_lost(route, side)
        self._events.extend(self._exchange.lost(side.holds))

    @staticmethod
    def _send_lost(route: Route, side: Side) -> None:
        if route.source is not None:
            route.source.control(Kind.LOST, str(side.name), side.below, label=route.source_label)

    def _undelivered(self, route: Route, body: bytes, error: DeliveryError, destinations: list[FQCN]) -> None:
        self._nack(route, split_broadcast(body)[0], error, destinations)
        self.refused += 1

    def _nack(self, route: Route, header: bytes, error: DeliveryError, destinations: list[FQCN]) -> None:
        sequence, epoch, *_ = unpack(header, int, int, str, int, dict)
        if route.source is None:
            self._events.extend(self._exchange.fail(sequence, epoch, destinations, error))
            return
        code = "busy" if isinstance(error, Busy) else "unreachable"
        self._send_nack(route.source, route.source_label, sequence, epoch, code, str(error), destinations)

    @staticmethod
    def _send_nack(
        source: Connection, label: int, sequence: int, epoch: int, code: str, reason: str, destinations: list[FQCN]
    ) -> None:
        values = [str(name) for name in destinations]
        source.control(Kind.NACK, sequence, epoch, code, reason[:MAX_REASON], values, label=label)

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
