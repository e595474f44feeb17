"""What goes wrong, drawn from a seed: links, ways, machines, and with ``hostile`` somebody in between."""

from __future__ import annotations

import math
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from cellnet.simulation.errand import Errand
from cellnet.simulation.tamper import Alterer, Forger, drop, duplicate, reorder
from cellnet.simulation.workload import way

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from cellnet.fqcn import FQCN
    from cellnet.simulation.cell import SimulatedCell
    from cellnet.simulation.wire import Path, Tamper
    from cellnet.simulation.world import World

__all__ = ["HOSTILE", "Fault", "Nemesis"]

FLOODS, FLOOD_SECONDS, FLOOD_SIZE = (20, 30, 40, 180), 4.0, 45_000
"""How many messages a flood may have, in what time they are sent, and how large each of them is."""

AGAIN_SECONDS = 0.1
"""Before a cell tries again to go home that could not."""
MOST_MOVES = 6
"""Cells of a run that move to another parent, at most."""
SLOW_RATES = 100_000, 2_000_000
"""Bytes that a slow way carries in a second."""
AT_CONTENTS = 0.5
"""How many faults of ways are where contents are under way."""


class Fault(Enum):
    """A kind of fault."""

    CUT = "a link is cut, and both sides notice"
    SILENCE = "a link is dead, and nobody is told"
    HALF_SILENCE = "a link is dead in one direction, and nobody is told"
    PARTITION = "nothing passes between a cell and its parent, for a while"
    DELAY = "a way takes longer, for a while"
    SLOW = "a way carries little, for a while"
    CRASH = "a process is killed, and starts again"
    POWER_LOSS = "a machine goes off, tells nobody, and starts again"
    FREEZE = "a process is stopped, and goes on"
    FLOOD = "a process is stopped, and more is sent over it than may wait"
    HANG = "the handlers of a cell take longer, for a while"
    MOVE = "a cell loses its parent and joins another, for a while"
    DUPLICATE = "somebody sends frames again, at once or later"
    REORDER = "somebody changes the order of frames"
    DROP = "somebody takes frames away"
    FORGE = "a neighbour speaks for cells that are not on its side"
    ALTER = "somebody changes what is said and sent of contents, where these are sealed"


HOSTILE = (Fault.DUPLICATE, Fault.REORDER, Fault.DROP, Fault.FORGE, Fault.ALTER)
"""What TCP does not do, and somebody who stands in between does."""


class Nemesis:
    """Does the faults of one run."""

    def __init__(self, world: World, rng: random.Random, *, hostile: bool, end: float) -> None:
        """Prepare to harm a world.

        :param end: when all is repaired
        """
        self.done: list[Fault] = []
        """What was done, in order."""
        self._world = world
        self._rng = rng
        self._end = end
        left_out = () if hostile and world.seals else (Fault.ALTER,) if hostile else HOSTILE
        self._kinds = [kind for kind in Fault if kind not in (*left_out, Fault.MOVE)]

    def plan_moves(self, rng: random.Random, begin: float) -> None:
        """Plan that some cells go below other parents, beside all faults; in the end all are where they belong."""
        for _ in range(rng.randrange(MOST_MOVES + 1)):
            self._world.timeline.at(rng.uniform(begin, self._end), partial(self._move, rng))

    def _move(self, rng: random.Random) -> None:
        world = self._world
        name, parent = rng.choice(list(world.paths)), rng.choice(list(world.cells))
        home = name.parent
        if home is not None and parent != home and world.move(name, parent):
            self.done.append(Fault.MOVE)
            self._disturbed()
            world.trace.note(name, "fault", Fault.MOVE.name)
            self._later(rng.uniform(1, 40), partial(self._go_home, name, home, rng))

    def _go_home(self, name: FQCN, home: FQCN, rng: random.Random) -> None:
        """Come back; if the parent is below this one now, it must go home itself before."""
        if not self._world.move(name, home):
            self._world.timeline.at(self._world.timeline.now + AGAIN_SECONDS, partial(self._go_home, name, home, rng))

    def plan(self, count: int, begin: float) -> list[float]:
        """Plan so many faults from *begin* on; return when."""
        times = sorted(self._rng.uniform(begin, self._end) for _ in range(count))
        for time in times:
            self._world.timeline.at(time, self._strike)
        return times

    def _strike(self) -> None:
        """Do one fault: the first that can be done, in random order."""
        for kind in self._rng.sample(self._kinds, len(self._kinds)):
            victim = self._do(kind)
            if victim is not None:
                self.done.append(kind)
                self._disturbed()
                self._world.trace.note(victim, "fault", kind.name)
                return

    def _do(self, kind: Fault) -> object:
        """Do one fault; return to whom, or None if there is nobody to whom it could be done."""
        if kind in (Fault.CRASH, Fault.POWER_LOSS, Fault.FREEZE, Fault.FLOOD, Fault.HANG):
            return self._harm_cell(kind)
        if kind in (Fault.CUT, Fault.SILENCE, Fault.HALF_SILENCE):
            return self._harm_wire(kind)
        name = self._way()
        path = self._world.paths[name]
        if kind is Fault.PARTITION:
            path.block()
            self._later(self._rng.uniform(0.5, 25), path.unblock)
        elif kind is Fault.DELAY:
            seconds = self._rng.uniform(0.05, 3)
            path.delay += seconds
            self._later(self._rng.uniform(1, 15), partial(_speed_up, path, seconds))
        elif kind is Fault.SLOW:
            path.rate = self._rng.uniform(*SLOW_RATES)
            self._later(self._rng.uniform(1, 15), partial(_let_run, path))
        elif path.tamper is None:
            path.tamper = self._tamper(kind, name)
            if kind is Fault.FORGE:
                path.cut()  # so that all routes are bound anew
            self._later(self._rng.uniform(1, 10), partial(_leave_alone, path))
            self._world.timeline.at(self._end, path.cut)
        else:
            return None
        return name

    def _way(self) -> FQCN:
        """Draw the way to a parent; half of the time one over which contents come, if there are any."""
        ways = list(self._world.paths)
        busy = [name for name in ways if self._world.cells[name].has_contents_above]
        return self._rng.choice(busy if busy and self._rng.random() < AT_CONTENTS else ways)

    def _tamper(self, kind: Fault, name: FQCN) -> Tamper:
        """Return what is done to the frames between a cell and its parent."""
        if kind is Fault.ALTER:
            return Alterer(self._rng)
        if kind is not Fault.FORGE:
            return partial({Fault.DUPLICATE: duplicate, Fault.REORDER: reorder, Fault.DROP: drop}[kind], self._rng)
        below = [other for other in self._world.cells if other == name or name.is_ancestor_of(other)]
        above = [other for other in self._world.cells if other not in below]
        return Forger(self._rng, [str(one) for one in below], [str(one) for one in above])

    def _harm_cell(self, kind: Fault) -> object:
        cells = [cell for cell in self._world.cells.values() if cell.is_up and not cell.is_frozen]
        if not cells:
            return None
        cell = self._rng.choice(cells)
        if kind is Fault.HANG:
            seconds = self._rng.uniform(1, 30)
            cell.owner.slowness += seconds
            self._later(self._rng.uniform(1, 20), partial(_hurry_up, cell, seconds))
        elif kind in (Fault.FREEZE, Fault.FLOOD):
            cell.freeze()
            self._later(self._rng.uniform(0.5, 20), partial(_thaw, cell, cell.life))
            if kind is Fault.FLOOD:
                self._flood(cell.fqcn)
        else:
            cell.die(told=kind is Fault.CRASH)
            self._later(self._rng.uniform(0, 5), cell.start)
        return cell.fqcn

    def _flood(self, over: FQCN) -> None:
        """Let one cell ask another one for much, over a third or the other one itself."""
        names = [name for name in self._world.cells if name != over]
        origin = self._rng.choice(names)
        behind = [name for name in (over, *names) if name != origin and over in way(origin, name)]
        destination = self._rng.choice(behind)
        now = self._world.timeline.now
        for index in range(self._rng.choice(FLOODS)):
            errand = Errand(
                f"flood{len(self.done)}-{index}",
                self._rng.choice(("request", "event")),
                (destination,),
                self._rng.uniform(1, 30),
                size=FLOOD_SIZE,
            )
            self._world.plan(now + self._rng.uniform(0, FLOOD_SECONDS), origin, errand)

    def _harm_wire(self, kind: Fault) -> object:
        name = self._way()
        wires = self._world.paths[name].wires
        if not wires:
            return None
        wire = wires[-1]
        if kind is Fault.CUT:
            wire.cut()
        else:
            ends = [wire.child, wire.parent]
            for end in ends if kind is Fault.SILENCE else [self._rng.choice(ends)]:
                end.vanishes = True
        return name

    def _later(self, seconds: float, repair: Callable[[], None]) -> None:
        timeline = self._world.timeline
        time = min(timeline.now + seconds, self._end)
        timeline.at(time, repair)
        timeline.at(time, self._disturbed)

    def _disturbed(self) -> None:
        self._world.history.deliveries.disturbed(self._world.timeline.now)


def _thaw(cell: SimulatedCell, life: int) -> None:
    if cell.life == life:
        cell.thaw()


def _hurry_up(cell: SimulatedCell, seconds: float) -> None:
    cell.owner.slowness = max(0.0, cell.owner.slowness - seconds)


def _speed_up(path: Path, seconds: float) -> None:
    path.delay = max(0.0, path.delay - seconds)


def _let_run(path: Path) -> None:
    path.rate = math.inf


def _leave_alone(path: Path) -> None:
    path.tamper = None
