"""A ping over nothing but gRPC, through a relay that passes on to two dozen children as much as ours did.

What :mod:`tests.faults.raw` is for sockets, like for like where links are gRPC's: the same processes, with as many
streams, at the same rate. Messages are plain bytes; what is urgent goes first, and two others wait for a child at most.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import grpc
import grpc.aio
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.faults.processes import LOW_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import Process

__all__ = ["grpc_pings"]

MEASURE_SECONDS = 30.0
START_SECONDS = 60.0
PING_SECONDS = 0.02
PING_BYTES = 64
MESSAGE = bytes(512 * 1024)
WAITING = 2
MAX_LINE_BYTES = 1 << 20
HERE = Path(__file__).parents[2]
QUIET = {**os.environ, "GRPC_VERBOSITY": "NONE"}
PINGED = 0
"""The child that has no other messages."""

SERVICE = "raw"
METHOD = "Pass"
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))


class Stream(Protocol):
    """The part of a call that both sides have."""

    async def read(self) -> object:
        """Return the next message, or ``grpc.aio.EOF``."""

    async def write(self, message: bytes, /) -> None:
        """Send a message, once there is room."""


async def grpc_pings(children: int, rate: float, seconds: float = MEASURE_SECONDS) -> list[float]:
    """Return how many seconds pings took.

    :param children: that have all messages
    :param rate: bytes a second of all of them
    :param seconds: how long to measure
    """
    count, numbers = os.cpu_count() or 1, range(PINGED + 1, PINGED + 1 + children)
    processes: list[Process] = []
    async with AsyncExitStack() as stack:

        async def start(role: str, *arguments: object) -> BufferedByteReceiveStream:
            command = [sys.executable, "-m", "tests.faults.raw_grpc", role, *map(str, arguments)]
            process = await anyio.open_process(command, stderr=None, cwd=HERE, env=QUIET)
            processes.append(await stack.enter_async_context(process))
            assert process.stdout is not None
            return BufferedByteReceiveStream(process.stdout)

        try:
            with anyio.fail_after(seconds + START_SECONDS):
                server = await start("server", rate / children, seconds)
                relay = await start("relay", await _line(server), children + 1)
                port = await _line(relay)
                await start("child", port, PINGED)
                for number in range(count):
                    await start("child", port, *numbers[number::count])
                return [float(took) for took in json.loads(await _line(server))]
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.kill()


async def _line(stream: BufferedByteReceiveStream) -> str:
    return (await stream.receive_until(b"\n", MAX_LINE_BYTES)).decode()


class Way:
    """One direction of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._urgent: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._came = asyncio.Event()
        self._room = asyncio.Event()

    def hurry(self, message: bytes) -> None:
        """Send *message* before all others."""
        self._urgent.append(message)
        self._came.set()

    async def put(self, message: bytes) -> None:
        """Send *message*, once no more than some others wait."""
        while len(self._others) >= WAITING:
            self._room.clear()
            await self._room.wait()
        self._others.append(message)
        self._came.set()

    async def run(self) -> None:
        """Send what there is, until the stream is over."""
        while True:
            while not (self._urgent or self._others):
                self._came.clear()
                await self._came.wait()
            message = self._urgent.popleft() if self._urgent else self._others.popleft()
            self._room.set()
            await self._stream.write(message)


async def server(rate: float, seconds: float) -> None:
    """Send messages to one relay and ping through it for so long; print how long pings took."""

    async def serve(_requests: object, stream: Stream) -> None:
        way, taken = Way(stream), list[float]()
        await stream.read()
        running = asyncio.create_task(way.run()), asyncio.create_task(_ping(way, stream, taken))
        began = time.monotonic()
        count = 0
        while time.monotonic() < began + seconds:
            await way.put(MESSAGE)
            count += 1
            await asyncio.sleep(began + count * len(MESSAGE) / rate - time.monotonic())
        _say(json.dumps(taken))
        await asyncio.gather(*running)  # until this process is ended

    await _serve(serve, asyncio.Event().wait())


async def _ping(way: Way, stream: Stream, taken: list[float]) -> None:
    while True:
        began = time.monotonic()
        way.hurry(bytes(PING_BYTES))
        await stream.read()
        taken.append(time.monotonic() - began)
        await asyncio.sleep(PING_SECONDS)


async def relay(port: int, count: int) -> None:
    """Pass on messages to all children but one, and pings between that one and the server."""
    above = _call(port)
    up, ways, all_came = Way(above), dict[int, Way](), asyncio.Event()

    async def serve(_requests: object, stream: Stream) -> None:
        (number,) = await _read(stream)
        way = ways[number] = Way(stream)
        running = asyncio.create_task(way.run())
        if len(ways) == count:
            all_came.set()
        while message := await _read(stream):
            up.hurry(message)
        running.cancel()

    async def pass_on() -> None:
        running = asyncio.create_task(up.run())
        await all_came.wait()
        up.hurry(b"all")
        while message := await _read(above):
            if len(message) == PING_BYTES:
                ways[PINGED].hurry(message)
                continue
            for number, way in ways.items():
                if number != PINGED:
                    await way.put(message)
        running.cancel()

    await _serve(serve, pass_on())


async def child(port: int, *numbers: int) -> None:
    """Have so many streams, and answer pings."""
    if PINGED not in numbers:  # before gRPC starts its threads, which are as this one is
        os.setpriority(os.PRIO_PROCESS, 0, LOW_PRIORITY)

    async def take(number: int) -> None:
        stream = _call(port)
        await stream.write(bytes([number]))
        while message := await _read(stream):
            if len(message) == PING_BYTES:
                await stream.write(message)

    await asyncio.gather(*map(take, numbers))


async def _serve(serve: Callable[[object, Stream], Awaitable[None]], until: Awaitable[object]) -> None:
    server = grpc.aio.server(options=OPTIONS)
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say(str(port))
    await until
    await server.stop(0)


def _call(port: int) -> Stream:
    # a connection for each, as links have
    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options).stream_stream(f"/{SERVICE}/{METHOD}")()


async def _read(stream: Stream) -> bytes:
    """Return the next message; nothing at the end."""
    message = await stream.read()
    return message if isinstance(message, bytes) else b""


def main(arguments: Sequence[str]) -> None:
    """Be one of the processes, as the arguments say."""
    os.setpgid(0, 0)  # Ctrl-C is for whoever started it
    role, *numbers = arguments
    roles: dict[str, Callable[..., Awaitable[None]]] = {"server": server, "relay": relay, "child": child}
    values = [float(number) if role == "server" else int(number) for number in numbers]
    anyio.run(roles[role], *values, backend_options={"use_uvloop": find_spec("uvloop") is not None})


def _say(line: str) -> None:
    """Tell whoever started this process, and waits for the line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
