"""Who is present: children tell their parents, and nobody else is told.

A cell knows all cells below it and none beside it. What it learns it passes on to its own parent, and after a new
link to a parent it says everything once more, so that presence needs no memory anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from cellnet.errors import InvalidName, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.envelope import read_names
from cellnet.protocol.events import MemberJoined, MemberLeft
from cellnet.protocol.frames import Kind, unpack
from cellnet.protocol.routing import MAX_FORMER, Member

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.events import Event
    from cellnet.protocol.handshake import Neighbour
    from cellnet.protocol.routing import Router

__all__ = ["ENTRIES_PER_FRAME", "Presence"]

ENTRIES_PER_FRAME = 64
"""So many of the longest entries still fit into one frame's body."""
MAX_ENTRY_BYTES = 1000
"""All texts of one entry together."""
MAX_FORMER_BYTES = 400
"""Those of its former names."""
_JOINED = (int, str, str, str, int, str, str, list)
_LEFT = (int, str)


class Presence:
    """The knowledge of one cell about those below it, kept in its router."""

    __slots__ = ("_events", "_router")

    def __init__(self, router: Router[Connection], events: deque[Event]) -> None:
        self._router = router
        self._events = events

    def joined(self, neighbour: Neighbour, connection: Connection) -> bool:
        """Note a child of our own. Return whether there was room."""
        transport = connection.handshake.transport
        member = Member(
            neighbour.fqcn,
            neighbour.role,
            neighbour.fqsn,
            neighbour.epoch,
            transport.driver,
            transport.security,
            neighbour.former,
        )
        return self._note(member, connection)

    def left(self, fqcn: FQCN, connection: Connection) -> None:
        """Forget a cell and all below it, as far as they are behind *connection*."""
        gone = self._router.leave(fqcn, connection)
        if gone:
            self._events.extend(MemberLeft(member) for member in gone)
            self._tell([[0, str(fqcn)]])

    def received(self, connection: Connection, body: bytes) -> list[FQCN]:
        """Take a child's word about cells below it; return who left, each with all below it.

        :raises RemoteProtocolError: if it is malformed, or about cells that are not below it
        """
        gone: list[FQCN] = []
        for entry in unpack(b"\x91" + body, list)[0]:
            fields = _check(entry)
            fqcn = _name(fields[1])
            neighbour = connection.neighbour
            if neighbour is None or not neighbour.fqcn.is_ancestor_of(fqcn):
                raise RemoteProtocolError(f"a child told of {fqcn}, which is not below it")
            if fields[0] == 0:
                self.left(fqcn, connection)
                gone.append(fqcn)
            else:
                role, fqsn, epoch, driver, security, names = fields[2:]
                former = read_names(names, fqcn.base_name, MAX_FORMER)
                self._note(Member(fqcn, role, fqsn, epoch, driver, security, former), connection)
        return gone

    def announce(self, parent: Connection) -> None:
        """Tell a new parent of everybody below."""
        self._send(parent, (_entry(member) for member in self._router.members()))

    def _note(self, member: Member, connection: Connection) -> bool:
        if not self._router.join(member, connection):
            return False
        self._events.append(MemberJoined(member))
        self._tell([_entry(member)])
        return True

    def _tell(self, entries: list[list[Any]]) -> None:
        if self._router.parent is not None:
            self._send(self._router.parent, entries)

    @staticmethod
    def _send(parent: Connection, entries: Iterable[list[Any]]) -> None:
        pending = list(entries)
        for start in range(0, len(pending), ENTRIES_PER_FRAME):
            parent.control(Kind.PRESENCE, body=msgpack.packb(pending[start : start + ENTRIES_PER_FRAME]))


def _entry(member: Member) -> list[Any]:
    entry = [1, str(member.fqcn), member.role, member.fqsn, member.epoch, member.driver, member.security]
    return [*entry, _fitting(member.former)]


def _fitting(former: Iterable[FQCN]) -> list[str]:
    """Return as many of the latest names as there is room for beside the rest."""
    names: list[str] = []
    for name in map(str, former):
        if sum(map(len, names)) + len(name) > MAX_FORMER_BYTES:
            break
        names.append(name)
    return names


def _check(entry: Any) -> list[Any]:
    if isinstance(entry, list) and entry and entry[0] in (0, 1):
        wanted = _JOINED if entry[0] else _LEFT
        if len(entry) == len(wanted) and all(type(v) is kind for v, kind in zip(entry, wanted, strict=True)):
            texts = entry + entry[7] if entry[0] else entry
            size = sum(len(value.encode()) for value in texts if type(value) is str)
            if size <= MAX_ENTRY_BYTES:
                return entry
    raise RemoteProtocolError("an entry of presence is malformed")


def _name(text: str) -> FQCN:
    try:
        return FQCN(text)
    except InvalidName as error:
        raise RemoteProtocolError(str(error)) from None
