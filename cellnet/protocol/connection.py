"""One link of one cell: bytes in and frames out, frames in and bytes out; labels, limits, keepalive.

A connection knows its neighbour and nothing of the network behind it; that is the endpoint's. Three lanes lead out:
frames that concern the link itself go ahead of those that follow a route, and these ahead of contents.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from cellnet.errors import HandshakeError, RemoteProtocolError
from cellnet.fqcn import MAX_HOPS
from cellnet.protocol.feed import Feed
from cellnet.protocol.frames import MAX_REMAINING_MS, PREFIX, FrameDecoder, Kind, pack, prefix
from cellnet.protocol.greeting import CELL, speaker
from cellnet.protocol.runs import FRAME_OVERHEAD_BYTES, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cellnet.fqcn import FQCN
    from cellnet.protocol.frames import Buffer, Frame, TakeData
    from cellnet.protocol.handshake import Handshake, Neighbour
    from cellnet.protocol.runs import Runs

__all__ = ["Connection", "Route", "Statistics"]

MAX_LABELS = 4096
"""Routes bound at a time on one link, in each direction."""
BUDGET_BYTES = 1 << 20
"""What may wait for one neighbour before new messages to it are refused, or its senders wait."""
RESERVE_BYTES = 4 << 20
"""What replies and other answers may take beyond the budget; what is over that is dropped and counted."""
BATCH_BYTES = 1024 * 1024
"""What is sent at a time while it leaves quickly. What concerns the link waits for one batch at most."""
KEEPALIVE_SECONDS = 5.0
"""A link that was silent for this long sends a PING."""
DEAD_SECONDS = 12.0
"""A neighbour that was not heard for this long is dead; with the ticks in between, it is found within 15 s."""
HANDSHAKE_SECONDS = 5.0
MAX_REASON = 500
"""Characters of a text for people; a longer one is cut. It may quote the neighbour, who may send 64 KiB."""
_IN_ORDER = frozenset({Kind.PRESENCE, Kind.LOST, Kind.GOAWAY})
"""Frames about the link that may not overtake messages: a reply that is queued still counts, then the link is lost."""


class Route:
    """A way through this cell: from a neighbour, or from here, to the next."""

    __slots__ = ("_branches", "checked", "destination", "label", "origin", "out", "source", "source_label")

    def __init__(
        self, origin: FQCN, destination: FQCN | None, source: Connection | None = None, source_label: int = 0
    ) -> None:
        self.origin = origin
        self.destination = destination
        """None for broadcasts, which name their destinations themselves."""
        self.source = source
        """The neighbour that bound it; None if the origin is this cell."""
        self.source_label = source_label
        self.out: Connection | None = None
        self.label = 0
        self.checked = -1
        """The router's version for which :attr:`out` is known to be the next hop."""
        self._branches: dict[Connection, Route] = {}

    def branch(self, out: Connection) -> Route:
        """Return the part of a broadcast's route that leads out over one link, with a label of its own there."""
        branch = self._branches.get(out)
        if branch is None:
            for stale in [link for link, route in self._branches.items() if route.out is None]:
                del self._branches[stale]
            branch = self._branches[out] = Route(self.origin, self.destination, self.source, self.source_label)
        return branch

    def end(self) -> None:
        """Free the labels that this route holds on the links out."""
        for route in (self, *self._branches.values()):
            if route.out is not None:
                route.out.release(route)
        self._branches.clear()


_Queued = tuple[Kind, int, int, float | None, bytes, bytes] | Run
"""Kind, hop, label, when it expires, header, body; or frames that are not taken apart."""

_COUNTERS = range(max(Kind) + 1)


class Statistics:
    """What went over one link. Frames are counted by direction and by the number of their kind."""

    __slots__ = ("bytes_received", "bytes_sent", "dropped", "frames_received", "frames_sent")

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.frames_received = array("Q", bytes(8 * len(_COUNTERS)))
        self.frames_sent = array("Q", bytes(8 * len(_COUNTERS)))
        self.dropped = 0
        """Frames that were too late, or for which there was no room."""


class Connection:
    """The state of one link, from its first byte to its last."""

    def __init__(self, handshake: Handshake, *, is_listener: bool, now: float) -> None:
        self.handshake = handshake
        self.is_listener = is_listener
        """Whether the other side dialled: then it is a child, else the parent."""
        self.neighbour: Neighbour | None = None
        """Who is there; None until the handshake is done."""
        self.is_stuck = False
        """Whether even frames about the link found no room: the neighbour does not read."""
        self.statistics = Statistics()
        self.wake: Callable[[], None] = _nothing
        """Called when there will be something to send after there was nothing."""
        self.routes: dict[int, Route] = {}
        """What the neighbour bound, by its label."""
        self.feed = Feed(self._wake_if_idle, self.control)
        """The third lane: contents."""
        self._decoder = FrameDecoder()
        self._control: deque[_Queued] = deque()
        self._data: deque[_Queued] = deque()
        self._labels: OrderedDict[int, Route] = OrderedDict()
        self.queued_bytes = 0
        self._opened = self._spoke = now
        self.heard = now
        """When the last byte arrived, or is excused from it."""
        self._silence = KEEPALIVE_SECONDS

    # The handshake.

    def send_hello(self) -> None:
        """Begin, as the listener."""
        self._push(self._control, Kind.HELLO, self.handshake.hello())

    def send_join(self, hello: bytes) -> None:
        """Answer a HELLO, as the connector.

        :raises HandshakeError: if we may not join there
        """
        header, signature = self.handshake.hello_received(hello)
        self._push(self._control, Kind.JOIN, header, signature)

    def send_welcome(self, child: Neighbour) -> None:
        """Take the child in."""
        header, signature = self.handshake.welcome(child.fqcn)
        self._push(self._control, Kind.WELCOME, header, signature)

    # Receiving.

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return self._decoder.held_bytes

    def receive(
        self, data: Buffer, now: float, room: int = 0, runs: Runs | None = None, contents: TakeData | None = None
    ) -> Iterator[Frame]:
        """Take bytes from the link and yield the frames that are complete with them.

        :param runs: takes those that only pass, for which *data* is written into, or a copy if it cannot be
        :param room: how many bytes at the front of *data* are room for :attr:`held_bytes`, and not new
        :param contents: takes those of contents, as views of *data*
        :raises HandshakeError: if the other side is no cell
        :raises RemoteProtocolError: the link must be closed
        """
        self.heard = now
        if not self.statistics.bytes_received and (other := speaker(bytes(data[: PREFIX.size]))) not in (None, CELL):
            told = f"the other side speaks {other}: compare the scheme, and connection_security"
            raise HandshakeError(told, "wrong-scheme")
        self.statistics.bytes_received += len(data) - room
        if runs is not None:
            data = runs.open(self, data, now)
        return self._decoder.feed(data, room, runs, contents)

    def bind(self, label: int, origin: FQCN, destination: FQCN | None) -> Route:
        """Note what the neighbour means by *label* from now on.

        :raises RemoteProtocolError: if the label is out of range
        """
        if label >= MAX_LABELS:
            raise RemoteProtocolError(f"label {label} is out of range")
        if replaced := self.routes.get(label):
            replaced.end()
        route = self.routes[label] = Route(origin, destination, self, label)
        return route

    # Sending.

    @property
    def is_full(self) -> bool:
        """Whether new messages to this neighbour should wait, or be refused."""
        return self.queued_bytes >= BUDGET_BYTES

    @property
    def refuses_new(self) -> bool:
        """Whether messages of others for this neighbour are refused: a child that is too slow hurts only itself.

        For a full link to the parent, the readers of the children wait instead.
        """
        return self.is_listener and self.is_full

    @property
    def room(self) -> int:
        """How much more may wait here; what is over it is dropped."""
        return BUDGET_BYTES + RESERVE_BYTES - self.queued_bytes

    @property
    def room_for_new(self) -> int:
        """How much more may wait here until :attr:`refuses_new`."""
        return BUDGET_BYTES - self.queued_bytes if self.is_listener else self.room

    @property
    def has_output(self) -> bool:
        """Whether :meth:`take` would return anything."""
        return bool(self._control or self._data or self.feed.has_output)

    def control(self, kind: Kind, *fields: object, label: int = 0, body: bytes = b"") -> None:
        """Queue a frame that concerns this link; to a neighbour that never reads, nothing more is queued."""
        if self.room < 0:
            self.is_stuck = True
            self.statistics.dropped += 1
            return
        lane = self._data if kind in _IN_ORDER else self._control
        self._push(lane, kind, pack(*fields), body, label)

    def refuse(self, code: str, reason: str, *, temporary: bool, last_epoch: int = 0) -> None:
        """Say why there will be no link."""
        self.control(Kind.REFUSED, code, reason[:MAX_REASON], temporary, last_epoch)

    def go_away(self, reason: str) -> None:
        """Say why the link ends, after everything that is queued."""
        self.control(Kind.GOAWAY, reason[:MAX_REASON])

    def forward(
        self, route: Route, kind: Kind, header: bytes, body: bytes, *, expires: float, hop: int = MAX_HOPS
    ) -> bool:
        """Queue a frame along *route*, binding a label first if it has none here. Return False if it was dropped."""
        size = len(header) + len(body)
        if size > self.room:
            self.statistics.dropped += 1
            return False
        if route.out is self and self._labels.get(route.label) is route:
            self._labels.move_to_end(route.label)
        else:
            self._bind_out(route)
        self._push(self._data, kind, header, body, route.label, hop, expires)
        return True

    def pass_on(self, run: Run) -> None:
        """Queue frames that are as this neighbour takes them. There must be :attr:`room` for them."""
        self._wake_if_idle()
        self._data.append(run)
        self.queued_bytes += run.cost

    def used(self, route: Route) -> None:
        """Note that a route's label is in use: if there are too many, others are forgotten first."""
        self._labels.move_to_end(route.label)

    def take(self, now: float, limit: int = BATCH_BYTES, *, contents: bool = True) -> list[Buffer]:
        """Return what to send next, at most about *limit* bytes, as buffers in order. Frames are never cut.

        :param contents: whether they may be of contents, too
        """
        buffers: list[Buffer] = []
        size = 0
        sent = self.statistics.frames_sent
        while size < limit and (lane := self._control or self._data):
            queued = lane.popleft()
            if isinstance(queued, Run):
                size += self._take_run(queued, now, buffers)
                continue
            kind, hop, label, expires, header, body = queued
            length = len(header) + len(body)
            self.queued_bytes -= FRAME_OVERHEAD_BYTES + length
            remaining = 0
            if expires is not None:
                remaining = int(min((expires - now) * 1000, MAX_REMAINING_MS))
                if remaining <= 0:
                    self.statistics.dropped += 1
                    continue
            sent[kind] += 1
            buffers.append(prefix(kind, hop, label, remaining, header, body) + header)
            if body:
                buffers.append(body)
            size += PREFIX.size + length
        if contents and size < limit and self.feed.has_output:
            size += self.feed.take(buffers, limit - size, self._count)
            if not buffers and self.has_output:  # a content was withdrawn when it was read, and that is to be said
                return self.take(now, limit)
        if buffers:
            self._spoke = now
            self.statistics.bytes_sent += size
        return buffers

    def _take_run(self, run: Run, now: float, buffers: list[Buffer]) -> int:
        self.queued_bytes -= run.cost
        data, kinds, late = run.at(now)
        self.statistics.dropped += late
        sent = self.statistics.frames_sent
        for kind in kinds:
            sent[kind] += 1
        if data:
            buffers.append(data)
        return len(data)

    # Time.

    def not_read(self, now: float) -> None:
        """Excuse the neighbour's silence: for now it is us who do not read."""
        self.heard = now

    def due(self, jitter: float) -> float:
        """Return when :meth:`tick` should next be called.

        :param jitter: between 0 and 1: how much earlier than the interval the next PING may go
        """
        if self.neighbour is None:
            return self._opened + HANDSHAKE_SECONDS
        self._silence = KEEPALIVE_SECONDS * (1 - 0.3 * jitter)
        return min(self.heard + DEAD_SECONDS, self._spoke + self._silence)

    def tick(self, now: float) -> str | None:
        """Queue a PING if it is time; return why the link is dead, if it is.

        It compares the very sums that :meth:`due` returned: a difference may round to less, and then nothing would be
        done, and the same time be due again.
        """
        if self.neighbour is None and now >= self._opened + HANDSHAKE_SECONDS:
            return f"the handshake took longer than {HANDSHAKE_SECONDS:.0f} s"
        if self.is_stuck:
            return "the neighbour does not read"
        if now >= self.heard + DEAD_SECONDS:
            return f"nothing was heard for {now - self.heard:.0f} s"
        if self.neighbour is not None and now >= self._spoke + self._silence:
            self.control(Kind.PING)
            self._spoke = now  # also if it cannot leave: one PING that waits is enough
        return None

    # Routes that lead out here.

    def owner(self, label: int) -> Route | None:
        """Return the route for which we last bound *label*."""
        return self._labels.get(label)

    def routes_out(self) -> Iterator[Route]:
        """Yield the routes that lead out over this link."""
        yield from self._labels.values()

    def release(self, route: Route) -> None:
        """Forget a route that leads out here; its label is free again."""
        if self._labels.get(route.label) is route:
            del self._labels[route.label]
        route.out = None

    def _bind_out(self, route: Route) -> None:
        if len(self._labels) < MAX_LABELS:
            label = len(self._labels)
            while label in self._labels:  # only after a release
                label = (label + 1) % MAX_LABELS
        else:
            label, evicted = self._labels.popitem(last=False)
            evicted.out = None
        if route.out is not None:  # it leads another way now
            route.out.release(route)
        route.out, route.label = self, label
        self._labels[label] = route
        header = pack(str(route.origin), str(route.destination) if route.destination is not None else None)
        self._push(self._data, Kind.BIND, header, b"", label)

    def _push(
        self,
        lane: deque[_Queued],
        kind: Kind,
        header: bytes,
        body: bytes = b"",
        label: int = 0,
        hop: int = 0,
        expires: float | None = None,
    ) -> None:
        self._wake_if_idle()
        lane.append((kind, hop, label, expires, header, body))
        self.queued_bytes += FRAME_OVERHEAD_BYTES + len(header) + len(body)

    def _wake_if_idle(self) -> None:
        """Say that there will be something to send."""
        if not self.has_output:
            self.wake()

    def _count(self, kind: Kind) -> None:
        self.statistics.frames_sent[kind] += 1


def _nothing() -> None: ...
