"""What somebody in between does to frames, and TCP never does.

Each function takes what was sent at once, and returns what is sent instead.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgpack

from cellnet.protocol.envelope import join, part
from cellnet.protocol.frames import OFFSET, PREFIX, Kind, pack, prefix

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from cellnet.simulation.wire import End

__all__ = ["Alterer", "Forger", "drop", "duplicate", "reorder"]

TAMPERED = 0.3
"""How many of the frames are changed while somebody does so."""
REPLAY_SECONDS = 10.0
"""After how long a recorded frame may come again."""
MAX_SEEN = 16
"""Bodies of DATA that are kept, to be sent in another's place."""
_BULK = (Kind.WANT, Kind.DATA, Kind.END, Kind.ABORT)


def duplicate(rng: random.Random, end: End, data: bytes) -> list[bytes]:
    """Send some frames again, at once or later."""
    sent = []
    for frame in _frames(data):
        sent.append(frame)
        if rng.random() < TAMPERED:
            if rng.random() < 0.5:
                sent.append(frame)
            else:
                end.path.timeline.after(rng.uniform(0, REPLAY_SECONDS), partial(_replay, end, frame))
    return sent


def reorder(rng: random.Random, end: End, data: bytes) -> list[bytes]:
    """Change the order of frames."""
    frames = list(_frames(data))
    if len(frames) > 1:
        rng.shuffle(frames)
    elif rng.random() < TAMPERED:
        end.path.timeline.after(rng.uniform(0, 0.5), partial(_replay, end, frames[0]))
        return []
    return frames


def drop(rng: random.Random, _end: End, data: bytes) -> list[bytes]:
    """Take some frames away."""
    return [frame for frame in _frames(data) if rng.random() >= TAMPERED]


class Forger:
    """Binds some routes for an origin on the wrong side of the link, and opens sessions in its name over them.

    A parent that lies about cells beyond itself, or a child about cells below it, is not seen by its neighbour: that is
    for what is sealed from end to end.
    """

    def __init__(self, rng: random.Random, below: Sequence[str], above: Sequence[str]) -> None:
        """Begin to lie.

        :param below: the child and all cells below it
        :param above: all others
        """
        self._rng = rng
        self._below = below
        self._above = above
        self._lies: dict[tuple[End, int], str] = {}
        """By label, who is said to be the origin."""

    def __call__(self, end: End, data: bytes) -> list[bytes]:
        """Change what is sent."""
        return [self._forge(end, frame) for frame in _frames(data)]

    def _forge(self, end: End, frame: bytes) -> bytes:
        _length, size, kind, hop, label, remaining = PREFIX.unpack_from(frame)
        header, body = frame[PREFIX.size : PREFIX.size + size], frame[PREFIX.size + size :]
        if kind == Kind.BIND:
            self._lies.pop((end, label), None)
            if self._rng.random() >= TAMPERED:
                return frame
            origin = self._lies[end, label] = self._rng.choice(self._below if end.is_parents else self._above)
            _origin, destination = msgpack.unpackb(header)
            header = pack(origin, destination)
        elif kind == Kind.OPEN and (end, label) in self._lies:
            body = _introduced_as(self._lies[end, label], body)
        else:
            return frame
        return prefix(kind, hop, label, remaining, header, body) + header + body


class Alterer:
    """Changes frames of contents: where DATA belongs and what it says, what is wanted, how long it is, why it ends.

    Only the seal of a content is of help: one that travels as it is may come as somebody else.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._seen: list[tuple[int, bytes]] = []
        """Labels and bodies of DATA that came by, to be sent in another's place."""

    def __call__(self, _end: End, data: bytes) -> list[bytes]:
        """Change what is sent."""
        return [self._alter(frame) for frame in _frames(data)]

    def _alter(self, frame: bytes) -> bytes:
        _length, size, kind, hop, label, remaining = PREFIX.unpack_from(frame)
        if kind not in _BULK or self._rng.random() >= TAMPERED:
            return frame
        header, body = frame[PREFIX.size : PREFIX.size + size], frame[PREFIX.size + size :]
        if kind == Kind.DATA:
            label, header, body = self._alter_data(label, header, body)
        else:
            fields = msgpack.unpackb(header)
            numbers = [index for index, field in enumerate(fields) if type(field) is int]
            if numbers:  # a WANT or an END; an ABORT has a code
                fields[self._rng.choice(numbers)] = self._rng.choice((0, 1, 70_000, 1 << 20, 1 << 40))
            else:
                fields[1] = self._rng.choice(("lost", "gone", "done", "reset", "stopped"))
            header = pack(*fields)
        return prefix(kind, hop, label, remaining, header, body) + header + body

    def _alter_data(self, label: int, header: bytes, body: bytes) -> tuple[int, bytes, bytes]:
        rng, seen = self._rng, self._seen
        others = [other for _label, other in seen if len(other) == len(body) and other != body]
        seen.append((label, body))
        del seen[:-MAX_SEEN]
        way = rng.randrange(4)
        if way == 0 and others:
            return label, header, rng.choice(others)
        if way == 1:
            return rng.choice(seen)[0], header, body
        if way == 2:
            (offset,) = OFFSET.unpack(header)
            return label, OFFSET.pack(max(0, offset + rng.choice((-len(body), -1, 1, len(body))))), body
        place = rng.randrange(len(body))
        return label, header, body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def _introduced_as(name: str, body: bytes) -> bytes:
    """Return the body of an OPEN as another cell would have sent it that has no credentials either."""
    hello, request = part(body)
    statement, signature = msgpack.unpackb(hello)
    version, project, _name, *rest = msgpack.unpackb(statement)
    return join(pack(pack(version, project, name, *rest), signature), request)


def _replay(end: End, frame: bytes) -> None:
    if end.is_open:
        end.transmit(frame)


def _frames(data: bytes) -> Iterator[bytes]:
    """Cut bytes that hold whole frames into these."""
    start = 0
    while start < len(data):
        stop = start + PREFIX.size + int(PREFIX.unpack_from(data, start)[0])
        yield data[start:stop]
        start = stop
