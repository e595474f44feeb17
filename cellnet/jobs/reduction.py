"""Reductions: how the results of many sites become one, a partial result at each step up the client tree.

The law of this file: sums are float64 and are added in the order of the sites' names, whatever the order of
arrival, so a run is reproducible, and a tree differs from a flat run by rounding in the sixteenth digit only.

Only the name of a reduction travels. It is looked up in :data:`REDUCTIONS`; nothing is imported for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cellnet.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["REDUCTIONS", "Partial", "Reduction", "Update", "Weighted", "weighted_mean"]

# numpy is imported where it is used: a node carries jobs' bytes without having it


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """Return this from a task: the site's arrays, and how much they count (the number of examples, usually)."""

    arrays: Mapping[str, NDArray[Any]]
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Hold what :meth:`~cellnet.jobs.job.ServerJob.map_reduce` returns."""

    mean: dict[str, NDArray[Any]]
    """The weighted mean of the sites' arrays, in float64."""
    weight: float
    """The sum of all weights."""
    count: int
    """The number of sites that went into it."""


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """Hold what one step of the tree hands to the next: sums, not means, so that they can be added again."""

    sums: dict[str, NDArray[Any]]
    weight: float
    count: int

    def to_value(self) -> dict[str, Any]:
        """Return it as a payload."""
        return {"sums": self.sums, "weight": self.weight, "count": self.count}

    @classmethod
    def from_value(cls, value: Any) -> Partial:
        """Read what :meth:`to_value` made.

        :raises JobError: if it is malformed
        """
        import numpy as np

        match value:
            case {"sums": dict(sums), "weight": float(weight), "count": int(count)} if count > 0 and weight >= 0:
                arrays = all(isinstance(array, np.ndarray) and array.dtype == np.float64 for array in sums.values())
                if arrays and all(isinstance(name, str) for name in sums):
                    return cls(sums, weight, count)
        raise JobError("it is no partial result")


@dataclass(frozen=True, slots=True)
class Reduction:
    """Combine the results of sites by the weighted mean; the one reduction of the first slice."""

    name: str = field(default="weighted_mean")

    def lift(self, result: object) -> Partial:
        """Make the partial result of one site from what its task returned.

        :raises JobError: if that is no :class:`Weighted` with numeric arrays and a weight
        """
        import numpy as np

        if not isinstance(result, Weighted) or not isinstance(result.arrays, Mapping):
            raise JobError(f"the task returned {_kind(result)}: return Weighted(arrays, weight), arrays by name")
        weight = float(result.weight)
        if not math.isfinite(weight) or weight < 0:
            raise JobError(f"the task returned the weight {weight}: a finite number, not below 0, is wanted")
        sums = {}
        for name, array in result.arrays.items():
            values = np.asarray(array)
            if not isinstance(name, str) or values.dtype.kind not in "fiub":
                raise JobError(f"the task returned {name!r} as {values.dtype}: arrays of real numbers are wanted")
            sums[name] = values.astype(np.float64) * weight
        return Partial(sums, weight, 1)

    def add(self, parts: Iterable[tuple[str, Partial]]) -> Partial:
        """Add the partial results of *parts*, pairs of a site's name and its part, in the order of the names.

        :raises JobError: if their arrays differ in names or shapes, naming the site
        """
        (first, total), *rest = sorted(parts, key=lambda pair: pair[0])
        sums = {name: array.copy() for name, array in total.sums.items()}
        weight, count = total.weight, total.count
        for site, part in rest:
            if _shapes(part.sums) != _shapes(sums):
                raise JobError(
                    f"{site} returned arrays {_shapes(part.sums)}, {first} returned {_shapes(sums)}: "
                    "all sites must return the same names and shapes"
                )
            for name, array in part.sums.items():
                sums[name] += array
            weight += part.weight
            count += part.count
        return Partial(sums, weight, count)

    def finish(self, total: Partial) -> Update:
        """Make the update from the sum over all sites.

        :raises JobError: if all weights are 0
        """
        if total.weight == 0:
            raise JobError("all sites returned the weight 0: there is no mean")
        mean = {name: array / total.weight for name, array in total.sums.items()}
        return Update(mean, total.weight, total.count)


weighted_mean = Reduction()
"""The mean of the sites' arrays, each counted by its weight."""

REDUCTIONS: Mapping[str, Reduction] = MappingProxyType({weighted_mean.name: weighted_mean})
"""All that a message may name."""


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: arrays[name].shape for name in sorted(arrays)}


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
