"""The program of one process: one cell, or many light ones, as a line of JSON on standard input says.

It prints a line of JSON when it has joined and listens. When its standard input ends, whoever started it is gone,
and it ends too.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import sniffio

from cellnet import Cell, DurableRequest, Parent, Request, durable
from cellnet.drivers import built_in
from cellnet.errors import CellError
from cellnet.files import FileTarget, Folder, LocalFile
from cellnet.heap import keep_freed
from cellnet.kit import Kit
from cellnet.node import drain, run_until_signalled
from tests.faults.planted import PLANTS

if TYPE_CHECKING:
    import numpy as np
    from anyio.abc import TaskStatus

    from cellnet.credentials import Credentials
    from cellnet.drivers.base import Address, Driver, Link, Security
    from cellnet.protocol.frames import Buffer
    from cellnet.stream import Stream

__all__ = ["credentials", "digest", "figures"]

DIALLING_AT_A_TIME = 50


def digest(number: str, handling: float, filler: bytes, then: str | None) -> bytes:
    """Return what tells whether a payload arrived as it was sent."""
    return hashlib.blake2b(repr((number, handling, filler, then)).encode(), digest_size=16).digest()


class Worker:
    """Answers ``work``, after it noted in a file that it began: a line of number, time, name and origin.

    With a journal it answers ``keep``, too: it notes the same in a table there, as its effect, and before that in
    another file that it began.
    """

    def __init__(
        self,
        name: str,
        log: int,
        *,
        journal: str | None = None,
        begun: int = -1,
        dials: int = -1,
        files: str | None = None,
    ) -> None:
        handlers: dict[str, Any] = {
            "work": self.work,
            "figures": self.figures,
            "weigh": self.weigh,
            "size": self.size,
            "make": self.make,
            "send": self.send,
            "send_file": self.send_file,
        }
        if journal is not None:
            handlers["keep"] = durable(self.keep)
        self.cell = Cell(
            name,
            handlers=handlers,
            streams={"weigh": self.weigh_stream, "count": self.count, "ignore": self.ignore},
            files=Nowhere(tempfile.gettempdir()) if files is None else Folder(files),
            journal=journal,
            drivers={scheme: NotedDialling(driver, dials) for scheme, driver in built_in().items()},
        )
        self._log = log
        self._begun = begun

    async def work(self, request: Request) -> list[object]:
        now = time.monotonic()
        number, handling, then, right = self._read(request, now)
        self._note(self._log, number, now, request)
        if then is not None:
            await self.cell.request(then, "work", payload(nested(number), handling / 2))
        await anyio.sleep(handling)
        return [number, right]

    async def keep(self, request: DurableRequest) -> list[object]:
        now = time.monotonic()
        number, handling, _then, right = self._read(request, now)
        self._note(self._begun, number, now, request)
        execute = request.transaction.execute
        await execute("CREATE TABLE IF NOT EXISTS effects (at REAL, number TEXT, cell TEXT, origin TEXT)")
        effect = (now, number, str(self.cell.fqcn), str(request.origin))
        await execute("INSERT INTO effects VALUES (?, ?, ?, ?)", effect)
        await anyio.sleep(handling)
        return [number, right]

    async def weigh(self, request: Request) -> bytes:
        """Return the digest of a payload, however large."""
        return await anyio.to_thread.run_sync(_weighed, request.payload)

    async def size(self, request: Request) -> int:
        """Return how many bytes came: what :meth:`weigh` does takes as long as the way here."""
        came = request.payload
        return int(came.name) if isinstance(came, Path) else memoryview(came).nbytes

    async def make(self, request: Request) -> bytes:
        """Return so many bytes, drawn by lot from a seed: a large answer that its caller knows beforehand."""
        seed, size = request.payload
        return random.Random(seed).randbytes(size)

    async def send(self, request: Request) -> bool:
        """Send a large array to a cell; return whether it came there as it is here."""
        destination, seed, size = request.payload
        array = _array(seed, size)
        theirs = await self.cell.request(destination, "weigh", array)
        return bool(theirs == await anyio.to_thread.run_sync(_weighed, array))

    async def send_file(self, request: Request) -> bool:
        """Send a file to a cell; return whether it came there as it is here."""
        destination, path = request.payload
        theirs = await self.cell.request(destination, "weigh", Path(path))
        return bool(theirs == await anyio.to_thread.run_sync(_weighed, Path(path)))

    async def ignore(self, _stream: Stream) -> None:
        """Never read."""
        await anyio.sleep_forever()

    async def count(self, stream: Stream) -> None:
        """Send back how many bytes came. None of them is kept, so that no memory is needed for them."""
        came = 0
        async for data in stream:
            came += len(data)
        await stream.send(str(came).encode())

    async def weigh_stream(self, stream: Stream) -> None:
        """Send back the digest of all that came."""
        seen = hashlib.blake2b()
        async for data in stream:
            seen.update(data)
        await stream.send(seen.digest())

    async def figures(self, _request: Request) -> dict[str, Any]:
        return figures(self.cell)

    def _read(self, request: Request, now: float) -> tuple[str, float, str | None, bytes]:
        try:
            number, handling, filler, then, right = request.payload
            is_right = digest(number, handling, filler, then) == right
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            self._note(self._log, "altered", now, request)
            raise ValueError("the payload is not as it was sent")
        return number, handling, then, right

    def _note(self, file: int, number: str, now: float, request: Request) -> None:
        # One write each: lines do not mix, and what was written survives a SIGKILL.
        os.write(file, f"{number} {now:.6f} {self.cell.fqcn} {request.origin}\n".encode())


class Nowhere(Folder):
    """Takes files of which no byte is kept, so that neither memory nor a disk is needed for them."""

    def target(self, _size: int) -> FileTarget:
        """Return what counts."""
        return Counter()


class Counter(FileTarget):
    """Counts the bytes of a file that comes, and is called by their number in the end."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Count them."""
        self.size += len(data)

    def finish(self) -> LocalFile:
        """Return a name in place of a path."""
        return LocalFile(str(self.size).encode())

    def discard(self) -> None:
        """Forget nothing."""


class NotedDialling:
    """A driver whose every dialling is noted in a file, if there is one: a line of its time."""

    def __init__(self, driver: Driver, log: int) -> None:
        self.alpn, self.listen = driver.alpn, driver.listen
        self._driver = driver
        self._log = log

    async def connect(self, address: Address, security: Security) -> Link:
        if self._log >= 0:
            os.write(self._log, f"{time.monotonic():.6f}\n".encode())
        return await self._driver.connect(address, security)


def payload(number: str, handling: float, filler: bytes = b"", then: str | None = None) -> list[object]:
    """Return what ``work`` takes.

    :param number: what no other request of the run is called
    :param handling: how many seconds it takes
    :param then: a cell that its handler asks in turn
    """
    return [number, handling, filler, then, digest(number, handling, filler, then)]


def nested(number: str) -> str:
    """Return what a request that the handler of *number* sends is called."""
    return f"{number}/nested"


def figures(cell: Cell) -> dict[str, Any]:
    """Return what this process holds."""
    found = asdict(cell.statistics())
    found["links"] = len(found["links"])
    return {**found, "descriptors": descriptors(), "tasks": tasks(), "rss_bytes": rss_bytes()}


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  # the one that lists is not counted


def tasks() -> int:
    """Return how many tasks the event loop runs."""
    if sniffio.current_async_library() == "trio":
        import trio  # it takes a fifth of a process's start, which most have no use for

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def rss_bytes() -> int:
    """Return how much memory this process has in use, without what it keeps free: that would hide what is held."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
    with open("/proc/self/statm") as file:  # noqa: PTH123  # as cheap as it can be
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _weighed(payload: Buffer | Path) -> bytes:
    """Return the digest of what came, without all of a file in memory."""
    if not isinstance(payload, Path):
        return hashlib.blake2b(payload).digest()
    with payload.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).digest()


def _array(seed: int, size: int) -> np.ndarray[Any, Any]:
    import numpy as np  # it takes a fifth of a process's start, which most have no use for

    columns = 1024
    return np.random.default_rng(seed).random((max(1, size // (4 * columns)), columns), np.float32)


def credentials(kit: str | None) -> tuple[Credentials | None, Credentials | None]:
    """Return what to listen and to connect with."""
    if kit is None:
        return None, None
    own = Kit.load(kit).credentials
    return own.listening or own, own


async def _run_one(config: dict[str, Any], *, stop: anyio.Event, task_status: TaskStatus[str]) -> None:
    listening, connecting = credentials(config["kit"])
    journal = config["journal"]
    begun = -1 if journal is None else _log(config["begun"])
    worker = Worker(config["name"], _log(config["log"]), journal=journal, begun=begun, files=config["files"])
    async with worker.cell as cell:
        # Links are clear even where there are certificates, so that a proxy can read what passes.
        if config["connect"] is not None:
            others = [Parent(url, "clear") for url in config["others"]]
            await cell.connect(config["connect"], connecting, security="clear", others=others)
        url = None
        if config["listen"] is not None:
            url = await cell.listen(config["listen"], listening, security="clear")
        task_status.started(json.dumps({"fqcn": str(cell.fqcn), "url": url, "at": time.monotonic()}))
        if config["expect"]:
            await _say_when_present(cell, config["expect"])
        await stop.wait()
        await drain(cell)


async def _say_when_present(cell: Cell, count: int) -> None:
    while len(cell.members()) < count:
        await anyio.sleep(0.02)
    print(json.dumps({"present": count, "at": time.monotonic()}), flush=True)  # noqa: T201


async def _run_many(config: dict[str, Any], *, stop: anyio.Event, task_status: TaskStatus[str]) -> None:
    dialling, joined = anyio.Semaphore(DIALLING_AT_A_TIME), anyio.Semaphore(0)
    log, dials = _log(config["log"]), _log(config["dials"])

    async def run(name: str) -> None:
        _, connecting = credentials(config["kit"] and f"{config['kit']}/{name}")
        async with Worker(name, log, dials=dials).cell as cell:
            async with dialling:
                await cell.connect(config["connect"], connecting, security="clear")
            joined.release()
            await stop.wait()
            await drain(cell)

    async with anyio.create_task_group() as cells:
        for name in config["names"]:
            cells.start_soon(run, name)
        for _ in config["names"]:
            await joined.acquire()
        task_status.started(json.dumps({"fqcn": None, "url": None, "at": time.monotonic()}))


def _log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def main() -> None:
    """Run what standard input says, until a signal."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with open(0, "rb", buffering=0, closefd=False) as stdin:  # unbuffered: a descriptor, no path
        config = json.loads(stdin.readline())
    keep_freed()  # as long as there is one thread, which has the one heap
    threading.Thread(target=_end_with_starter, daemon=True).start()
    if config["plant"] is not None:
        PLANTS[config["plant"]]()
    try:
        run_until_signalled(partial(_run_many if config["names"] else _run_one, config), backend=config["backend"])
    except CellError as error:
        sys.exit(str(error))


def _end_with_starter() -> None:
    # Not sys.stdin: a thread that waits in it holds its lock, and the interpreter aborts at its own end.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
