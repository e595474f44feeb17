"""Frames that only pass, on a route that is known: they are not taken apart, and leave together as they lie.

What a relay does most is to read a batch of frames and send it on over one link. Of each it looks at the prefix, and
writes into it how many links the frame may still cross and what the next neighbour calls its route. Frames that follow
each other on their way to one neighbour are a run: one piece of memory, copied once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from cellnet.fqcn import MAX_HOPS
from cellnet.protocol.frames import PREFIX, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.routing import Router

__all__ = ["Run", "Runs"]

RUN_BYTES = 64 * 1024
"""A run that has so many is followed by another: a batch that is sent is not much longer than it should be."""
FRAME_OVERHEAD_BYTES = 192
"""What a waiting frame takes beside its header and body; it counts, so that small frames are bounded too."""
REFUSABLE = frozenset({Kind.REQUEST, Kind.EVENT, Kind.OPEN})
"""What a full link refuses; the rest answers something, or frees something."""
_BROADCAST = int(Kind.BROADCAST)
_HOP_AND_LABEL = struct.Struct(">BI")
_HOP_AT = 7
_REMAINING = struct.Struct(">I")
_REMAINING_AT = 12
_rewrite = _HOP_AND_LABEL.pack_into


class Run(NamedTuple):
    """Frames for one neighbour, whose prefixes are as they must be when they leave at once."""

    data: bytes
    kinds: bytes
    """What they are, in their order."""
    came: float
    """When: each says how many milliseconds it had left then."""

    @property
    def cost(self) -> int:
        """What it counts for while it waits."""
        return len(self.data) + FRAME_OVERHEAD_BYTES * len(self.kinds)

    def at(self, now: float) -> tuple[bytes, bytes, int]:
        """Return the data and the kinds of those whose time is not over, and how many others there are.

        What is left of the time is written into each, if it is less by a millisecond or more.
        """
        waited = int((now - self.came) * 1000)
        if waited < 1:
            return self.data, self.kinds, 0
        data, parts, kinds = bytearray(self.data), [], bytearray()
        view = memoryview(data)
        for start, stop, kind, remaining in _frames(view):
            if remaining > waited:
                _REMAINING.pack_into(view, start + _REMAINING_AT, remaining - waited)
                parts.append(view[start:stop])
                kinds.append(kind)
        return b"".join(parts), bytes(kinds), len(self.kinds) - len(kinds)


class Runs:
    """Makes runs of what one read of one link brought."""

    __slots__ = (
        "_begin",
        "_end",
        "_kinds",
        "_label",
        "_now",
        "_out",
        "_refusing",
        "_room",
        "_router",
        "_source",
        "_view",
    )

    def __init__(self, router: Router[Connection]) -> None:
        self._router = router
        self._out: Connection | None = None
        """Where the run goes; None if there is none."""
        self._begin = self._end = 0
        self._label = -1
        self._room = self._refusing = 0
        """What it may count for at most, and from where on new messages are refused."""
        self._kinds = bytearray()
        self._now = 0.0
        self._source: Connection
        self._view = memoryview(b"")

    def open(self, source: Connection, data: memoryview | bytes, now: float) -> memoryview:
        """Begin with what came from a link; return it where it can be written into."""
        self._source, self._now = source, now
        if isinstance(data, bytes) or data.readonly:
            return memoryview(bytearray(data))
        return data

    def take(self, view: memoryview, start: int, stop: int, kind: int, hop: int, label: int, remaining: int) -> bool:
        """Pass a frame on, or return False: then what came before it has been passed on, and it is to be looked at.

        :param view: where it lies; writable
        :param start: where its prefix begins
        :param stop: where the next one does
        """
        route = self._source.routes.get(label)
        if (
            route is None
            or (out := route.out) is None
            or route.checked != self._router.version
            or not 1 < hop <= MAX_HOPS
            or not remaining
            or kind == _BROADCAST  # which does not fit: the switch says so
        ):
            self.close()
            return False
        if out is not self._out or start != self._end or start - self._begin >= RUN_BYTES:
            self.close()
            self._out, self._view, self._begin = out, view, start
            self._room, self._refusing = out.room, out.room_for_new
        before = start - self._begin + FRAME_OVERHEAD_BYTES * len(self._kinds)
        if before + stop - start > self._room or (before >= self._refusing and kind in REFUSABLE):
            self.close()
            return False
        _rewrite(view, start + _HOP_AT, hop - 1, route.label)
        self._kinds.append(kind)
        self._end = stop
        if route.label != self._label:
            self._label = route.label
            out.used(route)
        return True

    def close(self) -> None:
        """Hand on what there is."""
        if (out := self._out) is not None:
            if self._kinds:
                received = self._source.statistics.frames_received
                for kind in self._kinds:
                    received[kind] += 1
                out.pass_on(Run(bytes(self._view[self._begin : self._end]), bytes(self._kinds), self._now))
                self._kinds.clear()
            self._out, self._label, self._view = None, -1, memoryview(b"")


def _frames(view: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield where each frame begins and ends, its kind, and the milliseconds that it had left."""
    start = 0
    while start < len(view):
        length, _header, kind, _hop, _label, remaining = PREFIX.unpack_from(view, start)
        stop = start + PREFIX.size + length
        yield start, stop, kind, remaining
        start = stop
