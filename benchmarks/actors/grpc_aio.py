"""gRPC on asyncio, with messages of plain bytes on one stream in both directions, so that nothing is encoded."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import uvloop

from part import Part, part, say
from peers import (
    ACK,
    HEADER,
    HOST,
    MESSAGE,
    WARM_UP_REQUESTS,
    WARM_UP_SIZE,
    measured_async,
    measured_one_by_one_async,
    pieces,
    repeated,
    stay_async,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

METHOD = "/bench/exchange"
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)
EOF = grpc.aio.EOF
Context = Any
Call = Any


def main() -> None:
    mine = part()
    uvloop.run({"server": serve, "relay": relay, "client": measure}[mine.role](mine))


async def serve(mine: Part) -> None:
    """Answer whoever calls, until the end."""
    await listen(mine, {"rtt": echo, "requests": echo, "bulk": keep_arrays, "stream": swallow_streams}[mine.bench])


async def relay(mine: Part) -> None:
    """Pass on each message of either side, until the end."""
    async with connect(mine) as channel:

        async def splice(_requests: object, above: Context) -> None:
            below = channel.stream_stream(METHOD)()
            back = asyncio.create_task(forward(below, above))
            await forward(above, below)
            await below.done_writing()
            await back

        await listen(mine, splice)


async def measure(mine: Part) -> None:
    """Warm up, measure when told to, and stay."""
    measures = {"rtt": measure_rtt, "requests": measure_requests, "bulk": measure_bulk, "stream": measure_stream}
    async with connect(mine) as channel:
        call = channel.stream_stream(METHOD)()
        await measures[mine.bench](call, mine)
        await stay_async()
        call.cancel()


# What a server does with a call.


async def echo(_requests: object, context: Context) -> None:
    while (message := await context.read()) is not EOF:
        await context.write(message)


async def keep_arrays(_requests: object, context: Context) -> None:
    """Receive each array into memory of its own."""
    while (header := await context.read()) is not EOF:
        view = memoryview(np.empty(HEADER.unpack(header)[0], "u1"))
        while view:
            message = await context.read()
            view[: len(message)] = message
            view = view[len(message) :]
        await context.write(ACK)


async def swallow_streams(_requests: object, context: Context) -> None:
    while (header := await context.read()) is not EOF:
        left = HEADER.unpack(header)[0]
        while left:
            left -= len(await context.read())
        await context.write(ACK)


# What a relay does.


async def forward(source: Context | Call, target: Context | Call) -> None:
    while (message := await source.read()) is not EOF:
        await target.write(message)


# What a client measures.


async def measure_rtt(call: Call, mine: Part) -> None:
    payload = bytes(mine.size)
    await measured_one_by_one_async(lambda: request(call, payload), mine.count)


async def measure_requests(call: Call, mine: Part) -> None:
    payload = bytes(mine.size)
    requests = Requests(call)
    await requests.send_all(payload, WARM_UP_REQUESTS, mine.in_flight)
    await measured_async(lambda: requests.send_all(payload, mine.count, mine.in_flight))


async def measure_bulk(call: Call, mine: Part) -> None:
    data = memoryview(np.ones(mine.size, "u1"))

    async def send_all() -> None:
        for _ in range(mine.count):
            await send(call, mine.size, map(bytes, pieces(data, MESSAGE)))

    await send(call, WARM_UP_SIZE, [bytes(WARM_UP_SIZE)])
    await measured_async(send_all)


async def measure_stream(call: Call, mine: Part) -> None:
    piece = bytes(MESSAGE)
    await send(call, WARM_UP_SIZE, map(bytes, repeated(piece, WARM_UP_SIZE)))
    await measured_async(lambda: send(call, mine.size, map(bytes, repeated(piece, mine.size))))


async def request(call: Call, payload: bytes) -> bytes:
    await call.write(payload)
    return await call.read()


class Requests:
    """Requests of many tasks on one call, which lets one of them write at a time."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._free = asyncio.Lock()
        self._unanswered: deque[asyncio.Future[bytes]] = deque()

    async def send_all(self, payload: bytes, count: int, in_flight: int) -> None:
        turns = iter(range(count))
        reading = asyncio.create_task(self._read(count))
        await asyncio.gather(*(self._send(payload, turns) for _ in range(in_flight)))
        await reading

    async def _send(self, payload: bytes, turns: Iterable[int]) -> None:
        for _ in turns:
            reply = asyncio.get_running_loop().create_future()
            async with self._free:
                self._unanswered.append(reply)
                await self._call.write(payload)
            await reply

    async def _read(self, count: int) -> None:
        for _ in range(count):
            message = await self._call.read()
            self._unanswered.popleft().set_result(message)


async def send(call: Call, size: int, messages: Iterable[bytes]) -> None:
    """Send what has that size in all, and wait until it has arrived."""
    await call.write(HEADER.pack(size))
    for message in messages:
        await call.write(message)
    assert await call.read() == ACK


# Connections.


async def listen(mine: Part, behaviour: Callable[[object, Context], Awaitable[None]]) -> None:
    """Serve until the end."""
    server = grpc.aio.server(options=OPTIONS)
    service, method = METHOD.strip("/").split("/")
    handler = grpc.stream_stream_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    if mine.security == "clear":
        port = server.add_insecure_port(f"{HOST}:0")
    else:
        authority, certificate, key = pem(mine, "server")
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        port = server.add_secure_port(f"{HOST}:0", credentials)
    await server.start()
    say(urls=[f"{HOST}:{port}"])
    await stay_async()
    await server.stop(None)


def connect(mine: Part) -> grpc.aio.Channel:
    if mine.security == "clear":
        return grpc.aio.insecure_channel(mine.urls[0], OPTIONS)
    authority, certificate, key = pem(mine, "client")
    return grpc.aio.secure_channel(mine.urls[0], grpc.ssl_channel_credentials(authority, key, certificate), OPTIONS)


def pem(mine: Part, use: str) -> tuple[bytes, bytes, bytes]:
    """Return who is trusted, and this process's certificate and key for that use."""
    certificate, key = mine.pair(use)
    return mine.roots.read_bytes(), certificate.read_bytes(), key.read_bytes()


if __name__ == "__main__":
    main()
