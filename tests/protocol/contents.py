"""What the tests of contents share: sources, sinks, and what must be left when all came: nothing."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from cellnet.fqcn import FQCN
from cellnet.protocol.chunks import Listing, Verifier
from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import OFFSET, Kind
from cellnet.protocol.offer import Held
from cellnet.protocol.records import Opener
from tests.protocol.conftest import encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cellnet.protocol.chunks import Listed
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.frames import Buffer, Frame
    from cellnet.protocol.offer import Offer, Source
    from tests.protocol.conftest import Net, Peer

__all__ = ["EVERYTHING", "NAME", "Checked", "Counted", "Growing", "Opened", "Small", "Taken", "content", "data"]
__all__ += ["fetch", "listed", "nothing_is_left", "offer", "only_offers_are_left", "plane_is_empty", "share", "want"]

EVERYTHING = 1 << 62
NAME = bytes(range(16))


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that are nowhere the same."""
    return random.Random(seed).randbytes(size)


class Counted(Held):
    """What is held in memory, and how often each place was read."""

    def __init__(self, whole: bytes) -> None:
        super().__init__([whole])
        self.reads: Counter[int] = Counter()
        self.sent = 0
        self.forgotten = 0

    def read(self, offset: int, limit: int) -> Buffer:
        piece = super().read(offset, limit)
        self.reads[offset] += 1
        self.sent += len(piece)
        return piece

    def acknowledged(self, offset: int) -> None:
        assert offset <= self.sent
        self.forgotten = max(self.forgotten, offset)


class Small(Counted):
    """The same, in small pieces."""

    def __init__(self, whole: bytes, size: int = 1000) -> None:
        super().__init__(whole)
        self.size = size

    def read(self, offset: int, limit: int) -> Buffer:
        return super().read(offset, min(limit, self.size))


class Growing:
    """What comes while it is sent."""

    def __init__(self) -> None:
        self.whole = b""
        self.length: int | None = None
        self.forgotten = 0

    def read(self, offset: int, limit: int) -> Buffer:
        return self.whole[offset : offset + limit]

    def acknowledged(self, offset: int) -> None:
        assert self.forgotten <= offset <= len(self.whole)
        self.forgotten = offset


class Taken:
    """A sink that keeps all, and is told once how that ended."""

    def __init__(self, *, upto: int = EVERYTHING, is_patient: bool = False) -> None:
        self.bytes = bytearray()
        self.upto = upto
        self.is_patient = is_patient
        self.outcomes: list[str] = []
        self.reason = ""
        """Why it failed, if it did."""
        self.told: Callable[[], None] = _nothing
        """Called when it ended."""

    @property
    def position(self) -> int:
        return len(self.bytes)

    def write(self, data: Buffer) -> None:
        assert not self.outcomes
        self.bytes += data

    def rewind(self) -> None:
        assert not self.outcomes

    def end(self) -> None:
        self._ended("whole")

    def fail(self, code: str, reason: str) -> None:
        assert reason or code not in ("lost", "gone", "unreachable", "altered")
        self.reason = reason
        self._ended(code)

    def _ended(self, how: str) -> None:
        assert not self.outcomes
        self.outcomes.append(how)
        self.told()


class Opened(Taken):
    """The same, for sealed records."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.opener = Opener(key, super().write)

    @property
    def position(self) -> int:
        return self.opener.position

    def write(self, data: Buffer) -> None:
        self.opener.write(data)

    def rewind(self) -> None:
        self.opener.rewind()

    def end(self) -> None:
        if not self.opener.is_whole:
            raise Altered("it ended before its last record")
        super().end()


class Checked(Taken):
    """The same, for an object."""

    def __init__(self, named: bytes, *, upto: int = EVERYTHING) -> None:
        super().__init__(upto=upto)
        self.verifier = Verifier(named, None, 0, self._piece)

    @property
    def position(self) -> int:
        return self.verifier.position

    def write(self, data: Buffer) -> None:
        self.verifier.write(data)

    def rewind(self) -> None:
        self.verifier.rewind()

    def end(self) -> None:
        assert self.verifier.is_whole
        super().end()

    def _piece(self, index: int, piece: bytes) -> None:
        if index:
            super().write(piece)


def _nothing() -> None: ...


def offer(net: Net, name: str, source: Source | bytes, *, is_for_one: bool = True, seconds: float = 60.0) -> Offer:
    """Let a cell hold a content."""
    if isinstance(source, bytes):
        source = Held([source])
    return net[name].plane.offer(source, now=net.now, seconds=seconds, is_for_one=is_for_one)


def listed(source: Source | bytes) -> Listed:
    """Return a source as an object."""
    if isinstance(source, bytes):
        source = Held([source])
    listing = Listing(source, source.length or 0)
    while not listing.is_whole:
        listing.go_on()
    return listing.finish()


def share(net: Net, name: str, source: Source | bytes) -> Offer:
    """Let a cell hold an object."""
    return net[name].plane.offer_object(listed(source))


def fetch(net: Net, name: str, holder: str, of: Offer | bytes, sink: Taken) -> Fetch:
    """Let a cell want a content."""
    named = of if isinstance(of, bytes) else of.content
    return net[name].plane.fetch(FQCN(holder), named, sink, net.now)


def plane_is_empty(endpoint: Endpoint) -> None:
    """Check that a cell wants nothing, passes nothing on, and that nobody wants anything of it."""
    transit, plane = endpoint.plane.transit, endpoint.plane
    assert plane.fetches == {}
    assert (transit.passages, transit.promised, transit._volatile) == ({}, 0, {})
    assert (transit.objects, transit.pulls) == ({}, {})
    for neighbour in plane._neighbours():
        feed = neighbour.feed
        assert (feed.supplies, feed.wants, feed.has_output) == ({}, {}, False)
    assert not any(one.supplies for one in plane.offers.values())


def only_offers_are_left(endpoints: Iterable[Endpoint]) -> None:
    for endpoint in endpoints:
        plane_is_empty(endpoint)


def nothing_is_left(endpoints: Iterable[Endpoint]) -> None:
    for endpoint in endpoints:
        plane_is_empty(endpoint)
        assert endpoint.plane.offers == {}


# Frames, as a neighbour says them.


def want(
    peer: Peer, label: int, holder: str, named: bytes = NAME, *, start: int = 0, acknowledged: int = 0, upto: int = 0
) -> None:
    peer.send(Kind.WANT, holder, named, start, acknowledged, upto, label=label)


def data(peer: Peer, label: int, offset: int, body: bytes) -> None:
    peer.send_bytes(encode_frame(Kind.DATA, OFFSET.pack(offset), body, label=label))


def said(frames: list[Frame]) -> list[tuple[Kind, int]]:
    """Return kinds and labels."""
    return [(frame.kind, frame.label) for frame in frames]
