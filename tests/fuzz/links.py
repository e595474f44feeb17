"""Targets: bytes on a link, into endpoints in every state, and handshakes whose signatures are right."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgpack

from cellnet.errors import HandshakeError, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.placement import Delegation, Placement
from cellnet.protocol.envelope import join, part
from cellnet.protocol.frames import PREFIX, Kind, pack
from cellnet.protocol.handshake import _JOIN_CONTEXT, _WELCOME_CONTEXT, Handshake, Self
from cellnet.signing import sign
from tests.fuzz.mutation import LONGEST, vary_packed
from tests.fuzz.signed import recertified, resigned
from tests.fuzz.target import Target
from tests.protocol.conftest import DAY, MEMORY, NONCE, WALL, Project
from tests.protocol.test_fuzz import (
    FRAMES,
    KIND_OFFSET,
    LINKS_PER_ENDPOINT,
    PLAIN,
    STATES,
    Talk,
    check_nothing_is_left,
    drain,
    frames,
    mutate,
    mutate_behind_the_prefix,
)

if TYPE_CHECKING:
    from provisioning import Authority
    from tests.fuzz.target import Lab

__all__ = ["frames_into_endpoints", "handshakes"]


SECONDS_PER_INPUT = 1e-2


_IN_TWO_PARTS = frozenset({Kind.REQUEST, Kind.EVENT, Kind.REPLY, Kind.BROADCAST, Kind.OPEN})


class Endpoints:
    """One endpoint in each state, which goes on with whatever the inputs before brought it to."""

    def __init__(self) -> None:
        self._endpoints = [state.endpoint(0.0) for state in PLAIN]
        self._ends = [state.open(endpoint, 0.0) for state, endpoint in zip(PLAIN, self._endpoints, strict=True)]
        kinds = [frame[KIND_OFFSET] for frame in frames(Talk())]
        self._expected = [[at for at, kind in enumerate(kinds) if kind in state.expected] for state in PLAIN]
        self._lot = random.Random(0)
        self._links = self._at = 0
        self._now = 0.0

    def make(self, rng: random.Random) -> bytes:
        """Return a mutated frame that an endpoint may be waiting for, after the number of its state."""
        at = rng.choice(STATES)
        make = rng.choice(self._expected[at]) if rng.random() < 0.9 else rng.randrange(len(FRAMES))
        frame = FRAMES[make](self._ends[at].talk)
        return bytes([at]) + rng.choice((mutate, mutate_behind_the_prefix, _vary, _vary))(rng, frame)

    def take(self, data: bytes) -> bool:
        """Let a neighbour send it; return whether its link stays."""
        self._at, peer = data[0], self._ends[data[0]].peer
        self._now += SECONDS_PER_INPUT
        peer.now = self._now
        peer.send_bytes(data[1:])
        peer.endpoint.tick(self._now)
        drain(peer.endpoint, self._now)
        return peer.is_open

    def settle(self) -> None:
        """Check that the other link stays; open one anew that was cut, or waits for more bytes."""
        at, peer = self._at, self._ends[self._at].peer
        assert len(self._endpoints[at].connections) == 1 + peer.is_open
        if not peer.is_open or peer.connection.held_bytes or self._lot.random() < 0.02:
            self._open_anew(at)

    def _open_anew(self, at: int) -> None:
        self._links += 1
        self._ends[at].close(self._now)
        if self._links % LINKS_PER_ENDPOINT == 0:
            check_nothing_is_left(self._endpoints[at], self._now)
            self._endpoints[at] = PLAIN[at].endpoint(self._now)
        self._ends[at] = PLAIN[at].open(self._endpoints[at], self._now, talks=self._links % 2 == 0)
        if not self._ends[at].talk.session:  # some input told of a far later start, and this one is refused now
            self._endpoints[at] = PLAIN[at].endpoint(self._now)
            self._ends[at] = PLAIN[at].open(self._endpoints[at], self._now)


def _vary(rng: random.Random, frame: bytes) -> bytes:
    """Change what header or body say, and write the prefix anew, so that it fits."""
    _length, size, kind, hop, label, remaining = PREFIX.unpack_from(frame)
    if kind == Kind.DATA:  # whose header is no MessagePack
        return mutate_behind_the_prefix(rng, frame)
    header, body = frame[PREFIX.size : PREFIX.size + size], frame[PREFIX.size + size :]
    if body and rng.random() < 0.6:
        if kind in _IN_TWO_PARTS:
            head, rest = part(body)
            body = join(vary_packed(rng, head), rest)
        else:
            body = vary_packed(rng, body)
    else:
        header = vary_packed(rng, header)
    return PREFIX.pack(len(header) + len(body), len(header), kind, hop, label, remaining) + header + body


def frames_into_endpoints(_lab: Lab) -> Target:
    endpoints = Endpoints()
    return Target(endpoints.make, endpoints.take, settle=endpoints.settle, goes_on=True)


class Meeting:
    """A listener and a connector, and what they say to each other when nothing is changed."""

    def __init__(self, authority: Authority, parent: str, listener: Self, connector: Self) -> None:
        assert listener.credentials is not None
        assert connector.credentials is not None
        self._authority = authority
        self._parent = FQCN(parent)
        self._listener, self._connector = listener, connector
        self._listens = listener.credentials.listening or listener.credentials
        self._connects = connector.credentials
        here, there = self._ends()
        self._hello = here.hello()
        self._join, signature = there.hello_received(self._hello)
        self._child = here.join_received(self._join, signature, self._parent).fqcn
        self._welcome, _ = here.welcome(self._child)

    def make(self, rng: random.Random) -> bytes:
        """Return HELLO, JOIN or WELCOME with changes, and the signature of who says it."""
        step = rng.randrange(3)
        if step == 0:
            return pack(step, vary_packed(rng, self._hello), b"")
        if step == 1:
            header = self._changed_join(rng)[:LONGEST]
            return pack(step, header, sign(self._connects.key, _JOIN_CONTEXT, self._hello, header))
        header = vary_packed(rng, self._welcome)
        return pack(step, header, sign(self._listens.key, _WELCOME_CONTEXT, self._hello, self._join, header))

    def take(self, data: bytes) -> None:
        """Go through the handshake with what is said instead; it raises what the handshake does."""
        step, header, signature = msgpack.unpackb(data)
        here, there = self._ends()
        if step == 0:
            there.hello_received(header)
        elif step == 1:
            here.hello()
            here.welcome(here.join_received(header, signature, self._parent).fqcn)
        else:
            there.hello_received(self._hello)
            there.welcome_received(header, signature)

    def _ends(self) -> tuple[Handshake, Handshake]:
        return Handshake(self._listener, MEMORY, NONCE, WALL), Handshake(self._connector, MEMORY, NONCE, WALL)

    def _changed_join(self, rng: random.Random) -> bytes:
        """Change JOIN, or what others signed in it: who has a stolen authority signs all of it."""
        if rng.random() < 0.6:
            return vary_packed(rng, self._join)
        *fields, chain, driver, security, placement, delegation, names = msgpack.unpackb(self._join)
        lot = rng.random()
        if lot < 0.5:
            chain[0] = recertified(rng, chain[0], self._authority.key)
        elif placement:
            placement = resigned(rng, placement, Placement._CONTEXT, self._authority.key)
        elif delegation:
            delegation = resigned(rng, delegation, Delegation._CONTEXT, self._listens.key)
        return pack(*fields, chain, driver, security, placement, delegation, names)


def handshakes(_lab: Lab) -> Target:
    project = Project()
    server, relay, client = project.server(), project.relay("R"), project.cell("C", parents=("R",))
    job, command = client.delegate("j", "job", WALL + DAY), server.delegate("o", "operator", WALL + DAY)
    pairs = (
        ("server", Self("server", "server", 1, server), Self("R", "relay", 2, relay)),
        ("R", Self("R", "relay", 2, relay), Self("C", "client", 3, client)),
        ("R.C", Self("C", "client", 3, client), Self("j", "job", 4, job)),
        ("server", Self("server", "server", 1, server), Self("o", "operator", 5, command)),
    )
    meetings = [Meeting(project.authority, *pair) for pair in pairs]

    def make(rng: random.Random) -> bytes:
        at = rng.randrange(len(meetings))
        return bytes([at]) + meetings[at].make(rng)

    def take(data: bytes) -> None:
        meetings[data[0]].take(data[1:])

    return Target(make, take, (HandshakeError, RemoteProtocolError), is_signed=True)
