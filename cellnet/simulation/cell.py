"""A cell in virtual time: an endpoint, its links and its timer. All that knows the endpoint's verbs is in this file."""

from __future__ import annotations

import datetime
import math
from functools import partial
from typing import TYPE_CHECKING

from cellnet.errors import ConnectError, HandshakeError
from cellnet.fqcn import FQCN, ROOT
from cellnet.link import Backoff
from cellnet.pages import PAGE_BYTES
from cellnet.payload import Encoding
from cellnet.protocol import passage
from cellnet.protocol.connection import BUDGET_BYTES, RESERVE_BYTES
from cellnet.protocol.endpoint import Endpoint
from cellnet.protocol.events import Attached, Cancelled, Failed, LinkFailed, MemberJoined, MemberLeft, Message, Replied
from cellnet.protocol.fencing import StaleEpoch
from cellnet.protocol.frames import FRAME_BYTES, MAX_BODY, MAX_HEADER
from cellnet.protocol.handshake import Transport
from cellnet.simulation.owner import Owner
from cellnet.simulation.process import Process

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from cellnet.errors import DeliveryError
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.envelope import Status
    from cellnet.protocol.events import Event
    from cellnet.simulation.errand import Errand
    from cellnet.simulation.history import History
    from cellnet.simulation.timeline import Timeline
    from cellnet.simulation.trace import Trace
    from cellnet.simulation.wire import End, Path

__all__ = ["SimulatedCell"]

DIAL_SECONDS = 5.0
"""How long a dial waits for a machine that does not answer."""
MAX_QUEUED_BYTES = BUDGET_BYTES + RESERVE_BYTES + MAX_HEADER + MAX_BODY
"""What may wait for one link, with one frame that was the last to find room."""
_WALL = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
_TRANSPORT = Transport("memory")
_OVERWRITTEN = memoryview(b"\xee" * PAGE_BYTES)
"""What is in a buffer after it was read: nothing that anybody sent."""


class SimulatedCell(Process):
    """One cell through all its lives."""

    def __init__(
        self,
        fqcn: FQCN,
        *,
        parent: SimulatedCell | None,
        path: Path | None,
        timeline: Timeline,
        rng: random.Random,
        trace: Trace,
        history: History,
        errands: dict[str, Errand],
        homes: dict[str, str],
        seals: bool,
        pauses: set[float],
    ) -> None:
        """Make a cell that is off.

        :param path: the way to its parent; None for the root
        :param pauses: how long cells waited before they dialled again; each time is another, as it is drawn
        :param errands: what a handler is to do, by the number that is asked
        :param homes: what cells are called while they are where they belong, by their base names
        :param seals: whether it seals contents
        """
        super().__init__(timeline, rng)
        self.fqcn = fqcn
        self.name = homes[fqcn.base_name] = str(fqcn)
        """Which stays the same while it is below another parent, too."""
        self.homes = homes
        self.parent = parent
        self.path = path
        self.trace = trace
        self.faults: list[str] = []
        """What was noticed that cannot be where nobody lies, such as a frame that the protocol does not allow."""
        self.excess: list[str] = []
        """What was held beyond its limit, which cannot be whoever lies."""
        self.owner = Owner(self, history, errands, seals=seals)
        self.ends: dict[Connection, End] = {}
        """The open links that the endpoint knows."""
        self.most_queued = 0
        """The most bytes that waited because a link took no more."""
        self._pauses = pauses
        self._connections: dict[End, Connection | None] = {}
        """Every open end; one without a connection waits to be accepted, or for its dial to be answered."""
        self._ready: list[Connection] = []
        self._excused: dict[End, None] = {}
        """Ends of children that are not read now, as the link to the parent is full."""
        self._armed = math.inf
        self._buffer = memoryview(bytearray(PAGE_BYTES))

    @property
    def has_contents_above(self) -> bool:
        """Whether contents are under way between it and its parent."""
        parent = self.endpoint.router.parent if self.is_up else None
        return parent is not None and bool(parent.feed.supplies or parent.feed.wants)

    # What its owner does. :meth:`_settle` is to follow, as it does where :meth:`do` or :meth:`later` did the call.

    def has_room(self, destination: FQCN) -> bool:
        """Whether the link towards *destination*, if there is one, takes a message now."""
        connection = self.endpoint.next_connection(destination)
        return connection is None or not connection.is_full

    def request(self, destinations: Iterable[FQCN], payload: bytes, deadline: float, key: str | None) -> int:
        """Send a request to one cell or many; return the call's number."""
        now = self.timeline.now
        return self.endpoint.request(destinations, "errand", 1, payload, deadline=deadline, now=now, key=key or "")

    def send(self, destination: FQCN, payload: bytes, deadline: float, key: str | None) -> None:
        """Send an event."""
        now = self.timeline.now
        self.endpoint.send(destination, "errand", 1, payload, deadline=deadline, now=now, key=key or "")

    def give_up(self, call: int) -> list[tuple[FQCN, DeliveryError]]:
        """No longer want answers; return who owed one, and what is known of that."""
        return self.endpoint.give_up(call, self.timeline.now)

    def reply(self, message: int, status: Status, payload: bytes, encoding: int = Encoding.BYTES) -> None:
        """Answer a request, or say that an event was handled."""
        self.endpoint.ended(message, status, encoding, payload, self.timeline.now)

    def stopped(self, message: int) -> None:
        """Say that a handler was stopped and gives no answer."""
        self.endpoint.stopped(message, self.timeline.now)

    # Links.

    def accept(self, end: End) -> None:
        """Take a link that a child dialled."""
        self._connections[end] = None
        self.do(partial(self._open, end))

    def readable(self, end: End) -> None:
        """Read what arrived, one piece after another."""
        while end.unread and not self.is_frozen:
            connection = self._connections.get(end)
            if connection is None:
                return
            if connection.is_listener and self._parent_is_full():
                self._excused[end] = None
                return
            if data := end.read():
                self._receive(connection, data)
            else:
                self._forget(connection)
                self._settle()

    def _receive(self, connection: Connection, data: bytes) -> None:
        """Take what was read, through a buffer that is then used again: nothing of it may be needed any longer."""
        buffer, endpoint, start = self._buffer, self.endpoint, 0
        while start < len(data) and connection in self.ends:
            held = connection.held_bytes
            piece = data[start : start + PAGE_BYTES - held]
            start += len(piece)
            stop = held + len(piece)
            view = buffer[:stop]
            view[held:] = piece
            endpoint.receive(connection, view, self.timeline.now, held)
            self._settle()
            endpoint.keep()
            view[:] = _OVERWRITTEN[:stop]
            if endpoint.plane.transit.passages or endpoint.plane.transit.objects:
                self._look_at_transit()

    def _look_at_transit(self) -> None:
        transit = self.endpoint.plane.transit
        most = passage.TRANSIT_BYTES + FRAME_BYTES * len(transit.passages) + sum(pull.least for pull in transit.pulls)
        most += sum(one.list_bytes for one in transit.objects.values())
        if transit.promised > most:
            self.excess.append(f"{transit.promised} bytes may be here to be passed on: {most} are allowed")
        if transit.shelf.size > max(0, passage.TRANSIT_BYTES - transit.promised):
            self.excess.append(
                f"{transit.shelf.size} bytes are kept for others beside {transit.promised} promised ones"
            )
        for one in transit.passages:
            held = sum(map(len, one._pieces))
            if held > one.promised:
                self.excess.append(f"{held} bytes of a content wait to be passed on: {one.promised} were promised")

    def writable(self, end: End) -> None:
        """Send what there was no room for."""
        connection = self._connections.get(end)
        if connection is not None:
            self._ready.append(connection)
            self.do(_nothing)

    # Input and what comes of it.

    def _begin(self) -> None:
        now = self.timeline.now
        epoch = int(now * 1_000_000) + self.life
        self.endpoint = Endpoint(
            self.fqcn.base_name, epoch, entropy=self.rng.randbytes, random=self.rng.random, wall=lambda: _WALL
        )
        self._backoff = Backoff(self.rng)
        self.trace.note(self.name, "starts")
        self._dial()

    def _end(self) -> None:
        for end in list(self._connections):
            if self.answers:
                end.close()
            else:
                end.leave()
        for rest in (self.ends, self._connections, self._ready, self._excused):
            rest.clear()
        self._armed = math.inf
        self.owner.died()

    def _settle(self) -> None:
        # events, then what is to be sent, then the timer
        endpoint, owner, ready = self.endpoint, self.owner, self._ready
        events = endpoint.events
        while events or ready or owner.waiting_for_room:
            while events:
                self._take(events.popleft())
            while ready:
                self._flush(ready.pop())
            if owner.waiting_for_room:
                owner.try_waiting()
                if not events and not ready:
                    break
        owner.compare(endpoint.exchange.asking.pending)
        due = endpoint.timers.due
        if due < self._armed:
            self._armed = due
            self.later(due, partial(self._ring, due))
        if self._excused and not self._parent_is_full():
            excused, self._excused = self._excused, {}
            for end in excused:  # not before what is read now has been: there is one buffer
                self.later(self.timeline.now, partial(self.readable, end))

    def _take(self, event: Event) -> None:
        note = self.trace.note
        if isinstance(event, Message):
            note(self.name, "message", event.origin, event.sequence)
            self.owner.received(event)
        elif isinstance(event, Replied):
            note(self.name, "replied", event.source, event.call, event.status)
            self.owner.replied(event)
        elif isinstance(event, Failed):
            note(self.name, "failed", event.destination, event.call, type(event.error).__name__)
            self.owner.failed(event)
        elif isinstance(event, Cancelled):
            note(self.name, "cancelled", event.number)
            self.owner.cancelled(event.number)
        elif isinstance(event, LinkFailed):
            note(self.name, "link failed", type(event.error).__name__, str(event.error))
            if not is_fair(event.error):
                self.faults.append(f"{type(event.error).__name__}: {event.error}")
            self._close(event.connection)
        elif isinstance(event, Attached):
            note(self.name, "attached", event.parent.name)
            self._backoff.succeeded()
        elif isinstance(event, MemberJoined | MemberLeft):
            note(self.name, type(event).__name__, event.member.fqcn)

    def _flush(self, connection: Connection, limit: int | None = None) -> None:
        end = self.ends.get(connection)
        if end is None:
            return
        while (room := limit or end.room) > 0:
            if data := b"".join(connection.take(self.timeline.now, room)):
                end.send(data)
            if not connection.has_output:
                return
        self._look_at_queue(connection)

    def _look_at_queue(self, connection: Connection) -> None:
        queued = connection.queued_bytes
        if queued > MAX_QUEUED_BYTES >= self.most_queued:
            self.faults.append(f"{queued} bytes wait for one link: {MAX_QUEUED_BYTES} are allowed")
        self.most_queued = max(self.most_queued, queued)

    def _parent_is_full(self) -> bool:
        parent = self.endpoint.router.parent
        return parent is not None and parent.is_full

    def _read(self) -> None:
        for end in list(self._connections):
            self.readable(end)

    # Its timer.

    def _ring(self, armed: float) -> None:
        if armed == self._armed:
            self._armed = math.inf
            self.endpoint.tick(self.timeline.now)

    # Its links.

    def _open(self, end: End) -> None:
        if not end.is_open:
            return
        connection = self.endpoint.open(
            _TRANSPORT,
            is_listener=end.is_parents,
            now=self.timeline.now,
            role=ROOT if self.fqcn.is_root else "cell",
        )
        self._connections[end] = connection
        self.ends[connection] = end
        connection.wake = partial(self._ready.append, connection)
        if connection.has_output:
            self._ready.append(connection)
        self.readable(end)

    def _forget(self, connection: Connection) -> None:
        """Do what a link does that the other side ended."""
        self.endpoint.close(connection, self.timeline.now)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        """Send what is queued, as it often says why the link ends, and close."""
        self._flush(connection, 1 << 30)
        end = self.ends.pop(connection, None)
        if end is not None:
            del self._connections[end]
            end.close()
            if not end.is_parents:
                self._dial_again()

    def _dial_again(self) -> None:
        now = self.timeline.now
        pause = self._backoff.failed(now)
        if pause in self._pauses:
            self.faults.append(f"it dials after {pause} s, as long as another cell waited: they would all come at once")
        self._pauses.add(pause)
        self.later(now + pause, self._dial)

    def _dial(self) -> None:
        """Ask the parent's machine for a link; it answers, refuses, or says nothing. The root has none to ask."""
        path, parent, now = self.path, self.parent, self.timeline.now
        if path is None or parent is None:
            return
        if path.is_blocked or not parent.answers:
            self.later(now + DIAL_SECONDS, self._dial_again)
            return
        seconds = path.seconds()
        if not parent.is_up:
            self.later(now + 2 * seconds, self._dial_again)
            return
        wire = path.connect(self, parent)
        self._connections[wire.child] = None
        self.timeline.at(now + seconds, partial(parent.dialled, wire.parent))
        self.later(now + 2 * seconds, partial(self._open, wire.child))

    def dialled(self, end: End) -> None:
        """Be dialled by a child. Whoever died meanwhile refuses."""
        if self.is_up:
            self.accept(end)
        elif self.answers:
            end.close()
        else:
            end.leave()


def is_fair(error: Exception) -> bool:
    """Whether a link may end like this where nobody lies."""
    if isinstance(error, StaleEpoch):
        return True  # the last word of a start that was killed, and that came late
    return isinstance(error, ConnectError) and (not isinstance(error, HandshakeError) or error.temporary)


def _nothing() -> None: ...
