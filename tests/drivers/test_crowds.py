"""Those who come to disturb: many that say nothing, some that announce more than anybody has."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

from cellnet import Cell

if TYPE_CHECKING:
    from cellnet import Request
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
SILENT, HUGE = 128, 16
CLAIMS = {
    # a frame, a message of WebSocket after a good request, settings of HTTP/2: each of almost 4 GiB or 16 MiB
    "tcp": b"\xff\xff\xff\xf0\x00\x10\x02\x10" + bytes(8),
    "http": b"GET /cellnet HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    b"\x82\xff\x00\x00\x00\x00\xff\xff\xff\xff\x01\x02\x03\x04",
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00",
}


async def echo(request: Request) -> object:
    return request.payload


@pytest.mark.parametrize("mode", ["clear", "mtls"])
@pytest.mark.parametrize("scheme", list(CLAIMS))
async def test_a_child_joins_within_two_seconds_beside_a_crowd_of_strangers(
    issue: Issue, scheme: str, mode: str
) -> None:
    server, client = issue("server", "server", hosts=["127.0.0.1"]), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://127.0.0.1:0", server, security=mode)
        port = int(url.rpartition(":")[2])
        before = psutil.Process().memory_info().rss
        with ExitStack() as strangers:
            for number in range(SILENT + HUGE):
                stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port), 5))
                if number >= SILENT:
                    stranger.sendall(CLAIMS[scheme])
            await anyio.sleep(0.2)
            with anyio.fail_after(2):
                await child.connect(url, client, security=mode)
                assert await child.request("server", "echo", 1) == 1
            assert psutil.Process().memory_info().rss - before < 50 << 20
