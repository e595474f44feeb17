"""Who takes part, in which benches, over what, and where its interpreter is."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.bench import Bench

__all__ = ["CONTESTANTS", "Contestant", "Way"]

PEERS = Path(__file__).parents[1] / ".bench"
"""Environments of peers, which ``make bench-peers`` makes."""
CLEAR = ("clear",)
MUTUAL = ("clear", "mtls")


@dataclass(frozen=True)
class Way:
    """One contestant over one driver in one mode of security: what a line of the table is about."""

    who: Contestant
    driver: str
    security: str

    def __str__(self) -> str:
        return f"{self.who.name} {self.driver} {self.security}"


@dataclass(frozen=True)
class Contestant:
    """One library, or what is closest to the system."""

    name: str
    actor: str
    """The program of its processes, in ``actors``."""
    ways: Mapping[str, tuple[str, ...]]
    """The modes of security by driver."""
    benches: tuple[str, ...]
    environment: str = ""
    """Which of :data:`PEERS` it lives in; empty for ours."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """How much of a bench's work it does, where all of it would take minutes."""

    @property
    def interpreter(self) -> Path:
        """What runs it."""
        return PEERS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def program(self) -> Path:
        """What is run."""
        return Path(__file__).parent / "actors" / f"{self.actor}.py"

    def ways_of(self, bench: Bench) -> Iterator[Way]:
        """Yield how it takes part in a bench."""
        if bench.name in self.benches:
            for driver, modes in self.ways.items():
                for security in modes:
                    if security == "clear" or bench.name not in ("broadcast", "scale"):
                        yield Way(self, driver, security)


ALL = ("rtt", "requests", "bulk", "stream", "broadcast", "scale")
RAW = ("rtt", "requests", "bulk", "stream")
CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("cellnet", "cells", dict.fromkeys(("tcp", "grpc", "http"), (*MUTUAL, "mtls+sealed")), ALL),
        Contestant(
            "nvflare-core",
            "nvflare_core",
            {"tcp": MUTUAL, "grpc": MUTUAL, "http": CLEAR},
            ("rtt", "requests", "scale"),
            environment="nvflare",
            shares={"rtt": 0.2, "requests": 0.1},
        ),
        Contestant(
            "nvflare-cell",
            "nvflare_cell",
            {"tcp": MUTUAL, "grpc": MUTUAL, "http": CLEAR},
            ("rtt", "requests", "bulk", "broadcast"),
            environment="nvflare",
            shares={"rtt": 0.05, "requests": 0.02},
        ),
        Contestant("grpc.aio", "grpc_aio", {"grpc": MUTUAL}, RAW, shares={"requests": 0.2}),
        Contestant("zmq", "zeromq", {"tcp": CLEAR}, RAW, environment="zmq"),
        Contestant("asyncio", "asyncio_protocol", {"tcp": MUTUAL}, RAW),
        Contestant("sockets", "sockets", {"tcp": MUTUAL}, RAW),
    )
}
