"""Targets: names, headers, the parts of bodies, and payloads."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from cellnet.credentials import Identity
from cellnet.drivers.base import Address
from cellnet.errors import ConfigurationError, InvalidName, RemoteProtocolError
from cellnet.fqcn import FQCN, FQSN, Pattern, check_segment
from cellnet.message import Reply
from cellnet.payload import Encoding, decode, encode
from cellnet.protocol.envelope import Answer, Content, Entry, Order, Status, join, part, unpack_ranges
from cellnet.protocol.events import Replied
from cellnet.protocol.frames import FrameDecoder, Kind, pack, unpack
from tests.fuzz.mutation import packed, vary, vary_packed
from tests.fuzz.target import Target
from tests.protocol.test_fuzz import FRAMES, KIND_OFFSET, LONGEST, Talk, mutate, mutate_behind_the_prefix

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.fuzz.target import Lab

__all__ = ["answers", "arrays", "envelopes", "headers", "names", "payloads"]

NAMES = ("server", "server.j", "R1.C1", "C1.C11", LONGEST, "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p", "R1.*", "R1.>", "*.C1")
URIS = ("cellnet://mobile/client/C1", "cellnet://a%20b/server/fl.example.com", "cellnet://[::1]/client/C1")
URLS = ("tcp://localhost:8002", "tcp://[::1]:8002/", "unix:///run/cell.sock", "memory://server")
SOURCE = FQCN("C1")


def names(_lab: Lab) -> Target:
    readers: tuple[Callable[[str], object], ...] = (FQCN, FQSN, Pattern, check_segment, Identity.parse, Address.parse)

    def make(rng: random.Random) -> bytes:
        reader = rng.randrange(len(readers))
        texts = {Identity.parse: URIS, Address.parse: URLS}.get(readers[reader], NAMES)
        return bytes([reader]) + mutate(rng, rng.choice(texts).encode())

    def take(data: bytes) -> None:
        text = data[1:].decode(errors="replace")
        read = readers[data[0]](text)
        if isinstance(read, Pattern):
            read.matches(SOURCE)

    return Target(make, take, (InvalidName, ConfigurationError))


def headers(_lab: Lab) -> Target:
    valid = [frame for frame in (make(Talk()) for make in FRAMES) if frame[KIND_OFFSET] != Kind.DATA]
    types = (int, str, bytes, list, dict, bool, (str, type(None)))
    read = [next(iter(FrameDecoder().feed(frame))).header for frame in valid]
    shapes = [[type(field) for field in msgpack.unpackb(header)] for header in read]

    def make(rng: random.Random) -> bytes:
        at = rng.randrange(len(valid))
        if rng.random() < 0.5:
            return bytes([at]) + vary_packed(rng, read[at])
        return b"\xff" + (mutate if rng.random() < 0.5 else mutate_behind_the_prefix)(rng, valid[at])

    def take(data: bytes) -> None:
        if data[0] < len(shapes):
            unpack(data[1:65536], *shapes[data[0]])
            return
        for frame in FrameDecoder().feed(data[1:]):
            unpack(frame.header, *types[: frame.kind % len(types)])

    return Target(make, take, (RemoteProtocolError,))


def envelopes(_lab: Lab) -> Target:
    order = Order(5, 2, "k", 4, 60_000, doubt=True).pack()
    content = Content("topic", 2, b"\x90").pack()
    entries = pack([[name, 77, n, order] for n, name in enumerate(("server", "R", "C.c", LONGEST))])
    readers: tuple[tuple[bytes, Callable[[bytes], object]], ...] = (
        (order, Order.unpack),
        (content, Content.unpack),
        (Answer(5, 6, Status.RAISED, 2, b"\x92\xa1a\xa1b").pack(), Answer.unpack),
        (pack([[1, 3], [5, 6]]), unpack_ranges),
        (pack([[1, 3]], [[5, 6]]), lambda body: unpack_ranges(body, 2)),
        (entries, lambda data: Entry.unpack(unpack(data, list)[0])),
        (join(order, content), lambda body: [Order.unpack(part(body)[0]), Content.unpack(part(body)[1])]),
    )
    in_two_parts = (Content.unpack, Answer.unpack)

    def make(rng: random.Random) -> bytes:
        at = rng.randrange(len(readers))
        data, reader = readers[at]
        if at == len(readers) - 1 or rng.random() < 0.2:
            data = mutate(rng, data)
        elif reader in in_two_parts:
            head, rest = part(data)
            data = join(vary_packed(rng, head), rest)
        else:
            data = vary_packed(rng, data)
        return bytes([at]) + data

    def take(data: bytes) -> None:
        readers[data[0]][1](data[1:])

    return Target(make, take, (RemoteProtocolError,))


VALUES: tuple[Any, ...] = (
    {"round": 3, "loss": 0.25, "sites": ["C1", "C2"], "done": False, "note": None},
    [1, -1, 2**40, "text", b"bytes", 1.5, [[], {}]],
    {1: {2: {3: ["deep"]}}},
    "a text",
    list(range(300)),
)


def payloads(_lab: Lab) -> Target:
    valid = [encode(value).joined() for value in VALUES]

    def make(rng: random.Random) -> bytes:
        encoding = rng.choice((*Encoding, 4, 255)) if rng.random() < 0.05 else Encoding.VALUE
        return bytes([encoding]) + vary_packed(rng, rng.choice(valid))

    return Target(make, lambda data: decode(data[0], data[1:]), (RemoteProtocolError,))


def arrays(_lab: Lab) -> Target:
    """Mutate the table of an ARRAYS payload, the value that refers to it, or any of its bytes."""
    tables = {
        "model": {"w": np.arange(12.0).reshape(3, 4), "b": np.zeros(0, np.float32)},
        "list": [np.ones(5, dtype) for dtype in ("i1", "u2", "<i4", "<c16", "?")],
        "cube": np.ones((2, 3, 4), np.int64),
    }
    valid = [encode(value).joined() for value in tables.values()]

    def make(rng: random.Random) -> bytes:
        data = rng.choice(valid)
        if rng.random() < 0.3:
            return mutate(rng, data)
        size = int.from_bytes(data[:4], "big")
        value, table = msgpack.unpackb(data[4 : 4 + size])
        if rng.random() < 0.3:
            value = vary_packed(rng, value)
        else:
            table = vary(rng, table)
        head = packed([value, table])
        padding = bytes(-(4 + len(head)) % 64)
        return (struct.pack(">I", len(head)) + head + padding + data[-(-(4 + size) // 64) * 64 :])[:65536]

    return Target(make, lambda data: decode(Encoding.ARRAYS, data), (RemoteProtocolError,))


def answers(_lab: Lab) -> Target:
    """Mutate what a far cell answers; a wrong answer is the caller's to see, so nothing is raised here."""
    valid = [(Status.RAISED, encode(["ValueError", "no such thing"]).joined()), (Status.OK, encode(VALUES[0]).joined())]
    valid.append((Status.RAISED, encode({"code": math.pi}).joined()))

    def make(rng: random.Random) -> bytes:
        status, data = rng.choice(valid)
        encoding = Encoding.VALUE if rng.random() < 0.9 else rng.choice((*Encoding, 9))
        return bytes([status, encoding]) + vary_packed(rng, data)

    def take(data: bytes) -> bool:
        return Reply.of(Replied(1, SOURCE, data[0], data[1], data[2:])).error is None

    return Target(make, take)
