"""What somebody in between does to frames, and TCP never does.

Each function takes what was sent at once, and returns what is sent instead.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgpack

from cellnet.protocol.frames import PREFIX, Kind, prefix

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from cellnet.simulation.wire import End

__all__ = ["drop", "duplicate", "forge", "reorder"]

TAMPERED = 0.3
"""How many of the frames are changed while somebody does so."""
REPLAY_SECONDS = 10.0
"""After how long a recorded frame may come again."""


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


def forge(rng: random.Random, below: Sequence[str], above: Sequence[str], end: End, data: bytes) -> list[bytes]:
    """Bind some routes for an origin on the wrong side of the link.

    A parent that lies about cells beyond itself, or a child about cells below it, is not seen by its neighbour: that is
    for what is sealed from end to end.

    :param below: the child and all cells below it
    :param above: all others
    """
    liars_names = below if end.is_parents else above
    sent = []
    for frame in _frames(data):
        _length, header, kind, hop, label, remaining = PREFIX.unpack_from(frame)
        if kind == Kind.BIND and rng.random() < TAMPERED:
            _origin, destination = msgpack.unpackb(frame[PREFIX.size : PREFIX.size + header])
            forged = msgpack.packb([rng.choice(liars_names), destination])
            sent.append(prefix(kind, hop, label, remaining, forged, b"") + forged)
        else:
            sent.append(frame)
    return sent


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
