"""The row about a hop that changes contents on their way: F19b."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import anyio

from tests.faults.bench import Bench, Verdict
from tests.faults.bulk import send_stream
from tests.faults.growth import MIB
from tests.faults.hostility import Hostility
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cellnet import Cell

__all__ = ["contents_altered"]

BELOW = ("C1", "C2", "C3", "C4")
"""Children of one relay, which has what they get of the hop above it."""


async def contents_altered(bench: Bench) -> Verdict:
    """F19b: a hop flips, truncates, exchanges and replays what passes of contents; nobody gets any of that."""
    size, rounds = int(bench.pick(64, 8, 4)) * MIB, int(bench.pick(8, 1, 3))
    bench.provision({"R1": "server", **dict.fromkeys(BELOW, "R1")})
    tried = Tried(bench.pick(300, 60, 15))
    deeds: Counter[str] = Counter()
    async with bench.cell("server") as (cell, url), Proxy(url, bench.rng, framed=True) as proxy:
        relay = await bench.start("R1", connect=proxy.url, listens=True)
        async with anyio.create_task_group() as starting:
            for name in BELOW:
                starting.start_soon(lambda name: bench.start(name, connect=relay.url), name)
        names = [f"R1.{name}" for name in BELOW]
        await bench.settle(cell, names)
        # A content that was altered too often is given up, so what is large is altered more rarely.
        often = 8 * MIB / size
        for way in (proxy.up, proxy.down):
            one = 0.01 * often
            way.hostility = Hostility(
                contents=True, flip=one, truncate=one / 2, splice=one / 2, duplicate=one, replay=0.05
            )
        for _ in range(rounds):
            await _transfer_all(bench, cell, names, size, tried)
        for way in (proxy.up, proxy.down):
            assert way.hostility is not None
            deeds += way.hostility.counts
            way.hostility = None
        refused = {"server": cell.statistics().contents_refused}
        for name in ("R1", *names):
            refused[name] = (await cell.request(name, "figures"))["contents_refused"]
    verdict = Verdict({"transfers": tried.count, "mib_each": size // MIB, "right": tried.right, "deeds": dict(deeds)})
    verdict.figures["contents_refused"] = refused
    failed = f"{len(tried.errors)} transfers failed, such as: {tried.errors[:1]}"
    verdict.demand(not tried.errors, failed)
    verdict.demand(not tried.altered, f"{len(tried.altered)} transfers came altered, such as: {tried.altered[:3]}")
    verdict.demand(tried.right == tried.count, f"{tried.count - tried.right} of {tried.count} did not come")
    harmed = deeds["flip"] + deeds["truncate"] + deeds["splice"]
    verdict.demand(harmed >= tried.count, f"only {harmed} frames were altered")
    told = f"{deeds.total()} frames were altered or repeated, and only {sum(refused.values())} were counted as refused"
    verdict.demand(sum(refused.values()) >= deeds["duplicate"] + deeds["replay"], told)
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict


class Tried:
    """What came of the transfers."""

    def __init__(self, seconds: float) -> None:
        """Begin with none.

        :param seconds: how long one may take
        """
        self.count = 0
        self.right = 0
        self.altered: list[str] = []
        self.errors: list[str] = []
        self._seconds = seconds

    async def one(self, what: str, count: int, transfer: Callable[[], Awaitable[list[bool]]]) -> None:
        """Run what transfers so many contents, and note what came of each."""
        self.count += count
        try:
            with anyio.fail_after(self._seconds):
                came = await transfer()
        except (Exception, anyio.BrokenResourceError) as error:  # whatever an application would see
            self.errors.append(f"{what}: {type(error).__name__}: {error}")
            return
        self.right += sum(came)
        self.altered += [what] * (len(came) - sum(came))


async def _transfer_all(bench: Bench, cell: Cell, names: list[str], size: int, tried: Tried) -> None:
    """Let contents of every kind pass the hop, at the same time: all but the answers go down."""
    payload, seed = bench.filler(size), bench.rng.getrandbits(32)
    digest = hashlib.blake2b(payload).digest()
    made = random.Random(seed).randbytes(size)

    async def request() -> list[bool]:
        return [await cell.request(names[0], "weigh", payload) == digest]

    async def stream() -> list[bool]:
        return [await send_stream(cell, names[1], payload) == digest]

    async def answer() -> list[bool]:
        return [await cell.request(names[2], "make", [seed, size]) == made]

    async def broadcast() -> list[bool]:
        async with cell.broadcast(names, "weigh", payload) as replies:
            return [reply.result() == digest async for reply in replies]

    async with anyio.create_task_group() as tasks:
        for what in (request, stream, answer):
            tasks.start_soon(tried.one, what.__name__, 1, what)
        tasks.start_soon(tried.one, "broadcast", len(names), broadcast)
