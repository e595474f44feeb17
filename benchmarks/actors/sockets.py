"""Blocking sockets, and in a relay a thread per direction: what any library in Python comes on top of."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

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
    measured,
    measured_one_by_one,
    pieces,
    repeated,
    secured,
    split,
    stay,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW = 64 * 1024
"""What the buffers of a socket hold from the start: were more in flight, both ends could block in sending."""


def main() -> None:
    mine = part()
    {"server": serve, "relay": relay, "client": measure}[mine.role](mine)


def serve(mine: Part) -> None:
    """Answer whoever connects, until the end."""
    listen(mine, {"rtt": echo, "requests": echo, "bulk": keep_arrays, "stream": swallow_streams}[mine.bench])


def relay(mine: Part) -> None:
    """Pass on what either side sends, until the end."""
    listen(mine, lambda above: splice(above, connect(mine)))


def measure(mine: Part) -> None:
    """Warm up, measure when told to, and stay."""
    client = Client(connect(mine))
    measures = {"rtt": measure_rtt, "requests": measure_requests, "bulk": measure_bulk, "stream": measure_stream}
    measures[mine.bench](client, mine)
    stay()


# What a server does with a connection.


def echo(connection: Connection) -> None:
    inbox = Inbox(connection)
    while payloads := inbox.receive():
        connection.sendall(b"".join(map(frame, payloads)))


def keep_arrays(connection: Connection) -> None:
    """Receive each array into memory of its own."""
    while True:
        fill(connection, memoryview(np.empty(announced(connection), "u1")))
        connection.sendall(ACK)


def swallow_streams(connection: Connection) -> None:
    view = memoryview(bytearray(PIECE))
    while True:
        left = announced(connection)
        while left:
            left -= received(connection, view)
        connection.sendall(ACK)


def announced(connection: Connection) -> int:
    """Return the size that the next header holds."""
    header = memoryview(bytearray(HEADER.size))
    fill(connection, header)
    return int(HEADER.unpack(header)[0])


def fill(connection: Connection, view: memoryview) -> None:
    while view:
        view = view[received(connection, view) :]


def received(connection: Connection, view: memoryview) -> int:
    if not (count := connection.recv_into(view)):
        raise ConnectionResetError("the other side left")
    return count


# What a relay does.


def splice(above: Connection, below: Connection) -> None:
    with closing(below):
        back = threading.Thread(target=forward, args=(below, above), daemon=True)
        back.start()
        forward(above, below)
        back.join()


def forward(source: Connection, target: Connection) -> None:
    view = memoryview(bytearray(PIECE))
    with suppress(ConnectionError):
        while count := source.recv_into(view):
            target.sendall(view[:count])
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


# What a client measures.


class Client:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = Inbox(connection)

    def request(self, payload: bytes) -> bytes:
        self._connection.sendall(frame(payload))
        return self._inbox.receive()[0]

    def request_all(self, payload: bytes, count: int, in_flight: int) -> None:
        """Keep that many in flight: for all replies that came at once, as many requests go at once."""
        unsent = unanswered = count
        room = in_flight
        while unanswered:
            if batch := min(room, unsent):
                self._connection.sendall(b"".join([frame(payload) for _ in range(batch)]))
                unsent -= batch
            room = len(self._inbox.receive())
            unanswered -= room

    def send(self, size: int, data: Iterable[memoryview]) -> None:
        """Send what has that size in all, and wait until it has arrived."""
        self._connection.sendall(HEADER.pack(size))
        for piece in data:
            self._connection.sendall(piece)
        self._inbox.receive()


def measure_rtt(client: Client, mine: Part) -> None:
    payload = bytes(mine.size)
    measured_one_by_one(lambda: client.request(payload), mine.count)


def measure_requests(client: Client, mine: Part) -> None:
    assert mine.in_flight * mine.size <= WINDOW
    payload = bytes(mine.size)
    client.request_all(payload, WARM_UP_REQUESTS, mine.in_flight)
    measured(lambda: client.request_all(payload, mine.count, mine.in_flight))


def measure_bulk(client: Client, mine: Part) -> None:
    data = memoryview(np.ones(mine.size, "u1"))

    def send_all() -> None:
        for _ in range(mine.count):
            client.send(mine.size, pieces(data, PIECE))

    client.send(WARM_UP_SIZE, repeated(bytes(PIECE), WARM_UP_SIZE))
    measured(send_all)


def measure_stream(client: Client, mine: Part) -> None:
    piece = bytes(PIECE)
    client.send(WARM_UP_SIZE, repeated(piece, WARM_UP_SIZE))
    measured(lambda: client.send(mine.size, repeated(piece, mine.size)))


# Connections.


class Inbox:
    """The frames that come from a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._view = memoryview(bytearray(WINDOW))
        self._rest = b""

    def receive(self) -> list[bytes]:
        """Return the payloads of all frames that came at once: one at least, or none at the end."""
        while count := self._connection.recv_into(self._view):
            payloads, self._rest = split(self._rest + self._view[:count])
            if payloads:
                return payloads
        return []


class Tls:
    """TLS on a socket that one thread may read while another writes, which OpenSSL does not allow by itself.

    It takes many records from the socket at a time, and hands many to it, where ``SSLSocket`` has two calls to the
    kernel for each record of 16 KiB.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._encrypted = memoryview(bytearray(PIECE))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)
        self._shake_hands()

    def recv_into(self, view: memoryview) -> int:
        count = 0
        while True:
            with self._lock, suppress(ssl.SSLWantReadError):
                while count < len(view) and (self._incoming.pending or self._tls.pending()):
                    count += self._tls.read(len(view) - count, view[count:])
            if count or not self._fetch():
                return count

    def sendall(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        with self._lock:
            while left:
                left = left[self._tls.write(left) :]
            encrypted = self._outgoing.read()
        self._sock.sendall(encrypted)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                if not self._fetch():
                    raise ConnectionResetError("the other side left amid the handshake") from None
            else:
                self._sock.sendall(self._outgoing.read())
                return

    def _fetch(self) -> int:
        count = self._sock.recv_into(self._encrypted)
        with self._lock:
            self._incoming.write(self._encrypted[:count])
        return count


Connection: TypeAlias = socket.socket | Tls


def listen(mine: Part, use: Callable[[Connection], None]) -> None:
    """Give each connection a thread, until the end."""
    context = secured(mine, ssl.Purpose.CLIENT_AUTH)
    listener = socket.create_server((HOST, 0))

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=welcome, args=(sock,), daemon=True).start()

    def welcome(sock: socket.socket) -> None:
        with sock, suppress(ConnectionError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            use(Tls(sock, context, None) if context else sock)

    threading.Thread(target=accept, daemon=True).start()
    say(urls=[f"{HOST}:{listener.getsockname()[1]}"])
    stay()


def connect(mine: Part) -> Connection:
    host, port = address(mine.urls[0])
    context = secured(mine, ssl.Purpose.SERVER_AUTH)
    sock = socket.create_connection((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Tls(sock, context, host) if context else sock


if __name__ == "__main__":
    main()
