"""The row about a relay that is gone for good, whose children have a second parent: F2."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import anyio

from tests.faults.bench import Bench, Verdict
from tests.faults.bulk import send_stream
from tests.faults.load import percentile

if TYPE_CHECKING:
    from cellnet import Cell
    from tests.faults.processes import Ran

__all__ = ["parent_killed_for_good", "parent_silent_for_good"]

MIB = 1 << 20
MOVED_SECONDS = {"killed": 2.0, "silent": 20.0}
"""How long after the last word of their parent all children must be below another."""
IN_FLIGHT = 100
RELAYS = ("R1", "R2")


async def parent_killed_for_good(bench: Bench) -> Verdict:
    """F2: a relay is killed and stays away; its children go to their second parent, and nothing is lost."""
    return await _gone(bench, "killed")


async def parent_silent_for_good(bench: Bench) -> Verdict:
    """F2: a relay stops to work, without a word; its children find out, and go to their second parent."""
    return await _gone(bench, "silent")


async def _gone(bench: Bench, how: str) -> Verdict:
    children = [f"C{number}" for number in range(1, int(bench.pick(20, 8, 2)) + 1)]
    size, transfers = int(bench.pick(512, 128, 1)) * MIB, int(bench.pick(2, 2, 0))
    bench.provision({**dict.fromkeys(RELAYS, "server"), **dict.fromkeys(children, RELAYS)})
    former, data = [f"R1.{name}" for name in children], bench.filler(size)
    digest, right = hashlib.blake2b(data).digest(), 0
    errors: list[str] = []
    moved: list[float] = []
    async with bench.cell("server") as (server, url), anyio.create_task_group() as tasks:
        relays = [await bench.start(name, connect=url, listens=True) for name in RELAYS]
        for name in children:
            await bench.start(name, connect=relays[0].url, others=[relays[1].url])
        await bench.settle(server, former)
        load, stop, within = bench.load(server), anyio.Event(), bench.pick(60, 60, 8)

        async def keep_asking() -> None:
            # The children ask each other, too: who moves asks on, and who asks follows who moved.
            await load.keep_asking(IN_FLIGHT, former, stop, within=within, handling=(0.2, 1.0), nested_share=0.3)

        async def transfer(destination: str, *, is_stream: bool) -> None:
            nonlocal right
            try:
                theirs = await (
                    send_stream(server, destination, data) if is_stream else _weigh(server, destination, data)
                )
            except (Exception, anyio.BrokenResourceError) as error:  # whatever an application would see
                errors.append(f"{type(error).__name__}: {error}")
                return
            right += theirs == digest

        async with anyio.create_task_group() as asking:
            asking.start_soon(keep_asking)
            await anyio.sleep(1)
            for number in range(2 * transfers):
                destination = former[number % len(former)]
                asking.start_soon(lambda to, odd: transfer(to, is_stream=odd), destination, number % 2 == 1)
            await anyio.sleep(0.3)
            began = time.monotonic()
            if how == "killed":
                relays[0].kill()
            else:
                relays[0].pause()
            with anyio.move_on_after(2 * MOVED_SECONDS[how]):
                await _note_moved(server, children, began, moved)
            await anyio.sleep(2)
            stop.set()
        tasks.cancel_scope.cancel()
        verdict = Verdict({f"{how}_children": len(children), f"{how}_transfers_right": right})
        verdict.judge(load, bench.processes, [_at_home(run, set(children)) for run in bench.processes.runs()])
    verdict.figures = {(key if key.startswith(how) else f"{how}_{key}"): said for key, said in verdict.figures.items()}
    verdict.figures[f"{how}_moved_seconds"] = last = percentile(moved, 1.0)
    verdict.demand(len(moved) == len(children), f"{len(children) - len(moved)} children did not move")
    verdict.demand(last is None or last <= MOVED_SECONDS[how], f"the last child moved after {last} s")
    verdict.demand_nothing_lost(load)
    verdict.demand(not errors, f"{len(errors)} transfers failed, such as: {errors[:1]}")
    verdict.demand(right == 2 * transfers, f"{2 * transfers - right} transfers did not come as they were sent")
    if how == "silent":
        relays[0].resume()
    return verdict


async def _note_moved(server: Cell, children: list[str], began: float, moved: list[float]) -> None:
    waiting = {f"R2.{name}" for name in children}
    while waiting:
        there = waiting & {str(member.fqcn) for member in server.members()}
        moved += [round(time.monotonic() - began, 2)] * len(there)
        waiting -= there
        await anyio.sleep(0.02)


async def _weigh(server: Cell, destination: str, data: memoryview) -> bytes:
    with anyio.fail_after(300):
        found: bytes = await server.request(destination, "weigh", data)
    return found


def _at_home(run: Ran, children: set[str]) -> Ran:
    """Return what ran as it was asked for: by the names that the children had first."""

    def home(name: str) -> str:
        relay, _, child = name.partition(".")
        return f"R1.{child}" if relay == "R2" and child in children else name

    return run._replace(where=home(run.where), asked_by=home(run.asked_by))
