"""Many seeds, over several processes: which of them break a rule, and how to see that again."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from cellnet.simulation.run import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    _Planned = tuple[int, dict[str, Any]]
    _Result = tuple[float, str, list[str]]

__all__ = ["Soak", "soak", "varied"]

CHUNK = 4
"""Seeds that a process takes at a time."""
AHEAD = 8
"""Such portions that wait for each process: those that take long hold up others only then."""
SHOWN = 5
"""So many violations of one seed are shown."""
TELL_SECONDS = 60.0
"""So often a soak says how far it is."""


@dataclass
class Soak:
    """What came of many seeds."""

    seeds: int = 0
    seconds: float = 0.0
    """Of CPU, of all processes."""
    broken: list[str] = field(default_factory=list)
    """The command of each run in which a rule was broken."""

    @property
    def summary(self) -> str:
        """All in one line."""
        each = self.seconds / max(1, self.seeds)
        return f"{self.seeds} seeds, {len(self.broken)} with violations, {self.seconds:.0f} s of CPU, {each:.2f} s each"


def varied(seed: int) -> dict[str, Any]:
    """Return what is special about a seed: of ten, one has a hundred faults, and one somebody in between."""
    if seed % 10 == 8:
        return {"cells": 10, "faults": 100, "errands": 600}
    return {"hostile": True} if seed % 10 == 9 else {}


def soak(
    seeds: Iterable[int],
    *,
    jobs: int,
    tell: Callable[[str], None],
    special: Callable[[int], Mapping[str, Any]] = lambda _seed: {},
    **options: Any,
) -> Soak:
    """Simulate each of *seeds*; ``KeyboardInterrupt`` ends it early, with what is known by then.

    :param jobs: how many processes
    :param tell: is told the command of each run that breaks a rule, and which rules, as soon as that is known;
        and how far it is, once a minute
    :param special: returns what a seed has in place of *options*
    :param options: as for :func:`simulate`
    """
    result = Soak()
    told = time.monotonic()
    planned = ((seed, {**options, **special(seed)}) for seed in seeds)
    pool = _pool(jobs)
    try:
        for seconds, command, violations in _results(pool, planned, jobs):
            result.seeds += 1
            result.seconds += seconds
            if violations:
                result.broken.append(command)
                tell("\n  ".join([command, *violations[:SHOWN]]))
            if time.monotonic() >= told + TELL_SECONDS:
                told = time.monotonic()
                tell(f"so far {result.summary}")
    except KeyboardInterrupt:
        tell("interrupted")
    finally:
        pool.shutdown(cancel_futures=True)
    return result


def _pool(jobs: int) -> ProcessPoolExecutor:
    """Start processes that an interrupt at the terminal, which all get, does not end: they are told to."""
    resource_tracker.ensure_running()  # which would let interrupts through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
        pool.submit(abs, 0)  # with the first work, all start
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return pool


def _results(pool: ProcessPoolExecutor, planned: Iterable[_Planned], jobs: int) -> Iterator[_Result]:
    """Yield what comes of each seed, in their order; only a few wait in line, however many there are."""
    waiting: deque[Future[list[_Result]]] = deque()
    rest = iter(planned)
    while True:
        while len(waiting) < jobs * AHEAD and (chunk := list(islice(rest, CHUNK))):
            waiting.append(pool.submit(_some, chunk))
        if not waiting:
            return
        yield from waiting.popleft().result()


def _some(chunk: list[_Planned]) -> list[_Result]:
    return [_one(planned) for planned in chunk]


def _one(planned: _Planned) -> _Result:
    seed, options = planned
    begin = time.process_time()
    try:
        run = simulate(seed, **options)
        command, violations = run.command, run.violations()
    except Exception as error:
        # whatever it is, the other seeds go on; its note says when it was, and how to see it again
        command = f"seed {seed}: {' '.join(getattr(error, '__notes__', []))}"
        violations = traceback.format_exception(error)
    return time.process_time() - begin, command, violations
