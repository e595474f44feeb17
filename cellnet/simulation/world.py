"""A network in virtual time: its cells, the ways between them, and what is asked in it."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from cellnet.simulation.cell import SimulatedCell
from cellnet.simulation.rest import leftovers
from cellnet.simulation.timeline import Timeline
from cellnet.simulation.trace import Trace
from cellnet.simulation.wire import Path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cellnet.fqcn import FQCN
    from cellnet.simulation.errand import Errand
    from cellnet.simulation.history import History

__all__ = ["World"]

START_SECONDS = 0.2
"""Between the starts of a parent and of its children."""


class World:
    """One network and its history, at one moment of its own time."""

    def __init__(
        self, seed: int | str, latencies: Mapping[FQCN, float], history: History, *, seals: bool = True
    ) -> None:
        """Make a network in which nothing runs yet.

        :param latencies: every cell, parents before their children, and the seconds from there to its parent
        :param seals: whether contents are sealed
        """
        self.seals = seals
        self.timeline = Timeline()
        self.trace = Trace(self.timeline)
        self.history = history
        self.cells: dict[FQCN, SimulatedCell] = {}
        self.paths: dict[FQCN, Path] = {}
        """The way from each cell to its parent."""
        self._errands: dict[str, Errand] = {}
        pauses: set[float] = set()
        homes: dict[str, str] = {}
        for name, latency in latencies.items():
            rng = random.Random(f"{seed}/{name}")  # noqa: S311  # a simulation, not secrets
            if (parent := name.parent) is not None:
                self.paths[name] = Path(self.timeline, rng, latency)
            self.cells[name] = SimulatedCell(
                name,
                parent=self.cells[parent] if parent is not None else None,
                path=self.paths.get(name),
                timeline=self.timeline,
                rng=rng,
                trace=self.trace,
                history=history,
                errands=self._errands,
                homes=homes,
                seals=seals,
                pauses=pauses,
            )

    def start(self) -> None:
        """Start all cells, parents first."""
        for name, cell in self.cells.items():
            self.timeline.at(name.depth * START_SECONDS, cell.start)

    def plan(self, time: float, origin: FQCN, errand: Errand) -> None:
        """Plan an errand. If its origin does not run then, nothing is asked."""
        self._errands[errand.number] = errand
        self.timeline.at(time, partial(self._ask, self.cells[origin], errand))

    def run(self, until: float) -> None:
        """Let time pass."""
        self.timeline.run(until)

    def below(self, name: FQCN) -> Iterable[str]:
        """Return all cells below one."""
        return [other.name for fqcn, other in self.cells.items() if name.is_ancestor_of(fqcn)]

    def move(self, name: FQCN, parent: FQCN) -> bool:
        """Let a cell lose its parent and dial another; return whether that is none of those below it now."""
        cell, above = self.cells[name], self.cells[parent]
        higher: SimulatedCell | None = above
        while higher is not None and higher is not cell:
            higher = higher.parent
        if higher is cell:
            return False
        cell.parent = above
        self.paths[name].cut()
        return True

    def leftovers(self, *, answers: int = 0) -> list[str]:
        """Return what is not at rest, one line each.

        :param answers: how many answers each cell may keep for those who asked
        """
        return [
            f"{name}: {found}"
            for name, cell in self.cells.items()
            for found in leftovers(cell, self.below(name), answers=answers)
        ]

    @property
    def most_queued(self) -> int:
        """The most bytes that waited for one link."""
        return max(cell.most_queued for cell in self.cells.values())

    def faults(self) -> list[str]:
        """Return what cells noticed that cannot be where nobody lies, one line each."""
        return [f"{name}: {fault}" for name, cell in self.cells.items() for fault in cell.faults]

    def excess(self) -> list[str]:
        """Return what cells held beyond their limits, one line each."""
        return [f"{name}: {excess}" for name, cell in self.cells.items() for excess in cell.excess]

    @staticmethod
    def _ask(cell: SimulatedCell, errand: Errand) -> None:
        if cell.is_up:
            cell.do(partial(cell.owner.ask, errand))
