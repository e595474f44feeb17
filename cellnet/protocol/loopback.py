"""A cell as its own neighbour: what it holds and wants itself takes no link."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from cellnet.protocol.feed import Feed
from cellnet.protocol.frames import Frame, FrameDecoder, Kind, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.timers import Timers

__all__ = ["Loopback"]

BATCH_BYTES = 1 << 20
"""What comes over before others have their turn."""


class Loopback:
    """Frames of contents, from this cell to itself. They come over when the endpoint next looks at the time."""

    def __init__(self, timers: Timers, received: Callable[[Loopback, Frame, float], None]) -> None:
        self.feed = Feed(self._wake, self.control)
        self._timers = timers
        self._received = received
        self._frames: deque[Frame] = deque()
        self._decoder = FrameDecoder()
        self._is_awake = False

    def control(self, kind: Kind, *fields: object, label: int = 0) -> None:
        """Send a frame ahead of all contents."""
        self._frames.append(Frame(kind, 0, label, 0, pack(*fields), b""))
        self._wake()

    def _wake(self, when: float = 0.0) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._timers.at(when, self._pump)

    def _pump(self, now: float) -> None:
        buffers: list[Buffer] = []
        self.feed.take(buffers, BATCH_BYTES, _ignore)
        self._frames.extend(self._decoder.feed(b"".join(buffers)))
        for _ in range(len(self._frames)):
            self._received(self, self._frames.popleft(), now)
        self._is_awake = False
        if self._frames or self.feed.has_output:
            self._wake(math.nextafter(now, math.inf))  # not in this very look


def _ignore(_kind: Kind) -> None: ...
