"""What a gigabyte through one relay costs, beside raw blocking sockets in the same run.

    python benchmarks/bulk.py                    # 1 GiB, three rounds, tcp in the clear
    python benchmarks/bulk.py --mib 256 --rounds 1

Each way has three processes: a source, a relay, and a sink. The raw ones are what a relay costs in Python at least:
they receive into a buffer and send it on. The sink of the first raw way receives into one fresh buffer, as whoever
gets an array must; that of the second uses a small buffer again, as whoever reads a stream may.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import click
import numpy as np

from cellnet import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet import Request, Stream

GB = 1e9
PIECE = 256 * 1024
Figures = dict[str, float]


@click.command()
@click.option("--mib", default=1024, show_default=True, help="How much goes through the relay.")
@click.option("--rounds", default=3, show_default=True, help="How often each way is measured, in turn.")
@click.option("--role", hidden=True)
@click.option("--address", hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print the medians as JSON.")
def main(mib: int, rounds: int, role: str | None, address: str | None, *, as_json: bool) -> None:
    """Measure how fast arrays and streams pass a relay, as a share of what raw sockets do in the same run."""
    if role is not None:
        ROLES[role](mib << 20, address or "")
        return
    ways: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, runs in ways.items():
            runs.append(_measure(way, mib))
    medians = {
        way: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for way, runs in ways.items()
    }
    if as_json:
        click.echo(json.dumps(medians))
        return
    for way, figures in medians.items():
        click.echo(f"{way:12} " + "  ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    for way, raw in (("array", "raw-fresh"), ("stream", "raw-reused")):
        if way in medians:
            rate = medians[way]["GB/s"] / medians[raw]["GB/s"]
            cpu = medians[way]["relay s/GB"] / medians[raw]["relay s/GB"]
            click.echo(f"{way}: {rate:.0%} of {raw}, {cpu:.2f} times its relay's processor time")


def _measure(way: str, mib: int) -> Figures:
    """Run the three processes of one way, each told where the one before it listens."""
    sink, relay, source = WAYS[way]
    with ExitStack() as processes:

        def start(role: str, address: str = "") -> subprocess.Popen[str]:
            command = [sys.executable, __file__, "--role", role, "--mib", str(mib), "--address", str(address)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.callback(process.wait)
            processes.callback(process.kill)
            return process

        def said(process: subprocess.Popen[str]) -> Any:
            assert process.stdout is not None
            return json.loads(process.stdout.readline())

        sinking = start(sink)
        relaying = start(relay, said(sinking))
        sourcing = start(source, said(relaying))
        seconds = said(sourcing)
        for process in (relaying, sinking):
            assert process.stdin is not None
            process.stdin.close()
        size = (mib << 20) / GB
        return {
            "GB/s": size / seconds,
            "relay s/GB": said(relaying) / size,
            "sink s/GB": said(sinking) / size,
            "source s/GB": said(sourcing) / size,
        }


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


# Raw sockets.


def raw_sink(*, fresh: bool) -> Callable[[int, str], None]:
    def run(size: int, _address: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            _say(listener.getsockname()[1])
            sock, _ = listener.accept()
        view = memoryview(bytearray(PIECE)) if not fresh else memoryview(np.empty(size, "u1"))
        got = 0
        while got < size:
            got += sock.recv_into(view[got : got + (4 << 20)] if fresh else view)
        sock.sendall(b"!")
        sys.stdin.read()
        _say(time.process_time())

    return run


def raw_relay(_size: int, address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _say(listener.getsockname()[1])
        above, _ = listener.accept()
    below = socket.create_connection(("127.0.0.1", int(address)))
    view = memoryview(bytearray(PIECE))
    left = _size
    begin = time.process_time()
    while left:
        count = above.recv_into(view)
        below.sendall(view[:count])
        left -= count
    above.sendall(below.recv(1))
    spent = time.process_time() - begin
    sys.stdin.read()
    _say(spent)


def raw_source(size: int, address: str) -> None:
    data = memoryview(np.ones(size, "u1"))
    sock = socket.create_connection(("127.0.0.1", int(address)))
    begin, cpu = time.perf_counter(), time.process_time()
    for start in range(0, size, PIECE):
        sock.sendall(data[start : start + PIECE])
    sock.recv(1)
    _say(time.perf_counter() - begin)
    _say(time.process_time() - cpu)


# Cells.


async def count(request: Request) -> int:
    return int(request.payload.nbytes)


async def swallow(stream: Stream) -> None:
    """Read all, and say how much it was."""
    size = 0
    async for data in stream:
        size += len(data)
    await stream.send(b"%d" % size)


async def cell_sink(_size: int, _address: str) -> None:
    async with Cell("server", handlers={"count": count}, streams={"swallow": swallow}) as cell:
        _say(await cell.listen("tcp://127.0.0.1:0"))
        begin = time.process_time()
        await anyio.to_thread.run_sync(sys.stdin.read)
        _say(time.process_time() - begin)


async def cell_relay(_size: int, address: str) -> None:
    async with Cell("R1") as cell:
        await cell.connect(address)
        _say(await cell.listen("tcp://127.0.0.1:0"))
        begin = time.process_time()
        await anyio.to_thread.run_sync(sys.stdin.read)
        _say(time.process_time() - begin)


async def array_source(size: int, address: str) -> None:
    data = np.ones(size, "u1")
    async with Cell("C1") as cell:
        await cell.connect(address)
        await cell.request("server", "count", np.ones(10, "u1"))
        begin, cpu = time.perf_counter(), time.process_time()
        assert await cell.request("server", "count", data) == size
        _say(time.perf_counter() - begin)
        _say(time.process_time() - cpu)


async def stream_source(size: int, address: str) -> None:
    data = bytes(PIECE)
    async with Cell("C1") as cell:
        await cell.connect(address)
        await cell.request("server", "count", np.ones(10, "u1"))
        begin, cpu = time.perf_counter(), time.process_time()
        async with cell.open_stream("server", "swallow") as stream:
            for _ in range(size // PIECE):
                await stream.send(data)
            await stream.send_eof()
            assert int(await stream.receive()) == size
            _say(time.perf_counter() - begin)
            _say(time.process_time() - cpu)


def on_loop(run: Callable[[int, str], Any]) -> Callable[[int, str], None]:
    return lambda size, address: anyio.run(run, size, address, backend_options={"use_uvloop": True})


ROLES: dict[str, Callable[[int, str], None]] = {
    "raw-sink-fresh": raw_sink(fresh=True),
    "raw-sink-reused": raw_sink(fresh=False),
    "raw-relay": raw_relay,
    "raw-source": raw_source,
    "cell-sink": on_loop(cell_sink),
    "cell-relay": on_loop(cell_relay),
    "array-source": on_loop(array_source),
    "stream-source": on_loop(stream_source),
}
WAYS = {
    "raw-fresh": ("raw-sink-fresh", "raw-relay", "raw-source"),
    "raw-reused": ("raw-sink-reused", "raw-relay", "raw-source"),
    "array": ("cell-sink", "cell-relay", "array-source"),
    "stream": ("cell-sink", "cell-relay", "stream-source"),
}

if __name__ == "__main__":
    main()
