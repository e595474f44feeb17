"""What is measured: the benches, and how to read what their processes said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BENCHES", "Bench"]

GB = 1e9
MIB = 1 << 20


@dataclass(frozen=True)
class Bench:
    """One kind of work, of which every contestant does the same amount in each round, or its share of it."""

    name: str
    what: str
    unit: str
    """Of the value that is compared: seconds of some kind are the better for being less, rates for being more."""
    cost: str
    """For what the processor time is given."""
    size: int
    """Bytes of each payload."""
    count: int = 1
    """How many of them."""
    in_flight: int = 1
    cells: int = 1
    """How many cells the process of the clients holds, or each of two such processes below a relay of its own."""
    relays: int = 1
    """How many relays there are below the server, if there are any."""
    is_fanned: bool = False
    """Whether there are two processes of relays and two of clients, and the server measures."""

    @property
    def more_is_better(self) -> bool:
        """Whether the higher value wins."""
        return self.unit.endswith("/s")

    def scaled(self, share: float) -> Bench:
        """Return a bench of less work, for whoever is slow, or in a hurry."""
        return replace(self, count=max(50, int(self.count * share))) if self.count > 1 else self

    def value(self, said: Mapping[str, float]) -> float:
        """Return what is compared."""
        if self.name == "rtt":
            return said["p50_us"]
        if self.name == "requests":
            return self.count / said["seconds"]
        if self.unit == "GB/s":
            return self.count * self.size / GB / said["seconds"]
        return said["seconds"]

    @property
    def units(self) -> float:
        """How many units of :attr:`cost` one run is."""
        if self.cost == "1,000 requests":
            return self.count / 1000
        if self.cost == "GB":
            return self.count * self.size / GB
        return 1.0


BENCHES = {
    bench.name: bench
    for bench in (
        Bench("rtt", "one request after the other", "us", "1,000 requests", size=100, count=5000),
        Bench("requests", "64 requests at a time", "1/s", "1,000 requests", size=100, count=50_000, in_flight=64),
        Bench("bulk", "an array, received into fresh memory", "GB/s", "GB", size=1024 * MIB),
        Bench("stream", "a stream, received into memory that is used again", "GB/s", "GB", size=1024 * MIB),
        Bench(
            "broadcast",
            "ten mebibytes to 50 cells below 2 relays",
            "s",
            "broadcast",
            size=10 * MIB,
            cells=25,
            is_fanned=True,
        ),
        Bench("scale", "a thousand clients join below 10 relays", "s", "1,000 cells", size=1, cells=1000, relays=10),
    )
}
