"""The contents of one simulated cell: payloads too large for a message, and what streams are made of.

It does what :class:`cellnet.contents.Contents` does, with callbacks in place of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.arrival import Arrival
from cellnet.contents import Reference
from cellnet.memory import Memory
from cellnet.protocol.chunks import Listing
from cellnet.protocol.frames import pack
from cellnet.protocol.offer import Held
from cellnet.protocol.records import SealedSource
from cellnet.protocol.sealing import KEY_BYTES
from cellnet.simulation.deliveries import Delivery, Offered
from cellnet.simulation.errand import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.errors import CellError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.fetch import Fetch, Sink
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.offer import Offer, Source
    from cellnet.simulation.cell import SimulatedCell
    from cellnet.simulation.deliveries import Deliveries

__all__ = ["Bulk"]


class Bulk:
    """All that one cell offers and fetches, and what is noted of it."""

    def __init__(self, cell: SimulatedCell, deliveries: Deliveries, *, seals: bool) -> None:
        """Begin with nothing.

        :param seals: whether contents travel as sealed records
        """
        self.deliveries = deliveries
        self._cell = cell
        self._seals = seals

    def key(self) -> bytes:
        """Return a new key; nothing if contents are not sealed."""
        return self._cell.rng.randbytes(KEY_BYTES) if self._seals else b""

    def hold(self, name: str, size: int, *, is_for_one: bool) -> tuple[bytes, Offer]:
        """Offer the text of a name; return what a message says of it."""
        held, key = Held([text(name, size)]), self.key()
        source = SealedSource(held, key) if key else held
        offer = self.offer(source, Offered(name, self._cell.name, size), is_for_one=is_for_one)
        return pack(*Reference(1, size, offer.content, key)), offer

    def share(self, name: str, size: int) -> tuple[bytes, Offer]:
        """Offer the text of a name as an object; return what a message says of it."""
        held, key = Held([text(name, size)]), self.key()
        source = SealedSource(held, key) if key else held
        listing = Listing(source, source.length)
        while not listing.is_whole:
            listing.go_on()
        offer = self._cell.endpoint.plane.offer_object(listing.finish())
        self.deliveries.offered(offer.content, Offered(name, self._cell.name, size))
        return pack(*Reference(1, size, offer.content, key)), offer

    def release(self, offer: Offer) -> None:
        """Hold a payload no longer."""
        if offer.leases:
            self.deliveries.withdrawn(offer.content, "gone")
            offer.release()
        else:
            offer.withdraw("gone", "it is wanted no more")

    def offer(
        self, source: Source, offered: Offered, *, is_for_one: bool, ended: Callable[[str], None] | None = None
    ) -> Offer:
        """Offer any source.

        :param ended: told when it is held no longer, and why
        """
        cell = self._cell

        def withdrawn(code: str) -> None:
            self.deliveries.withdrawn(offer.content, code)
            cell.trace.note(cell.name, "holds no longer", offered.name, code)
            if ended is not None:
                ended(code)

        offer = cell.endpoint.plane.offer(source, now=cell.timeline.now, is_for_one=is_for_one, withdrawn=withdrawn)
        self.deliveries.offered(offer.content, offered)
        return offer

    def bring(self, holder: FQCN, reference: bytes, done: Callable[[bool], None]) -> Fetch:
        """Fetch a payload.

        :param done: told once whether it came, unless that is cancelled
        """

        def arrived(outcome: tuple[int, bytes] | CellError) -> None:
            if isinstance(outcome, tuple):
                self.deliveries.came(delivery, outcome[1])
                self._cell.trace.note(self._cell.name, "has", delivery.offered.name)
            done(isinstance(outcome, tuple))

        read = Reference.unpack(reference)
        fetch, delivery = self.fetch(holder, read.content, Arrival(holder, read, Memory(), arrived))
        return fetch

    def fetch(self, holder: FQCN, content: bytes, sink: Sink) -> tuple[Fetch, Delivery]:
        """Fetch a content into any sink."""
        cell = self._cell
        delivery = self.deliveries.began(content, cell.name, cell.timeline.now)
        watched = _Watched(sink, delivery, cell, self.deliveries)
        return cell.endpoint.plane.fetch(holder, content, watched, cell.timeline.now), delivery


class _Watched:
    """A sink, and what is noted of it."""

    def __init__(self, sink: Sink, delivery: Delivery, cell: SimulatedCell, deliveries: Deliveries) -> None:
        self._sink = sink
        self._delivery = delivery
        self._cell = cell
        self._deliveries = deliveries

    @property
    def position(self) -> int:
        return self._sink.position

    @property
    def upto(self) -> int:
        return self._sink.upto

    @property
    def is_patient(self) -> bool:
        return self._sink.is_patient

    def write(self, data: Buffer) -> None:
        self._sink.write(data)
        self._delivery.progressed = self._cell.timeline.now

    def rewind(self) -> None:
        self._sink.rewind()

    def end(self) -> None:
        self._sink.end()

    def fail(self, code: str, reason: str) -> None:
        cell = self._cell
        self._deliveries.failed(self._delivery, code, cell.timeline.now)
        cell.trace.note(cell.name, "lost", self._delivery.offered.name, code)
        self._sink.fail(code, reason)
