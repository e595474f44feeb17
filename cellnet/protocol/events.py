"""What an endpoint has to tell the cell that owns it. All are values; numbers are the endpoint's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cellnet.errors import CellError, DeliveryError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.handshake import Neighbour
    from cellnet.protocol.routing import Member

__all__ = [
    "Attached",
    "Cancelled",
    "Event",
    "Failed",
    "LinkFailed",
    "MemberJoined",
    "MemberLeft",
    "Message",
    "Replied",
]


class Attached(NamedTuple):
    """The parent took us in, and this is what we are called."""

    connection: Connection
    fqcn: FQCN
    parent: Neighbour


class LinkFailed(NamedTuple):
    """A link must be closed once its output is sent; the endpoint has forgotten it."""

    connection: Connection
    error: CellError


class MemberJoined(NamedTuple):
    """A cell below us is present."""

    member: Member


class MemberLeft(NamedTuple):
    """A cell below us is no longer present."""

    member: Member


class Message(NamedTuple):
    """A request or an event for us."""

    number: int
    """By which its end is told; no other message of this cell has it."""
    origin: FQCN
    """What who asks called itself when it first did."""
    epoch: int
    """Of the origin's start; with the sequence number, it names this request among all that the origin ever made."""
    sequence: int
    """0 for an event."""
    doubt: bool
    """Whether an earlier start of this cell may have run it."""
    key: str
    """Its ordering key; empty without one."""
    topic: str
    encoding: int
    payload: bytes
    deadline: float
    """On the clock that the endpoint is given."""
    answerer: FQCN | None = None
    """What this cell was called when it was asked; it may have another name now."""
    at: FQCN | None = None
    """What the origin was called when it asked."""

    @property
    def source(self) -> FQCN:
        """What the origin is called now, as far as this cell knows."""
        return self.at or self.origin

    @property
    def wants_reply(self) -> bool:
        """Whether it is a request."""
        return self.sequence > 0


class Cancelled(NamedTuple):
    """The origin no longer wants an answer to this message. Its end is still to be told."""

    number: int


class Replied(NamedTuple):
    """An answer to one of our requests."""

    call: int
    source: FQCN
    status: int
    encoding: int
    payload: bytes


class Failed(NamedTuple):
    """One of our requests will not be answered by this destination."""

    call: int
    destination: FQCN
    error: DeliveryError


Event = Attached | LinkFailed | MemberJoined | MemberLeft | Message | Cancelled | Replied | Failed
