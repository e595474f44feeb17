"""A content that passes through this cell, on its way from one neighbour to another."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from cellnet.protocol.frames import FRAME_BYTES
from cellnet.protocol.shelf import Shelf
from cellnet.protocol.want import MAX_WINDOW_BYTES, WINDOW_BYTES

if TYPE_CHECKING:
    from cellnet.protocol.feed import Supply
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.pull import Pull
    from cellnet.protocol.shared import Shared
    from cellnet.protocol.want import Want

__all__ = ["TRANSIT_BYTES", "Passage", "Transit"]

TRANSIT_BYTES = 24 << 20
"""What may be wanted for all neighbours and not have left again. When that is little, each content gets one frame."""


class Transit:
    """All that passes, and what it holds together."""

    def __init__(self) -> None:
        self.passages: dict[Passage, None] = {}
        self.objects: dict[bytes, Shared] = {}
        """By name."""
        self.pulls: dict[Pull, None] = {}
        self.promised = 0
        """Bytes that were wanted and have not left again: all of them may be here at once."""
        self.shelf = Shelf(lambda: TRANSIT_BYTES - self.promised)
        self._volatile: dict[Passage, None] = {}

    def keep(self, *, lent: bool) -> bool:
        """Copy what has come and not left, as the buffer that it lies in is about to be used again.

        Return whether there was any.

        :param lent: the buffer stays as it is while anybody has a view of it, so that nothing need be copied
        """
        is_any = False
        for passage in self._volatile:
            is_any |= passage.keep(lent=lent)
        self._volatile.clear()
        return is_any

    def came(self, passage: Passage) -> None:
        """Note that bytes came which are not copied."""
        self._volatile[passage] = None

    def allow(self, passage: Passage | Pull, more: int) -> int:
        """Return how many more bytes a passage may want now. It is to ask again when some of its bytes have left.

        It may hold half of what is free beside it, so that however many do not get on, one more finds room for as
        much as any of them has: the dynamic thresholds of Choudhury and Hahne (1998, "Dynamic queue length thresholds
        for shared-memory packet switches").
        """
        held = passage.promised
        most = max(passage.least, (TRANSIT_BYTES - self.promised + held) // 3)
        if held + more > most:  # in steps of half of it at least, as each WANT costs something
            more = most - held if 2 * held <= most else max(0, passage.least - held)
        self.promised += more
        self.shelf.shrink()
        return more

    def left(self, size: int) -> None:
        """Note that bytes left, or will not come."""
        self.promised -= size

    def forget(self, passage: Passage | Pull) -> None:
        """Note that a passage or a pull ended."""
        if isinstance(passage, Passage):
            del self.passages[passage]
            self._volatile.pop(passage, None)
        else:
            del self.pulls[passage]
        self.left(passage.promised)


class Passage:
    """One want of one neighbour, and the want of ours that it became; in between, what has come and not left."""

    least = FRAME_BYTES
    """How much it may hold even when there is no room."""

    def __init__(self, transit: Transit, supply: Supply) -> None:
        self.want: Want
        """To be set at once."""
        self.length: int | None = None
        self._supply = supply
        self._transit = transit
        self._left = supply.position
        self._window = WINDOW_BYTES
        self._pieces: deque[Buffer] = deque()
        self._volatile = 0
        """How many pieces came since they were last kept; those that have not left are the last ones."""
        transit.passages[self] = None

    @property
    def promised(self) -> int:
        """Bytes that were wanted and have not left again."""
        return self.want.upto - self._left

    def extend(self, *, is_news: bool = False) -> None:
        """Want what is wanted of us, as far as there is room.

        :param is_news: whether it is to be said also if it is no more than before
        """
        goal = self.want.goal(self._left, self._supply.upto, self._window)
        if self.length is None and (is_news or self.want.is_worth(goal, self._window)):
            more = self._transit.allow(self, max(0, goal - self.want.upto))
            if more or is_news or not self.want.is_said:
                self.want.say(self.want.upto + more)

    # As where the content comes from, for the neighbour that wants it.

    def pour(self, _offset: int, limit: int, buffers: list[Buffer]) -> int:
        """Append the next bytes. They are no longer held here."""
        pieces, count = self._pieces, 0
        while pieces and count < limit:
            data = pieces.popleft()
            if len(data) > limit - count:
                whole = memoryview(data)
                pieces.appendleft(whole[limit - count :])
                data = whole[: limit - count]
            buffers.append(data)
            count += len(data)
        if count:
            self._left += count
            self._transit.left(count)
            self.extend()
        elif self._left + self._window < self._supply.upto:  # the link out waits for the link in
            self._window = min(2 * self._window, MAX_WINDOW_BYTES)
            self.extend()
        return count

    def wanted(self, _supply: Supply, acknowledged: int) -> None:
        """Pass on what is wanted."""
        # What is acknowledged makes room at the holder, without which it may have nothing to send.
        is_news = acknowledged > self.want.acknowledged
        if is_news:
            self.want.acknowledged = acknowledged
        self.extend(is_news=is_news)

    def stopped(self, _supply: Supply, code: str) -> None:
        """Pass on that no more is wanted."""
        self.want.stop(code)
        self._end()

    # As who takes what comes, from the neighbour that has it.

    def take(self, data: Buffer, _now: float) -> None:
        """Let the next bytes pass."""
        self._pieces.append(data)
        self._volatile += 1
        if self.want.position - self._left > self._window // 2:  # the link in is the faster one
            self._window = max(WINDOW_BYTES, self._window - FRAME_BYTES)
        self._transit.came(self)
        self._supply.feed.ready(self._supply)

    def ended(self, length: int, _now: float) -> None:
        """Let the news pass that the content is whole."""
        self.length = length
        excess, self.want.upto = self.want.upto - length, length
        self._transit.left(excess)
        self._supply.feed.ready(self._supply)

    def broken(self, code: str, reason: str, _now: float) -> None:
        """Pass on that no more comes."""
        self._end()
        self._supply.abort(code, reason)

    def keep(self, *, lent: bool) -> bool:
        """Copy what lies in a buffer that is about to be used again, the last pieces that came; return if any do."""
        pieces = self._pieces
        count, self._volatile = min(self._volatile, len(pieces)), 0
        if not lent:
            for index in range(len(pieces) - count, len(pieces)):
                pieces[index] = bytes(pieces[index])
        return count > 0

    def _end(self) -> None:
        # Its want and itself know each other, so the collector would have to come before its memory is free.
        self._pieces.clear()
        self._transit.forget(self)
