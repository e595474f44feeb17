"""What links read into, and waiting for something to read."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio.lowlevel
import pytest

from cellnet import Cell
from cellnet.drivers.readable import Readable
from cellnet.drivers.sock import MAX_UNSENT_BYTES, UNSENT_BYTES, SockLink
from cellnet.errors import ConnectError
from cellnet.link import RunningLink
from cellnet.pages import MAX_PAGES, PAGE_BYTES, Pages
from cellnet.protocol.handshake import Transport
from cellnet.turn import Turn
from tests.protocol.conftest import new_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cellnet import Stream
    from cellnet.drivers.base import Buffer

MIB = 1 << 20


def test_a_page_is_used_again_once_nobody_has_a_view_of_it() -> None:
    pages = Pages()
    one, two = pages.take(), pages.take()
    assert one.obj is not two.obj
    exporter, part = one.obj, one[10:20]
    del one
    assert pages.take().obj is not exporter, "somebody has a view of a part"
    del part
    assert any(pages.take().obj is exporter for _ in range(3))


def test_there_are_so_many_pages_and_then_the_shared_one_is_all_there_is() -> None:
    pages = Pages()
    taken = [pages.take() for _ in range(MAX_PAGES)]
    assert all(len(page) == PAGE_BYTES and page is not pages.shared for page in taken)
    assert pages.take() is pages.shared
    taken.pop()
    assert pages.take() is not pages.shared


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    with one, other:
        yield one, other


@pytest.mark.anyio
async def test_a_socket_is_waited_for_again_and_again(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    readable = Readable(one)
    with anyio.fail_after(5):
        for word in (b"one", b"two", b"three"):
            other.send(word)
            await readable.wait()
            await anyio.sleep(0.01)  # bytes are there, and nobody waits
            assert one.recv(10) == word
            with anyio.move_on_after(0.02):
                while True:  # it may return for nothing
                    await readable.wait()
                    with pytest.raises(BlockingIOError):
                        one.recv(10)
        readable.close()


@pytest.mark.anyio
async def test_who_waits_for_a_link_to_be_read_learns_that_it_was_closed_here(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    link = SockLink(pair[0], "unix")

    async def close() -> None:
        await anyio.sleep(0.01)
        link.abort()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with anyio.fail_after(5), pytest.raises(ConnectError):
            await link.fill(memoryview(bytearray(10)))


@pytest.mark.anyio
async def test_a_link_tells_whether_bytes_had_to_be_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    link, buffer = SockLink(one, "unix"), memoryview(bytearray(3))

    async def send_later() -> None:
        await anyio.sleep(0.01)
        other.send(b"four")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_later)
        assert (await link.fill(buffer), link.waited) == (3, True)
        assert (await link.fill(buffer), link.waited) == (1, False)
    link.abort()


class Endless:
    """A link with bytes that never have to be waited for, until it is red enough."""

    transport = Transport("endless")
    waited = False

    def __init__(self) -> None:
        self.left = 300_000

    async def fill(self, buffer: memoryview) -> int:
        """Return part of a frame, and of one that never ends."""
        self.left -= 1
        if not self.left:
            raise ConnectError("nobody else had a turn")
        buffer[:1] = b"\0"
        return 1

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Take all."""
        del buffers
        return ()

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Take all."""

    async def start(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


@pytest.mark.anyio
async def test_a_link_with_bytes_without_end_leaves_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, link = new_endpoint("R"), Endless()
    connection = endpoint.open(link.transport, is_listener=True, now=anyio.current_time(), role="cell")
    monkeypatch.setattr(endpoint, "receive", lambda *_arguments: None)
    async with anyio.create_task_group() as tasks:
        running = RunningLink(
            link, connection, endpoint, tasks, Pages(), Turn(), dispatch=lambda: None, ready=lambda _link: None
        )
        tasks.start_soon(running.run, anyio.lowlevel.checkpoint)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        left = link.left
        tasks.cancel_scope.cancel()
    assert 0 < left < 300_000


@pytest.mark.anyio
async def test_the_kernel_may_hold_more_while_it_is_quick_and_less_when_it_is_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        link = SockLink(sock, "tcp")

        def held_back() -> int:
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)

        seen = [held_back()]
        for waited in [0.0] * 6 + [0.005] + [0.1] * 6:
            link._pace(waited)
            seen.append(held_back())
        assert seen[0] == seen[-1] == UNSENT_BYTES
        assert max(seen) == seen[6] == seen[7] == MAX_UNSENT_BYTES


@pytest.mark.anyio
async def test_what_waits_in_a_relay_for_a_slow_reader_comes_as_it_was() -> None:
    """It lies in pages, in copies, and in the one that is shared: none may be overwritten before it left."""
    piece = bytes(range(256)) * 1021
    count = 48 * MIB // len(piece)
    wrong: list[int] = []
    done = anyio.Event()

    async def compare(stream: Stream) -> None:
        place = 0
        async for data in stream:
            start = place % len(piece)
            whole = piece[start:] + piece * (len(data) // len(piece) + 1)
            if whole[: len(data)] != data:
                wrong.append(place)
            if place % 7 == 0:
                await anyio.sleep(0.002)
            place += len(data)
        wrong.extend([place] if place != count * len(piece) else [])
        done.set()

    async with (
        Cell("server", streams={"compare": compare}) as top,
        Cell("R1") as relay,
        Cell("C1") as one,
        Cell("C2") as two,
    ):
        await relay.connect(await top.listen("tcp://127.0.0.1:0"))
        url = await relay.listen("tcp://127.0.0.1:0")
        await one.connect(url)
        await two.connect(url)

        async def write(cell: Cell) -> None:
            async with cell.open_stream("server", "compare") as stream:
                for _ in range(count):
                    await stream.send(piece)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, one)
                tasks.start_soon(write, two)
            await done.wait()
    assert not wrong
