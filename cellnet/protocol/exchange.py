"""The messages of one cell: what it asked and waits for, what it was asked and has not answered."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from cellnet.errors import (
    Busy,
    DeliveryError,
    Indeterminate,
    InvalidName,
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
)
from cellnet.fqcn import FQCN
from cellnet.protocol.events import Cancelled, Failed, Message, MessageKey, Replied
from cellnet.protocol.frames import INLINE_LIMIT, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["MAX_INCOMING", "MAX_NAMES", "MAX_PENDING", "Exchange", "Status", "broadcast_body", "split_broadcast"]

MAX_PENDING = 65536
"""Requests, counted by destination, that a cell may wait for at a time."""
MAX_INCOMING = 16384
"""Requests that a cell may be working on at a time; beyond it, they are answered ``Busy``."""
MAX_TOPIC = 255
"""Characters of a topic."""
MAX_NAMES = 200
"""Destinations that one frame names: with 200 of the longest names, its header is still allowed."""


class Status(IntEnum):
    """How a request ended at its destination."""

    OK = 0
    RAISED = 1  # the payload is [code, message]
    BUSY = 2  # not executed


class Exchange:
    """Two tables, and nothing about links or routes."""

    __slots__ = ("_incoming", "_pending", "_sequence", "_waiting", "epoch")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._sequence = 0
        self._pending: dict[int, set[FQCN]] = {}
        self._waiting = 0
        self._incoming: dict[MessageKey, float] = {}

    # As the origin.

    @property
    def pending(self) -> int:
        """How many answers are awaited."""
        return self._waiting

    def header(self, topic: str, encoding: int, payload: bytes) -> tuple[int, bytes]:
        """Return a new sequence number and the header of the message that bears it.

        :raises LocalProtocolError: if topic or payload is one that no cell would take
        """
        if len(topic) > MAX_TOPIC:
            raise LocalProtocolError(f"a topic of {len(topic)} characters is too long: {MAX_TOPIC} are allowed")
        if len(payload) > INLINE_LIMIT:
            raise PayloadTooLarge(f"a payload of {len(payload)} bytes is too large: {INLINE_LIMIT} are allowed")
        self._sequence += 1
        return self._sequence, pack(self._sequence, self.epoch, topic, encoding, {})

    def expect(self, sequence: int, destinations: Iterable[FQCN]) -> None:
        """Wait for answers to *sequence*.

        :raises Busy: if too many are awaited
        """
        wanted = set(destinations)
        if self._waiting + len(wanted) > MAX_PENDING:
            raise Busy(f"this cell already waits for {self._waiting} answers")
        if wanted:
            self._pending[sequence] = wanted
        self._waiting += len(wanted)

    def settle(self, sequence: int, destination: FQCN) -> bool:
        """No longer wait for *destination*. Return whether it was awaited."""
        wanted = self._pending.get(sequence)
        if wanted is None or destination not in wanted:
            return False
        wanted.remove(destination)
        self._waiting -= 1
        if not wanted:
            del self._pending[sequence]
        return True

    def forget(self, sequence: int) -> list[FQCN]:
        """No longer wait for any answer to *sequence*; return who still owed one."""
        wanted = self._pending.pop(sequence, set())
        self._waiting -= len(wanted)
        return sorted(wanted)

    def reply_received(self, source: FQCN, header: bytes, payload: bytes) -> Iterator[Replied | Failed]:
        """Judge a REPLY. What was not asked, or was answered already, yields nothing.

        :raises RemoteProtocolError: if it is malformed
        """
        sequence, epoch, status, encoding, _extra = unpack(header, int, int, int, int, dict)
        if status not in _STATUSES or len(payload) > INLINE_LIMIT:
            raise RemoteProtocolError("a reply has an unknown status or is too large")
        if epoch != self.epoch or not self.settle(sequence, source):
            return
        if status == Status.BUSY:
            yield Failed(sequence, source, Busy(f"{source} works on as many requests as it may"))
        else:
            yield Replied(sequence, source, status, encoding, payload)

    def fail(self, sequence: int, epoch: int, destinations: Iterable[FQCN], error: DeliveryError) -> Iterator[Failed]:
        """Say that these destinations will not answer *sequence* of *epoch*."""
        for destination in destinations:
            if epoch == self.epoch and self.settle(sequence, destination):
                yield Failed(sequence, destination, error)

    def lost(self, is_lost: Callable[[FQCN], bool]) -> Iterator[Failed | Cancelled]:
        """Say that the way to these cells broke: their answers are lost, and they no longer want ours."""
        for sequence in list(self._pending):
            for destination in sorted(filter(is_lost, self._pending[sequence])):
                self.settle(sequence, destination)
                yield Failed(sequence, destination, Indeterminate(f"the way to {destination} broke: it may have run"))
        for key in [key for key in self._incoming if is_lost(key.origin)]:
            del self._incoming[key]
            yield Cancelled(key)

    # As the destination.

    def message_received(
        self, origin: FQCN, header: bytes, payload: bytes, deadline: float, *, wants_reply: bool
    ) -> Message | MessageKey | None:
        """Judge a REQUEST or EVENT. Return a bare key for one that there is no room for, None for a duplicate.

        :raises RemoteProtocolError: if it is malformed
        """
        sequence, epoch, topic, encoding, _extra = unpack(header, int, int, str, int, dict)
        if len(topic) > MAX_TOPIC or len(payload) > INLINE_LIMIT:
            raise RemoteProtocolError("a message has a topic or a payload that is too long")
        key = MessageKey(origin, epoch, sequence)
        if wants_reply:
            if key in self._incoming:
                return None
            if len(self._incoming) >= MAX_INCOMING:
                return key
            self._incoming[key] = deadline
        return Message(key, topic, encoding, payload, deadline, wants_reply)

    def cancel_received(self, origin: FQCN, header: bytes) -> Iterator[Cancelled]:
        """Judge a CANCEL.

        :raises RemoteProtocolError: if it is malformed
        """
        sequence, epoch = unpack(header, int, int)
        key = MessageKey(origin, epoch, sequence)
        if self._incoming.pop(key, None) is not None:
            yield Cancelled(key)

    def answer(self, key: MessageKey) -> float | None:
        """Take a message off the table; return its deadline, or None if nobody wants the answer any more."""
        return self._incoming.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget messages whose deadline passed; their origins may be unable to cancel them."""
        for key in [key for key, deadline in self._incoming.items() if deadline < now]:
            del self._incoming[key]


def broadcast_body(header: bytes, payload: bytes) -> bytes:
    """Put a message's header and payload into one body, which no hop reads or changes."""
    return len(header).to_bytes(2, "big") + header + payload


def split_broadcast(body: bytes) -> tuple[bytes, bytes]:
    """Take apart what :func:`broadcast_body` made.

    :raises RemoteProtocolError: if it is malformed
    """
    length = int.from_bytes(body[:2], "big")
    if len(body) < 2 + length:
        raise RemoteProtocolError("the body of a broadcast is cut short")
    return body[2 : 2 + length], body[2 + length :]


def names(values: list[object]) -> list[FQCN]:
    """Read a list of cell names from a header.

    :raises RemoteProtocolError: if one is not valid, or there are too many
    """
    if len(values) > MAX_NAMES:
        raise RemoteProtocolError(f"a frame names {len(values)} cells: {MAX_NAMES} are allowed")
    try:
        return [FQCN(value) for value in values]  # type: ignore[arg-type]  # FQCN refuses what is no text
    except InvalidName as error:
        raise RemoteProtocolError(str(error)) from None


_STATUSES = frozenset(int(status) for status in Status)
