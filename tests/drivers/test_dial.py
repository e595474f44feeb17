"""Reaching a host that has several addresses, of which some do not answer."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, ConnectError
from cellnet.drivers.dial import HEAD_START_SECONDS, dial

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


def resolved(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""

    async def getaddrinfo(_host: str, port: int, **_more: object) -> list[tuple[object, ...]]:
        families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
        return [(family, 1, 6, "", (host, port)) for family, host in zip(families, hosts, strict=True)]

    monkeypatch.setattr("cellnet.drivers.dial.anyio.getaddrinfo", getaddrinfo)


@contextmanager
def full(host: str, port: int) -> Iterator[None]:
    """Listen where a dial is not even refused: the queue of those who wait to be accepted is full."""
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_an_address_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with listening() as port, full("127.0.0.2", port), full("127.0.0.3", port), anyio.fail_after(2):
        began = time.monotonic()
        with await dial("hub.example.org", port) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        assert time.monotonic() - began >= 2 * HEAD_START_SECONDS


async def test_an_address_that_refuses_is_followed_by_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "::1", "127.0.0.2", "127.0.0.1")
    with listening() as port:
        began = time.monotonic()
        with await dial("hub.example.org", port) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
        assert time.monotonic() - began < HEAD_START_SECONDS


async def test_when_none_answers_it_says_how_many_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "127.0.0.2", "127.0.0.3")
    told = r"nobody answers at hub:\d+: Connection refused \(2 addresses were tried\)"
    with listening() as port, pytest.raises(ConnectError, match=told):
        await dial("hub", port)


async def test_a_dial_that_is_given_up_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "127.0.0.2")
    with listening() as port, full("127.0.0.2", port):
        with anyio.move_on_after(0.1) as gave_up:
            await dial("hub", port)
        assert gave_up.cancelled_caught  # a socket that was left would be a warning, which is an error here


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_a_cell_is_reached_over_ipv6(scheme: str) -> None:
    async with Cell("server") as parent, Cell("C1") as child:
        url = await parent.listen(f"{scheme}://[::1]:0")
        assert url.startswith(f"{scheme}://[::1]:")
        with anyio.fail_after(5):
            await child.connect(url)
