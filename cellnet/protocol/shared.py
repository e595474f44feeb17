"""An object that passes through this cell: wanted once of the next cell, however many want it here.

Who wants it reads from the pieces that are here. If the next one is not, a *pull* is under way that will bring it, or
is begun. The foremost of those who follow a pull decides how fast it goes, so a slow one delays nobody; if the pieces
that it needs are gone when it comes to them, it begins a pull of its own, from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol.chunks import ChunkList
from cellnet.protocol.pull import Pull

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.fqcn import FQCN
    from cellnet.protocol.feed import Supply
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.passage import Transit
    from cellnet.protocol.want import Neighbour

__all__ = ["MAX_PULLS", "Share", "Shared"]

MAX_PULLS = 1024
"""Through one cell at a time. Each may hold a chunk, even when there is no room."""


class Shared:
    """One object, and all who want it through this cell."""

    def __init__(
        self,
        content: bytes,
        transit: Transit,
        next_hop: Callable[[FQCN], Neighbour | None],
        refused: Callable[[], None],
    ) -> None:
        """Begin with what is left on the shelf.

        :param next_hop: tells which link leads to a holder
        :param refused: told when a piece was not what it has to be
        """
        self.content = content
        self.transit = transit
        self.refused = refused
        self.list: ChunkList | None = None
        """Once it is here. To be set by :meth:`learn`."""
        self.shares: dict[Share, None] = {}
        self.pulls: dict[Pull, None] = {}
        self._next_hop = next_hop
        transit.objects[content] = self
        if (data := transit.shelf.read(content, 0)) is not None:
            self.learn(ChunkList(data))

    @property
    def list_bytes(self) -> int:
        """How long the list is, once it is here."""
        return 0 if self.list is None else len(self.list.bytes)

    def learn(self, chunks: ChunkList) -> None:
        """Take the list. It stays as long as anybody wants the object."""
        self.list = chunks
        self.transit.promised += self.list_bytes

    def forget(self) -> None:
        """Note that nobody wants it here any more."""
        del self.transit.objects[self.content]
        self.transit.left(self.list_bytes)

    def piece(self, index: int) -> bytes | None:
        """Return a piece, if it is here."""
        if not index and self.list is not None:
            return self.list.bytes
        for pull in self.pulls:
            if (piece := pull.ahead.get(index)) is not None:
                return piece
        return self.transit.shelf.read(self.content, index)

    def follow(self, share: Share, index: int) -> None:
        """Let a piece come that somebody wants now."""
        pull = share.pull
        if pull is None or not pull.will_bring(index):
            share.leave()
            pull = next((pull for pull in self.pulls if pull.will_bring(index)), None)
            if pull is None and (pull := self._begin(share, index)) is None:
                return
            share.pull = pull
            pull.shares[share] = None
        pull.hurry(share)

    def _begin(self, share: Share, index: int) -> Pull | None:
        neighbour = self._next_hop(share.holder)
        if neighbour is None or neighbour.feed is share.supply.feed:
            share.abort("unreachable", f"no link leads to {share.holder}")
        elif len(self.transit.pulls) >= MAX_PULLS:
            share.abort("busy", f"{MAX_PULLS} objects pass here: that is as many as there may be")
        else:
            return Pull(self, neighbour, share.holder, index)
        return None


class Share:
    """What one neighbour wants of an object."""

    def __init__(self, shared: Shared, holder: FQCN, supply: Supply) -> None:
        self.holder = holder
        self.supply = supply
        self.pull: Pull | None = None
        """What it follows, since a piece was not here."""
        self._shared = shared
        shared.shares[self] = None

    def abort(self, code: str, reason: str) -> None:
        """Tell the neighbour that it gets no more."""
        self.stopped(self.supply, code)
        self.supply.abort(code, reason)

    def leave(self) -> None:
        """Follow no pull."""
        if self.pull is not None:
            self.pull.leave(self)
            self.pull = None

    # As where the content comes from.

    @property
    def length(self) -> int | None:
        """How many bytes the object has."""
        return None if self._shared.list is None else self._shared.list.length

    def pour(self, offset: int, limit: int, buffers: list[Buffer]) -> int:
        """Append what is there; if nothing is, let it come."""
        chunks = self._shared.list
        index = 0 if chunks is None else chunks.index(offset)
        piece = self._shared.piece(index)
        if piece is None:
            if chunks is None or index < chunks.count:
                self._shared.follow(self, index)
            return 0
        start = 0 if chunks is None else chunks.start(index)
        data = memoryview(piece)[offset - start : offset - start + limit]
        if size := len(data):
            buffers.append(data)
        if self.pull is not None:
            self.pull.passed(offset + size)
        return size

    def wanted(self, supply: Supply, _acknowledged: int) -> None:
        """Let more come, if that is what it waits for."""
        if self.pull is not None:
            self.pull.extend()
        elif supply.position < supply.upto:
            self.pour(supply.position, 0, [])

    def stopped(self, _supply: Supply, _code: str) -> None:
        """Note that the neighbour wants no more."""
        self.leave()
        del self._shared.shares[self]
        if not self._shared.shares:
            self._shared.forget()
