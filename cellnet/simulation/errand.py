"""What somebody is asked to do in a simulation. Only its number goes over the wire; the rest is looked up."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN

__all__ = ["MAX_TEXT", "Errand", "Half", "number_in", "text"]

MAX_TEXT = 5 << 20
_STARTS = 1 << 20
_TEXT = random.Random("contents").randbytes(MAX_TEXT + _STARTS)  # noqa: S311  # a simulation, not secrets


def text(name: str, size: int) -> memoryview:
    """Return so many bytes that belong to a name and repeat nowhere; none of them is copied."""
    start = zlib.crc32(name.encode()) % _STARTS
    return memoryview(_TEXT)[start : start + size]


@dataclass(frozen=True, slots=True)
class Half:
    """What one end of a stream does."""

    size: int
    """Bytes that it writes in all."""
    piece: int
    """Bytes that it writes at a time."""
    pause: float
    """Seconds between two pieces."""
    read: int
    """Bytes that it reads at a time, at most."""
    read_pause: float
    """Seconds between two times that it reads."""
    deaf: float = 0.0
    """Seconds before it reads for the first time."""
    reset_after: float | None = None
    """Seconds after which it gives up."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One message, one broadcast, or one stream of a workload."""

    number: str
    form: Literal["request", "event", "broadcast"]
    destinations: tuple[FQCN, ...]
    seconds: float
    """How long the caller waits."""
    handling: float = 0.0
    """How many seconds the handler takes, without what it asks others."""
    raises: bool = False
    asks: FQCN | None = None
    """Whom the handler asks before it answers."""
    cancel_after: float | None = None
    key: str | None = None
    """Its ordering key."""
    size: int = 0
    """Bytes that go along for nothing."""
    large: int = 0
    """Bytes of a payload that is too large for a message; none if it is 0."""
    answer: int = 0
    """Bytes of an answer that is too large for a message."""
    stream: tuple[Half, Half] | None = None
    """What both ends of a stream do that this request opens, its own end first."""

    @property
    def payload(self) -> bytes:
        """What goes over the wire."""
        return self.number.encode() + b" " + bytes(self.size)

    def name_at(self, destination: FQCN) -> str:
        """Return what the part of it that is for one cell is called in the history."""
        return f"{self.number}>{destination}" if self.form == "broadcast" else self.number


def number_in(payload: bytes) -> str:
    """Return the number of the errand that made this payload."""
    return payload.partition(b" ")[0].decode()
