"""Targets: introductions, and what is said in sealed sessions, both with the right keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from cellnet.errors import HandshakeError, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.placement import Delegation
from cellnet.protocol.claim import Party
from cellnet.protocol.envelope import Answer, Content, Order, Status, join, part
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.introduction import _OPEN_CONTEXT, _OPENED_CONTEXT, ENTROPY_BYTES, Introduction, answer
from cellnet.protocol.sealing import KEY_BYTES, seal_content
from cellnet.signing import sign
from tests.fuzz.mutation import LONGEST, vary_packed
from tests.fuzz.signed import recertified, resigned
from tests.fuzz.target import Target
from tests.protocol.conftest import DAY, WALL, Net, Project, encode_frame
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

    from cryptography.hazmat.primitives.asymmetric import ec

    from cellnet.credentials import Credentials
    from cellnet.protocol.channel import Channel
    from tests.fuzz.target import Lab

__all__ = ["introductions", "sealed_frames", "signed_introductions"]

ENTROPY, MORE_ENTROPY = bytes(range(ENTROPY_BYTES)), bytes(range(ENTROPY_BYTES, 2 * ENTROPY_BYTES))
SESSION = 77


@dataclass(frozen=True)
class Pair:
    """Two cells that introduce themselves to each other."""

    asker: Party
    answerer: Party
    site: Credentials | None = None
    """Of the job that asks or answers."""

    def ask(self) -> Introduction:
        """Return the asker's side; always the same."""
        return Introduction(self.asker, self.answerer.fqcn, ENTROPY, lambda: WALL)

    def answer(self, hello: bytes) -> bytes:
        """Return the body of OPENED."""
        return answer(self.answerer, self.asker.fqcn, hello, SESSION, MORE_ENTROPY, WALL)[0]

    def bodies(self) -> tuple[bytes, bytes]:
        """Return what each of them says when nothing is changed."""
        hello = self.ask().hello()
        return hello, self.answer(hello)

    def take(self, is_hello: bool, body: bytes) -> None:
        """Let the one judge what is said to be the other's."""
        if is_hello:
            self.answer(body)
        else:
            self.ask().opened(body, self.answerer.fqcn)


def _pairs(project: Project) -> list[Pair]:
    server, relay, client = project.server(), project.relay("R"), project.cell("C")
    job = client.delegate("j", "job", WALL + DAY)
    root, site = Party(FQCN("server"), 7, server), Party(FQCN("R.C"), 5, client)
    worker = Party(FQCN("R.C.j"), 6, job)
    return [
        Pair(site, root),
        Pair(worker, root, client),
        Pair(Party(FQCN("R"), 8, relay), worker, client),
        Pair(Party(FQCN("A"), 1), Party(FQCN("B"), 2)),
    ]


def introductions(_lab: Lab) -> Target:
    """Change an introduction on its way."""
    pairs = _pairs(Project())
    bodies = [pair.bodies() for pair in pairs]

    def make(rng: random.Random) -> bytes:
        at, step = rng.randrange(len(pairs)), rng.randrange(2)
        return bytes([at, step]) + vary_packed(rng, bodies[at][step])

    def take(data: bytes) -> None:
        pairs[data[0]].take(data[1] == 0, data[2:])

    return Target(make, take, (HandshakeError, RemoteProtocolError))


def signed_introductions(_lab: Lab) -> Target:
    """Change what an introduction states, or what others signed in it, and sign it as its cell does."""
    project = Project()
    pairs = _pairs(project)[:-1]
    bodies = [pair.bodies() for pair in pairs]

    def make(rng: random.Random) -> bytes:
        at, step = rng.randrange(len(pairs)), rng.randrange(2)
        pair, signer = pairs[at], (pairs[at].asker, pairs[at].answerer)[step]
        assert signer.credentials is not None
        statement = _changed(rng, msgpack.unpackb(bodies[at][step])[0], project.authority.key, pair.site)
        before = (_OPEN_CONTEXT,) if step == 0 else (_OPENED_CONTEXT, bodies[at][0])
        return bytes([at, step]) + pack(statement, sign(signer.credentials.key, *before, statement))

    def take(data: bytes) -> None:
        pairs[data[0]].take(data[1] == 0, data[2:])

    return Target(make, take, (HandshakeError, RemoteProtocolError), is_signed=True)


def _changed(
    rng: random.Random, statement: bytes, authority: ec.EllipticCurvePrivateKey, site: Credentials | None
) -> bytes:
    lot = rng.random()
    if lot < 0.6:
        return vary_packed(rng, statement)
    fields = msgpack.unpackb(statement)
    *_, chain, delegation = fields[:9]
    if site is not None and delegation and lot < 0.8:
        fields[8] = resigned(rng, delegation, Delegation._CONTEXT, site.key)
    else:
        chain[0] = recertified(rng, chain[0], authority)
    return pack(*fields)


class Liar:
    """A cell with good credentials, which says what its own code would never say, in sessions that are in order.

    ``C`` lies to ``server``, in the session that it opened and in the one that the server opened.
    """

    INPUTS = 300
    """After so many, all numbers that a floor or a range can settle may be settled."""
    ROUTE, TO_MANY = 100, 101
    """Labels."""

    def __init__(self) -> None:
        project = Project()
        self._credentials = project.server(), project.cell("C")
        self._names = FQCN("server"), FQCN("C")
        self._given = 0
        self._sequence = 0
        self._begin()

    def make(self, rng: random.Random) -> bytes:
        """Return the kind of a frame, and what is to be sealed into it."""
        kind, plain = rng.choice(rng.choice(self._frames()))
        if kind in (Kind.SETTLED, Kind.DRAINED):
            return pack(kind, vary_packed(rng, plain), b"")
        if kind is not Kind.BROADCAST:
            head, rest = part(plain)
            return pack(kind, join(vary_packed(rng, head), rest) if rng.random() < 0.7 else mutate(rng, plain), b"")
        order, content = unpack(plain, bytes, bytes)
        key = bytes(KEY_BYTES)
        if rng.random() < 0.5:
            content = mutate(rng, content)
        sealed, digest = seal_content(content, key)
        entry = pack(order, key, digest)
        # Its seal and the rest of the header must have room beside it.
        return pack(kind, vary_packed(rng, entry)[: LONGEST - 100] if rng.random() < 0.5 else entry, sealed)

    def take(self, data: bytes) -> bool:
        """Say it; return whether nothing was refused."""
        number, plain, content = msgpack.unpackb(data)
        kind, server, net = Kind(number), self._net["server"], self._net
        channel = self._answering if kind in (Kind.REPLY, Kind.DRAINED) else self._asking
        refused = server.switch.refused + server.exchange.refused
        if kind is Kind.BROADCAST:
            channel.sent += 1
            assert channel._seal is not None
            sealed = channel._seal.seal(kind, channel.number, channel.sent, plain)
            header, body = pack([["server", channel.number, channel.sent, sealed]]), content
        else:
            header, body = channel.wrap(kind, plain)
        label = self.TO_MANY if kind is Kind.BROADCAST else self.ROUTE
        frame = encode_frame(kind, header, body, label=label, hop=9, remaining_ms=60_000)
        server.receive(self._link.listening, frame, net.now)
        net.run()
        return server.switch.refused + server.exchange.refused == refused

    def settle(self) -> None:
        """Check that the link stays; begin anew when a session was lost."""
        assert self._link.is_up
        self._given += 1
        for log in self._net.log.values():
            log.clear()
        self._sequence += 1
        if self._given % self.INPUTS == 0 or not self._find():
            self._begin()
        else:
            self._net.now += 0.01

    def _begin(self) -> None:
        self._net = net = Net()
        net.add("server")
        net.add("C", epoch=2 + self._given)
        self._link = net.connect("C", credentials=self._credentials, roles=("server", "client"))
        net.run()
        for label, destination in ((self.ROUTE, "server"), (self.TO_MANY, None)):
            frame = encode_frame(Kind.BIND, pack("C", destination), label=label)
            net["server"].receive(self._link.listening, frame, net.now)
        net.request("C", "server")
        net.request("server", "C", topic="hold", deadline=net.now + 1000)
        net.request("server", "C", topic="hold", key="k", deadline=net.now + 1000)
        net.run()
        self._sequence = 2
        assert self._find()

    def _find(self) -> bool:
        """Find both sessions; return False if one is lost."""
        server, client = self._names
        exchange = self._net["C"].exchange
        asking = exchange.asking.sessions.known(server)
        answering = next((asker for asker in exchange.answering._askers if asker.origin == server), None)
        if asking is None or asking.channel is None or answering is None or answering.current is None:
            return False
        self._asking: Channel = asking.channel
        self._answering: Channel = answering.current.channel
        known = self._net["server"].exchange.asking.sessions.known(client)
        if known is None or known.channel is None:
            return False
        if not known.pending:
            net = self._net
            net.request("server", "C", topic="hold", key="k", deadline=net.now + 1000)
            net.run()
        self._owed = min(known.pending)
        return True

    def _frames(self) -> list[list[tuple[Kind, bytes]]]:
        """Return what the cell might truly say now."""
        number, owed = self._sequence, self._owed
        content = Content("t", 2, b"\x93\x01\x02\x03").pack()
        orders = [
            Order(number, 1, "", 0).pack(),
            Order(number, number, "k", number - 1, 1000).pack(),
            Order(0, 1, "k", number - 1).pack(),
        ]
        return [
            [(Kind.REQUEST, join(order, content)) for order in orders[:2]],
            [(Kind.EVENT, join(orders[2], content))],
            [(Kind.SETTLED, pack([[1, 2], [number - 1, number]], [[number, number + 1]]))],
            [(Kind.REPLY, Answer(owed, 1, status, 2, b"\x90").pack()) for status in Status],
            [(Kind.DRAINED, pack([[1, owed + 1]]))],
            [(Kind.BROADCAST, pack(order, content)) for order in orders],
        ]


def sealed_frames(_lab: Lab) -> Target:
    liar = Liar()
    return Target(liar.make, liar.take, settle=liar.settle, goes_on=True)
