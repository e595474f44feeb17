"""Links as TCP has them: bytes arrive in order or not at all, and one side may learn late that the other is gone.

A **path** leads from a cell to its parent for the whole run; over it goes one **wire** after another, each from a dial
to its end. A wire has two **ends**, which are what a socket is to a process. Faults of the network are done to paths
and wires; faults of a host are done to cells, which close their ends or leave them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

    from cellnet.simulation.timeline import Timeline

__all__ = ["WINDOW_BYTES", "End", "Host", "Path", "Tamper", "Wire"]

WINDOW_BYTES = 192 * 1024
"""What may be on its way, or wait to be read, before the sender must wait: both sockets' buffers together."""
SPLIT = 0.05
"""How often what was sent at once arrives in two pieces."""


class Host(Protocol):
    """What an end belongs to."""

    @property
    def answers(self) -> bool:
        """Whether the machine is on, whatever its process does: it answers what nobody there wants with a reset."""

    def readable(self, end: End) -> None:
        """Hear that something can be read."""

    def writable(self, end: End) -> None:
        """Hear that there is room again for what could not be sent."""


class End:
    """One side of a wire."""

    __slots__ = (
        "_free",
        "_not_before",
        "host",
        "in_flight",
        "is_open",
        "is_parents",
        "path",
        "peer",
        "unread",
        "vanishes",
        "waiting",
    )

    def __init__(self, host: Host, path: Path, *, is_parents: bool) -> None:
        self.host = host
        self.path = path
        self.is_parents = is_parents
        self.peer: End = self
        self.is_open = True
        """Whether the process here still has it."""
        self.unread: deque[bytes] = deque()
        """What arrived and was not read; empty bytes are the end of the stream."""
        self.in_flight = 0
        """Bytes that were sent and that the other side has not read."""
        self.vanishes = False
        """Whether what is sent here gets nowhere, and nobody is told."""
        self.waiting: deque[bytes] = deque()
        """What was sent while the path was blocked; it is sent again when that is over."""
        self._not_before = 0.0
        self._free = 0.0
        """When all that was sent has left, as far as the rate allows."""

    @property
    def room(self) -> int:
        """How many bytes may be sent."""
        return WINDOW_BYTES - self.in_flight

    def read(self) -> bytes:
        """Take what arrived first; empty bytes say that no more will come."""
        data = self.unread.popleft()
        peer = self.peer
        if data and peer.is_open:
            before = peer.in_flight
            peer.in_flight = before - len(data)
            if before >= WINDOW_BYTES > peer.in_flight:
                self.path.timeline.after(self.path.seconds(), partial(peer.host.writable, peer))
        return data

    def send(self, data: bytes) -> None:
        """Send bytes; they may arrive in pieces."""
        if self.path.tamper is not None:
            for changed in self.path.tamper(self, data):
                self.transmit(changed)
        elif self.path.rng.random() < SPLIT and len(data) > 1:
            cut = self.path.rng.randrange(1, len(data))
            self.transmit(data[:cut])
            self.transmit(data[cut:])
        else:
            self.transmit(data)

    def close(self) -> None:
        """No longer read, and tell the other side after what was sent."""
        if self.is_open:
            self.leave()
            self.transmit(b"")

    def leave(self) -> None:
        """No longer read, and tell nobody: the host is off."""
        self.is_open = False
        self.unread.clear()

    def transmit(self, data: bytes) -> None:
        """Put bytes on the way as they are."""
        self.in_flight += len(data)
        self._carry(data)

    def resume(self) -> None:
        """Send again what the blocked path did not carry."""
        waiting, self.waiting = self.waiting, deque()
        for data in waiting:
            self._carry(data)

    def broken(self) -> None:
        """Learn that the other side is gone; what is still on the way to here is lost."""
        if self.is_open:
            self.unread.append(b"")
            self.host.readable(self)

    def _carry(self, data: bytes) -> None:
        if self.vanishes:
            return
        path = self.path
        if path._blocks:
            self.waiting.append(data)
            return
        self._free = max(self._free, path.timeline.now) + len(data) / path.rate
        arrival = self._free + path.seconds()
        if arrival < self._not_before:
            arrival = self._not_before
        self._not_before = arrival
        path.timeline.at(arrival, partial(self._arrive, data))

    def _arrive(self, data: bytes) -> None:
        if self.vanishes:
            return
        peer = self.peer
        if peer.is_open:
            peer.unread.append(data)
            peer.host.readable(peer)
        elif peer.host.answers and data:
            self.path.timeline.after(self.path.seconds(), self._reset)

    def _reset(self) -> None:
        if not self.peer.vanishes and not self.path.is_blocked:
            self.broken()


Tamper = Callable[[End, bytes], list[bytes]]
"""Takes what is sent at once, and returns what is sent instead."""


class Wire:
    """One link from its dial to its end."""

    __slots__ = ("child", "parent")

    def __init__(self, path: Path, child: Host, parent: Host) -> None:
        self.child = End(child, path, is_parents=False)
        self.parent = End(parent, path, is_parents=True)
        self.child.peer, self.parent.peer = self.parent, self.child

    @property
    def is_open(self) -> bool:
        """Whether either side still has it."""
        return self.child.is_open or self.parent.is_open

    def cut(self) -> None:
        """End it; both sides learn so at once, and what was on the way is lost."""
        for end in (self.child, self.parent):
            end.vanishes = True
        for end in (self.child, self.parent):
            end.broken()


class Path:
    """The way between a cell and its parent."""

    def __init__(self, timeline: Timeline, rng: random.Random, latency: float) -> None:
        self.timeline = timeline
        self.rng = rng
        self.latency = latency
        """Seconds one way, but for up to a fifth more at random."""
        self.rate = math.inf
        """Bytes that leave in a second, in each direction."""
        self.delay = 0.0
        """Seconds that are added now."""
        self.tamper: Tamper | None = None
        """Who stands in between and changes what is sent, if anybody does."""
        self._wires: list[Wire] = []
        self._blocks = 0

    @property
    def is_blocked(self) -> bool:
        """Whether nothing passes now."""
        return self._blocks > 0

    @property
    def wires(self) -> list[Wire]:
        """The wires that at least one side still has, the oldest first."""
        self._wires = [wire for wire in self._wires if wire.is_open]
        return self._wires

    def seconds(self) -> float:
        """Return how long the next bytes take."""
        return self.latency * (1 + 0.2 * self.rng.random()) + self.delay

    def connect(self, child: Host, parent: Host) -> Wire:
        """Make a new wire."""
        wire = Wire(self, child, parent)
        self.wires.append(wire)
        return wire

    def cut(self) -> None:
        """Cut all wires."""
        for wire in list(self.wires):
            wire.cut()

    def block(self) -> None:
        """Let nothing pass. What is sent waits, as TCP sends it again and again."""
        self._blocks += 1

    def unblock(self) -> None:
        """End one block; after the last, what waited arrives."""
        self._blocks -= 1
        if not self.is_blocked:
            for wire in list(self.wires):
                wire.child.resume()
                wire.parent.resume()
