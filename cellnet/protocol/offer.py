"""A content that this cell has, for those who know its name."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cellnet.protocol.feed import Supply
    from cellnet.protocol.frames import Buffer

__all__ = ["HOLD_SECONDS", "Held", "Offer", "Source"]

HOLD_SECONDS = 75.0
"""After which a content is held no longer that somebody wanted: as long as who wants it says so again, and then tries
to have it over another way."""


class Source(Protocol):
    """The bytes of a content, as they travel."""

    @property
    def length(self) -> int | None:
        """How many there are; None while more may come."""
        ...

    def read(self, offset: int, limit: int) -> Buffer:
        """Return what is there at *offset*, at most *limit* bytes. The same place always has the same bytes."""
        ...

    def acknowledged(self, offset: int) -> None:
        """Note that what is before *offset* will not be read again; only told if the content is for one."""
        ...


class Offer:
    """A content and those who want it now."""

    def __init__(
        self,
        content: bytes,
        source: Source,
        expires: float,
        *,
        is_for_one: bool,
        withdrawn: Callable[[Offer, str, str], None],
    ) -> None:
        """Hold a content.

        :param content: its name, which only those know who may have it
        :param expires: until when it is held though nobody wants it; whoever does prolongs that
        :param is_for_one: whether nobody else wants it once one had it
        :param withdrawn: told when it is held no longer, and why
        """
        self.content = content
        self.source = source
        self.expires = expires
        self.supplies: dict[Supply, None] = {}
        self.leases = 0
        """How many in this cell hold it; only counted of objects."""
        self._is_for_one = is_for_one
        self._withdrawn = withdrawn
        self._read = 0
        self._forgotten = 0

    def ready(self) -> None:
        """Send on, as the source has more."""
        for supply in list(self.supplies):
            supply.feed.ready(supply)

    def withdraw(self, code: str, reason: str) -> None:
        """Hold it no longer, and tell those who want it why."""
        for supply in list(self.supplies):
            supply.abort(code, reason)
        self.supplies.clear()
        self._withdrawn(self, code, reason)

    def release(self) -> None:
        """Note that one in this cell holds it no longer."""
        self.leases -= 1
        if not self.leases:
            self.withdraw("gone", "it is wanted no more")

    # As where a content comes from, for a neighbour that wants it.

    @property
    def length(self) -> int | None:
        """How many bytes it has."""
        return self.source.length

    def pour(self, offset: int, limit: int, buffers: list[Buffer]) -> int:
        """Append what is there."""
        data = self.source.read(offset, limit)
        if size := len(data):
            buffers.append(data)
            self._read = max(self._read, offset + size)
        return size

    def wanted(self, supply: Supply, acknowledged: int) -> None:
        """Hold it longer, and let the source forget what nobody will want again: others may want all, if they may."""
        self.expires = max(self.expires, supply.heard + HOLD_SECONDS)
        if self._is_for_one:
            self._forgotten = max(self._forgotten, min(acknowledged, self._read))  # nobody can have got more
            self.source.acknowledged(self._forgotten)
            if supply.position < self._forgotten:
                # A way that the receiver left; or somebody in between acknowledged what had not come, and it would
                # wait for ever.
                self.supplies.pop(supply, None)
                supply.abort("gone", "what is wanted of it was acknowledged, and is held no longer")

    def stopped(self, supply: Supply, code: str) -> None:
        """Note that one wants it no more. If it was for one alone, it is held no longer, unless a link was lost."""
        self.supplies.pop(supply, None)
        if self._is_for_one and code in ("done", "stopped"):
            self.withdraw(code, "")


class Held:
    """Buffers in memory, one after the other, as one source that can be read anywhere and again."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        self._ends = list(accumulate(len(buffer) for buffer in self._buffers))

    @property
    def length(self) -> int:
        """How many bytes there are."""
        return self._ends[-1] if self._ends else 0

    def read(self, offset: int, limit: int) -> Buffer:
        """Return what lies there: a view if it is in one buffer, else a copy."""
        index = bisect_right(self._ends, offset)
        if index == len(self._ends):
            return b""
        start = offset - (self._ends[index - 1] if index else 0)
        piece = self._buffers[index][start : start + limit]
        if len(piece) == limit or index + 1 == len(self._ends):
            return piece
        parts, size = [piece], len(piece)
        while size < limit and (index := index + 1) < len(self._buffers):
            parts.append(self._buffers[index][: limit - size])
            size += len(parts[-1])
        return b"".join(parts)

    def acknowledged(self, offset: int) -> None:
        """Keep all: another may want it from the start."""
