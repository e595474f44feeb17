"""One run of one seed: a tree, a workload and faults; then what must hold."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellnet.simulation.errand import Errand
from cellnet.simulation.faults import Nemesis
from cellnet.simulation.history import History, Outcome
from cellnet.simulation.workload import random_contents, random_errands, random_tree
from cellnet.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.fqcn import FQCN
    from cellnet.simulation.faults import Fault
    from cellnet.simulation.trace import Trace

__all__ = ["Run", "simulate"]

MIN_CELLS, MAX_CELLS = 8, 40
BEGIN_SECONDS = 5.0
"""When all have joined, and the workload and the faults begin."""
SEALED = 0.5
"""In how many runs contents are sealed."""
CALM_SECONDS = 16.0
"""How long a run goes on at least after all was repaired: so long a dead link may look like one."""
MAX_CALM_SECONDS = 240.0
"""When it must have come to rest: the longest deadline, and then twice as long as a content is kept for nobody."""
ERRANDS_FOR_CONTENT = 66
"""For so many errands there is one with a content, and half a stream."""
PROBE_SECONDS = 5.0
"""How long a cell at rest may take to ask another one twice, which is before any answer is forgotten by itself."""


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    command: str
    """What to type to see it again."""
    cells: int
    seconds: float
    """Virtual ones, with those after the repair."""
    history: History
    faults: Counter[Fault]
    """How often each kind of fault was done."""
    most_queued: int
    """The most bytes that waited for one link."""
    hostile: bool
    _trace: Trace
    _leftovers: Sequence[str]
    _oddities: Sequence[str]
    _excess: Sequence[str]

    @property
    def lines(self) -> Sequence[str]:
        """What happened, one line each."""
        return self._trace.lines

    @property
    def trace(self) -> str:
        """The SHA-256 of :attr:`lines`: two runs with the same trace were the same."""
        return self._trace.digest()

    def leftovers(self) -> list[str]:
        """Return what was not at rest in the end, one line each."""
        return list(self._leftovers)

    def oddities(self) -> list[str]:
        """Return what cells noticed that cannot be where nobody lies, one line each."""
        return list(self._oddities)

    def violations(self) -> list[str]:
        """Return all that must not be: in the history, in the end, and in between."""
        oddities = [] if self.hostile else self._oddities
        return [*self.history.violations(), *self._leftovers, *self._excess, *oddities]


def simulate(
    seed: int,
    *,
    cells: int | None = None,
    seconds: float = 120.0,
    faults: int = 20,
    errands: int = 200,
    hostile: bool = False,
) -> Run:
    """Run one network in virtual time; the same arguments give the same run, everywhere.

    :param cells: how many; drawn from the seed if it is not given
    :param seconds: how long there are errands and faults
    :param errands: requests, events and broadcasts together, half of them about when there is a fault; handlers may
        ask further
    :param hostile: whether there are also faults that somebody in between does, and TCP does not
    """
    rng = random.Random(f"{seed}/run")  # noqa: S311  # a simulation, not secrets
    count = rng.randint(MIN_CELLS, MAX_CELLS)
    if cells is not None:
        count = cells
    command = _command(seed, count, seconds, faults, errands, hostile=hostile)
    tree = random_tree(seed, count)
    seals = rng.random() < SEALED
    world = World(seed, tree, History(has_replays=hostile), seals=seals)
    try:
        world.start()
        nemesis = Nemesis(world, rng, hostile=hostile, end=seconds)
        times = nemesis.plan(faults, BEGIN_SECONDS)
        if faults and not hostile:  # who lies says what would be true of a cell that moved
            nemesis.plan_moves(random.Random(f"{seed}/moves"), BEGIN_SECONDS)  # noqa: S311  # a simulation, not secrets
        for time, origin, errand in random_errands(seed, tree, errands, BEGIN_SECONDS, seconds, times):
            world.plan(time, origin, errand)
        contents = errands // ERRANDS_FOR_CONTENT
        for time, origin, errand in random_contents(seed, tree, contents, BEGIN_SECONDS, seconds, times):
            world.plan(time, origin, errand)
        world.run(seconds + CALM_SECONDS)
        leftovers = _rest(world, seconds + MAX_CALM_SECONDS) or _probe(world)
    except Exception as error:
        error.add_note(f"at {world.timeline.now:.6f} s of: {command}")
        raise
    return Run(
        command,
        count,
        world.timeline.now,
        world.history,
        Counter(nemesis.done),
        world.most_queued,
        hostile,
        world.trace,
        leftovers,
        world.faults(),
        world.excess(),
    )


def _rest(world: World, limit: float) -> list[str]:
    """Run until all is at rest, or to the limit; return what is not."""
    while (leftovers := world.leftovers()) and world.timeline.now < limit:
        world.run(world.timeline.now + 1)
    return leftovers


def _probe(world: World) -> list[str]:
    """Let each cell ask another one, twice: a network that was repaired works. Return what does not.

    With the second request the first answer is no longer wanted, so that only one is still kept.
    """
    names = list(world.cells)
    begin = world.timeline.now
    planned: list[tuple[str, FQCN]] = []
    for origin, destination in zip(names, names[1:] + names[:1], strict=True):
        for time in (begin, begin + PROBE_SECONDS / 2):
            probe = Errand(f"probe{len(planned) % 2 + 1}-{origin}", "request", (destination,), 2 * PROBE_SECONDS)
            world.plan(time, origin, probe)
            planned.append((probe.number, origin))
    world.run(begin + PROBE_SECONDS)
    failed = [name for number, name in planned if world.history.outcome(number) is not Outcome.OK]
    found = [f"{name}: it asked after the repair, and was not answered" for name in failed]
    return found or world.leftovers(answers=1)


def _command(seed: int, cells: int, seconds: float, faults: int, errands: int, *, hostile: bool) -> str:
    flags = " --hostile" * hostile
    return (
        f"python -m cellnet.simulation --seed {seed} --cells {cells} --seconds {seconds:g} --faults {faults} "
        f"--errands {errands}{flags}"
    )
