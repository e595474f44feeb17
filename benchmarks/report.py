"""What was measured, for people and for programs: medians, ratios between what ran in turn, and their intervals."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.bench import Bench
    from benchmarks.contestants import Way
    from benchmarks.race import Run

__all__ = ["Line", "interval", "markdown"]

CONFIDENCE = 0.95


@dataclass
class Line:
    """All runs of one way through one bench, in the order of the rounds."""

    bench: Bench
    way: Way
    hops: int
    runs: list[Run] = field(default_factory=list)

    def median(self, figure: Callable[[Run], float]) -> float:
        """Return the median of a figure over the runs."""
        return statistics.median(figure(run) for run in self.runs)

    @property
    def peak_mib(self) -> dict[str, float]:
        """The median, over the runs, of the most memory of each role."""
        return {role: statistics.median(run.peak_mib[role] for run in self.runs) for role in self.runs[0].peak_mib}

    @property
    def grown_mib(self) -> dict[str, float]:
        """The same of what that is above the start."""
        return {role: statistics.median(run.grown_mib[role] for run in self.runs) for role in self.runs[0].grown_mib}

    def json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(
            {
                "bench": self.bench.name,
                "who": self.way.who.name,
                "driver": self.way.driver,
                "security": self.way.security,
                "hops": self.hops,
                "size": self.bench.size,
                "value": _short(self.median(lambda run: run.value)),
                "unit": self.bench.unit,
                "cpu_s_per_unit": _short(self.median(lambda run: run.cpu)),
                "relay_cpu_s_per_unit": _short(self.median(lambda run: run.relay_cpu)),
                "peak_rss_mb": _short(max(self.peak_mib.values())),
                "peak_rss_mb_by_role": {role: _short(mib) for role, mib in self.peak_mib.items()},
                "grown_mb_by_role": {role: _short(mib) for role, mib in self.grown_mib.items()},
                "runs": [_short(run.value) for run in self.runs],
            }
        )


def markdown(bench: Bench, lines: Sequence[Line]) -> str:
    """Return a table of one bench, and of how many times better the first contestant's ways are than the others'."""
    head = ("who", bench.unit, f"CPU s / {bench.cost}", "of it relays", *(f"peak MiB {role}" for role in ROLES))
    rows = [
        (
            str(line.way),
            _text(line.median(lambda run: run.value)),
            _text(line.median(lambda run: run.cpu)),
            _text(line.median(lambda run: run.relay_cpu)),
            *(_text(line.peak_mib[role]) if role in line.peak_mib else "-" for role in ROLES),
        )
        for line in lines
    ]
    parts = [f"### {bench.name}: {bench.what}", _table(head, rows)]
    if ratios := list(_ratios(lines)):
        parts.append(
            _table(("ours", "theirs", "times better", "CPU, times theirs", "relay's CPU, times theirs"), ratios)
        )
    return "\n\n".join(parts)


ROLES = ("server", "relay", "client")


def interval(ratios: Iterable[float]) -> tuple[float, float, float]:
    """Return the median, and an interval that holds the true one with at least 95 %, if there are six ratios or more.

    Those are two of the ratios themselves, of which the binomial distribution says how often the median lies outside;
    of fewer, the least and the greatest are returned.
    """
    ranked = sorted(ratios)
    count, below, outside = len(ranked), 0, 0.0
    while below < count // 2:
        outside += 2 * math.comb(count, below) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        below += 1
    cut = max(0, below - 1)
    return statistics.median(ranked), ranked[cut], ranked[count - 1 - cut]


def _ratios(lines: Sequence[Line]) -> Iterable[tuple[str, ...]]:
    """Compare each line of the first contestant with those of others, round by round."""
    ours = [line for line in lines if line.way.who is lines[0].way.who]
    for line in ours:
        for other in lines:
            if other not in ours and _are_alike(line, other):
                pairs = list(zip(line.runs, other.runs, strict=True))
                more = line.bench.more_is_better
                yield (
                    str(line.way),
                    str(other.way),
                    _interval(
                        mine.value / theirs.value if more else theirs.value / mine.value for mine, theirs in pairs
                    ),
                    _interval(mine.cpu / theirs.cpu for mine, theirs in pairs if theirs.cpu),
                    _interval(mine.relay_cpu / theirs.relay_cpu for mine, theirs in pairs if theirs.relay_cpu),
                )


def _are_alike(line: Line, other: Line) -> bool:
    """Whether to compare two: what is protected alike, over the same driver, and tcp with gRPC too."""
    mine, theirs = line.way, other.way
    is_alike = mine.security.split("+")[0] == theirs.security
    return is_alike and (mine.driver == theirs.driver or (mine.driver, theirs.driver) == ("tcp", "grpc"))


def _interval(ratios: Iterable[float]) -> str:
    known = list(ratios)
    if not known:
        return "-"
    median, low, high = interval(known)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _text(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
