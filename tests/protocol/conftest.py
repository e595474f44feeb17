"""What the protocol's tests share: endpoints joined over pretend links, without an event loop, in virtual time."""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import msgpack
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import CONNECT, LISTEN, Credentials, Identity
from cellnet.fqcn import FQCN, MAX_HOPS, ROOT
from cellnet.placement import Placement
from cellnet.protocol.claim import Party
from cellnet.protocol.endpoint import Endpoint
from cellnet.protocol.envelope import Content, Order, Status, join, part
from cellnet.protocol.events import Cancelled, Event, Failed, LinkFailed, Message, Replied
from cellnet.protocol.frames import Frame, FrameDecoder, Kind, pack, prefix
from cellnet.protocol.handshake import Transport
from cellnet.protocol.introduction import ENTROPY_BYTES, Introduction, answer
from provisioning import Authority

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.protocol.connection import Connection

WALL = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
MEMORY = Transport("memory")
NONCE = bytes(32)
MINUTE = 60.0


def encode_frame(
    kind: int, header: bytes, body: bytes = b"", *, label: int = 0, hop: int = 0, remaining_ms: int = 0
) -> bytes:
    return prefix(kind, hop, label, remaining_ms, header, body) + header + body


def decode_frames(buffers: list[bytes]) -> list[Frame]:
    return list(FrameDecoder().feed(b"".join(buffers)))


def order(sequence: int, *, floor: int = 1, key: str = "", after: int = 0, **more: Any) -> bytes:
    return Order(sequence, floor, key, after, **more).pack()


def request_body(sequence: int, topic: str = "t", payload: bytes = b"", **ordered: Any) -> bytes:
    """Return the body of a REQUEST, or of an EVENT with the sequence 0."""
    return join(order(sequence, **ordered), Content(topic, 0, payload).pack())


def open_body(origin: str, destination: str, *, epoch: int = 1, nonce: int = 0, request: bytes = b"") -> bytes:
    """Return what OPEN says: who asks whom, without credentials, and the request that it may carry."""
    entropy = nonce.to_bytes(ENTROPY_BYTES // 2, "big").ljust(ENTROPY_BYTES)
    me = Party(FQCN(origin), epoch)
    return join(Introduction(me, FQCN(destination), entropy, lambda: WALL).hello(), request)


def opened_body(asked: bytes, session: int, *, epoch: int = 1) -> bytes:
    """Return what OPENED says to an OPEN with this body."""
    hello = part(asked)[0]
    origin, destination = introduced(hello)[2:4]
    return answer(Party(FQCN(destination), epoch), FQCN(origin), hello, session, bytes(ENTROPY_BYTES), WALL)[0]


def introduced(introduction: bytes) -> list[Any]:
    """Return what an introduction states: version, project, from, to, epoch, ..., and in OPENED the session."""
    statement: list[Any] = msgpack.unpackb(msgpack.unpackb(introduction)[0])
    return statement


def granted(opened: bytes) -> int:
    """Return the number of the session in the body of OPENED."""
    return int(introduced(opened)[9])


def introduction(name: str, role: str = "cell", **changes: Any) -> list[Any]:
    """Return the fields that HELLO and JOIN begin with, as a cell without credentials says them."""
    fields = {
        "version": 1,
        "project": "",
        "name": name,
        "role": role,
        "epoch": 1,
        "nonce": NONCE,
        "chain": [],
        "driver": "memory",
        "security": "clear",
    }
    return list((fields | changes).values())


def new_endpoint(
    name: str, epoch: int = 1, *, seed: str = "", wall: datetime.datetime = WALL, max_children: int = 4096
) -> Endpoint:
    """Return an endpoint that draws the same numbers in every run, but others than one with another seed."""
    entropy = drawer(f"{seed or name} {epoch}")
    return Endpoint(name, epoch, entropy=entropy, random=lambda: 0.5, wall=lambda: wall, max_children=max_children)


def drawer(seed: str) -> Callable[[int], bytes]:
    """Return what draws random bytes, which are the same in every run."""
    drawn = count(1)
    return lambda size: hashlib.shake_128(f"{seed} {next(drawn)}".encode()).digest(size)


class Peer:
    """A neighbour of one endpoint that says what a test wants, whether or not the protocol allows it."""

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.now = 0.0
        self.routes: dict[int, tuple[str, str]] = {}
        """What this neighbour bound, by label."""
        self.asked: dict[str, bytes] = {}
        """The last OPEN's body to each cell behind this link."""

    @classmethod
    def child(cls, endpoint: Endpoint, name: str, *, epoch: int = 1, role: str = "cell", joined: bool = True) -> Peer:
        """Dial *endpoint*, and join it."""
        connection = endpoint.open(MEMORY, is_listener=True, now=0.0, role=_role(endpoint.name))
        peer = cls(endpoint, connection)
        assert peer.kinds() == [Kind.HELLO]
        if joined:
            peer.send(Kind.JOIN, *introduction(name, role, epoch=epoch), b"", b"", [])
            assert peer.kinds() == [Kind.WELCOME]
        return peer

    @classmethod
    def parent(cls, endpoint: Endpoint, fqcn: str, *, name: str | None = None, joined: bool = True) -> Peer:
        """Listen to *endpoint*, and take it in as *fqcn*."""
        parent = FQCN(fqcn).parent
        assert parent is not None
        connection = endpoint.open(MEMORY, is_listener=False, now=0.0, role=_role(endpoint.name))
        peer = cls(endpoint, connection)
        name = name or parent.base_name
        if joined:
            peer.send(Kind.HELLO, *introduction(name, _role(name)))
            assert peer.kinds() == [Kind.JOIN]
            peer.send(Kind.WELCOME, fqcn)
        return peer

    @property
    def is_open(self) -> bool:
        return self.connection in self.endpoint.connections

    def send(
        self,
        kind: int,
        *fields: Any,
        body: bytes = b"",
        label: int = 0,
        hop: int = MAX_HOPS,
        remaining_ms: int = 60_000,
    ) -> None:
        self.send_bytes(encode_frame(kind, pack(*fields), body, label=label, hop=hop, remaining_ms=remaining_ms))

    def send_bytes(self, data: bytes) -> None:
        self.endpoint.receive(self.connection, data, self.now)

    def bind(self, label: int, origin: str, destination: str | None) -> None:
        self.routes[label] = origin, destination or ""
        self.send(Kind.BIND, origin, destination, label=label)

    def open(
        self,
        label: int = 0,
        *,
        epoch: int = 1,
        nonce: int = 0,
        attempt: int = 1,
        request: bytes = b"",
        remaining_ms: int = 60_000,
    ) -> None:
        """Ask for a session along a route."""
        body = open_body(*self.routes[label], epoch=epoch, nonce=nonce, request=request)
        self.send(Kind.OPEN, 0, attempt, body=body, label=label, remaining_ms=remaining_ms)

    def opened(self, session: int, attempt: int = 1, *, epoch: int = 1, age_ms: int = 0, label: int = 0) -> None:
        """Grant a session that was asked for."""
        origin = self.routes[label][0]
        if origin not in self.asked:
            self.frames()
        body = opened_body(self.asked[origin], session, epoch=epoch)
        self.send(Kind.OPENED, attempt, age_ms, body=body, label=label)

    def sessions(self) -> list[int]:
        """Return the numbers of the sessions that were granted since the last call."""
        return [granted(frame.body) for frame in self.frames() if frame.kind is Kind.OPENED]

    def request(
        self, label: int, sequence: int = 1, *, session: int = 7, topic: str = "t", payload: bytes = b""
    ) -> None:
        self.send(Kind.REQUEST, session, sequence, body=request_body(sequence, topic, payload), label=label)

    def frames(self) -> list[Frame]:
        """Return what the endpoint sent here since the last call."""
        received = []
        while buffers := self.connection.take(self.now):
            received += decode_frames(buffers)
        self.asked |= {introduced(part(frame.body)[0])[3]: frame.body for frame in received if frame.kind is Kind.OPEN}
        return received

    def kinds(self) -> list[Kind]:
        return [frame.kind for frame in self.frames()]

    def error(self) -> str:
        """Return why the endpoint ended this link."""
        (error,) = (e.error for e in events(self.endpoint, LinkFailed) if e.connection is self.connection)
        assert not self.is_open
        return f"{type(error).__name__}: {error}"


def events(endpoint: Endpoint, *kinds: type) -> list[Any]:
    """Take all events from an endpoint; return those of these kinds."""
    found = list(endpoint.events)
    endpoint.events.clear()
    return [event for event in found if isinstance(event, kinds)]


@dataclass(eq=False)
class Link:
    """A pretend link between a parent and a child."""

    parent: Endpoint
    child: Endpoint
    listening: Connection
    connecting: Connection
    is_up: bool = True
    child_reads: bool = True
    parent_reads: bool = True
    tamper: Callable[[Frame], bytes] | None = None
    """What stands between the two, if anything does."""

    def sent(self, *kinds: Kind) -> int:
        """Return how many frames of these kinds crossed it, in both directions."""
        return sum(c.statistics.frames_sent[kind] for c in (self.listening, self.connecting) for kind in kinds)

    def move(self, now: float) -> bool:
        moved = False
        for source, target, endpoint, reads in (
            (self.listening, self.connecting, self.child, self.child_reads),
            (self.connecting, self.listening, self.parent, self.parent_reads),
        ):
            if self.is_up and reads and (buffers := source.take(now)):
                data = b"".join(buffers)
                if self.tamper is not None:
                    data = b"".join(self.tamper(frame) for frame in decode_frames(buffers))
                endpoint.receive(target, data, now)
                moved = True
        return moved


@dataclass
class Net:
    """Endpoints by FQCN, and the links between them. Every cell answers requests on topics other than ``hold``."""

    now: float = 1000.0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    wall: datetime.datetime = WALL
    log: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def tree(cls, *names: str) -> Net:
        """Return a running network of these cells and those above them."""
        net = cls()
        net.add(ROOT)
        for text in names:
            name: FQCN | None = FQCN(text)
            path = []
            while name is not None and str(name) not in net.endpoints:
                path.append(name)
                name = name.parent
            for name in reversed(path):
                net.add(str(name))
                net.connect(str(name))
                net.run()
        return net

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]

    def add(self, name: str, epoch: int = 1) -> Endpoint:
        endpoint = self.endpoints[name] = new_endpoint(FQCN(name).base_name, epoch, seed=name, wall=self.wall)
        return endpoint

    def connect(
        self,
        name: str,
        *,
        parent: str | None = None,
        credentials: tuple[Credentials, Credentials] | None = None,
        transports: tuple[Transport, Transport] = (MEMORY, MEMORY),
        roles: tuple[str, str] | None = None,
    ) -> Link:
        """Join a cell to its parent; the first of each pair is the parent's."""
        child, above = self.endpoints[name], self.endpoints[parent or str(FQCN(name).parent)]
        held = credentials or (None, None)
        roles = roles or (_role(above.name), _role(child.name))
        listening, connecting = (
            endpoint.open(transport, is_listener=listens, now=self.now, role=role, credentials=own)
            for endpoint, transport, listens, role, own in zip(
                (above, child), transports, (True, False), roles, held, strict=True
            )
        )
        link = self.links[name] = Link(above, child, listening, connecting)
        return link

    def run(self) -> None:
        """Move bytes until nothing moves."""
        while sum(link.move(self.now) for link in self.links.values()) or any(
            endpoint.events for endpoint in self.endpoints.values()
        ):
            for name, endpoint in self.endpoints.items():
                self._take_events(name, endpoint)

    def cut(self, name: str) -> None:
        """Cut the link between a cell and its parent; both sides notice."""
        link = self.links[name]
        link.is_up = False
        link.parent.close(link.listening, self.now)
        link.child.close(link.connecting, self.now)
        self.run()

    def tick(self, seconds: float) -> None:
        """Let time pass, once everything has moved that can move now."""
        self.run()
        end = self.now + seconds
        while self.now < end:
            self.now = max(self.now, min([end, *(endpoint.due for endpoint in self.endpoints.values())]))
            for endpoint in self.endpoints.values():
                endpoint.tick(self.now)
            self.run()

    def request(self, origin: str, *destinations: str, topic: str = "echo", payload: bytes = b"?", **how: Any) -> int:
        """Ask one cell or several; *how* are further arguments of the endpoint's."""
        wanted = [FQCN(name) for name in destinations]
        how.setdefault("deadline", self.now + MINUTE)
        return self[origin].request(wanted, topic, 1, payload, now=self.now, **how)

    def outcomes(self, origin: str) -> list[Replied | Failed]:
        """Return how requests of a cell ended since the last call."""
        found = [event for event in self.log[origin] if isinstance(event, Replied | Failed)]
        self.log[origin] = [event for event in self.log[origin] if event not in found]
        return found

    def failures(self, origin: str) -> dict[str, str]:
        """Return the destinations that failed since the last call, and how."""
        return {str(o.destination): type(o.error).__name__ for o in self.outcomes(origin) if isinstance(o, Failed)}

    def received(self, name: str, *kinds: type) -> list[Any]:
        return [event for event in self.log[name] if isinstance(event, kinds)]

    def _take_events(self, name: str, endpoint: Endpoint) -> None:
        while endpoint.events:
            event = endpoint.events.popleft()
            self.log[name].append(event)
            if isinstance(event, Message) and event.doubt:
                endpoint.ended(event.number, Status.UNKNOWN, 0, b"", self.now)
            elif isinstance(event, Message) and event.wants_reply and event.topic != "hold":
                endpoint.ended(event.number, Status.OK, event.encoding, event.payload, self.now)
            elif isinstance(event, Cancelled):
                endpoint.stopped(event.number, self.now)
            elif isinstance(event, LinkFailed):
                self._end(event.connection)

    def _end(self, connection: Connection) -> None:
        """Do what a link does that ends: send what is queued, and close."""
        for link in self.links.values():
            if connection in (link.listening, link.connecting) and link.is_up:
                link.move(self.now)
                link.is_up = False
                link.parent.close(link.listening, self.now)
                link.child.close(link.connecting, self.now)


def _role(name: str) -> str:
    return ROOT if name == ROOT else "cell"


class Project:
    """A project with an authority of its own, which makes credentials as kits hold them."""

    def __init__(self, name: str = "mobile", authority: Authority | None = None) -> None:
        self.authority = authority or Authority.create(name, WALL - DAY)
        self.name = name

    def cell(
        self,
        name: str,
        role: str = "client",
        *,
        parents: tuple[str, ...] = (ROOT,),
        usage: Any = CONNECT,
        now: datetime.datetime = WALL - DAY,
        placement: Placement | None = None,
        listening: Credentials | None = None,
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = Identity(self.name, role, name)
        leaf = self.authority.issue(identity, key.public_key(), usage, common_name=name, org="acme", now=now)
        placement = placement or Placement(self.name, role, name, parents, name).issue(self.authority.key)
        return Credentials(key, (leaf,), (self.authority.certificate,), placement, listening=listening)

    def server(self, name: str = "fl.example.com", **changes: Any) -> Credentials:
        return self.cell(name, "server", usage=LISTEN, **changes)

    def relay(self, name: str, *, parents: tuple[str, ...] = (ROOT,)) -> Credentials:
        return self.cell(name, "relay", parents=parents, listening=self.cell(name, "relay", usage=LISTEN))
