"""What only gRPC can do wrong: forks, connections that outlive their calls, files that are missing."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import psutil
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from cellnet import Cell, ConfigurationError, ConnectError
from cellnet.drivers import tls
from cellnet.drivers.base import CLEAR, Address
from cellnet.drivers.grpc import GrpcDriver
from cellnet.drivers.grpc_link import (
    LONG_MESSAGE_BYTES,
    METHOD,
    SERVICE,
    GrpcLink,
    deserialize,
    serialize,
)
from cellnet.drivers.grpc_loop import GrpcLoop
from cellnet.pace import SLOW_SECONDS, Pace

if TYPE_CHECKING:
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
URL = Address.parse("grpc://127.0.0.1:0")


STARTING = """
import anyio
from cellnet import Cell

async def echo(request):
    return request.payload

async def main():
    async with Cell("server", handlers={"echo": echo}) as parent, Cell("C1") as child:
        await child.connect(await parent.listen("grpc://127.0.0.1:0"))
        async with anyio.create_task_group() as tasks:

            async def keep_asking():
                while True:
                    await child.request("server", "echo", bytes(60_000))

            for _ in range(8):
                tasks.start_soon(keep_asking)
            codes = []
            for _ in range(100):
                async with await anyio.open_process(["true"], start_new_session=True) as process:
                    codes.append(await process.wait())
            tasks.cancel_scope.cancel()
    print(set(codes))

anyio.run(main, backend_options={"use_uvloop": True})
"""


def test_processes_can_be_started_by_fork_while_calls_are_under_way() -> None:
    # uvloop starts processes by fork, as nodes do that have it
    command = [sys.executable, "-P", "-c", STARTING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{0}\n", "")


ASKING = """
import sys
import anyio
from cellnet import Cell
from cellnet.drivers.grpc_loop import GrpcLoop

async def main():
    async with Cell("server", handlers={"echo": lambda request: request.payload}) as parent, Cell("C1") as child:
        await child.connect(await parent.listen("grpc://127.0.0.1:0"))
        assert await child.request("server", "echo", bytes(1 << 20)) == bytes(1 << 20)
    print(type(GrpcLoop.of_process()._loop).__module__)

if sys.argv[1:]:
    sys.modules["uvloop"] = None
anyio.run(main)
"""


@pytest.mark.parametrize(("without", "loop"), [([], "uvloop"), (["without"], "asyncio.unix_events")])
def test_grpc_has_a_loop_of_uvloops_where_that_is_installed(without: list[str], loop: str) -> None:
    command = [sys.executable, "-P", "-c", ASKING, *without]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{loop}\n", "")


def test_long_messages_begin_one_after_the_other_and_whoever_else_is_ready_runs_in_between() -> None:
    loop, said, done = GrpcLoop.of_process(), list[str](), threading.Event()

    async def send(name: str) -> None:
        for _ in range(3):
            await loop.turn()
            said.append(name)

    async def work() -> None:
        sending = [asyncio.create_task(send(name)) for name in ("A", "B", "C")]
        given_up = asyncio.create_task(send("given up"))
        await asyncio.sleep(0)
        given_up.cancel()
        while not all(task.done() for task in sending):
            said.append("work")
            await asyncio.sleep(0)
        done.set()

    loop.start(work())
    assert done.wait(5)
    assert [said.count(name) for name in ("A", "B", "C", "given up")] == [3, 3, 3, 0]
    assert not [pair for pair in pairwise(said) if "work" not in pair]


async def test_a_link_that_ends_gives_its_connection_back_at_once() -> None:
    driver = GrpcDriver()
    listener = await driver.listen(URL, CLEAR)
    gc.disable()  # or the rest of a call would be found sooner or later
    try:
        before = len(psutil.Process().net_connections("tcp"))
        for _ in range(5):
            near = await driver.connect(Address.parse(listener.url), CLEAR)
            await near.start()
            far = await listener.accept()
            near.abort()
            far.abort()
        with anyio.fail_after(5):
            while len(psutil.Process().net_connections("tcp")) > before:
                await anyio.sleep(0.05)
    finally:
        gc.enable()
        listener.close()


async def test_streams_beyond_those_that_may_wait_to_be_accepted_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.drivers.grpc_server.MAX_WAITING", 2)
    driver = GrpcDriver()
    listener = await driver.listen(URL, CLEAR)
    links = [await driver.connect(Address.parse(listener.url), CLEAR) for _ in range(3)]
    for link in links[:2]:
        await link.start()
    with anyio.fail_after(5), pytest.raises(ConnectError, match="the other side closed the link"):
        await links[2].start()  # which may see it, or who reads does
        await links[2].fill(memoryview(bytearray(1)))
    for near in links[:2]:
        far = await listener.accept()
        await far.send([b"!"])
        assert await near.fill(memoryview(bytearray(1))) == 1
        far.abort()
    for link in links:
        link.abort()
    listener.close()


async def test_a_proxys_password_may_hold_what_means_something_in_a_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        asked: list[bytes] = []

        def serve() -> None:
            sock, _address = proxy.accept()
            with sock:
                asked.append(sock.recv(65536))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve)
            link = await GrpcDriver(f"http://us%40er:p%40ss%2F%25@127.0.0.1:{port}").connect(
                Address.parse("grpc://hub.example.org:8002"), CLEAR
            )
            with pytest.raises(ConnectError):
                await link.start()
    assert asked[0].startswith(b"CONNECT hub.example.org:8002 HTTP/1.1")
    assert b"grpc" in asked[0]  # it is gRPC that asked, and not who finds out why it could not
    (given,) = re.findall(rb"(?i)proxy-authorization: basic (\S+)", asked[0])
    assert base64.b64decode(given) == b"us@er:p@ss/%"


async def test_a_certificate_that_cannot_be_read_is_told_and_nobody_waits_for_ever(issue: Issue) -> None:
    server = issue("server", "server")
    assert server.files is not None
    security = tls.for_listening("mtls", server, "h2")
    server.files[1].write_text("no key")
    with pytest.raises(ConfigurationError, match="cannot listen at grpc://"), anyio.fail_after(5):
        await GrpcDriver().listen(URL, security)
    server.files[1].unlink()
    with pytest.raises(ConfigurationError, match="No such file"), anyio.fail_after(5):
        await GrpcDriver().listen(URL, security)


async def test_a_port_that_is_taken_is_told_with_the_reason() -> None:
    driver = GrpcDriver()
    listener = await driver.listen(URL, CLEAR)
    with pytest.raises(ConfigurationError, match=r"cannot listen at grpc://127\.0\.0\.1:\d+: Address already in use"):
        await driver.listen(Address.parse(listener.url), CLEAR)
    listener.close()


def test_the_published_interface_is_the_one_that_is_spoken() -> None:
    from cellnet import drivers

    text = (Path(drivers.__file__).parent / "cellnet.proto").read_text()
    package, _, service = SERVICE.rpartition(".")
    assert f"package {package};" in text
    assert f"service {service} {{" in text
    assert f"rpc {METHOD}(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue);" in text


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 1 << 20, (1 << 21) - 1, 1 << 21])
def test_messages_are_those_of_the_published_type(size: int) -> None:
    message = serialize([memoryview(bytes(size - 1)), b"!"])
    assert message == BytesValue(value=bytes(size - 1) + b"!").SerializeToString()
    data = deserialize(message)
    assert data == bytes(size - 1) + b"!"
    assert isinstance(data, memoryview)  # no copy


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (b"", b""),
        (b"\x0a\x00", b""),
        (b"\x0a\x82\x00hi", b"hi"),  # a length that is longer than it need be
        (b"\x0a\x02hi\x0a\x03you", b"you"),  # the last one counts
        (b"\x10\x07\x0a\x02hi", b"hi"),  # with a field that nobody knows
    ],
)
def test_messages_of_other_writers_are_understood(message: bytes, value: bytes) -> None:
    assert deserialize(message) == value


@pytest.mark.parametrize(
    "message", [b"\x0a", b"\x0a\x05hi", b"\xff\xff\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0fhi"]
)
def test_what_is_no_message_is_an_error(message: bytes) -> None:
    with pytest.raises(DecodeError):
        deserialize(message)


async def test_messages_grow_while_the_other_side_reads_and_shrink_when_it_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    note = Pace.sent

    def noted(pace: Pace, count: int, seconds: float) -> None:
        note(pace, count, seconds)
        sizes.append(pace.size)

    monkeypatch.setattr(Pace, "sent", noted)
    driver = GrpcDriver()
    listener = await driver.listen(URL, CLEAR)
    near = await driver.connect(Address.parse(listener.url), CLEAR)
    await near.start()
    far = await listener.accept()
    assert isinstance(near, GrpcLink)
    buffer, reads = memoryview(bytearray(1 << 20)), anyio.Event()

    async def read() -> None:
        while True:
            await reads.wait()
            await far.fill(buffer)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        reads.set()
        with anyio.fail_after(20):
            while LONG_MESSAGE_BYTES not in sizes:
                await near.send([bytes(1 << 20)])
            reads = anyio.Event()
            written = -1
            while near.outgoing.has_room or written < len(sizes):  # until all that is in between is full
                written = len(sizes)
                near.try_send([bytes(1 << 20)])
                await anyio.sleep(10 * SLOW_SECONDS)
            sizes.clear()
            reads.set()
            while not any(size < LONG_MESSAGE_BYTES for size in sizes):
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    near.abort()
    far.abort()
    listener.close()


async def test_a_link_that_rests_holds_nothing_of_what_it_carried_last() -> None:
    driver = GrpcDriver()
    listener = await driver.listen(URL, CLEAR)
    near = await driver.connect(Address.parse(listener.url), CLEAR)
    await near.start()
    far = await listener.accept()
    buffer, data = memoryview(bytearray(1 << 20)), bytes(LONG_MESSAGE_BYTES)
    near.pace.size = LONG_MESSAGE_BYTES
    tracemalloc.start()
    try:
        await near.send([data])
        left = len(data)
        with anyio.fail_after(10):
            while left:
                left -= await far.fill(buffer)
            while tracemalloc.get_traced_memory()[0] > LONG_MESSAGE_BYTES // 4:
                await anyio.sleep(0.01)
        assert tracemalloc.get_traced_memory()[1] > LONG_MESSAGE_BYTES  # it was seen while it passed
    finally:
        tracemalloc.stop()
    near.abort()
    far.abort()
    listener.close()


def test_a_process_that_used_grpc_ends_by_itself() -> None:
    program = (
        "import anyio\nfrom cellnet import Cell\n"
        "async def main():\n"
        "    async with Cell('server') as top, Cell('C1') as child:\n"
        "        await child.connect(await top.listen('grpc://127.0.0.1:0'))\n"
        "anyio.run(main)\nprint('done')\n"
    )
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_without_grpcio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.drivers.grpc.find_spec", lambda _name: None)

    async def connect() -> None:
        async with Cell("C1") as child:
            await child.connect("grpc://127.0.0.1:1")

    with pytest.raises(ConfigurationError, match=r"pip install 'cellnet-fl\[grpc\]'"):
        anyio.run(connect)
