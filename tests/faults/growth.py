"""How much memory processes came to need, at the most, beyond what they had."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.bench import Verdict

__all__ = ["MIB", "Growth"]

MIB = 1 << 20
_FORGET_PEAK = "5"
"""See clear_refs in proc_pid_clear_refs(5)."""


class Growth:
    """The memory of processes, from now on: that of each at its peak, which nobody needs to be there to see."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        for pid in self._pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)
        self._base = {name: _status_bytes(pid, "VmRSS") for name, pid in self._pids.items()}

    def peaks(self) -> dict[str, int]:
        """Return by how much each grew, at its peak."""
        return {name: _status_bytes(pid, "VmHWM") - self._base[name] for name, pid in self._pids.items()}

    def judge(self, verdict: Verdict, limits: Mapping[str, int], of: str = "") -> None:
        """Note by how much each grew, and demand that none grew by more than its limit.

        :param of: what it grew of, if a row has several such figures
        """
        for name, grown in self.peaks().items():
            verdict.figures[f"{name}_grew_{of}_mib" if of else f"{name}_grew_mib"] = round(grown / MIB, 1)
            said = f"{name} grew by {grown / MIB:.0f} MiB, not at most {limits[name] / MIB:.0f}"
            verdict.demand(grown <= limits[name], said)


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"process {pid} says nothing of {field}")
