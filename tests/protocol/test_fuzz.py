"""200,000 mutated frames, into endpoints in every state: nothing comes out but the errors that are documented.

Plain seeded mutation, which takes microseconds an input. A quarter of the inputs are changed behind the prefix only,
with a prefix that still fits, because others mostly die at the first check. ``CELLNET_FUZZ_SEED`` runs another seed.
"""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack
import pytest
from coverage import Coverage

from cellnet.errors import ProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.events import LinkFailed, Message
from cellnet.protocol.exchange import Status
from cellnet.protocol.frames import PREFIX, FrameDecoder, Kind, pack, unpack
from tests.protocol.conftest import MEMORY, Peer, Project, encode_frame, introduction, new_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint

SEED = int(os.environ.get("CELLNET_FUZZ_SEED", "20261122"))
INPUTS = 20_000 if Coverage.current() else 200_000
"""Coverage makes them four times as slow, and learns nothing from most."""
WITH_CREDENTIALS_EVERY = 200
"""An input that reaches a certificate costs a hundred times as much as any other."""
LINKS_PER_ENDPOINT = 1000
KIND_OFFSET = 6
LONGEST = "a" * 63 + (".b" + "b" * 62) * 3
INTERESTING = (0, 1, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xC0, 0xC1, 0xC7, 0xCF, 0xD3, 0xD9, 0xDD, 0xDF, 0xFF)


def message(*, sequence: int = 1, topic: str = "t") -> bytes:
    return pack(sequence, 1, topic, 1, {})


def frames() -> list[bytes]:
    """Return valid frames of every kind, as they occur between a server or relay and a child."""
    inner = message(sequence=9)
    body = len(inner).to_bytes(2, "big") + inner + b"payload"
    member = [1, "C.c", "client", "S.C", 5, "tcp", "mtls"]
    routed = {"hop": 5, "remaining_ms": 60_000}
    return [
        encode_frame(Kind.HELLO, pack(*introduction("server", "server"))),
        encode_frame(Kind.JOIN, pack(*introduction("D"), b"", b"")),
        encode_frame(Kind.WELCOME, pack("R"), b""),
        encode_frame(Kind.REFUSED, pack("full", "no room", True)),
        encode_frame(Kind.PING, b"\x90"),
        encode_frame(Kind.PRESENCE, b"\x90", msgpack.packb([member, [0, "C.c"], member])),
        encode_frame(Kind.BIND, pack("C.c", "server"), label=3),
        encode_frame(Kind.BIND, pack("X", "R"), label=3),
        encode_frame(Kind.BIND, pack("C", None), label=4095),
        encode_frame(Kind.LOST, pack("C.c", True), label=0),
        encode_frame(Kind.LOST, pack("R", False), label=1),
        encode_frame(Kind.NACK, pack(1, 1, "busy", "no room", ["C"]), label=0),
        encode_frame(Kind.NACK, pack(2, 1, "unreachable", "gone", ["C.c", LONGEST]), label=1),
        encode_frame(Kind.GOAWAY, pack("bye")),
        encode_frame(Kind.REQUEST, message(), b"payload", label=0, **routed),
        encode_frame(Kind.REQUEST, message(sequence=2), b"payload", label=1, **routed),
        encode_frame(Kind.EVENT, message(topic="news"), b"", label=0, **routed),
        encode_frame(Kind.REPLY, pack(1, 1, 0, 1, {}), b"answer", label=0, **routed),
        encode_frame(Kind.REPLY, pack(1, 1, 2, 0, {}), b"", label=0, **routed),
        encode_frame(Kind.CANCEL, pack(1, 1), label=0, **routed),
        encode_frame(Kind.BROADCAST, pack(["server", "R", "C.c", "X"]), body, label=2, **routed),
        encode_frame(Kind.BROADCAST, pack(["X"] * 3), body, label=2, **routed),
    ]


# States


@dataclass(frozen=True)
class State:
    """How far a link is when the mutated frame comes."""

    name: str
    opening: bytes = b""
    """What the neighbour says first."""
    neighbour: str = ""
    """Whom to send something, once the handshake is done."""
    expected: frozenset[Kind] = frozenset(Kind)
    """What is worth mutating most of the time; anything else is refused by its kind alone."""

    def endpoint(self) -> Endpoint:
        """Return an endpoint with one more neighbour, whose link must stay."""
        endpoint = new_endpoint(self.name)
        if self.name == "R":
            Peer.parent(endpoint, "R")
            Peer.child(endpoint, "a")
            endpoint.close(next(iter(endpoint.connections)))
        else:
            Peer.child(endpoint, "X")
        return endpoint

    def open(self, endpoint: Endpoint) -> Peer:
        """Return a new link of an endpoint in this state."""
        listens = self.name == "server"
        peer = Peer(endpoint, endpoint.open(MEMORY, is_listener=listens, now=0.0, role="server" if listens else "cell"))
        peer.send_bytes(self.opening)
        if self.neighbour:
            to = FQCN(self.neighbour)
            endpoint.request(to, "t", 1, b"", deadline=60.0)
            endpoint.broadcast([to], "t", 1, b"", deadline=60.0)
        peer.connection.take(0.0)
        return peer


def bound(*labels: tuple[str, str | None]) -> bytes:
    frames = [encode_frame(Kind.BIND, pack(*names), label=number) for number, names in enumerate(labels)]
    return b"".join(frames) + encode_frame(Kind.REQUEST, message(), b"", hop=5, remaining_ms=60_000)


HELLO = encode_frame(Kind.HELLO, pack(*introduction("server", "server")))
JOIN = encode_frame(Kind.JOIN, pack(*introduction("C"), b"", b""))
BELOW = encode_frame(Kind.PRESENCE, b"\x90", msgpack.packb([[1, "C.c", "client", "", 1, "tcp", "mtls"]]))
JOINED = HELLO + encode_frame(Kind.WELCOME, pack("R"))
LATER = frozenset(Kind) - {Kind.HELLO, Kind.JOIN, Kind.WELCOME, Kind.REFUSED, Kind.GOAWAY}
PLAIN = (
    State("server", expected=frozenset({Kind.JOIN, Kind.REFUSED})),
    State("R", expected=frozenset({Kind.HELLO, Kind.REFUSED})),
    State("R", HELLO, expected=frozenset({Kind.WELCOME})),
    State("server", JOIN + BELOW + bound(("C", "server"), ("C", "X"), ("C.c", None)), "C", LATER),
    State("R", JOINED + bound(("X", "R"), ("X", "R.a"), ("server", None)), "server", LATER - {Kind.PRESENCE}),
)
STATES = (0, 1, 2, 3, 3, 4)

PROJECT = Project()
SERVER, RELAY = PROJECT.server(), PROJECT.relay("R")


def with_credentials(rng: random.Random) -> tuple[Peer, bytes]:
    """Return an endpoint with credentials in the middle of a handshake, and the valid frame that it waits for."""
    server, relay = new_endpoint("server"), new_endpoint("R")
    listening = server.open(MEMORY, is_listener=True, now=0.0, role="server", credentials=SERVER)
    connecting = relay.open(MEMORY, is_listener=False, now=0.0, role="relay", credentials=RELAY)
    ends: list[tuple[Endpoint, Connection]] = [(relay, connecting), (server, listening), (relay, connecting)]
    source = listening
    for endpoint, target in ends[: rng.randrange(3)]:
        endpoint.receive(target, b"".join(source.take(0.0)), 0.0)
        source = target
    step = 0 if source is listening and not connecting.handshake._join else 1 if source is connecting else 2
    endpoint, target = ends[step]
    return Peer(endpoint, target), b"".join(source.take(0.0))


# Mutations


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.choice(INTERESTING)


def insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 4))


def delete(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 4)]


def repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randint(1, 16)] * rng.choice((1, 2, 50))


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(1, len(data) + 1) :]


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flip,
    flip,
    overwrite,
    overwrite,
    insert,
    delete,
    repeat,
    truncate,
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if changed:
            rng.choice(MUTATIONS)(rng, changed)
    return bytes(changed)


def mutate_behind_the_prefix(rng: random.Random, frame: bytes) -> bytes:
    """Change header or body, and write the prefix anew, so that it fits."""
    _length, size, kind, hop, label, remaining = PREFIX.unpack_from(frame)
    header, body = frame[PREFIX.size : PREFIX.size + size], frame[PREFIX.size + size :]
    if body and rng.random() < 0.4:
        body = mutate(rng, body)
    else:
        header = mutate(rng, header)[:65535]
    return PREFIX.pack(len(header) + len(body), len(header), kind, hop, label, remaining) + header + body


def drain(endpoint: Endpoint) -> None:
    """Do what the owner does with what came of it: answer, and send on every link."""
    links = list(endpoint.connections)
    while endpoint.events:
        event = endpoint.events.popleft()
        if isinstance(event, Message):
            endpoint.reply(event.key, Status.OK, 0, b"")
        elif isinstance(event, LinkFailed):
            links.append(event.connection)
    for connection in links:
        if connection.has_output:
            connection.take(0.0)


@pytest.mark.timeout(300)
def test_no_mutated_frame_brings_an_endpoint_to_raise_or_to_lose_another_link() -> None:
    rng = random.Random(SEED)
    valid = frames()
    expected = [[frame for frame in valid if frame[KIND_OFFSET] in state.expected] for state in PLAIN]
    endpoints = [state.endpoint() for state in PLAIN]
    peers = [state.open(endpoint) for state, endpoint in zip(PLAIN, endpoints, strict=True)]
    links = kept = 0
    for number in range(INPUTS):
        data = b""
        try:
            at = rng.choice(STATES)
            frame = rng.choice(expected[at] if rng.random() < 0.9 else valid)
            peer = peers[at]
            if number % WITH_CREDENTIALS_EVERY == 0:
                peer, frame = with_credentials(rng)
            data = (mutate if number % 4 else mutate_behind_the_prefix)(rng, frame)
            peer.send_bytes(data)
            drain(peer.endpoint)
            assert len(endpoints[at].connections) == 1 + peers[at].is_open
            # A link goes on with whatever the inputs brought it to, until it is cut or waits for more bytes.
            if not peers[at].is_open or peers[at].connection._decoder.buffered_bytes or rng.random() < 0.02:
                links += 1
                endpoints[at].close(peers[at].connection)
                if links % LINKS_PER_ENDPOINT == 0:
                    check_nothing_is_left(endpoints[at])
                    endpoints[at] = PLAIN[at].endpoint()
                peers[at] = PLAIN[at].open(endpoints[at])
            else:
                kept += 1
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {data.hex()}: {error!r}")
    assert kept > INPUTS // 10  # or the inputs all died at the first check


def check_nothing_is_left(endpoint: Endpoint) -> None:
    """Check that links that ended left nothing behind, whatever came over them."""
    drain(endpoint)
    assert len(endpoint.connections) == len(endpoint.router) == 1
    assert endpoint.exchange.pending == 0
    assert len(endpoint.exchange._incoming) == 0
    (other,) = endpoint.connections
    assert len(list(other.routes_out())) < 100
    assert not any(route.source for route in other.routes_out())


def test_the_decoders_raise_nothing_but_protocol_errors() -> None:
    rng = random.Random(SEED)
    valid = frames()
    types = (int, str, bytes, list, dict, bool, (str, type(None)))
    for number in range(20_000):
        data = mutate(rng, rng.choice(valid))
        try:
            for frame in FrameDecoder().feed(data):
                unpack(frame.header, *rng.choices(types, k=rng.randrange(6)))
        except ProtocolError:
            pass
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {data.hex()}: {error!r}")


def test_a_mutated_frame_behind_its_prefix_is_still_one_frame() -> None:
    rng = random.Random(SEED)
    for _ in range(2000):
        data = mutate_behind_the_prefix(rng, rng.choice(frames()))
        assert len(list(FrameDecoder().feed(data))) == 1
        assert struct.unpack_from(">I", data)[0] == len(data) - PREFIX.size
