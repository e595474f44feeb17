"""What happened in a run, as text and as one hash, by which two runs are compared."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellnet.simulation.timeline import Timeline

__all__ = ["Trace"]


class Trace:
    """Times, cells, kinds of events and numbers of messages: never bytes, which may hold random content."""

    def __init__(self, timeline: Timeline) -> None:
        self._notes: list[tuple[float, object, tuple[object, ...]]] = []
        self._timeline = timeline

    def note(self, cell: object, *what: object) -> None:
        """Note what happened at a cell now, in things that do not change: they become text when somebody reads it."""
        self._notes.append((self._timeline.now, cell, what))

    @property
    def lines(self) -> list[str]:
        """All that was noted, one line each."""
        return [f"{time:.6f} {cell} {' '.join(map(str, what))}" for time, cell, what in self._notes]

    def digest(self) -> str:
        """Return the hash over everything so far, in hexadecimal."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
