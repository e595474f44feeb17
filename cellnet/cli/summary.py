"""What the demo found out: as tables for people, and as one JSON object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CellRow", "RunFigures", "Summary"]


@dataclass(frozen=True, slots=True)
class CellRow:
    """One cell of the network, as its link is measured and not as it was configured."""

    fqcn: str
    fqsn: str | None
    """None for a relay, which is no site."""
    driver: str
    security: str


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one run of the job came to."""

    accuracy: float
    loss: float
    messages: int
    """That reached the server's job process with results."""
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the demo shows at its end."""

    cells: tuple[CellRow, ...]
    rounds: int
    hierarchical: RunFigures
    flat: RunFigures
    weights_difference: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures under the keys that scripts rely on."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "rounds": self.rounds,
            "accuracy": self.hierarchical.accuracy,
            "accuracy_flat": self.flat.accuracy,
            "weights_difference": self.weights_difference,
            "server_messages": {"hierarchical": self.hierarchical.messages, "flat": self.flat.messages},
            "seconds": round(self.seconds, 2),
        }

    def show(self, console: Console) -> None:
        """Print two tables and a line."""
        console.print(self._cells(console))
        console.print(self._runs(console))
        console.print(
            f"The two models differ by {self.weights_difference:.1e} of their norm. It took {self.seconds:.1f} s."
        )

    def _cells(self, console: Console) -> Table:
        table = _table(console, "The cells", "FQCN", "FQSN", "driver", "security")
        for cell in self.cells:
            table.add_row(cell.fqcn, cell.fqsn or "-", cell.driver, cell.security)
        return table

    def _runs(self, console: Console) -> Table:
        table = _table(console, "What reached the server", "run", "messages", "a round", "bytes", "accuracy", "seconds")
        for name, run in (("hierarchical", self.hierarchical), ("flat", self.flat)):
            each = f"{run.messages / self.rounds:g}"
            table.add_row(
                name, f"{run.messages:,}", each, f"{run.bytes:,}", f"{run.accuracy:.3f}", f"{run.seconds:.1f}"
            )
        return table


def _table(console: Console, title: str, *columns: str) -> Table:
    """Draw lines on a terminal only: a file or a pipe gets plain columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else None)
    for column in columns:
        table.add_column(column)
    return table
