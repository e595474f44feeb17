"""Ordering keys: what bears the same key runs one after the other, in the order in which it was sent."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.events import Message

__all__ = ["MAX_HELD", "Lanes"]

MAX_HELD = 16384
"""Messages of one asker that wait for their turn; one more event is dropped."""


class Lanes:
    """The messages of one asker that bear a key: one of each key runs, the others wait.

    A request may arrive before an earlier one that was lost on the way; it says which one it must follow.
    """

    __slots__ = ("_early", "_held", "_queues", "_running")

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._held: dict[int, Message] = {}
        self._queues: dict[str, deque[int]] = {}
        """By key, the numbers of messages that wait; one that was withdrawn is no longer held."""
        self._early: dict[int, list[int]] = {}
        """By the request that must have ended before, the numbers of the messages that wait for it."""

    @property
    def held(self) -> int:
        """How many messages wait."""
        return len(self._held)

    def add(self, message: Message, after: int) -> Iterator[Message]:
        """Take a message; yield it if it is its turn.

        :param after: the request that must end before it, 0 for none
        """
        # What this message need not wait for has ended, as its sender knew; so nobody of its lane waits for that.
        for settled in [
            one for one in self._early if one != after and (one < message.sequence or not message.sequence)
        ]:
            yield from self._end_wait(settled, message.key)
        self._held[message.number] = message
        if after:
            self._early.setdefault(after, []).append(message.number)
        else:
            self._queues.setdefault(message.key, deque()).append(message.number)
            yield from self._next(message.key)

    def ended(self, message: Message) -> Iterator[Message]:
        """Note that a message ended, whether or not it ran; yield the one whose turn it is now."""
        if message.key:
            if self._running.get(message.key) == message.number:
                del self._running[message.key]
            yield from self._next(message.key)
            yield from self.settled(message.sequence, message.sequence + 1)

    def settled(self, start: int, stop: int) -> Iterator[Message]:
        """Note that these requests ended, or will never come; yield those whose turn it is now."""
        for after in [after for after in self._early if start <= after < stop] if self._early else ():
            yield from self._end_wait(after)

    def withdraw(self, message: Message) -> bool:
        """Take out a message that waits; return whether it did."""
        return self._held.pop(message.number, None) is not None

    def _end_wait(self, after: int, key: str | None = None) -> Iterator[Message]:
        """Let those queue that waited for a request; with *key*, only those of that lane."""
        numbers = self._early.pop(after)
        for number in numbers:
            message = self._held.get(number)
            if message is not None and key in (None, message.key):
                self._queues.setdefault(message.key, deque()).append(number)
                yield from self._next(message.key)
        rest = [number for number in numbers if number in self._held and key not in (None, self._held[number].key)]
        if rest:
            self._early[after] = rest

    def _next(self, key: str) -> Iterator[Message]:
        queue = self._queues.get(key)
        while queue and key not in self._running:
            message = self._held.pop(queue.popleft(), None)
            if message is not None:
                self._running[key] = message.number
                yield message
        if not queue:
            self._queues.pop(key, None)
