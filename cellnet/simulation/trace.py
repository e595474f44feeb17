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
        self.lines: list[str] = []
        self._timeline = timeline

    def note(self, cell: object, *what: object) -> None:
        """Note what happened at a cell now."""
        self.lines.append(f"{self._timeline.now:.6f} {cell} {' '.join(map(str, what))}")

    def digest(self) -> str:
        """Return the hash over everything so far, in hexadecimal."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
