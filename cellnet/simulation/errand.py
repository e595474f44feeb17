"""What somebody is asked to do in a simulation. Only its number goes over the wire; the rest is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN

__all__ = ["Errand", "number_in"]


@dataclass(frozen=True, slots=True)
class Errand:
    """One message, or one broadcast, of a workload."""

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
