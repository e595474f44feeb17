"""Protocols and transports of asyncio on uvloop, without the layer of streams: the fastest that one loop does."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import uvloop

from part import Part, part, say
from peers import (
    ACK,
    HEADER,
    HOST,
    PIECE,
    WARM_UP_REQUESTS,
    WARM_UP_SIZE,
    address,
    frame,
    measured_async,
    measured_one_by_one_async,
    pieces,
    repeated,
    secured,
    split,
    stay_async,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIGH_WATER = 4 * PIECE


def main() -> None:
    mine = part()
    uvloop.run({"server": serve, "relay": relay, "client": measure}[mine.role](mine))


async def serve(mine: Part) -> None:
    """Answer whoever connects, until the end."""
    if mine.bench in ("rtt", "requests"):
        await listen(mine, Echo)
    else:
        await listen(mine, lambda: Sink(keeps=mine.bench == "bulk"))


async def relay(mine: Part) -> None:
    """Pass on what either side sends, until the end."""
    loop = asyncio.get_running_loop()
    inward, outward = secured(mine, ssl.Purpose.CLIENT_AUTH), secured(mine, ssl.Purpose.SERVER_AUTH)

    async def splice(sock: socket.socket) -> None:
        below = Side()
        above = Side()
        below.other, above.other = above, below
        await connect(mine, outward, below)  # first, as who connected may speak at once, and the server never does
        await loop.connect_accepted_socket(lambda: above, sock, ssl=inward)

    async def accept(listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as splicing:
            while True:
                sock, _ = await loop.sock_accept(listener)
                splicing.create_task(splice(sock))

    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept(listener))
        say(urls=[f"{HOST}:{listener.getsockname()[1]}"])
        await stay_async()
        accepting.cancel()


async def measure(mine: Part) -> None:
    """Warm up, measure when told to, and stay."""
    measures = {"rtt": measure_rtt, "requests": measure_requests, "bulk": measure_bulk, "stream": measure_stream}
    client = Client()
    await connect(mine, secured(mine, ssl.Purpose.SERVER_AUTH), client)
    await measures[mine.bench](client, mine)
    await stay_async()


# What a server does with a connection.


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        ready(transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        payloads, self._rest = split(self._rest + data if self._rest else data)
        if payloads:
            self._transport.write(b"".join(map(frame, payloads)))


class Sink(asyncio.BufferedProtocol):
    """Receives a header and as many bytes as it announces, again and again, and acknowledges them."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._header = memoryview(bytearray(HEADER.size))
        self._piece = memoryview(bytearray(PIECE))
        self._expect_header()

    def connection_made(self, transport: Any) -> None:
        ready(transport)
        self._transport = transport

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._space[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._space is not self._piece:
            self._filled += nbytes
        if self._left:
            return
        if self._space is self._header:
            self._expect_payload(HEADER.unpack(self._header)[0])
        else:
            self._expect_header()
            self._transport.write(ACK)

    def _expect_header(self) -> None:
        self._space, self._filled, self._left = self._header, 0, HEADER.size

    def _expect_payload(self, size: int) -> None:
        space = memoryview(np.empty(size, "u1")) if self._keeps else self._piece
        self._space, self._filled, self._left = space, 0, size


# What a relay does.


class Side(asyncio.BufferedProtocol):
    """One of the two connections of a relay: what it receives it writes to the other."""

    other: Side
    transport: Any

    def connection_made(self, transport: Any) -> None:
        ready(transport)
        self.transport = transport
        self._view = memoryview(bytearray(PIECE))
        if transport.get_extra_info("sslcontext") is None:
            # Whatever is not sent at once stops the other from reading, and so stays in the buffer it was read into.
            transport.set_write_buffer_limits(high=0)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.other.transport.write(self._view[:nbytes])

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.other.transport.close()


# What a client measures.


class Client(asyncio.Protocol):
    """Sends frames, and gives each reply to the future of its request, as they come in order."""

    def connection_made(self, transport: Any) -> None:
        ready(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._rest = b""
        self._unsent: list[bytes] = []
        self._unanswered: deque[asyncio.Future[bytes]] = deque()
        self._room: asyncio.Future[None] | None = None

    def request(self, payload: bytes) -> asyncio.Future[bytes]:
        """Send a request: at once if it is alone, otherwise with all others of this turn of the loop."""
        if not self._unanswered:
            self._transport.write(frame(payload))
        else:
            if not self._unsent:
                self._loop.call_soon(self._flush)
            self._unsent.append(frame(payload))
        return self._reply()

    async def send(self, size: int, data: Iterable[memoryview]) -> None:
        """Send what has that size in all, and wait until it has arrived."""
        reply = self._reply()
        self._transport.write(HEADER.pack(size))
        for piece in data:
            self._transport.write(piece)
            if self._room is not None:
                await self._room
        await reply

    def data_received(self, data: bytes) -> None:
        payloads, self._rest = split(self._rest + data if self._rest else data)
        for payload in payloads:
            self._unanswered.popleft().set_result(payload)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def connection_lost(self, exc: Exception | None) -> None:
        for reply in self._unanswered:
            reply.set_exception(exc or ConnectionResetError("the other side left"))

    def _reply(self) -> asyncio.Future[bytes]:
        reply = self._loop.create_future()
        self._unanswered.append(reply)
        return reply

    def _flush(self) -> None:
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()


async def measure_rtt(client: Client, mine: Part) -> None:
    payload = bytes(mine.size)
    await measured_one_by_one_async(lambda: client.request(payload), mine.count)


async def measure_requests(client: Client, mine: Part) -> None:
    payload = bytes(mine.size)
    await request_all(client, payload, WARM_UP_REQUESTS, mine.in_flight)
    await measured_async(lambda: request_all(client, payload, mine.count, mine.in_flight))


async def measure_bulk(client: Client, mine: Part) -> None:
    data = memoryview(np.ones(mine.size, "u1"))

    async def send_all() -> None:
        for _ in range(mine.count):
            await client.send(mine.size, pieces(data, PIECE))

    await client.send(WARM_UP_SIZE, repeated(bytes(PIECE), WARM_UP_SIZE))
    await measured_async(send_all)


async def measure_stream(client: Client, mine: Part) -> None:
    piece = bytes(PIECE)
    await client.send(WARM_UP_SIZE, repeated(piece, WARM_UP_SIZE))
    await measured_async(lambda: client.send(mine.size, repeated(piece, mine.size)))


async def request_all(client: Client, payload: bytes, count: int, in_flight: int) -> None:
    turns = iter(range(count))

    async def some() -> None:
        for _ in turns:
            await client.request(payload)

    await asyncio.gather(*(some() for _ in range(in_flight)))


# Connections.


async def listen(mine: Part, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    """Serve until the end."""
    server = await asyncio.get_running_loop().create_server(
        protocol, HOST, 0, ssl=secured(mine, ssl.Purpose.CLIENT_AUTH)
    )
    say(urls=[f"{HOST}:{server.sockets[0].getsockname()[1]}"])
    await stay_async()


async def connect(mine: Part, context: ssl.SSLContext | None, protocol: asyncio.BaseProtocol) -> None:
    await asyncio.get_running_loop().create_connection(lambda: protocol, *address(mine.urls[0]), ssl=context)


def ready(transport: Any) -> None:
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main()
