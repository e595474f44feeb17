"""One run of one bench: processes in a row, told to begin, and watched from outside."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.actors.part import Part

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.contestants import Way

__all__ = ["RaceFailed", "Run", "run"]

MIB = 1 << 20
LEAVE_SECONDS = 5.0
LIMIT_SECONDS = 300.0
"""A process that takes longer is stuck, and is killed."""


class RaceFailed(Exception):
    """A process ended, or said something else, before it was done."""


@dataclass(frozen=True)
class Run:
    """What one run measured."""

    value: float
    cpu: float
    """Seconds of processor time of all processes together, for each unit of the bench's cost."""
    relay_cpu: float
    """Of that, the relays'."""
    peak_mib: dict[str, float]
    """The most memory that the process of a role had while it worked, the largest of each role."""
    grown_mib: dict[str, float]
    """How much that is above what it had when it began."""


def run(way: Way, bench: Bench, hops: int, kits: Path) -> Run:
    """Start all processes, let them work, and end them.

    :param hops: 1 without a relay, 2 with one between the clients and the server
    :param kits: the folder with those of ``server``, ``R1`` and ``C1``
    :raises RaceFailed: if they do not do it
    """
    bench = bench.scaled(way.who.shares.get(bench.name, 1.0))
    with ExitStack() as ending:
        racers = _started(way, bench, hops, kits, ending)
        measuring = racers[0] if bench.is_fanned else racers[-1]
        if bench.cost == "GB":
            _touch(bench.size)
        before = [racer.look(begin=True) for racer in racers]
        measuring.tell()
        said = measuring.heard()
        after = [racer.look() for racer in racers]
    spent = [now.cpu - then.cpu for then, now in zip(before, after, strict=True)]
    of_relays = sum(cpu for racer, cpu in zip(racers, spent, strict=True) if racer.role == "relay")
    roles = {racer.role for racer in racers}
    return Run(
        value=bench.value(said),
        cpu=sum(spent) / bench.units,
        relay_cpu=of_relays / bench.units,
        peak_mib={
            role: max(look.peak for r, look in zip(racers, after, strict=True) if r.role == role) for role in roles
        },
        grown_mib={
            role: max(
                now.peak - then.resident
                for racer, then, now in zip(racers, before, after, strict=True)
                if racer.role == role
            )
            for role in roles
        },
    )


def _touch(size: int) -> None:
    """Use so much memory and give it back.

    A virtual machine may have to ask its host for memory that was not used for some seconds, which takes longer than
    to receive into it. Now the kernel has enough that it need not ask for, whoever's turn it is.
    """
    np.ones(size + size // 4, "u1")


@dataclass(frozen=True)
class _Look:
    cpu: float
    resident: float
    peak: float


def _started(way: Way, bench: Bench, hops: int, kits: Path, ending: ExitStack) -> list[_Racer]:
    """Start the processes from the server down, each when that above it is ready."""
    racers: list[_Racer] = []

    def start(role: str, number: int, cells: int, urls: list[str]) -> list[str]:
        part = Part(
            bench=bench.name,
            role=role,
            driver=way.driver,
            security=way.security,
            size=bench.size,
            count=bench.count,
            in_flight=bench.in_flight,
            cells=cells,
            number=number,
            urls=tuple(urls),
            kits=str(kits),
        )
        errors = ending.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # `ending` closes it, after the process that writes there
        racers.append(_Racer(way, part, errors))
        ending.callback(racers[-1].end)
        return list(racers[-1].heard().get("urls", []))

    above = start("server", 1, bench.cells if bench.is_fanned else 1, [])
    for number in (1, 2) if bench.is_fanned else (1,):
        urls = start("relay", number, bench.relays, above) if hops > 1 else above
        start("client", number, bench.cells, urls)
    return racers


class _Racer:
    """One process."""

    def __init__(self, way: Way, part: Part, errors: Any) -> None:
        self.role = part.role
        self._name = f"{way}: {part.bench}: {part.role} {part.number}"
        self._errors = errors
        self.process = subprocess.Popen(
            [way.who.interpreter, way.who.program, json.dumps(asdict(part))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        self._watched = psutil.Process(self.process.pid)
        self._limit = threading.Timer(LIMIT_SECONDS, self.process.kill)
        self._limit.start()

    def heard(self) -> dict[str, Any]:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        try:
            said = json.loads(line)
        except ValueError:
            self._errors.seek(0)
            told = self._errors.read().decode(errors="replace").strip()[-2000:] or "nothing"
            raise RaceFailed(f"{self._name} said {line!r}, and on standard error {told}") from None
        assert isinstance(said, dict)
        return said

    def tell(self) -> None:
        """Say that it is time."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def look(self, *, begin: bool = False) -> _Look:
        """Read what it spent and holds; its peak is counted from where it is looked at with *begin*."""
        if begin:
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        times = self._watched.cpu_times()
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return _Look(
            times.user + times.system,
            int(lines["VmRSS"].split()[0]) / 1024,
            int(lines["VmHWM"].split()[0]) / 1024,
        )

    def end(self) -> None:
        """Let it go, or make it."""
        assert self.process.stdin is not None
        self._limit.cancel()
        self.process.stdin.close()
        try:
            self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
