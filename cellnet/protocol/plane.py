"""The bulk plane of one cell: contents that it holds, that it wants, and that pass through it.

Contents are pulled. A WANT says from where to where a neighbour wants one, and DATA answers it and nothing else, so
what is under way is never more than was asked for. After any loss, whoever wants a content says so again, from the
first byte that is missing. A content is named by its holder's name and by bytes that only those know who may have it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cellnet.errors import Busy, RemoteProtocolError
from cellnet.protocol.chunks import DIGEST_BYTES
from cellnet.protocol.connection import MAX_REASON
from cellnet.protocol.envelope import read_name
from cellnet.protocol.feed import Supply
from cellnet.protocol.fetch import Fetch
from cellnet.protocol.frames import OFFSET, Kind, unpack
from cellnet.protocol.loopback import Loopback
from cellnet.protocol.offer import Offer
from cellnet.protocol.passage import Passage, Transit
from cellnet.protocol.shared import Share, Shared
from cellnet.protocol.want import Want

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cellnet.fqcn import FQCN
    from cellnet.protocol.chunks import Listed
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.fetch import Sink
    from cellnet.protocol.frames import Buffer, Frame
    from cellnet.protocol.offer import Source
    from cellnet.protocol.routing import Router
    from cellnet.protocol.timers import Timer, Timers
    from cellnet.protocol.want import Neighbour

__all__ = ["BULK", "CONTENT_BYTES", "Plane"]

BULK = frozenset({Kind.WANT, Kind.DATA, Kind.END, Kind.ABORT})
"""The kinds of frames of contents."""
CONTENT_BYTES = 16
"""Of the name of a content that is for one: as many as nobody guesses."""
MAX_OBJECTS = 1024
"""That pass through a cell at a time."""
MAX_CONTENTS = 16384
"""Held by a cell, and wanted by it, and passing through it: as many of each."""
MAX_OFFSET = (1 << 63) - 1
MAX_SUPPLIES = 4096
"""Contents that one neighbour may want at a time."""
MAX_RESETS = 1024
"""Contents that were given up of which it is known why, for those who have not wanted them yet."""
LOOK_SECONDS = 15.0
"""How often all is looked at, and what is wanted is said again."""
_TOLD = frozenset({"lost", "gone", "unreachable", "altered"})
"""Codes of ours, which never come without a reason for people."""
FORGET_SECONDS = 60.0
"""After which a neighbour that did not say again what it wants does not want it."""


def _ignore(_code: str) -> None: ...


class Plane:
    """All the contents of one cell."""

    def __init__(
        self,
        router: Router[Connection],
        connections: Collection[Connection],
        timers: Timers,
        *,
        entropy: Callable[[int], bytes],
        random: Callable[[], float],
    ) -> None:
        self.transit = Transit()
        self.offers: dict[bytes, Offer] = {}
        self.fetches: dict[Fetch, None] = {}
        self.timers = timers
        self.refused = 0
        """Frames of contents that were not wanted, came twice, or were altered."""
        self._router = router
        self._connections = connections
        self._loopback = Loopback(timers, self.received)
        self._entropy = entropy
        self._random = random
        self._look: Timer | None = None
        self._resets: dict[bytes, str] = {}

    # Of this cell.

    def offer(
        self,
        source: Source,
        *,
        now: float,
        seconds: float = FORGET_SECONDS,
        is_for_one: bool,
        withdrawn: Callable[[str], None] = _ignore,
    ) -> Offer:
        """Hold a content for others.

        :param seconds: how long it is held though nobody wants it
        :param is_for_one: whether nobody else wants it once one had it
        :param withdrawn: told when it is held no longer, and why
        :raises Busy: if too many are held
        """

        def end(offer: Offer, code: str, reason: str) -> None:
            if self.offers.pop(offer.content, None) is not None:
                if code == "reset":
                    self._note_reset(offer.content, reason)
                withdrawn(code)

        content = self._entropy(CONTENT_BYTES)
        offer = self._hold(Offer(content, source, now + seconds, is_for_one=is_for_one, withdrawn=end))
        self._look_later(now)
        return offer

    def offer_object(self, listed: Listed) -> Offer:
        """Hold an object for others until it is released: once for each time that it was offered.

        :raises Busy: if too many contents are held
        """
        offer = self.offers.get(listed.content)
        if offer is None:

            def end(offer: Offer, _code: str, _reason: str) -> None:
                self.offers.pop(offer.content, None)  # released after it was withdrawn

            offer = self._hold(Offer(listed.content, listed, math.inf, is_for_one=False, withdrawn=end))
        offer.leases += 1
        return offer

    def _hold(self, offer: Offer) -> Offer:
        if len(self.offers) >= MAX_CONTENTS:
            raise Busy(f"{MAX_CONTENTS} large payloads and streams are under way: that is as many as there may be")
        self.offers[offer.content] = offer
        return offer

    def fetch(self, holder: FQCN, content: bytes, sink: Sink, now: float) -> Fetch:
        """Want a content for this cell. The sink is told of all that comes of it.

        :raises Busy: if too many are wanted
        """
        if len(self.fetches) >= MAX_CONTENTS:
            raise Busy(f"{MAX_CONTENTS} large payloads and streams are awaited: that is as many as there may be")
        fetch = Fetch(holder, content, sink, now, self)
        self.fetches[fetch] = None
        self._look_later(now)
        fetch.begin(now)
        return fetch

    # Links.

    def connection_lost(self, connection: Connection, now: float) -> None:
        """Forget what a neighbour wanted, and want elsewhere what it was to bring."""
        feed = connection.feed
        for supply in list(feed.supplies.values()):
            self._drop(supply, "lost")
        for want in list(feed.wants.values()):
            if want.forget():  # else it ended with another that was told of this
                want.taker.broken("lost", "a link on the way was lost", now)

    def reachable(self, is_reachable: Callable[[FQCN], bool], now: float) -> None:
        """Want again, at once, what could not be had as no way led there."""
        for fetch in [fetch for fetch in self.fetches if fetch.want is None and is_reachable(fetch.holder)]:
            fetch.begin(now)

    # Frames.

    def received(self, neighbour: Neighbour, frame: Frame, now: float) -> None:
        """Take a frame about a content.

        :raises RemoteProtocolError: if it is malformed
        """
        kind = frame.kind
        if kind is Kind.WANT:
            self._want_received(neighbour, frame, now)
        elif kind is Kind.DATA:
            (offset,) = OFFSET.unpack(frame.header)
            self.data_received(neighbour, now, frame.label, offset, frame.body)
        elif kind is Kind.END:
            self._end_received(neighbour, frame, now)
        else:
            self._abort_received(neighbour, frame, now)

    def data_received(self, neighbour: Neighbour, now: float, label: int, offset: int, data: Buffer) -> None:
        """Take a part of a content."""
        want = neighbour.feed.wants.get(label)
        size = len(data)
        if want is None or offset + size <= want.position:  # it is wanted no more, or came before
            self.refused += 1
        elif offset != want.position or offset + size > want.upto:
            self._confused(want, now)
        else:
            want.came(size, now)
            want.taker.take(data, now)

    def _end_received(self, neighbour: Neighbour, frame: Frame, now: float) -> None:
        (length,) = unpack(frame.header, int)
        want = neighbour.feed.wants.get(frame.label)
        if want is None:
            self.refused += 1
        elif length != want.position:
            self._confused(want, now)
        else:
            want.taker.ended(length, now)

    def _confused(self, want: Want, now: float) -> None:
        """Want a content anew after what cannot be."""
        self.refused += 1
        want.stop("lost")
        want.taker.broken("lost", "a neighbour sent other bytes than were wanted", now)

    def _want_received(self, neighbour: Neighbour, frame: Frame, now: float) -> None:
        name, content, start, acknowledged, upto = unpack(frame.header, str, bytes, int, int, int)
        holder = read_name(name)
        if len(content) not in (CONTENT_BYTES, DIGEST_BYTES) or max(start, acknowledged, upto) > MAX_OFFSET:
            raise RemoteProtocolError("a content is wanted that cannot be")
        supply = neighbour.feed.supplies.get(frame.label)
        if supply is None:
            supply = Supply(neighbour.feed, frame.label, start)
            if (error := self._supply(supply, neighbour, holder, content)) is not None:
                neighbour.control(Kind.ABORT, True, *error, label=frame.label)
                return
        supply.heard = now
        supply.upto = max(supply.upto, upto)
        supply.origin.wanted(supply, acknowledged)
        neighbour.feed.ready(supply)
        self._look_later(now)

    def _supply(self, supply: Supply, neighbour: Neighbour, holder: FQCN, content: bytes) -> tuple[str, str] | None:
        """Find where a content comes from, and note that it is wanted; return why that cannot be."""
        if not neighbour.feed.is_new(supply.label):
            return "lost", f"{self._router.fqcn} has forgotten it"
        if len(neighbour.feed.supplies) >= MAX_SUPPLIES:
            return "busy", f"{self._router.fqcn} gives one neighbour no more contents at a time"
        if self._router.is_me(holder):
            offer = self.offers.get(content)
            if offer is None:
                if (reason := self._resets.get(content)) is not None:
                    return "reset", reason
                return "gone", f"{holder} does not hold it, or no longer"
            supply.origin = offer
            offer.supplies[supply] = None
        else:
            out = self.next_hop(holder)
            if out is None or out is neighbour:
                return "unreachable", f"no link leads from {self._router.fqcn} to {holder}"
            if not self._pass_on(supply, out, holder, content):
                return "busy", f"{self._router.fqcn} passes on as many contents as it may"
        neighbour.feed.supplies[supply.label] = supply
        return None

    def _pass_on(self, supply: Supply, out: Neighbour, holder: FQCN, content: bytes) -> bool:
        if len(content) == DIGEST_BYTES:
            shared = self.transit.objects.get(content)
            if shared is None:
                if len(self.transit.objects) >= MAX_OBJECTS:
                    return False
                shared = Shared(content, self.transit, self.next_hop, self._refuse)
            supply.origin = Share(shared, holder, supply)
        else:
            if len(self.transit.passages) >= MAX_CONTENTS:
                return False
            passage = Passage(self.transit, supply)
            passage.want = Want(out, holder, content, supply.position, passage)
            supply.origin = passage
        return True

    def _abort_received(self, neighbour: Neighbour, frame: Frame, now: float) -> None:
        from_holder, code, reason = unpack(frame.header, bool, str, str)
        if not from_holder:
            supply = neighbour.feed.supplies.get(frame.label)
            if supply is not None:
                self._drop(supply, code[:MAX_REASON])
            return
        want = neighbour.feed.wants.get(frame.label)
        if want is not None:
            want.forget()
            untold = "the neighbour did not say why" if code in _TOLD else ""
            want.taker.broken(code[:MAX_REASON], reason[:MAX_REASON] or untold, now)

    def _drop(self, supply: Supply, code: str) -> None:
        supply.feed.drop(supply)
        supply.origin.stopped(supply, code)

    def _refuse(self) -> None:
        self.refused += 1

    def _note_reset(self, content: bytes, reason: str) -> None:
        if len(self._resets) >= MAX_RESETS:
            del self._resets[next(iter(self._resets))]
        self._resets[content] = reason

    # What fetches need.

    def next_hop(self, holder: FQCN) -> Neighbour | None:
        """Return the link towards a holder; this cell is a neighbour of its own."""
        return self._loopback if self._router.is_me(holder) else self._router.next_hop(holder)

    def way(self, holder: FQCN, content: bytes) -> Neighbour | None:
        """Return where to want a content for this cell: an object that others may want here, along with them."""
        if len(content) == DIGEST_BYTES and len(self._connections) > 1:
            return self._loopback
        return self.next_hop(holder)

    def later(self, seconds: float, action: Callable[[float], None], now: float) -> Timer:
        """Do something after half of so many seconds to all of them."""
        return self.timers.at(now + seconds * (0.5 + 0.5 * self._random()), action)

    # Time.

    def _look_later(self, now: float) -> None:
        if self._look is None:
            self._look = self.timers.at(now + LOOK_SECONDS, self._look_at_all)

    def _look_at_all(self, now: float) -> None:
        self._look = None
        for neighbour in self._neighbours():
            for supply in list(neighbour.feed.supplies.values()):
                if now - supply.heard >= FORGET_SECONDS:
                    self._drop(supply, "lost")
        for offer in list(self.offers.values()):
            if not offer.supplies and now >= offer.expires:
                offer.withdraw("gone", "nobody wanted it for too long")
        for fetch in list(self.fetches):
            if fetch in self.fetches:  # else it ended with another that was looked at
                fetch.look(now)
        for neighbour in self._neighbours():
            for want in list(neighbour.feed.wants.values()):
                want.say(want.upto)
        self.transit.shelf.age()
        if self.offers or self.fetches or self.transit.passages or self.transit.objects or self.transit.shelf.size:
            self._look_later(now)

    def _neighbours(self) -> list[Neighbour]:
        return [self._loopback, *self._connections]
