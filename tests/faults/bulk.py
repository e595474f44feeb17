"""Rows about large contents: F1b."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import anyio

from cellnet import Cell
from cellnet.drivers.sock import SockLink
from cellnet.drivers.tcp import TcpDriver
from tests.faults.bench import Bench, Verdict
from tests.faults.cell import credentials

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Buffer, Security

__all__ = ["relays_killed_below_transfers", "send_stream"]

MIB = 1 << 20
TRANSFERS = 4
"""Of each kind: requests with a large payload, and streams."""
AGAIN_BYTES = 16 * MIB
"""What may be sent again of each transfer for each kill."""
OVERHEAD = 1.002
"""Of frames and seals."""
PIECE_BYTES = 256 * 1024
TREE = {"R1": "server", "R2": "server", "C1": "R1", "C2": "R2"}
"""The sender joins R1: what it sends to C2 crosses both relays and the server."""


async def relays_killed_below_transfers(bench: Bench) -> Verdict:
    """F1b: each of two relays is killed again and again, while large payloads and streams are under way."""
    size, kills = int(bench.pick(1024, 128, 24)) * MIB, int(bench.pick(5, 5, 1))
    bench.provision({**TREE, "A": "R1"})
    cells = await bench.start_tree(TREE)
    driver = CountedTcp()
    kit = bench.kit("A")
    _, connecting = credentials(None if kit is None else str(kit))
    data = bench.filler(size + 2 * TRANSFERS)
    killed, right = 0, 0
    errors: list[str] = []

    async def kill(name: str, rng: random.Random) -> None:
        nonlocal killed
        for _ in range(kills):
            await anyio.sleep(rng.uniform(0.2, bench.pick(4, 1, 0.3)))
            cells[name].kill()
            await cells[name].start()
            killed += 1

    async def transfer(number: int, *, is_stream: bool) -> None:
        nonlocal right
        ours = data[number : number + size]
        try:
            theirs = await (send_stream(cell, "R2.C2", ours) if is_stream else cell.request("R2.C2", "weigh", ours))
        except (Exception, anyio.BrokenResourceError) as error:  # whatever an application would see
            errors.append(f"{type(error).__name__}: {error}")
            return
        digest = await anyio.to_thread.run_sync(lambda: hashlib.blake2b(ours).digest())
        right += theirs == digest

    async with Cell("A", drivers={"tcp": driver}, request_seconds=600) as cell:
        await cell.connect(cells["R1"].url, connecting, security="clear")
        await bench.settle(cell, ["R2.C2"])
        async with anyio.create_task_group() as tasks:
            for name in ("R1", "R2"):
                tasks.start_soon(kill, name, random.Random(bench.rng.random()))
            for number in range(2 * TRANSFERS):
                tasks.start_soon(lambda number: transfer(number, is_stream=number % 2 == 0), number)
        statistics = cell.statistics()
    again = max(0, int(driver.sent - 2 * TRANSFERS * size * OVERHEAD)) / (2 * TRANSFERS * killed)
    verdict = Verdict(
        {
            "transfers": 2 * TRANSFERS,
            "mib_each": size // MIB,
            "kills": killed,
            "right": right,
            "again_mib_per_transfer_and_kill": round(again / MIB, 2),
        }
    )
    verdict.demand(not errors, f"{len(errors)} transfers failed, such as: {errors[:1]}")
    verdict.demand(right == 2 * TRANSFERS, f"{2 * TRANSFERS - right} transfers did not come as they were sent")
    verdict.demand(again <= AGAIN_BYTES, f"{again / MIB:.1f} MiB were sent again of each transfer for each kill")
    verdict.demand(statistics.pending == 0, f"{statistics.pending} answers are awaited at the end")
    verdict.wrong += (f"it crashed: {said}" for said in bench.processes.crashed())
    return verdict


async def send_stream(cell: Cell, destination: str, data: memoryview) -> bytes:
    """Send bytes as a stream; return what the far cell says their digest is."""
    async with cell.open_stream(destination, "weigh") as stream:
        for start in range(0, len(data), PIECE_BYTES):
            await stream.send(bytes(data[start : start + PIECE_BYTES]))
        await stream.send_eof()
        return await stream.receive()


class CountedTcp(TcpDriver):
    """TCP that counts what it sends, over all links."""

    def __init__(self) -> None:
        self.sent = 0

    async def connect(self, address: Address, security: Security) -> SockLink:
        link = await super().connect(address, security)
        return CountedLink(link, self)


class CountedLink(SockLink):
    """A socket that counts what it sends."""

    def __init__(self, link: SockLink, driver: CountedTcp) -> None:
        self.__dict__.update(link.__dict__)
        self._counting = driver

    def _send_once(self, pending: list[Buffer]) -> list[Buffer]:
        before = sum(len(buffer) for buffer in pending)
        left = super()._send_once(pending)
        self._counting.sent += before - sum(len(buffer) for buffer in left)
        return left
