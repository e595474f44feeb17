"""Cells in a contest: on uvloop, in the clear, with mutual TLS on every link, or sealed from end to end as well."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from cellnet import Cell
from cellnet.drivers import built_in, tls
from cellnet.heap import keep_freed
from cellnet.kit import Kit
from cellnet.protocol.handshake import Transport
from part import Part, hear, part, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup, TaskStatus

    from cellnet import Request, Stream
    from cellnet.credentials import Credentials
    from cellnet.drivers.base import Address, Driver, Link, Listener, Security

PIECE = bytes(256 * 1024)
SEALED = "mtls+sealed"
WARM_UP = 200
BELOW = 2
"""Relays below the server, and processes of clients, in ``broadcast``."""
STARTING = 50
"""Cells that join at a time."""


def echo(request: Request) -> object:
    return request.payload


def size(request: Request) -> int:
    return int(request.payload.nbytes)


async def swallow(stream: Stream) -> None:
    """Read all, and say how much it was."""
    total = 0
    async for data in stream:
        total += len(data)
    await stream.send(b"%d" % total)


HANDLERS = {"echo": echo, "size": size}


class Secured:
    """A driver whose links all have mutual TLS, below cells that know nothing of it, and so seal nothing."""

    def __init__(self, driver: Any, credentials: Credentials) -> None:
        self.alpn: str = driver.alpn
        self._driver: Driver = driver
        self._credentials = credentials

    async def connect(self, address: Address, security: Security) -> Link:
        return Unnamed(await self._driver.connect(address, tls.for_connecting("mtls", self._credentials, self.alpn)))

    async def listen(self, address: Address, security: Security) -> Listener:
        return SecuredListener(
            await self._driver.listen(address, tls.for_listening("mtls", self._credentials, self.alpn))
        )


class SecuredListener:
    """Its listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.url = listener.url
        self.close = listener.close

    async def accept(self) -> Link:
        return Unnamed(await self._listener.accept())


class Unnamed:
    """A link that says that nothing protects it: cells without credentials would not trust a certificate."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.start, self.fill, self.send, self.try_send = link.start, link.fill, link.send, link.try_send
        self.aclose, self.abort = link.aclose, link.abort

    @property
    def waited(self) -> bool:
        return self._link.waited

    @property
    def transport(self) -> Transport:
        return Transport(self._link.transport.driver, "clear")


class Actor:
    """The cells of one process."""

    def __init__(self, told: Part, tasks: TaskGroup) -> None:
        self._told = told
        self._tasks = tasks
        self._cells: list[Cell] = []

    async def play(self) -> None:
        """Bring the cells up, work when it is time, and stay until nobody listens."""
        told, work, payload = self._told, WORK[self._told.bench], _payload(self._told)
        if told.bench == "scale" and told.role == "client":
            say()
        else:
            await self._start()
            say(urls=[await self._listen(cell) for cell in self._cells] if told.role != "client" else [])
        while await anyio.to_thread.run_sync(hear):
            begin = time.perf_counter()
            said = await (work(self._cells[0], told, payload) if work is not None else self._start())
            say(**(said or {"seconds": time.perf_counter() - begin}))
        self._tasks.cancel_scope.cancel()

    async def _start(self) -> None:
        told, at_a_time = self._told, anyio.CapacityLimiter(STARTING)
        names = [f"{told.role[0].upper()}{number}" for number in range(told.number, told.number + told.cells)]

        async def start(name: str) -> None:
            async with at_a_time:
                await self._tasks.start(self._stay, name)

        async with anyio.create_task_group() as starting:
            for name in ["server"] if told.role == "server" else names:
                starting.start_soon(start, name)

    async def _stay(self, name: str, *, task_status: TaskStatus[None]) -> None:
        told = self._told
        drivers: dict[str, Driver] = {}
        if told.security == "mtls":
            drivers[told.driver] = Secured(built_in()[told.driver], self._credentials(name))
        async with Cell(name, handlers=HANDLERS, streams={"swallow": swallow}, drivers=drivers) as cell:
            if told.role != "server":
                url = told.urls[int(name[1:]) % len(told.urls)]
                await cell.connect(url, self._sealing(name))
                if told.role == "client":
                    await _warm_up(cell, told)
            self._cells.append(cell)
            task_status.started()
            await anyio.sleep_forever()

    async def _listen(self, cell: Cell) -> str:
        return await cell.listen(f"{self._told.driver}://127.0.0.1:0", self._sealing(cell.name))

    def _credentials(self, name: str) -> Credentials:
        return Kit.load(Path(self._told.kits) / name).credentials

    def _sealing(self, name: str) -> Credentials | None:
        return self._credentials(name) if self._told.security == SEALED else None


def _payload(told: Part) -> object:
    """Return what this process will send, made before it is time."""
    if (told.bench, told.role) in (("bulk", "client"), ("broadcast", "server")):
        return np.ones(told.size, "u1")
    return bytes(min(told.size, 65536))


async def _warm_up(cell: Cell, told: Part) -> None:
    if told.bench in ("rtt", "requests"):
        for _ in range(WARM_UP):
            await cell.request("server", "echo", bytes(told.size))
    elif told.bench in ("bulk", "stream"):
        await cell.request("server", "size", np.ones(1 << 20, "u1"))


async def _rtt(cell: Cell, told: Part, payload: object) -> dict[str, float]:
    times = []
    for _ in range(told.count):
        begin = time.perf_counter()
        await cell.request("server", "echo", payload)
        times.append((time.perf_counter() - begin) * 1e6)
    return {"p50_us": statistics.median(times), "p99_us": statistics.quantiles(times, n=100)[98]}


async def _requests(cell: Cell, told: Part, payload: object) -> None:
    left = told.count

    async def ask() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await cell.request("server", "echo", payload)

    async with anyio.create_task_group() as tasks:
        for _ in range(told.in_flight):
            tasks.start_soon(ask)


async def _bulk(cell: Cell, told: Part, payload: object) -> None:
    for _ in range(told.count):
        assert await cell.request("server", "size", payload) == told.size


async def _stream(cell: Cell, told: Part, _payload: object) -> None:
    async with cell.open_stream("server", "swallow") as stream:
        for _ in range(told.size // len(PIECE)):
            await stream.send(PIECE)
        await stream.send_eof()
        assert int(await stream.receive()) == told.size


async def _broadcast(cell: Cell, told: Part, payload: object) -> None:
    async with cell.broadcast("*.*", "size", payload) as replies:
        assert [reply.result() async for reply in replies] == [told.size] * told.cells * BELOW


WORK: dict[str, Callable[[Cell, Part, object], Awaitable[dict[str, float] | None]] | None] = {
    "rtt": _rtt,
    "requests": _requests,
    "bulk": _bulk,
    "stream": _stream,
    "broadcast": _broadcast,
    "scale": None,
}


async def main(told: Part) -> None:
    async with anyio.create_task_group() as tasks:
        await Actor(told, tasks).play()


if __name__ == "__main__":
    keep_freed()  # as the program of a node does
    anyio.run(main, part(), backend_options={"use_uvloop": True})
