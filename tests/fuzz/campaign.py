"""Many inputs for each target: which errors come out, what the slowest costs, and how much memory is left behind."""

from __future__ import annotations

import gc
import logging
import random
import resource
import signal
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.fuzz.reproduction import reproducible
from tests.fuzz.target import laboratory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.fuzz.target import Lab, Target

    Plan = Mapping[str, tuple[int, Callable[[Lab], Target]]]
    """Targets by name, and how many inputs each gets of all, in relation to the others."""

__all__ = ["LIMIT_MIB", "LIMIT_MS", "Row", "Stuck", "Wrong", "run"]

LIMIT_MS = 100.0
"""Of processor time, for one input."""
LIMIT_MIB = 32.0
"""By which all inputs together may enlarge the process."""
WARM_UP = 300
"""Inputs of each target that come first, while caches and pools fill."""
LOOK_EVERY = 256
LOOKS_PER_COLLECTION = 16
STUCK_SECONDS = 10.0
"""Of processor time: who is not done by then is stopped."""


@dataclass(frozen=True)
class Wrong:
    """One input that brought out what may not be."""

    target: str
    number: int
    """Of the input; with the seed, it says all."""
    first: int
    """From where on inputs must be given to see it again."""
    data: bytes
    reason: str


@dataclass
class Row:
    """What one target came to."""

    name: str
    is_signed: bool
    inputs: int = 0
    refused: int = 0
    """Inputs that were answered with an error of the documented ones."""
    seconds: float = 0.0
    """Of processor time, for decoding."""
    slowest_ms: float = 0.0
    growth_mib: float = 0.0
    wrong: list[Wrong] = field(default_factory=list)


class Stuck(BaseException):
    """Say that an input does not come to an end. No decoder catches it."""


def run(
    plan: Plan, mutations: int, seed: int, *, first: int = 0, limit_ms: float = LIMIT_MS, limit_mib: float = LIMIT_MIB
) -> list[Row]:
    """Give the targets of *plan* so many inputs together; a target's first wrong one is its last.

    :param first: the number of the first input of each target
    """
    with reproducible(), laboratory() as lab, _silence(), _watch() as watch:
        targets = {name: _made(make, lab) for name, (_, make) in plan.items()}
        rows = [Row(name, target.is_signed) for name, target in targets.items()]
        for row in rows if first == 0 else ():
            _give(targets[row.name], Row(row.name, False), seed, range(WARM_UP), watch, limit_ms)
        _collect_between_inputs(lab)
        memory = _Memory()
        for row, count in zip(rows, _shared(mutations, [share for share, _ in plan.values()]), strict=True):
            before = memory.growth_mib
            for start in range(first, first + count, LOOK_EVERY):
                numbers = range(start, min(start + LOOK_EVERY, first + count))
                _give(targets[row.name], row, seed, numbers, watch, limit_ms)
                gc.collect(generation=2 if start // LOOK_EVERY % LOOKS_PER_COLLECTION == 0 else 1)
                memory.look()
                if row.wrong:
                    break
            row.growth_mib = memory.growth_mib - before
            if memory.growth_mib > limit_mib and row.growth_mib:
                reason = f"all inputs until here enlarged the process by {memory.growth_mib:.1f} MiB"
                row.wrong.append(Wrong(row.name, first + row.inputs - 1, 0, b"", reason))
    return rows


def _shared(count: int, shares: list[int]) -> list[int]:
    """Divide a number so that the parts are whole, and their sum is the number."""
    until = [count * sum(shares[:to]) // sum(shares) for to in range(len(shares) + 1)]
    return [end - begin for begin, end in pairwise(until)]


def _made(make: Callable[[Lab], Target], lab: Lab) -> Target:
    with reproducible():  # its keys are the same, whichever others are made
        return make(lab)


def _give(target: Target, row: Row, seed: int, numbers: range, watch: _Watch, limit_ms: float) -> None:
    """Give a target these inputs, until one is wrong."""
    for number in numbers:
        # Of its own, so that an input can be made without those before it.
        data = target.make(random.Random(f"{seed} {row.name} {number}"))
        reason, is_refused = "", False
        with watch:
            began = time.thread_time()
            try:
                is_refused = target.take(data) is False
            except target.errors:
                is_refused = True
            except (Exception, Stuck) as error:
                reason = f"{type(error).__name__}: {error}"
            spent = time.thread_time() - began
            reason = reason or _settled(target)
        row.inputs += 1
        row.refused += is_refused
        row.seconds += spent
        row.slowest_ms = max(row.slowest_ms, spent * 1000)
        if spent * 1000 > limit_ms:
            reason = reason or f"it took {spent * 1000:.0f} ms of processor time"
        if reason:
            row.wrong.append(Wrong(row.name, number, 0 if target.goes_on else number, data, reason))
            return


@contextmanager
def _silence() -> Iterator[None]:
    """Let nobody be told of what is refused; nor let a warning be an error, as it is not in use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _collect_between_inputs(lab: Lab) -> None:
    """Let no collection of garbage be an input's time, nor go through all that was imported."""
    gc.collect()
    gc.freeze()
    gc.disable()
    lab.stack.callback(gc.unfreeze)
    lab.stack.callback(gc.enable)


def _settled(target: Target) -> str:
    try:
        if target.settle is not None:
            target.settle()
    except (Exception, Stuck) as error:
        return f"afterwards, {type(error).__name__}: {error}"
    return ""


class _Memory:
    """How much the process has grown since this was made, at its largest."""

    def __init__(self) -> None:
        with suppress(OSError):  # else the warm-up hides what is not larger than itself
            Path("/proc/self/clear_refs").write_text("5")
        self._base = _resident_mib()
        self._base_peak = _peak_mib()
        self.growth_mib = 0.0

    def look(self) -> None:
        """Note how large it is now, and was since the last look."""
        grown = max(_resident_mib() - self._base, _peak_mib() - self._base_peak)
        self.growth_mib = max(self.growth_mib, grown)


def _resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class _Watch:
    """Stops an input that does not come to an end; one that computes in C without a pause is not seen."""

    def __init__(self) -> None:
        self._is_busy = False
        self._was_busy = False

    def __enter__(self) -> None:
        self._is_busy, self._was_busy = True, False

    def __exit__(self, *_error: object) -> None:
        self._is_busy = False

    def look(self, *_signal: object) -> None:
        """Be called after each five seconds of processor time."""
        if self._is_busy and self._was_busy:
            self._is_busy = False
            raise Stuck(f"it was not done after {STUCK_SECONDS / 2:.0f} s of processor time")
        self._was_busy = self._is_busy


@contextmanager
def _watch() -> Iterator[_Watch]:
    watch = _Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    before = signal.signal(signal.SIGVTALRM, watch.look)
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_SECONDS / 2, STUCK_SECONDS / 2)
    try:
        yield watch
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
