"""What a peer may do within HTTP, and what it may not."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from cellnet import Cell, ConnectError
from cellnet.drivers.base import CLEAR, Address
from cellnet.drivers.http import HttpDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cellnet.drivers.websocket import WsLink

pytestmark = pytest.mark.anyio


async def against(peer: Callable[[str], object], serve: Callable[[WsLink], Awaitable[None]]) -> object:
    """Run a peer of another library in a thread, which is given a URL, and serve its link; return what it returns."""
    listener = await HttpDriver().listen(Address.parse("http://127.0.0.1:0"), CLEAR)
    found: list[object] = []

    async def play() -> None:
        found.append(await anyio.to_thread.run_sync(peer, listener.url.replace("http", "ws", 1) + "/cellnet"))

    try:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(play)
                link = await listener.accept()
                try:
                    await link.start()
                    await serve(link)
                finally:
                    link.abort()
    finally:
        listener.close()
    return found[0]


async def read(link: WsLink, size: int) -> bytes:
    data, buffer = b"", memoryview(bytearray(100_000))
    while len(data) < size and (count := await link.fill(buffer)):
        data += buffer[:count]
    return data


async def test_a_message_in_fragments_is_one_after_the_other() -> None:
    def peer(url: str) -> None:
        with connect(url) as other:
            other.send([b"in ", b"three ", b"parts"])
            assert other.recv() == b"thanks"

    async def serve(link: WsLink) -> None:
        assert await read(link, 14) == b"in three parts"
        await link.send([b"tha", b"nks"])
        assert await read(link, 1) == b""

    await against(peer, serve)


async def test_a_ping_is_answered_also_while_nothing_else_is_sent() -> None:
    def peer(url: str) -> bool:
        with connect(url, ping_interval=None) as other:
            return other.ping().wait(5)

    async def serve(link: WsLink) -> None:
        assert await read(link, 1) == b""

    assert await against(peer, serve) is True


async def test_text_ends_the_link() -> None:
    def peer(url: str) -> None:
        with connect(url) as other:
            other.send("text")
            with pytest.raises(ConnectionClosed):
                other.recv()

    async def serve(link: WsLink) -> None:
        with pytest.raises(ConnectError, match="sent text in a WebSocket of cells"):
            await read(link, 1)

    await against(peer, serve)


async def test_a_message_that_is_too_long_ends_the_link_before_it_has_come() -> None:
    def peer(url: str) -> None:
        with connect(url) as other, pytest.raises((ConnectionClosed, OSError)):
            for _ in range(100):
                other.send(bytes(2 << 20))

    async def serve(link: WsLink) -> None:
        with pytest.raises(ConnectError, match=r"broke the rules of WebSockets: .*2097152 .*1048576"):
            await read(link, 1)

    await against(peer, serve)


async def test_more_pings_than_can_be_answered_end_the_link() -> None:
    def peer(url: str) -> None:
        with connect(url, ping_interval=None) as other, pytest.raises((ConnectionClosed, OSError)):
            for number in range(100_000):
                other.ping(str(number))

    async def serve(link: WsLink) -> None:
        link._is_sending = True  # as while the peer takes nothing, so that no answer leaves
        with pytest.raises(ConnectError, match="sent too many pings"):
            await read(link, 1)

    await against(peer, serve)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [("/", 404, b"This is a cell of cellnet. What it speaks is at /cellnet."), ("/cellnet2", 404, b"/cellnet.")],
)
async def test_another_path_is_told_the_right_one(path: str, status: int, said: bytes) -> None:
    def peer(url: str) -> InvalidStatus:
        with pytest.raises(InvalidStatus) as caught:
            connect(url.replace("/cellnet", path))
        return caught.value

    async def serve(_link: WsLink) -> None:
        raise AssertionError("it was granted")

    with pytest.RaisesGroup(pytest.RaisesExc(ConnectError, match="no WebSocket was granted: it asked for")):
        await against(peer, serve)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404: there is nothing at /cellnet"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "status 403: it forbids this"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "status 400: .* does it expect TLS?"),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "pass on the headers Upgrade and Connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "status 200: it does not grant a WebSocket there"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "status 502: an ingress could not reach"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP: compare the scheme"),
        (b"HTTP/1.1 101 Sure\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "not as a WebSocket does"),
        (b"", "closed the link before it said what it is"),
    ],
)
async def test_what_answers_in_place_of_a_cell_is_told(answer: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            sock, _address = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(answer)

        async with anyio.create_task_group() as tasks, Cell("C1") as child:
            tasks.start_soon(anyio.to_thread.run_sync, serve)
            with pytest.raises(ConnectError, match=told), anyio.fail_after(1):
                await child.connect(f"http://127.0.0.1:{port}")
