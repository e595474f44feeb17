"""One end of a stream in a simulation: it writes, reads, ends and resets as planned, and what it reads is compared.

It does what :class:`cellnet.Stream` does, with planned actions in place of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.incoming import Incoming
from cellnet.outgoing import Outgoing
from cellnet.protocol.frames import FRAME_BYTES, pack, unpack
from cellnet.simulation.deliveries import Offered
from cellnet.simulation.errand import text
from cellnet.stream import FIRST_BYTES

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.offer import Offer
    from cellnet.simulation.bulk import Bulk
    from cellnet.simulation.cell import SimulatedCell
    from cellnet.simulation.deliveries import Delivery
    from cellnet.simulation.errand import Half

__all__ = ["SimulatedStream"]


class SimulatedStream:
    """One end."""

    def __init__(
        self, cell: SimulatedCell, bulk: Bulk, name: str, half: Half, keys: tuple[bytes, bytes], first: bytes = b""
    ) -> None:
        """Make one that can write, and not yet read.

        :param name: by which the bytes are known that it writes
        :param keys: for what it writes, and for what it reads
        :param first: what came with the message that opened it
        """
        self.is_closed = False
        """Whether it reads no more."""
        self._cell = cell
        self._bulk = bulk
        self._half = half
        self._outgoing = Outgoing(keys[0], self._has_room)
        self._incoming = Incoming(keys[1], first)
        self._offered = Offered(name, cell.name, 0, is_whole=False)
        self._offer: Offer | None = bulk.offer(self._outgoing, self._offered, is_for_one=True, ended=self._left)
        self.content = self._offer.content
        """The name of what it writes."""
        self._fetch: Fetch | None = None
        self._delivery: Delivery
        self._is_waiting = False
        if half.reset_after is not None:
            cell.later(cell.timeline.now + half.reset_after, self.reset)

    @classmethod
    def opening(cls, cell: SimulatedCell, bulk: Bulk, number: str, half: Half) -> tuple[SimulatedStream, bytes]:
        """Make the end that opens it; return that, and what the message says that does so."""
        keys = bulk.key(), bulk.key()
        stream = cls(cell, bulk, f"{number} there", half, keys)
        first = bytes(text(f"{number} there", min(half.piece, half.size, FIRST_BYTES)))
        stream._offered.size = len(first)
        stream._write_later()
        return stream, pack(stream.content, *keys, first)

    @classmethod
    def accepting(
        cls, cell: SimulatedCell, bulk: Bulk, number: str, half: Half, opener: FQCN, said: bytes
    ) -> SimulatedStream:
        """Make the other end, of what that message said."""
        content, their_key, our_key, first = unpack(said, bytes, bytes, bytes, bytes)
        stream = cls(cell, bulk, f"{number} back", half, (our_key, their_key), first)
        stream.answered(opener, content)
        stream._write_later()
        return stream

    @property
    def is_over(self) -> bool:
        """Whether it neither reads nor is read from."""
        return self.is_closed and self._offer is None

    def answered(self, peer: FQCN, content: bytes) -> None:
        """Read what the other end writes; if nobody does any more, tell it so."""
        if not self._bulk.deliveries.knows(content, self._cell.name):
            self.reset()
            return
        self._fetch, self._delivery = self._bulk.fetch(peer, content, self._incoming)
        if self.is_closed:
            self._fetch.cancel()
        else:
            self._cell.later(self._cell.timeline.now + self._half.deaf, self._read)

    def reset(self) -> None:
        """Give it up at once. Safe to repeat."""
        if self._offer is not None:
            self._offer.withdraw("reset", "as planned")
        self._close()

    def _close(self) -> None:
        self.is_closed = True
        if self._fetch is not None:
            self._fetch.cancel()

    # Writing.

    def _left(self, _code: str) -> None:
        self._offer = None

    def _has_room(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._cell.later(self._cell.timeline.now, self._write)

    def _write_later(self) -> None:
        self._cell.later(self._cell.timeline.now + self._half.pause, self._write)

    def _write(self) -> None:
        if self._offer is None:
            return
        if self._outgoing.is_full:
            self._is_waiting = True
            return
        offered, half = self._offered, self._half
        end = min(offered.size + half.piece, half.size)
        self._outgoing.write(bytes(text(offered.name, end)[offered.size :]))
        offered.size = end
        kept = sum(map(len, self._outgoing._pieces))
        if kept > self._outgoing.room + half.piece + FRAME_BYTES:
            self._cell.excess.append(f"{kept} bytes of a stream wait to be acknowledged")
        if end == half.size:
            offered.is_whole = True
            self._outgoing.end()
        else:
            self._write_later()
        self._offer.ready()

    # Reading.

    def _read(self) -> None:
        if self.is_closed or self._fetch is None:
            return
        incoming, left, now = self._incoming, self._half.read, self._cell.timeline.now
        if incoming._unread > incoming._room + FRAME_BYTES:
            self._cell.excess.append(f"{incoming._unread} bytes of a stream wait to be read")
        while left > 0 and (data := incoming.read(left)):
            self._bulk.deliveries.read(self._delivery, data)
            left -= len(data)
        if left < self._half.read:
            pass
        elif incoming.is_ended:
            self._bulk.deliveries.read_to_end(self._delivery)
            self._close()
            return
        elif incoming.error is not None:
            self.reset()
            return
        self._fetch.extend(now)
        self._cell.later(now + self._half.read_pause, self._read)
