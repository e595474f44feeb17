"""Cells as processes of their own, which can be killed, stopped, ended and started again at the same port."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import anyio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["CellProcess", "Processes", "Ran", "free_url"]

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
END_SECONDS = 15.0
LOW_PRIORITY = 19
MAX_LINE_BYTES = 64 * 1024


class Ran(NamedTuple):
    """A request that began to run."""

    at: float
    """On the monotonic clock."""
    number: str
    where: str
    asked_by: str


@dataclass
class CellProcess:
    """One process: running, or dead and to be started again."""

    config: dict[str, Any]
    said_path: Path
    """Where its standard error goes."""
    fqcn: str = ""
    ready_at: float = 0.0
    """When it had joined and listened, on the monotonic clock, by its own account."""
    died_at: list[float] = field(default_factory=list)
    """When it was killed."""
    _process: subprocess.Popen[bytes] | None = None
    _unread: bytes = b""

    @property
    def name(self) -> str:
        """What it was started as."""
        name: str = self.config["name"]
        return name

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self.config["listen"] is not None, f"{self.name} does not listen"
        url: str = self.config["listen"]
        return url

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it has joined and listens."""
        with self.said_path.open("ab") as said:
            # A group of its own: Ctrl-C is for whoever started it, who ends it then.
            self._process = subprocess.Popen(  # noqa: ASYNC220  # as short as a fork is
                [sys.executable, "-m", "tests.faults.cell"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=ROOT,
                bufsize=0,
                process_group=0,
            )
        self._unread = b""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self.config).encode() + b"\n")
        said_ready = await self.line(START_SECONDS)
        self.fqcn, self.ready_at = said_ready["fqcn"] or self.name, said_ready["at"]

    async def line(self, seconds: float) -> dict[str, Any]:
        """Wait for the next line that it prints."""
        assert self._process is not None
        assert self._process.stdout is not None
        with anyio.move_on_after(seconds):
            while b"\n" not in self._unread:
                await anyio.wait_readable(self._process.stdout)
                data = os.read(self._process.stdout.fileno(), MAX_LINE_BYTES)
                if not data:
                    raise RuntimeError(f"{self.name} ended: {self.complaints() or 'it said nothing'}")
                self._unread += data
            line, _, self._unread = self._unread.partition(b"\n")
            read: dict[str, Any] = json.loads(line)
            return read
        raise TimeoutError(f"{self.name} printed nothing in {seconds:.0f} s: {self.complaints()}")

    def kill(self) -> None:
        """Kill it at once."""
        self.signal(signal.SIGKILL)
        self.died_at.append(time.monotonic())
        self._reap()

    def give_way(self) -> None:
        """Let other processes run first, as a cell on another machine would: it takes no processor from them."""
        for thread in self.threads():  # those that these start are as they are
            os.setpriority(os.PRIO_PROCESS, thread, LOW_PRIORITY)

    def threads(self) -> list[int]:
        """Return the ids of its threads."""
        return [int(folder.name) for folder in Path(f"/proc/{self.pid}/task").iterdir()]

    def pause(self) -> None:
        """Stop it, in the middle of whatever it does."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def terminate(self) -> int:
        """Ask it to end; return its exit code, -9 if it had to be killed."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        with anyio.move_on_after(END_SECONDS):
            while self._process.poll() is None:
                await anyio.sleep(0.01)
        self._reap()
        return self._process.returncode

    def runs(self) -> list[Ran]:
        """Return when which request began to run here, in order, and in which cell."""
        return _runs(self.config["log"])

    def begun(self) -> list[Ran]:
        """Return when which durable handler began here, each time, in order, and in which cell."""
        return _runs(self.config["begun"])

    def effects(self) -> list[Ran]:
        """Return what durable handlers have done here for good: when which request began to run, and in which cell."""
        if self.config["journal"] is None:
            return []
        with closing(sqlite3.connect(self.config["journal"])) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone():
                return []
            found = connection.execute("SELECT at, number, cell, origin FROM effects ORDER BY at")
            return [Ran(*row) for row in found]

    def dials(self) -> list[float]:
        """Return when one of its many light cells dialled, on the monotonic clock."""
        path = Path(self.config["dials"])
        return [float(line) for line in path.read_text().split()] if path.exists() else []

    def complaints(self) -> str:
        """Return the end of its standard error."""
        return self.said_path.read_text(errors="replace")[-2000:].strip()

    def crashed(self) -> bool:
        """Whether it ever printed a traceback, or the interpreter itself broke."""
        said = self.said_path.read_text(errors="replace")
        return "Traceback" in said or "Fatal Python error" in said

    def _reap(self) -> None:
        """End it, whatever it does, and give back its pipes."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()  # a stopped process, too
        process.wait(END_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class Processes:
    """Starts processes, and ends what it started when its block ends, whatever happened in it."""

    def __init__(
        self, folder: Path, *, backend: str = "asyncio", plant: str | None = None, scheme: str = "tcp"
    ) -> None:
        """Put what they write into *folder*, which is somebody else's to remove.

        :param scheme: of the links between them
        :param plant: the bug that all of them have
        """
        self.folder = folder
        self.scheme = scheme
        self._plant = plant
        self._backend = backend
        self.started: list[CellProcess] = []
        self._numbers = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End what runs, and forget it."""
        for process in self.started:
            process._reap()
        self.started.clear()

    async def start(
        self,
        name: str,
        *,
        connect: str | None = None,
        others: Sequence[str] = (),
        listen: str | None = None,
        kit: Path | None = None,
        names: list[str] | None = None,
        expect: int = 0,
        journal: bool = False,
        files: bool = False,
    ) -> CellProcess:
        """Start a cell; return when it has joined and listens.

        :param others: whom it joins while it cannot join that one
        :param kit: where its kit is; of many light cells, where all kits are
        :param journal: whether it has one, and a durable handler
        :param files: whether it keeps files that come
        :param names: many light cells are to run in the process instead of one
        :param expect: it prints another line when so many cells are present below it
        """
        number = next(self._numbers)
        config = {
            "name": name,
            "connect": connect,
            "others": list(others),
            "listen": listen,
            "kit": None if kit is None else str(kit),
            "names": names or [],
            "expect": expect,
            "backend": self._backend,
            "plant": self._plant,
            "log": str(self.folder / f"{number}-{name}.log"),
            "begun": str(self.folder / f"{number}-{name}.begun"),
            "dials": str(self.folder / f"{number}-{name}.dials"),
            "journal": str(self.folder / f"{number}-{name}.db") if journal else None,
            "files": str(self.folder) if files else None,
        }
        process = CellProcess(config, self.folder / f"{number}-{name}.err")
        self.started.append(process)
        await process.start()
        return process

    def runs(self) -> list[Ran]:
        """Return what began to run, in order of time; of durable ones, if it has an effect."""
        return sorted(run for process in self.started for run in (*process.runs(), *process.effects()))

    def crashed(self) -> list[str]:
        """Return what those who printed a traceback said last."""
        return [f"{process.name}: {process.complaints()}" for process in self.started if process.crashed()]


def _runs(path: str) -> list[Ran]:
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return [Ran(float(now), number, where, origin) for number, now, where, origin in (line.split() for line in lines)]


def free_url(scheme: str = "tcp") -> str:
    """Return a URL at which nobody listens, and where no socket that dials will ever be.

    The kernel gives dialling sockets a port from a range. If a server's port were in it, a child that dials while
    the server is away could be connected to itself, and the server could not come back.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = SystemRandom().randrange(10000, max(10100, lowest))
        with socket.socket() as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return f"{scheme}://127.0.0.1:{port}"
