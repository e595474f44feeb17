"""What TLS over a link must do beside what the laws of all drivers ask for."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.drivers import tls
from cellnet.drivers.sock import SockLink
from cellnet.drivers.tls_link import BATCH_BYTES, TlsLink, link_over
from cellnet.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cellnet.drivers.base import Buffer
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.fixture
async def links(issue: Issue) -> AsyncIterator[tuple[TlsLink, TlsLink]]:
    """Two ends that have shaken hands: of the listener, and of who dialled."""
    listening = tls.for_listening("mtls", issue("server", "server"), "cellnet/1")
    connecting = tls.for_connecting("mtls", issue("C1", "client"), "cellnet/1")
    one, other = socket.socketpair()
    near = link_over(one, "tcp", listening)
    far = link_over(other, "tcp", connecting, server_name="localhost")
    assert isinstance(near, TlsLink)
    assert isinstance(far, TlsLink)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(near.start)
        tasks.start_soon(far.start)
    yield near, far
    near.abort()
    far.abort()


async def test_both_sides_know_whose_certificate_the_other_has(links: tuple[TlsLink, TlsLink]) -> None:
    near, far = links
    assert near.transport.certificate is not None
    assert far.transport.certificate is not None
    assert near.transport.certificate != far.transport.certificate
    assert (near.transport.driver, near.transport.security) == ("tcp", "mtls")


async def test_many_records_come_and_go_with_each_call_to_the_kernel(
    links: tuple[TlsLink, TlsLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    send, read = SockLink._send_once, SockLink._read

    def counted_send(self: SockLink, pending: list[Buffer]) -> list[Buffer]:
        calls["send"] += 1
        return send(self, pending)

    def counted_read(self: SockLink, buffer: memoryview) -> int:
        calls["read"] += 1
        return read(self, buffer)

    monkeypatch.setattr(SockLink, "_send_once", counted_send)
    monkeypatch.setattr(SockLink, "_read", counted_read)
    near, far = links
    near._below._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    whole, buffer = bytes(range(256)) * 4096, memoryview(bytearray(MIB))
    assert near.try_send([whole[: MIB // 8]]) == []
    assert calls == {"send": 1}
    count = 0
    while count < MIB // 8:
        count += await far.fill(buffer[count:])
    assert buffer[:count] == whole[:count]
    assert calls["read"] <= 3, "there are eight records"


async def test_what_the_kernel_does_not_take_leaves_with_the_rest(links: tuple[TlsLink, TlsLink]) -> None:
    near, far = links
    whole = bytes(range(256)) * 4096 * 16
    left: Sequence[Buffer] = [whole[:1000], b"", whole[1000:]]
    came, buffer = bytearray(), memoryview(bytearray(MIB))

    async def read() -> None:
        while len(came) < len(whole):
            came.extend(buffer[: await far.fill(buffer)])

    left = near.try_send(left)
    assert 0 < sum(map(len, left)) < len(whole)
    left = near.try_send(left)  # the kernel is still full
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        with anyio.fail_after(10):
            await near.send(left)
    assert came == whole


async def test_what_was_encrypted_alone_calls_for_another_call(links: tuple[TlsLink, TlsLink]) -> None:
    near, far = links
    sent = 0
    while not (left := near.try_send([bytes(BATCH_BYTES)])):
        sent += 1
    assert left == [b""], "all of it was encrypted, and not all was taken"
    came, buffer = 0, memoryview(bytearray(MIB))
    with anyio.fail_after(10):
        while left:
            came += await far.fill(buffer)
            left = near.try_send(left)
        while came < (sent + 1) * BATCH_BYTES:
            came += await far.fill(buffer)


async def test_a_link_that_is_closed_says_so_and_stays_ended(
    links: tuple[TlsLink, TlsLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = links
    buffer, came = memoryview(bytearray(100)), 0
    fill = far._below.fill

    async def noted(room: memoryview) -> int:
        nonlocal came
        count = await fill(room)
        came += count
        return count

    monkeypatch.setattr(far._below, "fill", noted)
    await near.send([b"the last"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(near.aclose)
        assert await far.fill(buffer) == 8
        assert await far.fill(buffer) == 0
        assert await far.fill(buffer) == 0, "and stays ended"
        assert came == len("the last") + 2 + 2 * (5 + 1 + 16), (
            "two records: of what was sent, and of two bytes that say that it was all"
        )
        await far.aclose()
    await near.aclose()  # safe to repeat


async def test_bytes_that_are_not_the_peers_end_the_link_behind_those_that_are(links: tuple[TlsLink, TlsLink]) -> None:
    near, far = links
    buffer = memoryview(bytearray(100))
    await near.send([b"good"])
    await near._below.send([b"\x17\x03\x03\x00\x20" + bytes(32)])
    assert await far.fill(buffer) == 4
    for _ in range(2):
        with pytest.raises(ConnectError, match="TLS failed"):
            await far.fill(buffer)
    far.abort()


async def test_a_peer_that_is_gone_is_an_end(links: tuple[TlsLink, TlsLink]) -> None:
    near, far = links
    near.abort()
    assert await far.fill(memoryview(bytearray(10))) == 0
