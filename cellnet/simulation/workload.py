"""Trees and errands, drawn from a seed.

Without faults each request is answered in time, unless it waits for its turn behind others with its ordering key.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.frames import INLINE_LIMIT
from cellnet.simulation.errand import Errand, Half

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["random_contents", "random_errands", "random_tree", "way"]

MAX_DEPTH = 4
MIN_LATENCY, MAX_LATENCY = 0.0005, 0.01
MIN_SECONDS, MAX_SECONDS = 0.1, 30.0
"""How long callers wait."""
MAX_BROADCAST = 12
BUSY_PAIRS = 5
"""Pairs of cells that ask each other often: only there can the order of what is asked go wrong."""
MAX_SIZE = 60_000
MIN_LARGE, MAX_LARGE = INLINE_LIMIT + 1, 3 << 20
MIN_LARGE_SECONDS = 3.0
"""How long at least callers wait that send, or want, a large payload."""
MIN_STREAM, MAX_STREAM = 1000, 5 << 20
MAX_STREAM_SECONDS = 20.0
"""How long the ends of a stream write, about."""
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 1.5
"""How near to a fault an errand is, if it is to be near one."""


def random_tree(seed: int, cells: int) -> dict[FQCN, float]:
    """Draw so many cells, parents before children, each with the latency of the way to its parent."""
    rng = random.Random(f"{seed}/tree")  # noqa: S311  # a simulation, not secrets
    tree = {FQCN(ROOT): 0.0}
    for number in range(1, cells):
        parents = [name for name in tree if name.depth < MAX_DEPTH]
        # few cells have children, and those have several: as relays do
        parent = parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]
        tree[parent.child(f"N{number}")] = rng.uniform(MIN_LATENCY, MAX_LATENCY)
    return tree


def random_errands(
    seed: int, tree: Mapping[FQCN, float], count: int, begin: float, end: float, near: Sequence[float] = ()
) -> list[tuple[float, FQCN, Errand]]:
    """Draw so many errands, each with its time and its origin.

    :param near: about when half of them are to be, as something happens then
    """
    rng = random.Random(f"{seed}/errands")  # noqa: S311  # as above
    names = list(tree)
    depths = _depths(tree)
    busy = [rng.sample(names, 2) for _ in range(BUSY_PAIRS)]
    asked: list[tuple[float, FQCN, FQCN, int]] = []
    while len(asked) < count:
        origin, destination = rng.choice(busy) if rng.random() < 0.3 else rng.sample(names, 2)
        if rng.random() < 0.02:
            destination = origin
        size = rng.randrange(MAX_SIZE) if rng.random() < 0.05 else rng.randrange(100)
        time = rng.uniform(begin, end)
        if near and rng.random() < 0.5:
            time = max(begin, rng.choice(near) + rng.uniform(-BEFORE_SECONDS, AFTER_SECONDS))
        asked.append((time, origin, destination, size))
    return [
        (time, origin, _errand(rng, str(number), names, depths, origin, destination, size))
        for number, (time, origin, destination, size) in enumerate(sorted(asked), 1)
    ]


def random_contents(
    seed: int, tree: Mapping[FQCN, float], count: int, begin: float, end: float, near: Sequence[float] = ()
) -> list[tuple[float, FQCN, Errand]]:
    """Draw so many errands with large payloads or answers, and half as many streams.

    :param near: about when most of them are to be, as something happens then
    """
    rng = random.Random(f"{seed}/contents")  # noqa: S311  # as above
    names, drawn = list(tree), []
    depths = _depths(tree)
    for index in range(count + count // 2):
        origin, destination = rng.sample(names, 2)
        if rng.random() < 0.05:
            destination = origin
        time = rng.uniform(begin, end)
        if near and rng.random() < 0.7:
            time = max(begin, rng.choice(near) + rng.uniform(-BEFORE_SECONDS, AFTER_SECONDS))
        if index < count:
            errand = _large_errand(rng, f"large{index}", names, destination)
        else:
            errand = _stream_errand(rng, f"stream{index}", destination)
        longest = max(_there_and_back(depths, origin, name) for name in errand.destinations)
        drawn.append((time, origin, replace(errand, seconds=errand.seconds + 4 * longest)))
    return drawn


def _large_errand(rng: random.Random, number: str, names: Sequence[FQCN], destination: FQCN) -> Errand:
    kind = rng.random()
    destinations = [destination] if kind > 0.15 else rng.sample(names, min(4, len(names)))
    sizes = [int(MIN_LARGE * (MAX_LARGE / MIN_LARGE) ** rng.random()) for _ in range(2)]
    which = rng.randrange(3)
    return Errand(
        number,
        "broadcast" if kind < 0.15 else "event" if kind < 0.25 else "request",
        tuple(destinations),
        rng.uniform(MIN_LARGE_SECONDS, MAX_SECONDS),
        handling=rng.uniform(0, rng.choice((0.02, 1.0))),
        cancel_after=rng.uniform(0, 1) if rng.random() < 0.1 else None,
        large=sizes[0] if which or kind < 0.25 else 0,
        answer=sizes[1] if which != 1 else 0,
    )


def _stream_errand(rng: random.Random, number: str, destination: FQCN) -> Errand:
    def half(size: int, other: int) -> Half:
        pieces = rng.randint(1, 100)
        read_pause = rng.choice((0.05, 0.2, 0.5))
        # Slow readers take about as long as slow writers; some read nothing for a while.
        read = max(4096, int(other / MAX_STREAM_SECONDS * read_pause))
        return Half(
            size,
            size // pieces + 1,
            rng.uniform(0, rng.choice((0.01, MAX_STREAM_SECONDS))) / pieces,
            rng.choice((read, 16 * read)),
            read_pause,
            deaf=rng.uniform(0, MAX_STREAM_SECONDS) if rng.random() < 0.3 else 0.0,
            reset_after=rng.uniform(0, MAX_STREAM_SECONDS) if rng.random() < 0.1 else None,
        )

    there, back = (int(MIN_STREAM * (MAX_STREAM / MIN_STREAM) ** rng.random()) for _ in range(2))
    seconds = rng.uniform(MIN_LARGE_SECONDS, MAX_SECONDS)
    return Errand(number, "request", (destination,), seconds, stream=(half(there, back), half(back, there)))


def way(origin: FQCN, destination: FQCN) -> list[FQCN]:
    """Return the cells that a message passes, both ends included."""
    passed = [origin]
    while (step := passed[-1].next_hop(destination)) is not None:
        passed.append(step)
    return passed


def _errand(
    rng: random.Random,
    number: str,
    names: Sequence[FQCN],
    depths: Mapping[FQCN, float],
    origin: FQCN,
    destination: FQCN,
    size: int,
) -> Errand:
    kind = rng.random()
    destinations = [destination]
    if kind < 0.04:
        destinations = rng.sample(names, rng.randint(2, min(MAX_BROADCAST, len(names))))
    asks = rng.choice(names) if rng.random() < 0.15 else None
    longest = max(_there_and_back(depths, origin, name) for name in destinations)
    if asks is not None:
        longest += max(_there_and_back(depths, name, asks) for name in destinations)
    # twice there and back, as a session may have to be opened, and time for the handlers
    seconds = max(MIN_SECONDS * (MAX_SECONDS / MIN_SECONDS) ** rng.random(), 4 * longest)
    handling = rng.uniform(0, rng.choice((0.02, 0.02, 0.02, 0.5, 10.0)))
    return Errand(
        number,
        "broadcast" if kind < 0.04 else "event" if kind < 0.14 else "request",
        tuple(destinations),
        seconds,
        handling=min(handling, (seconds - 2 * longest) / 3),
        raises=rng.random() < 0.05,
        asks=asks,
        cancel_after=rng.uniform(0, seconds / 2) if rng.random() < 0.05 else None,
        key=rng.choice("ab") if rng.random() < 0.4 and kind >= 0.04 else None,
        size=size,
    )


def _depths(tree: Mapping[FQCN, float]) -> dict[FQCN, float]:
    """Return how many seconds each cell is away from the root."""
    depths: dict[FQCN, float] = {}
    for name, latency in tree.items():
        depths[name] = latency + (depths[name.parent] if name.parent is not None else 0.0)
    return depths


def _there_and_back(depths: Mapping[FQCN, float], origin: FQCN, destination: FQCN) -> float:
    """Return how many seconds a message and its answer need at most."""
    return 2.4 * (depths[origin] + depths[destination] - 2 * depths[origin.common_ancestor(destination)])
