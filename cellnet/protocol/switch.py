"""Frames that follow a route: to the next neighbour, to several of them, or to this cell's own messages.

What goes wrong on the way goes back along the route, label by label: NACK for one message that was not delivered,
LOST for a route that broke. So an origin hears of a fault at once, although no cell on the way remembers messages.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from cellnet.errors import Busy, DeliveryError, InvalidName, RemoteProtocolError, Unreachable
from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol.connection import Route
from cellnet.protocol.events import Message
from cellnet.protocol.exchange import Status, broadcast_body, names, split_broadcast
from cellnet.protocol.frames import Kind, pack, unpack

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
TARGETS_PER_FRAME = 200
"""Destinations that one BROADCAST frame names: with 200 of the longest names, its header is still allowed."""
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
        """
        out = self.next_connection(destination)
        if out is None:
            self._deliver(destination, kind, header, payload, expires)
        else:
            out.forward(self._route(destination), kind, header, payload, expires=expires)

    def broadcast(self, destinations: list[FQCN], header: bytes, payload: bytes, expires: float) -> None:
        """Send one message to many cells; those that cannot be reached fail at once."""
        me = self._router.fqcn
        if me in destinations:
            self._deliver(me, Kind.REQUEST, header, payload, expires)
        others = [name for name in destinations if name != me]
        self._split(self._route(None), others, broadcast_body(header, payload), expires, MAX_HOPS)

    def reply(self, key: MessageKey, status: Status, encoding: int, payload: bytes, expires: float) -> None:
        """Answer a message. An origin that cannot be reached any more gets no answer."""
        header = pack(key.sequence, key.epoch, int(status), encoding, {})
        try:
            self.send(key.origin, Kind.REPLY, header, payload, expires)
        except Unreachable:
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
        if not self._may_speak(connection, origin):
            raise RemoteProtocolError(f"a neighbour may not speak for {origin}")
        connection.bind(frame.label, origin, destination)

    def receive(self, connection: Connection, frame: Frame, now: float) -> None:
        """Take a frame that follows a route.

        :raises RemoteProtocolError: if it is malformed, or its label was never bound
        """
        route = connection.routes.get(frame.label)
        if route is None:
            raise RemoteProtocolError(f"a frame bears label {frame.label}, which was never bound")
        if (frame.kind is Kind.BROADCAST) != (route.destination is None):
            raise RemoteProtocolError(f"{frame.kind.name} does not fit its route")
        expires = now + frame.remaining_ms / 1000
        if frame.remaining_ms == 0:
            self.refused += 1
        elif route.destination is None:
            self._broadcast_received(route, frame, expires)
        elif route.destination == self._router.fqcn:
            self._deliver(route.origin, frame.kind, frame.header, frame.body, expires)
        else:
            self._forward(route, route.destination, frame, expires)

    def _may_speak(self, connection: Connection, origin: FQCN) -> bool:
        """Whether *origin* lies on the other side of a link: in a child's subtree, or outside our own."""
        if connection.is_listener and connection.neighbour is not None:
            child = connection.neighbour.fqcn
            return origin == child or child.is_ancestor_of(origin)
        me = self._router.fqcn
        return me is not None and origin != me and not me.is_ancestor_of(origin)

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
        elif out.refuses_new and frame.kind in (Kind.REQUEST, Kind.EVENT):
            error = self._full()
        else:
            out.forward(route, frame.kind, frame.header, frame.body, expires=expires, hop=frame.hop - 1)
            return
        self.refused += 1
        if frame.kind is Kind.REQUEST:
            self._nack(route, frame.header, error, [destination])

    def _broadcast_received(self, route: Route, frame: Frame, expires: float) -> None:
        (targets,) = unpack(frame.header, list)
        destinations = names(targets)
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
                self._undelivered(route, body, self._full(), group)
            else:
                branch = route.branch(out)
                for start in range(0, len(group), TARGETS_PER_FRAME):
                    header = pack([str(name) for name in group[start : start + TARGETS_PER_FRAME]])
                    out.forward(branch, Kind.BROADCAST, header, body, expires=expires, hop=hop)

    # Bad news.

    def nack_received(self, connection: Connection, frame: Frame) -> None:
        """Take a NACK: it is about a message of ours, or goes one link further back.

        :raises RemoteProtocolError: if it is malformed
        """
        sequence, code, message, values = unpack(frame.header, int, str, str, list)
        destinations = names(values)
        kind = _NACK_ERRORS.get(code)
        if kind is None:
            raise RemoteProtocolError(f"a NACK gives the unknown reason {code[:40]!r}")
        route = connection.owner(frame.label)
        if route is None or (route.destination is not None and destinations != [route.destination]):
            self.refused += 1  # the label was given to another route meanwhile
        elif route.source is None:
            self._events.extend(self._exchange.fail(sequence, destinations, kind(message)))
        else:
            route.source.control(Kind.NACK, sequence, code, message, values, label=route.source_label)

    def lost_received(self, connection: Connection, frame: Frame) -> None:
        """Take a LOST: one of our routes broke further on.

        :raises RemoteProtocolError: if it is malformed
        """
        (text,) = unpack(frame.header, str)
        (destination,) = names([text])
        route = connection.owner(frame.label)
        if route is not None and route.destination == destination:
            connection.release(route)
            self._lost(route, destination)

    def connection_lost(self, connection: Connection) -> None:
        """Forget the routes that came in over a link that ended, and tell the origins of those that led out."""
        for route in connection.routes.values():
            route.end()
        gone: set[FQCN] = set()
        for route in list(connection.routes_out()):
            connection.release(route)
            if route.destination is not None:
                gone.add(route.destination)
                self._lost(route, route.destination)
        self._events.extend(self._exchange.lost(gone))

    def members_lost(self, connection: Connection, gone: Iterable[FQCN]) -> None:
        """Tell the origins of routes to these cells, which were behind *connection*, that they left."""
        left = set(gone)
        if not left:
            return
        for route in [route for route in connection.routes_out() if route.destination in left]:
            connection.release(route)
            if route.destination is not None:
                self._lost(route, route.destination)
        self._events.extend(self._exchange.lost(left))

    def renamed(self) -> None:
        """Forget the routes that begin here, as this cell has another name now."""
        self._own.clear()

    def _lost(self, route: Route, destination: FQCN) -> None:
        if route.source is None:
            self._events.extend(self._exchange.lost({destination}))
        else:
            route.source.control(Kind.LOST, str(destination), label=route.source_label)

    def _undelivered(self, route: Route, body: bytes, error: DeliveryError, destinations: list[FQCN]) -> None:
        self.refused += 1
        self._nack(route, split_broadcast(body)[0], error, destinations)

    def _nack(self, route: Route, header: bytes, error: DeliveryError, destinations: list[FQCN]) -> None:
        sequence = unpack(header, int, int, str, int, dict)[0]
        if route.source is None:
            self._events.extend(self._exchange.fail(sequence, destinations, error))
            return
        code = "busy" if isinstance(error, Busy) else "unreachable"
        values = [str(name) for name in destinations]
        route.source.control(Kind.NACK, sequence, code, str(error), values, label=route.source_label)

    def _unreachable(self, destination: FQCN) -> Unreachable:
        me = self._router.fqcn
        if me is None or (self._router.parent is None and not me.is_root and not me.is_ancestor_of(destination)):
            return Unreachable(f"{destination} cannot be reached: {me or 'this cell'} has no link to a parent")
        return Unreachable(f"no cell {destination} is present below {me}")

    def _hops_used_up(self) -> Unreachable:
        return Unreachable(f"a message used up its {MAX_HOPS} hops at {self._router.fqcn}")

    def _full(self) -> Busy:
        return Busy(f"a link below {self._router.fqcn} is full: its receiver is too slow")

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
