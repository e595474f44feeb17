"""What a row works with: processes in a tree, cells of its own, and a verdict to reach."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import numpy as np

from cellnet import Cell
from cellnet.errors import CellError
from cellnet.simulation.history import Outcome
from provisioning import Lock, provision
from tests.faults.cell import credentials
from tests.faults.load import Load
from tests.faults.processes import free_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from tests.faults.processes import CellProcess, Processes, Ran

__all__ = ["Bench", "Row", "Size", "Verdict"]

BACK_SECONDS = 10.0
"""How long after a fault the last cell may need to answer again."""
MAX_VIOLATIONS = 3
"""That are told in full."""


class Size(IntEnum):
    """How large the numbers of a row are."""

    FULL = 0
    """As they are promised."""
    QUICK = 1
    """All rows in ten minutes."""
    LEAST = 2
    """So that a planted bug is seen in seconds."""


@dataclass
class Verdict:
    """What a row found."""

    figures: dict[str, object] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What is not as it must be; empty if the row passed."""

    @property
    def passed(self) -> bool:
        """Whether all is as it must be."""
        return not self.wrong

    def add(self, other: Verdict) -> None:
        """Take what another part of the row found."""
        self.figures |= other.figures
        self.wrong += other.wrong

    def demand(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong if something does not hold."""
        if not holds:
            self.wrong.append(otherwise)

    def judge(self, load: Load, processes: Processes, runs: list[Ran] | None = None) -> None:
        """Take what ran into the history of what was asked, and note what the two have against each other.

        :param runs: what ran, if it is not to be taken as it stands in the processes' logs
        """
        violations = load.close(processes.runs() if runs is None else runs)
        self.figures |= {
            "requests": len(load.asked),
            "not_ok": load.not_ok(),
            "run_twice": load.run_twice(),
            **{outcome.value.replace(" ", "_"): count for outcome in Outcome if (count := load.count(outcome))},
            "violations": len(violations),
        }
        if violations:
            self.wrong.append(f"{len(violations)} violations, such as: " + "; ".join(violations[:MAX_VIOLATIONS]))
        self.wrong += (f"it crashed: {said}" for said in processes.crashed())

    def demand_nothing_lost(self, load: Load) -> None:
        """Demand that every request ended well."""
        self.demand(not load.not_ok(), f"{load.not_ok()} requests did not end well: " + "; ".join(load.errors()))


@dataclass
class Bench:
    """The surroundings of one row."""

    processes: Processes
    rng: random.Random
    size: Size
    with_credentials: bool
    kits: Path | None = None

    def pick(self, full: float, quick: float, least: float) -> float:
        """Return the number of this run's size."""
        return (full, quick, least)[self.size]

    def filler(self, size: int) -> memoryview:
        """Return so many bytes drawn by lot: `randbytes` takes seconds for what is large, and no more than 256 MiB."""
        return memoryview(np.random.default_rng(self.rng.getrandbits(64)).integers(0, 256, size, np.uint8))

    def file(self, size: int) -> Path:
        """Return a file of so many bytes drawn by lot."""
        path = self.processes.folder / f"{size}.bin"
        path.write_bytes(self.filler(size))
        return path

    def provision(self, parents: Mapping[str, str | Sequence[str]]) -> None:
        """Make kits for these cells and the server, if there are to be credentials.

        :param parents: the cells' names, and the name of what each joins, or several in their order
        """
        if not self.with_credentials:
            return
        folder = Path(tempfile.mkdtemp(dir=self.processes.folder))
        (folder / "project.yml").write_text(_project(parents))
        provision(folder / "project.yml", folder / "kits", Lock.of_file(folder / "lock", create=True))
        self.kits = folder / "kits"

    def kit(self, name: str) -> Path | None:
        """Return the kit of a cell, if it has one."""
        return None if self.kits is None else self.kits / name

    async def start(
        self,
        name: str,
        *,
        connect: str | None = None,
        others: Sequence[str] = (),
        listens: bool = False,
        expect: int = 0,
        journal: bool = False,
    ) -> CellProcess:
        """Start a cell of its own process; its port stays the same over restarts."""
        listen = free_url(self.processes.scheme) if listens else None
        return await self.processes.start(
            name, connect=connect, others=others, listen=listen, kit=self.kit(name), expect=expect, journal=journal
        )

    async def start_many(self, names: Sequence[str], connect: str) -> CellProcess:
        """Start one process with a light cell of each of these names."""
        return await self.processes.start(f"{names[0]}-{names[-1]}", connect=connect, kit=self.kits, names=list(names))

    async def start_tree(
        self,
        parents: Mapping[str, str],
        server: str | None = None,
        *,
        journals: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> dict[str, CellProcess]:
        """Start the server and these cells, all at once: who dials too early dials again. Return them by name.

        :param server: the URL of a server that runs already
        :param journals: the cells that have one
        :param files: the cells that keep files that come
        """
        urls = {
            name: free_url(self.processes.scheme)
            for name in ("server", *parents)
            if name == "server" or name in parents.values()
        }
        started: dict[str, CellProcess] = {}

        async def start(name: str, connect: str | None) -> None:
            has = {"journal": name in journals, "files": name in files}
            started[name] = await self.processes.start(
                name, connect=connect, listen=urls.get(name), kit=self.kit(name), **has
            )

        async with anyio.create_task_group() as starting:
            if server is None:
                starting.start_soon(start, "server", None)
            else:
                urls["server"] = server
            for name, parent in parents.items():
                starting.start_soon(start, name, urls[parent])
        return started

    @asynccontextmanager
    async def cell(self, name: str, connect: str | None = None) -> AsyncGenerator[tuple[Cell, str]]:
        """Run a cell in this process: the server, at a URL that is given too, or one that joins a parent."""
        kit = self.kit(name)
        listening, connecting = credentials(None if kit is None else str(kit))
        async with Cell(name) as cell:
            url = ""
            if connect is None:
                url = await cell.listen(free_url(self.processes.scheme), listening, security="clear")
            else:
                await cell.connect(connect, connecting, security="clear")
            yield cell, url

    @staticmethod
    async def settle(cell: Cell, names: Sequence[str]) -> None:
        """Wait until these cells answer: a cell has joined before those far above it know of it.

        :raises TimeoutError: if one never does
        """
        if missing := await _unanswered(cell, names, BACK_SECONDS):
            raise TimeoutError(f"there is no answer from {', '.join(missing)}")

    @staticmethod
    async def demand_answers(verdict: Verdict, cell: Cell, names: Sequence[str]) -> None:
        """Demand that these cells answer soon, and note after how many seconds the last one did."""
        began = time.monotonic()
        missing = await _unanswered(cell, names, 3 * BACK_SECONDS)
        seconds = round(time.monotonic() - began, 2)
        verdict.figures["all_back_seconds"] = seconds
        verdict.demand(not missing, f"there is no answer after {seconds} s from {', '.join(missing)}")
        verdict.demand(bool(missing) or seconds <= BACK_SECONDS, f"not all are back before {seconds} s")

    def load(self, cell: Cell) -> Load:
        """Return what asks from *cell*."""
        return Load(cell, random.Random(self.rng.random()))


Row = Callable[[Bench], Awaitable[Verdict]]
"""Runs one row; what it raises is a failed row, too."""


async def _unanswered(cell: Cell, names: Sequence[str], seconds: float) -> list[str]:
    """Ask each cell until it answers; return those that did not in so many seconds."""
    missing = list(names)
    with anyio.move_on_after(seconds):
        while missing:
            try:
                with anyio.fail_after(1):
                    await cell.request(missing[0], "figures")
                del missing[0]
            except (CellError, TimeoutError):
                await anyio.sleep(0.05)
    return missing


def _project(parents: Mapping[str, str | Sequence[str]]) -> str:
    lines = [
        "api_version: 3",
        "name: faults",
        "scheme: tcp",
        "connection_security: clear",
        "participants:",
        "  - {name: server, type: server, org: x, fed_learn_port: 8002, default_host: localhost}",
    ]
    listed = {name: [above] if isinstance(above, str) else list(above) for name, above in parents.items()}
    for port, (name, above) in enumerate(listed.items(), 8100):
        to = ", connect_to: [" + ", ".join(f"{{name: {one}}}" for one in above) + "]"
        if any(name in others for others in listed.values()):
            listening = f", listening_host: {{default_host: localhost, port: {port}}}"
            lines.append(f"  - {{name: {name}, type: relay, org: x{to}{listening}}}")
        else:
            lines.append(f"  - {{name: {name}, type: client, org: x{to}}}")
    return "\n".join(lines) + "\n"
