"""What travels in a session, and how: a frame's header is ``[session, counter]``, its body the rest.

The body of a REQUEST is two parts, told apart by the first two bytes: what is one receiver's alone (:class:`Order`),
and the content, which a broadcast shares between all of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from cellnet.errors import InvalidName, LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.frames import INLINE_LIMIT, MAX_REMAINING_MS, pack, unpack

if TYPE_CHECKING:
    from cellnet.protocol.ranges import Ranges

__all__ = [
    "MAX_ENTRIES",
    "MAX_KEY",
    "MAX_RANGES",
    "MAX_TOPIC",
    "Answer",
    "Content",
    "Entry",
    "Order",
    "Status",
    "join",
    "pack_ranges",
    "part",
    "read_name",
    "read_names",
    "unpack_ranges",
]

MAX_TOPIC = 255
"""Characters of a topic."""
MAX_ENTRIES = 100
"""Destinations that one BROADCAST names: with 100 of the longest names, its header is still allowed."""
MAX_KEY = 255
"""Bytes of an ordering key: every entry of a BROADCAST has one, and all must fit into one header."""
MAX_RANGES = 64
"""Ranges of sequence numbers in one body. Of those settled, the rest follows when the lowest have closed up."""


class Status(IntEnum):
    """How a request stands at its destination."""

    OK = 0
    RAISED = 1  # the payload is [code, message]
    BUSY = 2  # this transmission was not taken; the same request may be sent again
    WORKING = 3  # it was taken before, and is not answered yet
    UNKNOWN = 4  # an earlier start of the answerer may have run it: nobody knows, and it does not run again


class Order(NamedTuple):
    """What one receiver is told of a request besides its content."""

    sequence: int
    """From 1 on for a request; 0 for an event."""
    floor: int
    """Below it, the asker wants no more answers."""
    key: str
    """The ordering key; empty without one."""
    after: int
    """The request that must have ended before this one starts; 0 for none."""
    within_ms: int = MAX_REMAINING_MS
    """Milliseconds from when it was sent, after which nobody wants it; what relays say can only be less."""
    doubt: bool = False
    """Whether an earlier start of the receiver may have run it."""

    def pack(self) -> bytes:
        """Return it as bytes."""
        return pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        """Read what :meth:`pack` made.

        :raises RemoteProtocolError: if it is malformed
        """
        order = cls(*unpack(data, int, int, str, int, int, bool))
        if len(order.key.encode()) > MAX_KEY or (order.sequence and order.after >= order.sequence):
            raise RemoteProtocolError("a request has an ordering key that is too long, or follows itself")
        if order.sequence and order.floor > order.sequence:
            raise RemoteProtocolError("a request wants no answer to itself")
        return order


class Entry(NamedTuple):
    """One destination of a BROADCAST: what a REQUEST to it alone would say, but for the content."""

    destination: FQCN
    session: int
    counter: int
    order: bytes

    @classmethod
    def unpack(cls, values: list[object]) -> list[Entry]:
        """Read the entries of a BROADCAST's header.

        :raises RemoteProtocolError: if one is malformed, or there are too many
        """
        if len(values) > MAX_ENTRIES:
            raise RemoteProtocolError(f"a broadcast names {len(values)} cells: {MAX_ENTRIES} are allowed")
        entries = []
        for value in values:
            if type(value) is not list or [type(field) for field in value] != [str, int, int, bytes]:
                raise RemoteProtocolError("an entry of a broadcast is malformed")
            name, session, counter, order = value
            if session < 0 or counter < 0:
                raise RemoteProtocolError("an entry of a broadcast has a negative number")
            entries.append(cls(read_name(name), session, counter, order))
        return entries

    def fields(self) -> list[object]:
        """Return it as it stands in a header."""
        return [str(self.destination), self.session, self.counter, self.order]


def read_name(text: str) -> FQCN:
    """Read a cell's name from a header.

    :raises RemoteProtocolError: if it is none
    """
    try:
        return FQCN(text)
    except InvalidName as error:
        raise RemoteProtocolError(str(error)) from None


def read_names(values: list[object], base_name: str, limit: int) -> tuple[FQCN, ...]:
    """Read the former names of a cell from a header: it has always had the same base name.

    :raises RemoteProtocolError: if they are none, or too many
    """
    if len(values) > limit or not all(type(value) is str for value in values):
        raise RemoteProtocolError("the former names of a cell are malformed")
    names = tuple(read_name(str(value)) for value in values)
    if any(name.base_name != base_name for name in names):
        raise RemoteProtocolError(f"{base_name} says that it had another base name")
    return names


class Content(NamedTuple):
    """What all receivers of a message are told."""

    topic: str
    encoding: int
    payload: bytes

    @classmethod
    def of(cls, topic: str, encoding: int, payload: bytes, key: str) -> Content:
        """Return a message's content.

        :raises LocalProtocolError: if topic, ordering key or payload is one that no cell would take
        """
        try:
            size = len(key.encode())
            topic.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"a topic or an ordering key is no text: {error.reason}") from None
        if size > MAX_KEY:
            raise LocalProtocolError(f"an ordering key of {size} bytes is too long: {MAX_KEY} are allowed")
        if len(topic) > MAX_TOPIC:
            raise LocalProtocolError(f"a topic of {len(topic)} characters is too long: {MAX_TOPIC} are allowed")
        if len(payload) > INLINE_LIMIT:
            raise PayloadTooLarge(f"a payload of {len(payload)} bytes is too large: {INLINE_LIMIT} are allowed")
        return cls(topic, encoding, payload)

    def pack(self) -> bytes:
        """Return it as bytes."""
        return join(pack(self.topic, self.encoding), self.payload)

    @classmethod
    def unpack(cls, data: bytes) -> Content:
        """Read what :meth:`pack` made.

        :raises RemoteProtocolError: if it is malformed
        """
        header, payload = part(data)
        topic, encoding = unpack(header, str, int)
        if len(topic) > MAX_TOPIC or len(payload) > INLINE_LIMIT:
            raise RemoteProtocolError("a message has a topic or a payload that is too long")
        return cls(topic, encoding, payload)


def pack_ranges(*sets: Ranges) -> bytes:
    """Return the lowest ranges of each as the body of a SETTLED or DRAINED."""
    return pack(*([list(one) for one in ranges.below(MAX_RANGES)] for ranges in sets))


def unpack_ranges(body: bytes, sets: int = 1) -> list[list[tuple[int, int]]]:
    """Read what :func:`pack_ranges` made of so many.

    :raises RemoteProtocolError: if it is malformed
    """
    return [_check_ranges(values) for values in unpack(body, *[list] * sets)]


def _check_ranges(values: list[Any]) -> list[tuple[int, int]]:
    if len(values) > MAX_RANGES:
        raise RemoteProtocolError(f"a body names {len(values)} ranges: {MAX_RANGES} are allowed")
    for value in values:
        if type(value) is not list or len(value) != 2 or not all(type(number) is int for number in value):
            raise RemoteProtocolError("a range is malformed")
        if not 0 < value[0] < value[1]:
            raise RemoteProtocolError("a range cannot be")
    return [(start, stop) for start, stop in values]


class Answer(NamedTuple):
    """The body of a REPLY."""

    sequence: int
    counter: int
    """Of the transmission that is answered."""
    status: int
    encoding: int
    payload: bytes

    def pack(self) -> bytes:
        """Return it as bytes."""
        return join(pack(self.sequence, self.counter, self.status, self.encoding), self.payload)

    @classmethod
    def unpack(cls, data: bytes) -> Answer:
        """Read what :meth:`pack` made.

        :raises RemoteProtocolError: if it is malformed
        """
        header, payload = part(data)
        sequence, counter, status, encoding = unpack(header, int, int, int, int)
        answer = cls(sequence, counter, status, encoding, payload)
        if answer.status not in _STATUSES or len(payload) > INLINE_LIMIT:
            raise RemoteProtocolError("a reply has an unknown status or is too large")
        return answer


def join(first: bytes, second: bytes) -> bytes:
    """Put two parts into one body."""
    return len(first).to_bytes(2, "big") + first + second


def part(body: bytes) -> tuple[bytes, bytes]:
    """Take apart what :func:`join` made.

    :raises RemoteProtocolError: if it is malformed
    """
    length = int.from_bytes(body[:2], "big")
    if len(body) < 2 + length:
        raise RemoteProtocolError("a body is cut short")
    return body[2 : 2 + length], body[2 + length :]


_STATUSES = frozenset(int(status) for status in Status)
