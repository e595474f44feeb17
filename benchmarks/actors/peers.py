"""What the programs share that a library is compared with: frames, certificates, and figures."""

from __future__ import annotations

import ssl
import struct
import time
from typing import TYPE_CHECKING

from part import hear, heard, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from part import Part

HOST = "127.0.0.1"
HEADER = struct.Struct("!Q")
"""Before each payload: how many bytes it has."""
ACK = HEADER.pack(0)
"""A frame without a payload: all has arrived."""
PIECE = 256 * 1024
MESSAGE = 1 << 20
"""How large a piece is where what carries it has messages of its own."""
WARM_UP_REQUESTS = 200
WARM_UP_SIZE = 1 << 20


def measured(run: Callable[[], object]) -> None:
    """Say how long that took, once told to begin."""
    say()
    if hear():
        begin = time.perf_counter()
        run()
        say(seconds=time.perf_counter() - begin)


def measured_one_by_one(request: Callable[[], object], count: int) -> None:
    """Say how long each of many took, after some to warm up, once told to begin."""
    for _ in range(WARM_UP_REQUESTS):
        request()
    say()
    if not hear():
        return
    took = []
    for _ in range(count):
        begin = time.perf_counter()
        request()
        took.append(time.perf_counter() - begin)
    say(**percentiles(took))


async def measured_async(run: Callable[[], Awaitable[object]]) -> None:
    """Do as :func:`measured` does."""
    say()
    if await heard():
        begin = time.perf_counter()
        await run()
        say(seconds=time.perf_counter() - begin)


async def measured_one_by_one_async(request: Callable[[], Awaitable[object]], count: int) -> None:
    """Do as :func:`measured_one_by_one` does."""
    for _ in range(WARM_UP_REQUESTS):
        await request()
    say()
    if not await heard():
        return
    took = []
    for _ in range(count):
        begin = time.perf_counter()
        await request()
        took.append(time.perf_counter() - begin)
    say(**percentiles(took))


async def stay_async() -> None:
    """Wait for the end of standard input, beside an event loop."""
    while await heard():
        pass


def stay() -> None:
    """Wait for the end of standard input."""
    while hear():
        pass


def address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition(":")
    return host, int(port)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return what a client of ``rtt`` says."""
    ranked = sorted(seconds)
    return {f"p{share}_us": ranked[len(ranked) * share // 100] * 1e6 for share in (50, 99)}


def pieces(data: memoryview, size: int) -> Iterator[memoryview]:
    return (data[start : start + size] for start in range(0, len(data), size))


def repeated(piece: bytes, size: int) -> Iterator[memoryview]:
    """Return the same piece until ``size`` bytes are out, as a stream has no array behind it."""
    view = memoryview(piece)
    return (view[: size - start] for start in range(0, size, len(piece)))


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the payloads of all whole frames, and what is left."""
    payloads = []
    begin = 0
    while (body := begin + HEADER.size) <= len(data):
        end = body + HEADER.unpack_from(data, begin)[0]
        if end > len(data):
            break
        payloads.append(data[body:end])
        begin = end
    return payloads, data[begin:]


def frame(payload: bytes) -> bytes:
    return HEADER.pack(len(payload)) + payload


def secured(mine: Part, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    """Return what TLS needs on that side, or None in the clear."""
    if mine.security == "clear":
        return None
    context = ssl.create_default_context(purpose, cafile=mine.roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*mine.pair("server" if purpose is ssl.Purpose.CLIENT_AUTH else "client"))
    if purpose is ssl.Purpose.CLIENT_AUTH:
        context.num_tickets = 0  # nobody resumes a session
    return context
