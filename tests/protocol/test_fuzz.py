"""Mutated frames, into endpoints in every state: nothing comes out but the errors that are documented.

Plain seeded mutation, which takes microseconds an input. A quarter of the inputs are changed behind the prefix only,
with a prefix that still fits, because others mostly die at the first check. ``CELLNET_FUZZ_SEED`` runs another seed,
``CELLNET_FUZZ_INPUTS`` more than the 20,000 that every run does.
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

from cellnet.errors import HandshakeError, ProtocolError, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.claim import Party
from cellnet.protocol.envelope import Answer, Content, Entry, Order, Status, join, part, unpack_ranges
from cellnet.protocol.events import Cancelled, LinkFailed, Message
from cellnet.protocol.frames import OFFSET, PREFIX, FrameDecoder, Kind, pack, unpack
from cellnet.protocol.introduction import ENTROPY_BYTES, Introduction, answer
from cellnet.protocol.offer import Held
from cellnet.protocol.switch import _nacked
from tests.protocol.conftest import (
    MEMORY,
    WALL,
    Peer,
    Project,
    encode_frame,
    granted,
    introduction,
    new_endpoint,
    open_body,
    opened_body,
    order,
    request_body,
)
from tests.protocol.contents import NAME, Taken, nothing_is_left
from tests.protocol.halves import A, B

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.offer import Offer

SEED = int(os.environ.get("CELLNET_FUZZ_SEED", "20261122"))
INPUTS = 4_000 if Coverage.current() else int(os.environ.get("CELLNET_FUZZ_INPUTS", "20000"))
"""Coverage makes them four times as slow, and learns nothing from most."""
WITH_CREDENTIALS_EVERY = 200
"""An input that reaches a certificate costs a hundred times as much as any other."""
LINKS_PER_ENDPOINT = 1000
SECONDS_PER_INPUT = 1e-4
KIND_OFFSET = 6
LONGEST = "a" * 63 + (".b" + "b" * 62) * 3
INTERESTING = (0, 1, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xC0, 0xC1, 0xC7, 0xCF, 0xD3, 0xD9, 0xDD, 0xDF, 0xFF)


CONTENT = Content("t", 1, b"payload").pack()
ASKING = 77
"""The session that the neighbour opened for what it is asked."""


@dataclass(frozen=True)
class Talk:
    """What valid frames must quote, so that they reach the end of the code."""

    session: int = 1
    """That the endpoint opened for what the neighbour asks."""
    sequence: int = 1
    """The last sequence number that the endpoint used."""
    epoch: int = 10
    """Of the neighbour, as it asks."""
    names: tuple[str, str] = ("C", "server")
    """Of the neighbour and of the endpoint."""
    asked: bytes = open_body("server", "C.c")
    """The body of an OPEN that is not answered yet, to a cell behind the neighbour."""
    content: bytes = NAME
    """What the endpoint holds."""


ROUTED = {"hop": 5, "remaining_ms": 60_000}
MEMBER = [1, "C.c", "client", "S.C", 5, "tcp", "mtls", []]


def entries(talk: Talk) -> list[list[object]]:
    names = ("server", "R", "C.c", "X", LONGEST)
    return [[name, talk.session, 20 + n, order(20 + n, key="k")] for n, name in enumerate(names)]


FRAMES: tuple[Callable[[Talk], bytes], ...] = (
    lambda talk: encode_frame(Kind.HELLO, pack(*introduction("server", "server"))),
    lambda talk: encode_frame(Kind.JOIN, pack(*introduction("D"), b"", b"", [])),
    lambda talk: encode_frame(Kind.WELCOME, pack("R"), b""),
    lambda talk: encode_frame(Kind.REFUSED, pack("full", "no room", True, 0)),
    lambda talk: encode_frame(Kind.PING, b"\x90"),
    lambda talk: encode_frame(Kind.PRESENCE, b"\x90", msgpack.packb([MEMBER, [0, "C.c"], MEMBER])),
    lambda talk: encode_frame(Kind.BIND, pack("C.c", "server"), label=3),
    lambda talk: encode_frame(Kind.BIND, pack("X", "R"), label=3),
    lambda talk: encode_frame(Kind.BIND, pack("C", None), label=4095),
    lambda talk: encode_frame(Kind.LOST, pack("C.c", True), label=0),
    lambda talk: encode_frame(Kind.LOST, pack("R", False), label=1),
    lambda talk: encode_frame(Kind.NACK, pack("busy", "no room", [["C", ASKING, 1]]), label=0),
    lambda talk: encode_frame(
        Kind.NACK, pack("unreachable", "gone", [["server", 0, 1], [LONGEST, ASKING, 2]]), label=1
    ),
    lambda talk: encode_frame(Kind.GOAWAY, pack("bye")),
    lambda talk: encode_frame(Kind.PROBE, b"\x90"),
    lambda talk: encode_frame(Kind.ALIVE, b"\x90"),
    *(
        lambda talk, label=label, upto=upto: encode_frame(  # type: ignore[misc]  # of the defaults, which bind what the loop has now
            Kind.WANT, pack(talk.names[1], talk.content, 0, 0, upto), label=label
        )
        for label, upto in ((1, 70_000), (3, 100), (4, 2**62))
    ),
    *(
        lambda talk, label=label: encode_frame(  # type: ignore[misc]  # of the defaults, which bind what the loop has now
            Kind.WANT, pack("X" if talk.names[1] == "server" else "R.a", NAME, 100, 50, 5000), label=label
        )
        for label in (2, 5)
    ),
    lambda talk: encode_frame(Kind.DATA, OFFSET.pack(0), b"the first bytes", label=1),
    lambda talk: encode_frame(Kind.DATA, OFFSET.pack(15), b"and more", label=1),
    lambda talk: encode_frame(Kind.DATA, OFFSET.pack(0), b"of another", label=2),
    lambda talk: encode_frame(Kind.END, pack(23), label=1),
    lambda talk: encode_frame(Kind.END, pack(0), label=2),
    lambda talk: encode_frame(Kind.ABORT, pack(True, "lost", "a link was lost"), label=1),
    lambda talk: encode_frame(Kind.ABORT, pack(True, "gone", "it is gone"), label=2),
    lambda talk: encode_frame(Kind.ABORT, pack(False, "stopped", ""), label=1),
    lambda talk: encode_frame(Kind.ABORT, pack(False, "lost", ""), label=2),
    lambda talk: encode_frame(Kind.OPEN, pack(0, 1), open_body(*talk.names, epoch=talk.epoch), label=0, **ROUTED),
    lambda talk: encode_frame(
        Kind.OPEN,
        pack(0, 2),
        open_body(*talk.names, epoch=talk.epoch + 1, request=join(order(1), CONTENT)),
        label=0,
        **ROUTED,
    ),
    lambda talk: encode_frame(Kind.OPEN, pack(0, 3), open_body(*talk.names, epoch=talk.epoch - 1), label=1, **ROUTED),
    lambda talk: encode_frame(Kind.OPENED, pack(1, 5), opened_body(talk.asked, ASKING + 1), label=3, **ROUTED),
    lambda talk: encode_frame(Kind.CLOSED, pack(ASKING, 1), pack("no such session", bytes(32), ""), label=0, **ROUTED),
    lambda talk: encode_frame(Kind.CLOSED, pack(0, 1), pack("too many", bytes(32), "R"), label=0, **ROUTED),
    lambda talk: encode_frame(Kind.REQUEST, pack(talk.session, 2), join(order(2, floor=2), CONTENT), label=0, **ROUTED),
    lambda talk: encode_frame(Kind.REQUEST, pack(talk.session, 3), join(order(3, key="k"), CONTENT), label=0, **ROUTED),
    lambda talk: encode_frame(
        Kind.REQUEST, pack(talk.session, 4), join(order(5, key="k", after=4), CONTENT), label=0, **ROUTED
    ),
    lambda talk: encode_frame(Kind.REQUEST, pack(talk.session, 5), join(order(1), CONTENT), label=1, **ROUTED),
    lambda talk: encode_frame(
        Kind.EVENT, pack(talk.session, 6), join(order(0, floor=4, key="k"), CONTENT), label=0, **ROUTED
    ),
    lambda talk: encode_frame(Kind.DRAINED, pack(ASKING, 9), pack([[1, 2], [5, 6]]), label=0, **ROUTED),
    lambda talk: encode_frame(Kind.SETTLED, pack(talk.session, 7), pack([[1, 3]], [[5, 6]]), label=0, **ROUTED),
    *(
        lambda talk, number=number, status=status: encode_frame(  # type: ignore[misc]  # of the defaults, which bind what the loop has now
            Kind.REPLY,
            pack(ASKING, 1 + number),
            Answer(talk.sequence - number % 2, 1 + number, status, 1, b"answer").pack(),
            label=0,
            **ROUTED,
        )
        for number, status in enumerate(Status)
    ),
    lambda talk: encode_frame(Kind.BROADCAST, pack(entries(talk)), CONTENT, label=2, **ROUTED),
    lambda talk: encode_frame(Kind.BROADCAST, pack(entries(talk)[-1:] * 3), CONTENT, label=2, **ROUTED),
)
"""Valid frames of every kind, as they occur between a server or relay and a child."""


def frames(talk: Talk) -> list[bytes]:
    return [make(talk) for make in FRAMES]


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

    def endpoint(self, now: float) -> Endpoint:
        """Return an endpoint with one more neighbour, whose link must stay."""
        endpoint = new_endpoint(self.name)
        if self.name == "R":
            Peer.parent(endpoint, "R")
            Peer.child(endpoint, "a")
            endpoint.close(next(iter(endpoint.connections)), 0.0)
        else:
            Peer.child(endpoint, "X")
        for connection in endpoint.connections:
            connection.not_read(now)
        return endpoint

    def open(self, endpoint: Endpoint, now: float, *, talks: bool = True) -> Neighbour:
        """Return a new link of an endpoint in this state, with sessions if it *talks*."""
        listens = self.name == "server"
        peer = Peer(endpoint, endpoint.open(MEMORY, is_listener=listens, now=now, role="server" if listens else "cell"))
        peer.now = now
        peer.send_bytes(self.opening)
        if not self.neighbour or not talks:
            peer.connection.take(now)
            return Neighbour(peer, Talk(), (), (), None)
        to = FQCN(self.neighbour)
        how = {"deadline": now + 60.0, "now": now}
        calls = (
            endpoint.request([to], "t", 1, b"", once=False, **how),
            endpoint.request([to, FQCN("C.c"), FQCN("X")], "t", 1, b"", **how),
            endpoint.request([to], "t", 1, b"", key="k", **how),
        )
        fetches = tuple(endpoint.plane.fetch(to, NAME, Taken(is_patient=number > 0), now) for number in range(2))
        offer = endpoint.plane.offer(Held([CONTENT * 10_000]), now=now, is_for_one=False)
        names = self.neighbour, self.name
        peer.routes[0] = names
        peer.opened(ASKING)
        epoch = 10 + 2 * round(now / SECONDS_PER_INPUT)
        peer.open(epoch=epoch)
        session = sequence = 0
        for frame in peer.frames():
            if frame.kind is Kind.OPENED:
                session = granted(frame.body)
            elif frame.kind is Kind.REQUEST:
                sequence = Order.unpack(part(frame.body)[0]).sequence
        assert sequence
        talk = Talk(session, sequence, epoch, names, peer.asked["C.c"], offer.content)
        return Neighbour(peer, talk, calls, fetches, offer)


@dataclass(frozen=True)
class Neighbour:
    """One link's other end, and what was said before the mutations."""

    peer: Peer
    talk: Talk
    calls: tuple[int, ...]
    fetches: tuple[Fetch, ...]
    offer: Offer | None

    def close(self, now: float) -> None:
        """End the link, and want nothing more of it."""
        endpoint = self.peer.endpoint
        endpoint.close(self.peer.connection, now)
        for call in self.calls:
            endpoint.give_up(call, now)
        for fetch in self.fetches:
            fetch.cancel()
        if self.offer is not None:
            self.offer.withdraw("gone", "")


def bound(*labels: tuple[str, str | None]) -> bytes:
    binds = [encode_frame(Kind.BIND, pack(*names), label=number) for number, names in enumerate(labels)]
    return b"".join(binds)


HELLO = encode_frame(Kind.HELLO, pack(*introduction("server", "server")))
JOIN = encode_frame(Kind.JOIN, pack(*introduction("C"), b"", b"", []))
BELOW = encode_frame(Kind.PRESENCE, b"\x90", msgpack.packb([[1, "C.c", "client", "", 1, "tcp", "mtls", []]]))
JOINED = HELLO + encode_frame(Kind.WELCOME, pack("R"))
LATER = frozenset(Kind) - {Kind.HELLO, Kind.JOIN, Kind.WELCOME, Kind.REFUSED, Kind.GOAWAY}
PLAIN = (
    State("server", expected=frozenset({Kind.JOIN, Kind.REFUSED})),
    State("R", expected=frozenset({Kind.HELLO, Kind.REFUSED})),
    State("R", HELLO, expected=frozenset({Kind.WELCOME})),
    State("server", JOIN + BELOW + bound(("C", "server"), ("C", "X"), ("C", None), ("C.c", "server")), "C", LATER),
    State(
        "R",
        JOINED + bound(("server", "R"), ("X", "R.a"), ("server", None), ("C.c", "R")),
        "server",
        LATER - {Kind.PRESENCE},
    ),
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


def drain(endpoint: Endpoint, now: float) -> None:
    """Do what the owner does with what came of it: answer most, and send on every link."""
    links = list(endpoint.connections)
    while endpoint.events:
        event = endpoint.events.popleft()
        if isinstance(event, Message) and event.number % 4:
            endpoint.ended(event.number, Status.OK, 0, b"", now)
        elif isinstance(event, Cancelled):
            endpoint.stopped(event.number, now)
        elif isinstance(event, LinkFailed):
            links.append(event.connection)
    for connection in links:
        connection.not_read(now)  # their silence is not what is tested
        if connection.has_output:
            connection.take(now)


@pytest.mark.timeout(300)
def test_no_mutated_frame_brings_an_endpoint_to_raise_or_to_lose_another_link() -> None:
    rng = random.Random(SEED)
    endpoints = [state.endpoint(0.0) for state in PLAIN]
    ends = [state.open(endpoint, 0.0) for state, endpoint in zip(PLAIN, endpoints, strict=True)]
    kinds = [frame[KIND_OFFSET] for frame in frames(Talk())]
    expected = [[at for at, kind in enumerate(kinds) if kind in state.expected] for state in PLAIN]
    links = kept = refused = 0
    for number in range(INPUTS):
        data, now = b"", number * SECONDS_PER_INPUT
        try:
            at = rng.choice(STATES)
            make = rng.choice(expected[at]) if rng.random() < 0.9 else rng.randrange(len(FRAMES))
            frame = FRAMES[make](ends[at].talk)
            peer = ends[at].peer
            peer.now = now
            if number % WITH_CREDENTIALS_EVERY == 0:
                peer, frame = with_credentials(rng)
            data = (mutate if number % 4 else mutate_behind_the_prefix)(rng, frame)
            peer.send_bytes(data)
            peer.endpoint.tick(now)
            drain(peer.endpoint, now)
            peer = ends[at].peer
            assert len(endpoints[at].connections) == 1 + peer.is_open
            # A link goes on with whatever the inputs brought it to, until it is cut or waits for more bytes.
            if not peer.is_open or peer.connection.held_bytes or rng.random() < 0.02:
                links += 1
                ends[at].close(now)
                if links % LINKS_PER_ENDPOINT == 0:
                    check_nothing_is_left(endpoints[at], now)
                    endpoints[at] = PLAIN[at].endpoint(now)
                ends[at] = PLAIN[at].open(endpoints[at], now, talks=links % 2 == 0)
                if not ends[at].talk.session:  # some input told of a far later start, and this one is refused now
                    refused += 1
                    endpoints[at] = PLAIN[at].endpoint(now)
                    ends[at] = PLAIN[at].open(endpoints[at], now)
            else:
                kept += 1
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {data.hex()}: {error!r}")
    assert refused < links // 100
    assert kept > INPUTS // 10  # or the inputs all died at the first check


def check_nothing_is_left(endpoint: Endpoint, now: float) -> None:
    """Check that links that ended left nothing behind, whatever came over them, once all deadlines passed."""
    drain(endpoint, now)
    assert len(endpoint.connections) == len(endpoint.router) == 1
    assert endpoint.exchange.pending == 0
    nothing_is_left([endpoint])
    (other,) = endpoint.connections
    assert len(list(other.routes_out())) < 100
    assert not any(route.source for route in other.routes_out())
    for seconds in range(5 * 10**6, 6 * 10**6, 10**5):
        endpoint.tick(now + seconds)
        drain(endpoint, now + seconds)
    assert endpoint.exchange.pending == 0
    assert endpoint.exchange.answering.records == 0
    assert endpoint.exchange.answering.running == 0
    assert endpoint.exchange.answering.cached_bytes == 0
    assert len(endpoint.timers) < 10


def test_the_decoders_raise_nothing_but_protocol_errors() -> None:
    rng = random.Random(SEED)
    valid = frames(Talk())
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


HELLO_TO_B = part(open_body("A", "B"))[0]
DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "order": (Order.unpack, order(7, floor=3, key="key", after=5, within_ms=1000, doubt=True)),
    "content": (Content.unpack, CONTENT),
    "answer": (Answer.unpack, Answer(7, 3, Status.OK, 1, b"answer").pack()),
    "entries": (lambda data: Entry.unpack(unpack(data, list)[0]), pack(entries(Talk()))),
    "nack": (lambda data: _nacked(unpack(data, list)[0]), pack([["B", 7, 1], [LONGEST, 0, 2]])),
    "ranges": (unpack_ranges, pack([[1, 3], [5, 6], [2**40, 2**41]])),
    "closed": (lambda data: unpack(data, str, bytes, str), pack("no such session", bytes(32), "R")),
    "request": (
        lambda data: [one.unpack(said) for one, said in zip((Order, Content), part(data), strict=True)],
        request_body(2),
    ),
    "open": (lambda data: answer(Party(B, 1), A, data, 7, bytes(ENTROPY_BYTES), WALL), HELLO_TO_B),
    "opened": (lambda data: asking().opened(data, FQCN("B")), opened_body(open_body("A", "B"), 7)),
}


def asking() -> Introduction:
    """Return what said ``HELLO_TO_B``, and was not answered yet."""
    me = Introduction(Party(A, 1), B, bytes(ENTROPY_BYTES // 2).ljust(ENTROPY_BYTES), lambda: WALL)
    assert me.hello() == HELLO_TO_B
    return me


@pytest.mark.parametrize("what", DECODERS)
def test_what_is_behind_the_prefix_is_read_or_is_malformed(what: str) -> None:
    decode, valid = DECODERS[what]
    rng = random.Random(f"{SEED} {what}")
    decode(valid)
    read = 0
    inputs = INPUTS // 5
    for number in range(inputs):
        data = mutate(rng, valid)
        try:
            decode(data)
            read += 1
        except (ProtocolError, HandshakeError):
            pass
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {data.hex()}: {error!r}")
    assert inputs // 1000 < read < inputs - inputs // 1000


def test_a_mutated_frame_behind_its_prefix_is_still_one_frame() -> None:
    rng = random.Random(SEED)
    for _ in range(2000):
        data = mutate_behind_the_prefix(rng, rng.choice(frames(Talk())))
        _length, header, kind = PREFIX.unpack_from(data)[:3]
        if kind == Kind.DATA and header != OFFSET.size:
            with pytest.raises(RemoteProtocolError):
                list(FrameDecoder().feed(data))
        else:
            assert len(list(FrameDecoder().feed(data))) == 1
        assert struct.unpack_from(">I", data)[0] == len(data) - PREFIX.size
