"""Rows about neighbours that say nothing, and links that come and go: F7, F16."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from tests.faults.bench import Bench, Size, Verdict
from tests.faults.cell import descriptors, tasks
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    import random

    from cellnet import Cell
    from tests.faults.load import Load
    from tests.faults.processes import CellProcess

__all__ = ["flapping_link", "silent_neighbours", "stopped_receiver"]

FOUND_SECONDS = 15.0
IN_FLIGHT = 20
SILENT = {"R2": True, "R3": False}
"""Relays whose links swallow what goes up, and whether also what comes down."""
MIB = 1 << 20
MANY, FILLER_BYTES = 400, 60 * 1024
"""What a stopped client is asked: 24 MiB, of which the kernel takes some before anything waits in its relay."""
WAITING_BYTES = 3 * MIB
"""1 MiB may wait for a client; the rest is what Python's allocator takes for it, and does not give back."""


async def silent_neighbours(bench: Bench) -> Verdict:
    """F7: one relay is stopped, one link goes silent both ways, one only upwards; all find out, and all come back."""
    duration = bench.pick(60.0, 20.0, FOUND_SECONDS + 0.5)
    silent = {} if bench.size is Size.LEAST else SILENT
    relays = ["R1", *silent]
    bench.provision({**dict.fromkeys(relays, "server"), **{_client(relay): relay for relay in relays}})
    verdict = Verdict({"seconds_of_silence": duration})
    async with bench.cell("server") as (server, url), AsyncExitStack() as proxies:
        cells = {"R1": await bench.start("R1", connect=url, listens=True)}
        links = {"C1": await proxies.enter_async_context(Proxy(cells["R1"].url, bench.rng))}
        for name in silent:
            links[name] = await proxies.enter_async_context(Proxy(url, bench.rng))
            cells[name] = await bench.start(name, connect=links[name].url, listens=True)
        for relay in relays:
            name = _client(relay)
            cells[name] = await bench.start(name, connect=(links.get(name) or cells[relay]).url)
        receivers = [f"{relay}.{_client(relay)}" for relay in relays]
        await bench.settle(server, receivers)
        before = {name: await server.request(name, "figures") for name in relays}
        load, stop = bench.load(server), anyio.Event()

        async def keep_asking() -> None:
            within = duration + 30
            await load.keep_asking(IN_FLIGHT, receivers, stop, within=within, handling=(0.1, 0.3))

        async with anyio.create_task_group() as asking:
            asking.start_soon(keep_asking)
            await anyio.sleep(1)
            watched = {name: link.connections[0] for name, link in links.items()}
            began = time.monotonic()
            cells["R1"].pause()
            for name, down in silent.items():
                links[name].silence(up=True, down=down)
            async with anyio.create_task_group() as looking:
                for name in relays:
                    looking.start_soon(_note_gone, server, name, began, verdict)
                await anyio.sleep(duration)
                looking.cancel_scope.cancel()
            # Whose link is silent upwards only hears its parent, until that finds out.
            for name in ("C1", *(one for one, down in silent.items() if down)):
                ended = watched[name].child_ended
                verdict.figures[f"{name}_found_its_parent_gone"] = None if ended is None else round(ended - began, 2)
            cells["R1"].resume()
            for name in silent:
                links[name].heal()
            await bench.demand_answers(verdict, server, receivers)
            await anyio.sleep(2)
            stop.set()
        for name, held in before.items():
            await _demand_same(verdict, server, name, held)
        verdict.judge(load, bench.processes)
    _demand_found(verdict)
    verdict.demand_nothing_lost(load)
    return verdict


def _client(relay: str) -> str:
    return f"C{relay[1:]}"


async def stopped_receiver(bench: Bench) -> Verdict:
    """F7: a client is stopped and asked for more than may wait; its relay holds a part, and refuses the rest."""
    tree, within = {"R1": "server", "C1": "R1"}, bench.pick(10.0, 5.0, 2.0)
    bench.provision(tree)
    async with bench.cell("server") as (cell, url):
        cells = await bench.start_tree(tree, url)
        await bench.settle(cell, ["R1.C1"])
        # the same once before: what the first of much traffic takes is not kept for anybody
        load = bench.load(cell)
        async with anyio.create_task_group() as asking:
            for _ in range(MANY):
                asking.start_soon(_ask_much, load, "R1.C1", 2 * within)
        before = await cell.request("R1", "figures")
        cells["C1"].pause()
        async with anyio.create_task_group() as asking:
            for _ in range(MANY):
                asking.start_soon(_ask_much, load, "R1.C1", within)
            await anyio.sleep(within / 2)
            after = await cell.request("R1", "figures")
        cells["C1"].resume()
        growth, refused = after["rss_bytes"] - before["rss_bytes"], after["refused"] - before["refused"]
        verdict = Verdict({"relay_growth_kib": growth // 1024, "relay_refused": refused})
        verdict.demand(growth <= WAITING_BYTES, f"the relay of a stopped client grew by {growth / MIB:.1f} MiB")
        verdict.demand(refused > 0, "the relay of a stopped client told nobody that it was busy")
        await bench.demand_answers(verdict, cell, ["R1.C1"])
        judged = Verdict()
        judged.judge(load, bench.processes)
        verdict.wrong += judged.wrong
        del verdict.figures["all_back_seconds"]
    return verdict


async def _ask_much(load: Load, destination: str, within: float) -> None:
    await load.ask(destination, within=within, filler=bytes(FILLER_BYTES))


async def _note_gone(server: Cell, name: str, began: float, verdict: Verdict) -> None:
    verdict.figures[f"{name}_found_gone"] = None
    while any(str(member.fqcn) == name for member in server.members()):
        await anyio.sleep(0.02)
    verdict.figures[f"{name}_found_gone"] = round(time.monotonic() - began, 2)


def _demand_found(verdict: Verdict) -> None:
    for key, seconds in verdict.figures.items():
        if key.endswith("gone"):
            found = isinstance(seconds, float) and seconds <= FOUND_SECONDS
            verdict.demand(found, f"{key} after {seconds} s, not {FOUND_SECONDS:.0f}")


async def _demand_same(verdict: Verdict, cell: Cell, name: str, before: dict[str, Any], patience: float = 10.0) -> None:
    """Demand that a cell holds no more than before: links, descriptors, tasks, requests under way."""
    keys = ("links", "descriptors", "tasks", "pending", "handling")
    wanted = {key: before[key] for key in keys}
    now: dict[str, Any] = {}
    with anyio.move_on_after(patience):
        while now != wanted:
            figures = await cell.request(name, "figures")
            now = {key: figures[key] for key in keys}
            await anyio.sleep(0.2)
    verdict.demand(now == wanted, f"{name} holds {now} after it, {wanted} before")


async def flapping_link(bench: Bench) -> Verdict:
    """F16: the link between a relay and the server comes and goes, under load."""
    # what allocators and bounded tables come to keep, some 2 MiB, is full after some 300: only then is growth a leak
    flaps, warm_up = int(bench.pick(100, 10, 3)), int(bench.pick(300, 3, 1))
    pause, patience = bench.pick(1.0, 1.0, 0.3), bench.pick(10.0, 10.0, 1.0)
    bench.provision({"R1": "server", "C1": "R1", "A": "server"})
    cells = {"server": await bench.start("server", listens=True)}
    async with (
        Proxy(cells["server"].url, bench.rng) as proxy,
        bench.cell("A", cells["server"].url) as (cell, _url),
    ):
        cells["R1"] = await bench.start("R1", connect=proxy.url, listens=True)
        cells["C1"] = await bench.start("C1", connect=cells["R1"].url)
        await bench.settle(cell, ["R1.C1"])
        load, verdict = bench.load(cell), Verdict({"flaps": flaps})
        await _flap(proxy, load, warm_up, pause / 5, bench.rng)
        await bench.demand_answers(verdict, cell, ["R1.C1"])
        before = await _held(cell, cells)
        made = proxy.accepted
        await _flap(proxy, load, flaps, pause, bench.rng)
        verdict.figures["links_made"] = proxy.accepted - made
        verdict.demand(proxy.accepted - made >= flaps, "some flaps cut no link")
        await bench.demand_answers(verdict, cell, ["R1.C1"])
        for name in ("server", "R1"):
            await _demand_same(verdict, cell, cells[name].fqcn, before[name], patience)
        after = await _held(cell, cells)
        verdict.judge(load, bench.processes)
    _demand_no_growth(verdict, before, after, flaps)
    verdict.demand_nothing_lost(load)
    return verdict


async def _flap(proxy: Proxy, load: Load, times: int, pause: float, rng: random.Random) -> None:
    stop = anyio.Event()

    async def keep_asking() -> None:
        await load.keep_asking(IN_FLIGHT, ["R1.C1"], stop, within=30.0, handling=(0.05, 0.5))

    async with anyio.create_task_group() as asking:
        asking.start_soon(keep_asking)
        await anyio.sleep(pause)
        for _ in range(times):
            made = proxy.accepted
            proxy.refuse()
            proxy.cut()
            await anyio.sleep(pause)
            proxy.admit()
            while proxy.accepted == made:  # who was refused pauses before it tries again
                await anyio.sleep(0.01)
            await anyio.sleep(rng.uniform(0, pause))  # in the handshake, or in the middle of everything
        stop.set()


async def _held(cell: Cell, cells: dict[str, CellProcess]) -> dict[str, dict[str, Any]]:
    held = {name: await cell.request(cells[name].fqcn, "figures") for name in ("server", "R1")}
    return {**held, "this": {"descriptors": descriptors(), "tasks": tasks()}}


def _demand_no_growth(verdict: Verdict, before: dict[str, Any], after: dict[str, Any], flaps: int) -> None:
    # What the allocator keeps and gives back is noise that ten flaps do not average out.
    limit = MIB * max(1.0, flaps / 100)
    for name in ("server", "R1"):
        growth = after[name]["rss_bytes"] - before[name]["rss_bytes"]
        verdict.figures[f"{name}_rss_growth_kib"] = growth // 1024
        verdict.demand(growth <= limit, f"{name} grew by {growth / MIB:.1f} MiB in {flaps} flaps")
    verdict.figures["harness_before_after"] = f"{before['this']} {after['this']}"
    more = [key for key, count in before["this"].items() if after["this"][key] > count]
    verdict.demand(not more, f"this process has more {', '.join(more)}: {before['this']}, then {after['this']}")
