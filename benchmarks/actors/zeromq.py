"""ZeroMQ: a DEALER at the client, its own proxy of ROUTER and DEALER as the relay, a ROUTER at the server."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import zmq

from part import Part, part, say
from peers import (
    ACK,
    HEADER,
    HOST,
    MESSAGE,
    WARM_UP_REQUESTS,
    WARM_UP_SIZE,
    measured,
    measured_one_by_one,
    pieces,
    repeated,
    stay,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LARGE_MESSAGES = 16
"""How many of them wait on either side of a connection; of small ones as many as is the default."""


def main() -> None:
    mine = part()
    assert mine.security == "clear"
    {"server": serve, "relay": relay, "client": measure}[mine.role](mine)


def serve(mine: Part) -> None:
    """Answer one client, until the end."""
    answer = {"rtt": echo, "requests": echo, "bulk": keep_arrays, "stream": swallow_streams}[mine.bench]
    listen(mine, answer)


def relay(mine: Part) -> None:
    """Pass on each message of either side, until the end."""

    def splice(above: zmq.Socket[bytes]) -> None:
        with connect(mine, above.context) as below:
            zmq.proxy(above, below)

    listen(mine, splice)


def measure(mine: Part) -> None:
    """Warm up, measure when told to, and stay."""
    measures = {"rtt": measure_rtt, "requests": measure_requests, "bulk": measure_bulk, "stream": measure_stream}
    with zmq.Context() as context, connect(mine, context) as sock:
        measures[mine.bench](sock, mine)
        stay()


# What a server does. Before each message come the names of whom it came through.


def echo(sock: zmq.Socket[bytes]) -> None:
    while True:
        sock.send_multipart(sock.recv_multipart())


def keep_arrays(sock: zmq.Socket[bytes]) -> None:
    """Receive each array into memory of its own."""
    while True:
        *names, header = sock.recv_multipart()
        view = memoryview(np.empty(HEADER.unpack(header)[0], "u1"))
        while view:
            message = received(sock)
            view[: len(message)] = message
            view = view[len(message) :]
        sock.send_multipart([*names, ACK])


def swallow_streams(sock: zmq.Socket[bytes]) -> None:
    while True:
        *names, header = sock.recv_multipart()
        left = HEADER.unpack(header)[0]
        while left:
            left -= len(received(sock))
        sock.send_multipart([*names, ACK])


def received(sock: zmq.Socket[bytes]) -> memoryview:
    """Return the next message where it was received."""
    *_, message = sock.recv_multipart(copy=False)
    return message.buffer


# What a client measures.


def measure_rtt(sock: zmq.Socket[bytes], mine: Part) -> None:
    payload = bytes(mine.size)
    measured_one_by_one(lambda: request(sock, payload), mine.count)


def measure_requests(sock: zmq.Socket[bytes], mine: Part) -> None:
    payload = bytes(mine.size)
    request_all(sock, payload, WARM_UP_REQUESTS, mine.in_flight)
    measured(lambda: request_all(sock, payload, mine.count, mine.in_flight))


def measure_bulk(sock: zmq.Socket[bytes], mine: Part) -> None:
    data = memoryview(np.ones(mine.size, "u1"))

    def send_all() -> None:
        for _ in range(mine.count):
            send(sock, mine.size, pieces(data, MESSAGE))

    send(sock, WARM_UP_SIZE, repeated(bytes(MESSAGE), WARM_UP_SIZE))
    measured(send_all)


def measure_stream(sock: zmq.Socket[bytes], mine: Part) -> None:
    piece = bytes(MESSAGE)
    send(sock, WARM_UP_SIZE, repeated(piece, WARM_UP_SIZE))
    measured(lambda: send(sock, mine.size, repeated(piece, mine.size)))


def request(sock: zmq.Socket[bytes], payload: bytes) -> bytes:
    sock.send(payload)
    return sock.recv()


def request_all(sock: zmq.Socket[bytes], payload: bytes, count: int, in_flight: int) -> None:
    """Keep that many in flight: a reply makes room for a request."""
    first = min(count, in_flight)
    for _ in range(first):
        sock.send(payload)
    for _ in range(count - first):
        sock.recv()
        sock.send(payload)
    for _ in range(first):
        sock.recv()


def send(sock: zmq.Socket[bytes], size: int, messages: Iterable[memoryview]) -> None:
    """Send what has that size in all, and wait until it has arrived."""
    sock.send(HEADER.pack(size))
    for message in messages:
        sock.send(message, copy=False)
    assert sock.recv() == ACK


# Connections.


def listen(mine: Part, use: Callable[[zmq.Socket[bytes]], None]) -> None:
    """Use a socket in a thread until the end, which is the end of its context."""
    context = zmq.Context()
    sock = opened(mine, context, zmq.ROUTER)
    port = sock.bind_to_random_port(f"tcp://{HOST}")

    def run() -> None:
        with sock, suppress(zmq.ContextTerminated):
            use(sock)

    threading.Thread(target=run).start()
    say(urls=[f"{HOST}:{port}"])
    stay()
    context.term()


def connect(mine: Part, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    sock = opened(mine, context, zmq.DEALER)
    sock.connect(f"tcp://{mine.urls[0]}")
    return sock


def opened(mine: Part, context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    sock = context.socket(kind)
    sock.linger = 0
    if mine.bench in ("bulk", "stream"):
        sock.set_hwm(LARGE_MESSAGES)
    return sock


if __name__ == "__main__":
    main()
