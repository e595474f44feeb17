"""One run through an object, piece by piece, over one link: for all who are at about the same place of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol.chunks import Verifier
from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import FRAME_BYTES
from cellnet.protocol.want import MAX_WINDOW_BYTES, WINDOW_BYTES, Want

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.shared import Share, Shared
    from cellnet.protocol.want import Neighbour

__all__ = ["Pull"]


class Pull:
    """A want of ours, those who follow it, and the pieces that none of them has read yet."""

    def __init__(self, shared: Shared, neighbour: Neighbour, holder: FQCN, index: int) -> None:
        """Want nothing yet.

        :param index: of the first piece to bring
        """
        self.shares: dict[Share, None] = {}
        self.ahead: dict[int, bytes] = {}
        """Pieces that came and were not read by the foremost."""
        self._shared = shared
        self._transit = shared.transit
        self._verifier = Verifier(shared.content, shared.list if index else None, index, self._came)
        self._front = self._verifier.position
        self._window = WINDOW_BYTES
        self._is_over = False
        self._want = Want(neighbour, holder, shared.content, self._front, self)
        shared.pulls[self] = None
        shared.transit.pulls[self] = None

    @property
    def promised(self) -> int:
        """Bytes that were wanted and that the foremost has not read."""
        return self._want.upto - self._front

    @property
    def least(self) -> int:
        """How much it may hold even when there is no room: a piece cannot be passed on before it is whole."""
        return max(FRAME_BYTES, self._verifier.piece_bytes)

    def will_bring(self, index: int) -> bool:
        """Whether a piece that is not here comes next, or soon."""
        verifier, shelf = self._verifier, self._transit.shelf
        if self._is_over or index < verifier.index:
            return False
        if index == verifier.index or verifier.list is None:
            return True
        # It stops at a piece that is on the shelf.
        is_near = verifier.list.start(index) < self._want.position + WINDOW_BYTES
        return is_near and not shelf.has(self._shared.content, verifier.index)

    def hurry(self, share: Share) -> None:
        """Bring more: a follower has nothing to read."""
        self.passed(share.supply.position)
        if self._front + self._window < share.supply.upto:
            self._window = min(2 * self._window, MAX_WINDOW_BYTES)
        self.extend()

    def extend(self) -> None:
        """Want what the foremost wants, as far as there is room."""
        if self._is_over or not self.shares:
            return
        goal = self._goal()
        if self._want.is_worth(goal, self._window):
            more = self._transit.allow(self, goal - self._want.upto)
            if more or not self._want.is_said:
                self._want.say(self._want.upto + more)

    def passed(self, offset: int) -> None:
        """Note that a follower has read up to *offset*."""
        front = min(offset, self._verifier.position)
        if front <= self._front:
            return
        size, self._front = front - self._front, front
        chunks = self._verifier.list
        while self.ahead and chunks is not None and chunks.start((index := next(iter(self.ahead))) + 1) <= front:
            self._transit.shelf.put(self._shared.content, index, self.ahead.pop(index))
        self._transit.left(size)
        self.extend()

    def leave(self, share: Share) -> None:
        """Note that one follows no longer."""
        self.shares.pop(share, None)
        if not self.shares:
            self._end("stopped")

    # As who takes what comes.

    def take(self, data: Buffer, now: float) -> None:
        """Check it, and let whole pieces be read."""
        try:
            self._verifier.write(data)
        except Altered as error:
            self._shared.refused()
            self._stop("lost")
            self.broken("lost", str(error), now)
            return
        if self._want.position - self._front > self._window // 2:  # the link in is the faster one
            self._window = max(WINDOW_BYTES, self._window - FRAME_BYTES)
        self.extend()
        if self._want.position == self._want.upto and self._is_next_here():
            self._end("stopped")

    def ended(self, length: int, now: float) -> None:
        """Take the news that this was all."""
        if not self._verifier.is_whole:
            self._shared.refused()
            self._stop("lost")
            self.broken("lost", f"an object ended after {length} bytes, before all of it came", now)
            return
        excess, self._want.upto = self._want.upto - length, length
        self._stop("done")
        self._transit.left(excess)

    def broken(self, code: str, reason: str, _now: float) -> None:
        """Tell all who follow that no more comes."""
        self._is_over = True
        shares = list(self.shares)
        self._end(code)
        for share in shares:
            share.abort(code, reason)

    def _came(self, index: int, piece: bytes) -> None:
        if self._verifier.list is not None and not index:
            self._shared.learn(self._verifier.list)
        self.ahead[index] = piece
        for share in self.shares:
            share.supply.feed.ready(share.supply)

    def _goal(self) -> int:
        """Return up to where it should want: for the foremost, whole pieces, and none that is here."""
        chunks, verifier = self._verifier.list, self._verifier
        # Whoever is far away came for the list, and looks for another once that is here.
        near = verifier.position + WINDOW_BYTES
        places = [share.supply for share in self.shares if share.supply.position <= near]
        foremost = max(places, key=lambda supply: supply.position, default=None)
        if foremost is None:
            return max(self._want.upto, FRAME_BYTES, verifier.piece_bytes if chunks is None else 0)
        goal = self._want.goal(max(foremost.position, self._front), foremost.upto, self._window)
        if chunks is None:
            return max(goal, verifier.piece_bytes)
        if goal <= verifier.position:
            return self._want.upto
        last = min(chunks.count, chunks.index(goal - 1) + 1)
        index = verifier.index
        while index < last and not self._transit.shelf.has(self._shared.content, index):
            index += 1
        return max(self._want.upto, chunks.start(index))

    def _is_next_here(self) -> bool:
        verifier = self._verifier
        return not verifier.is_whole and self._transit.shelf.has(self._shared.content, verifier.index)

    def _stop(self, code: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._want.stop(code)

    def _end(self, code: str) -> None:
        """Bring no more. What came is kept as long as there is room; who still follows looks for another."""
        del self._shared.pulls[self]
        self._stop(code)
        shares, self.shares = self.shares, {}
        for index, piece in self.ahead.items():
            self._transit.shelf.put(self._shared.content, index, piece)
        self.ahead.clear()
        self._transit.forget(self)
        for share in shares:
            share.pull = None
            share.supply.feed.ready(share.supply)
