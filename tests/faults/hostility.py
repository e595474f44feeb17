"""What a hostile hop does to the frames that pass it, where it can read them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellnet.protocol.frames import FIRST_ROUTED, Frame, FrameDecoder, Kind, prefix

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

__all__ = ["Hostility", "Mangler", "encode"]

MAX_RECORDED = 64
"""Frames that wait to be played again; the oldest one is forgotten."""


@dataclass
class Hostility:
    """With which probability each frame that follows a route, or each DATA, is harmed, and in what way.

    Frames about the link itself pass: a hop that lies in those cuts itself off, which :meth:`Proxy.cut` does better.
    """

    contents: bool = False
    """Whether it is DATA that is harmed. Its header stays as it is: one that says where else it begins is told by
    itself."""
    flip: float = 0.0
    """One bit of its header or body."""
    truncate: float = 0.0
    """It loses an end of what is behind its prefix, which is made to fit."""
    splice: float = 0.0
    """Its body gives way to that of one that passed earlier."""
    duplicate: float = 0.0
    reorder: float = 0.0
    """It is sent after its successor."""
    replay: float = 0.0
    """One that passed earlier, maybe over another connection, is sent once more, after it."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was done."""
    recorded: deque[Frame] = field(default_factory=lambda: deque(maxlen=MAX_RECORDED))

    def concerns(self, frame: Frame) -> bool:
        """Whether a frame is one of those that are harmed."""
        return frame.kind is Kind.DATA if self.contents else frame.kind >= FIRST_ROUTED


class Mangler:
    """One direction of one connection: cuts its bytes into frames, and lets them out as the hop wants."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._decoder = FrameDecoder()
        self._held: Frame | None = None

    def feed(self, data: bytes, hostility: Hostility | None) -> bytes:
        """Take bytes; return what is to be sent instead.

        :raises RemoteProtocolError: if they are no frames
        """
        return b"".join(encode(out) for frame in self._decoder.feed(data) for out in self._pass(frame, hostility))

    def _pass(self, frame: Frame, hostility: Hostility | None) -> Iterator[Frame]:
        held, self._held = self._held, None
        if hostility is None or not hostility.concerns(frame):
            # What is held goes first: a BIND that overtook it would be another deed than the one that is counted.
            yield from _present(held)
            yield frame
            return
        if held is None and self._happens("reorder", hostility):
            self._held = frame
            return
        yield from self._harmed(frame, hostility)
        yield from _present(held)

    def _harmed(self, frame: Frame, hostility: Hostility) -> Iterator[Frame]:
        recorded = hostility.recorded
        if self._happens("flip", hostility):
            yield self._flipped(frame)
        elif self._happens("truncate", hostility):
            yield self._truncated(frame)
        elif recorded and self._happens("splice", hostility):
            yield frame._replace(body=self._rng.choice(recorded).body)
        else:
            yield frame
        if self._happens("duplicate", hostility):
            yield frame
        if recorded and self._happens("replay", hostility):
            yield self._rng.choice(recorded)
        recorded.append(frame)

    def _happens(self, deed: str, hostility: Hostility) -> bool:
        happens: bool = self._rng.random() < getattr(hostility, deed)
        hostility.counts[deed] += happens
        return happens

    def _flipped(self, frame: Frame) -> Frame:
        both = bytearray(frame.header + frame.body)
        bit = self._rng.randrange(_untouched(frame) * 8, len(both) * 8)
        both[bit // 8] ^= 1 << bit % 8
        return _with_content(frame, bytes(both), len(frame.header))

    def _truncated(self, frame: Frame) -> Frame:
        both = frame.header + frame.body
        # Mostly the end of the body is missing, else the header would tell at once.
        least = len(frame.header) if frame.body and self._rng.random() < 0.8 else _untouched(frame)
        left = self._rng.randrange(least, len(both))
        return _with_content(frame, both[:left], min(left, len(frame.header)))


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    before = prefix(frame.kind, frame.hop, frame.label, frame.remaining_ms, frame.header, frame.body)
    return before + frame.header + frame.body


def _untouched(frame: Frame) -> int:
    return len(frame.header) if frame.kind is Kind.DATA else 0


def _with_content(frame: Frame, both: bytes, header: int) -> Frame:
    return frame._replace(header=both[:header], body=both[header:])


def _present(frame: Frame | None) -> Iterator[Frame]:
    if frame is not None:
        yield frame
