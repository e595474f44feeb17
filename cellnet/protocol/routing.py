"""Which neighbour leads to which cell: presence below, one parent above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.fqcn import FQCN

__all__ = ["MAX_FORMER", "MAX_MEMBERS", "Member", "Router", "Side"]

MAX_MEMBERS = 65536
"""Cells that one cell knows below itself."""
MAX_FORMER = 4
"""Former names of one cell that others are told of: the latest."""

LinkT = TypeVar("LinkT")


@dataclass(frozen=True, slots=True)
class Member:
    """A cell that is present somewhere below this one."""

    fqcn: FQCN
    role: str
    fqsn: str
    """Its place in the client hierarchy; empty if it has none."""
    epoch: int
    driver: str
    """The driver of the link to its parent."""
    security: str
    """The security of that link: ``clear``, ``tls`` or ``mtls``."""
    former: tuple[FQCN, ...] = ()
    """What it was called before it moved, the latest first: what is sent there goes to it."""


class Side(NamedTuple):
    """The cells on one side of a link: a cell and all below it, or all the others."""

    name: FQCN
    below: bool
    """Whether it is the lower side."""

    def holds(self, cell: FQCN) -> bool:
        """Whether *cell* is on this side."""
        name, below = self
        return (cell == name or name.is_ancestor_of(cell)) == below


class Router(Generic[LinkT]):
    """Routes over a tree: down to a cell that is present below, up to the parent for any other.

    A cell that moved to another parent has a new name, and is also found by its former ones.
    """

    __slots__ = ("_below", "_fqcn", "_moved", "_parent", "former", "version")

    def __init__(self, fqcn: FQCN | None) -> None:
        self._fqcn = fqcn
        self._parent: LinkT | None = None
        self._below: dict[FQCN, tuple[Member, LinkT]] = {}
        self._moved: dict[FQCN, FQCN] = {}
        """By a former name, what a cell below is called now."""
        self.former: tuple[FQCN, ...] = ()
        """What this cell was called before, the latest first."""
        self.version = 0
        """Higher after each change: a next hop that was found holds while it is the same."""

    @property
    def fqcn(self) -> FQCN | None:
        """Our own name; None until a parent gave it."""
        return self._fqcn

    @fqcn.setter
    def fqcn(self, fqcn: FQCN) -> None:
        if self._fqcn is not None and self._fqcn != fqcn:
            names = [self._fqcn, *(name for name in self.former if name != self._fqcn)]
            self.former = tuple(name for name in names if name != fqcn)[:MAX_FORMER]
        self._fqcn = fqcn
        self.version += 1

    @property
    def names(self) -> tuple[FQCN, ...]:
        """What this cell is called, and what it was called before."""
        return () if self._fqcn is None else (self._fqcn, *self.former)

    @property
    def parent(self) -> LinkT | None:
        """The link to our parent, if there is one."""
        return self._parent

    @parent.setter
    def parent(self, parent: LinkT | None) -> None:
        self._parent = parent
        self.version += 1

    def __len__(self) -> int:
        return len(self._below)

    def is_me(self, name: FQCN) -> bool:
        """Whether this cell has that name, or had it before it moved."""
        return name == self._fqcn or name in self.former

    def next_hop(self, destination: FQCN) -> LinkT | None:
        """Return the link towards *destination*, or None if it cannot be reached. Never called for ourselves.

        Who should be below and is not may have moved: that is known further up, if anywhere.
        """
        found = self._below.get(destination)
        if found is not None:
            return found[1]
        if (moved := self._moved.get(destination)) is not None:
            return self._below[moved][1]
        return None if self._fqcn is None else self._parent

    def join(self, member: Member, link: LinkT) -> bool:
        """Note that *member* is present behind *link*. Return whether there was room."""
        if member.fqcn not in self._below and len(self._below) >= MAX_MEMBERS:
            return False
        if (before := self._below.get(member.fqcn)) is not None:
            self._forget_former(before[0])
        self._below[member.fqcn] = (member, link)
        self._moved.update(dict.fromkeys(member.former, member.fqcn))
        self.version += 1
        return True

    def leave(self, fqcn: FQCN, link: LinkT) -> list[Member]:
        """Forget *fqcn* and all below it, as far as they are behind *link*; return who that was."""
        gone = [
            member
            for name, (member, via) in self._below.items()
            if via is link and (name == fqcn or fqcn.is_ancestor_of(name))
        ]
        for member in gone:
            del self._below[member.fqcn]
            self._forget_former(member)
        self.version += bool(gone)
        return gone

    def holds(self, fqcn: FQCN) -> bool:
        """Whether a cell is present below, also under another name than it had."""
        return fqcn in self._below or fqcn in self._moved

    def member(self, fqcn: FQCN) -> Member | None:
        """Return what is known of a cell below."""
        found = self._below.get(fqcn)
        return found[0] if found else None

    def members(self) -> Iterator[Member]:
        """Yield every cell below, in order of arrival."""
        for member, _link in self._below.values():
            yield member

    def _forget_former(self, member: Member) -> None:
        for name in member.former:
            if self._moved.get(name) == member.fqcn:
                del self._moved[name]
