"""The program of three processes of plain sockets: one pings another through a third, which passes on what comes.

That is how long a round trip over a relay takes on this machine at this moment, whatever the library does. The first
prints a line when it has begun, and all it measured when its standard input ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PING_SECONDS", "Pings", "pinging"]

PING_SECONDS = 0.01
"""Between two pings."""
PING_BYTES = 64
END_SECONDS = 10.0


class Pings:
    """What the processes measured: when each ping left, on the monotonic clock, and how long it took."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float]] = []

    def within(self, spans: list[tuple[float, float]]) -> list[float]:
        """Return how long the pings took that left in these spans of time."""
        return [took for at, took in self.taken if any(begin <= at <= end for begin, end in spans)]


@contextmanager
def pinging() -> Iterator[Pings]:
    """Ping while the block runs; what was measured is there when it has ended."""
    pings = Pings()
    command = [sys.executable, "-m", "tests.faults.raw"]
    with subprocess.Popen(  # a group of its own: Ctrl-C is for whoever started it
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], process_group=0
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield pings
            said, _ = process.communicate(timeout=END_SECONDS)
            pings.taken = [(at, took) for at, took in json.loads(said)]
        finally:
            process.kill()


def main() -> None:
    """Ping until standard input ends. The two others end with their sockets."""
    with _listening() as far, _listening() as near:
        _fork(lambda: _echo(far))
        _fork(lambda: _relay(near, far.getsockname()))
        with socket.create_connection(near.getsockname()) as sock:
            _hurry(sock)
            print("pinging", flush=True)  # noqa: T201  # whoever started this process waits for the line
            taken = []
            while not select.select([0], [], [], PING_SECONDS)[0]:
                began = time.monotonic()
                sock.sendall(bytes(PING_BYTES))
                _read(sock)
                taken.append((began, time.monotonic() - began))
    print(json.dumps(taken))  # noqa: T201  # what was measured goes to whoever started this process


def _echo(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    _hurry(sock)
    while data := _read(sock):
        sock.sendall(data)


def _relay(listener: socket.socket, address: tuple[str, int]) -> None:
    above = socket.create_connection(address)
    below, _ = listener.accept()
    _hurry(above)
    _hurry(below)
    while data := _read(below):
        above.sendall(data)
        below.sendall(_read(above))


def _fork(run: Callable[[], None]) -> None:
    if os.fork() == 0:
        try:
            run()
        finally:
            os._exit(0)


def _read(sock: socket.socket) -> bytes:
    """Return a whole ping; nothing at the end."""
    data = b""
    while len(data) < PING_BYTES:
        more = sock.recv(PING_BYTES - len(data))
        if not more:
            return b""
        data += more
    return data


def _listening() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(END_SECONDS)  # whoever was to connect may have been killed
    return sock


def _hurry(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main()
