"""What a process of a contest is told and says. It needs the standard library only, as peers live elsewhere.

A process gets its part as JSON in its one argument. It says that it is ready, in one line of JSON which may hold the
``urls`` that others connect to. Who measures then waits for a line on its standard input, does the work, and says what
it measured. All stay until their standard input ends. What they spend and hold is read from outside.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KITS = {"server": "server", "relay": "R1", "client": "C1"}
"""The kit of each role; its name is the common name of its certificates."""


@dataclass(frozen=True)
class Part:
    """One process's part in one run."""

    bench: str
    """``rtt``, ``requests``, ``bulk``, ``stream``, ``broadcast`` or ``scale``."""
    role: str
    """``server``, ``relay`` (below the server), ``client`` (below the relay, or the server if there is none)."""
    driver: str
    security: str
    size: int
    """Bytes of each payload."""
    count: int
    """How many payloads are sent one after the other, in all."""
    in_flight: int
    """How many of them at a time."""
    cells: int
    """How many cells of its role this process holds, in ``broadcast`` and ``scale``."""
    number: int
    """Which process of its role this is, from 1."""
    urls: tuple[str, ...]
    """Where to connect: what the process above it said. Only relays of ``scale`` are several in one process."""
    kits: str
    """Where the kits are, with certificates for where security asks for them."""

    @property
    def roots(self) -> Path:
        """Whom to trust, in PEM."""
        return Path(self.kits) / KITS[self.role] / "startup" / "rootCA.pem"

    def pair(self, use: str) -> tuple[Path, Path]:
        """Return certificate and key, in PEM, of a process that listens, as a ``server``, or dials, as a ``client``."""
        startup = Path(self.kits) / KITS[self.role] / "startup"
        return startup / f"{use}.crt", startup / f"{use}.key"


def part() -> Part:
    """Return the part of this process."""
    return Part(**json.loads(sys.argv[1]))


def say(**figures: Any) -> None:
    """Say a line: that this process is ready, or what it measured."""
    print(json.dumps(figures), flush=True)


def hear() -> bool:
    """Wait for the word to begin; False at the end."""
    return bool(sys.stdin.readline())


async def heard() -> bool:
    """The same, beside an event loop of asyncio."""
    return await asyncio.get_running_loop().run_in_executor(None, hear)
