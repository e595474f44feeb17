"""Walk a tree that is given as every node's parent, and find where it is none."""

from __future__ import annotations

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["circle", "walk"]


def walk(above: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Return the nodes, every parent before its children, and the cycles, each from its first node on.

    A parent that is no key of *above* is a root. Nodes of a cycle, and those below one, are in no order.
    """
    below: dict[str, list[str]] = defaultdict(list)
    for name, parent in above.items():
        below[parent].append(name)
    order = [name for root in below if root not in above for name in below[root]]
    for name in order:  # the list grows while it is walked: no recursion, however deep the tree
        order.extend(below[name])
    cycles = []
    settled = set(order)
    for start in above:
        steps: dict[str, None] = {}
        name = start
        while name not in settled and name not in steps:
            steps[name] = None
            name = above[name]
        if name in steps:
            path = list(steps)
            cycles.append(path[path.index(name) :])
        settled.update(steps)
    return order, cycles


def circle(above: Mapping[str, Sequence[str]]) -> list[str]:
    """Return nodes of which each may be below the next, and the last below the first; none if there is no such circle.

    :param above: of each node, all that it may be below; who is no key of it is below nobody
    """
    try:
        TopologicalSorter(above).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][:0:-1]  # from above to below, and the first once more in the end
        first = min(map(list(above).index, found))
        start = found.index(list(above)[first])
        return found[start:] + found[:start]
    return []
