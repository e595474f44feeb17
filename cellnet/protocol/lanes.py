"""Ordering keys: what bears the same key runs one after the other, in the order in which it was sent."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.events import Message

__all__ = ["MAX_HELD", "Lanes"]

MAX_HELD = 16384
"""Messages of one asker that wait for their turn; one more event is dropped."""


class Lanes:
    """The messages of one asker that bear a key: one of each key runs, the others wait.

    A request may arrive before an earlier one that was lost on the way; it says which one it must follow. One that is
    taken out while it waits so keeps its place, as those that follow it must not overtake the earlier one either.
    """

    __slots__ = ("_after", "_earlier", "_early", "_held", "_left", "_queues", "_running")

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._held: dict[int, Message] = {}
        self._queues: dict[str, OrderedDict[int, None]] = {}
        """By key, the numbers of messages that wait for nothing else."""
        self._after: dict[int, int] = {}
        """By number, the request that must have ended before a message may take its place in the queue."""
        self._early: dict[int, dict[int, int]] = {}
        """The same the other way round: by request, who waits for it, as numbers with their sequences."""
        self._left: dict[int, int] = {}
        """By sequence, the numbers of requests that were taken out, and keep their places."""
        self._earlier: set[int] = set()
        """The numbers of those that run, and that an earlier start asked for."""

    @property
    def held(self) -> int:
        """How many messages wait."""
        return len(self._held)

    @property
    def left(self) -> int:
        """How many places are kept for requests that were taken out."""
        return len(self._left)

    def __contains__(self, sequence: int) -> bool:
        """Return whether a request that was taken out keeps its place."""
        return sequence in self._left

    def __iter__(self) -> Iterator[Message]:
        """Yield those that wait."""
        return iter(list(self._held.values()))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._held and not self._running

    def add(self, message: Message, after: int) -> Iterator[Message]:
        """Take a message; yield it if it is its turn.

        :param after: the request that must end before it, 0 for none
        """
        self._held[message.number] = message
        yield from self._place(message, after)

    def follow(self, message: Message, after: int) -> Iterator[Message]:
        """Take the news that a message follows another one than it was said to; yield it if it is its turn now."""
        if message.number in self._after and self._after[message.number] != after:
            self._unlink(message.number)
            yield from self._place(message, after)

    def ended(self, message: Message) -> Iterator[Message]:
        """Note that a message ended, whether or not it ran; yield the one whose turn it is now."""
        if message.key:
            if self._running.get(message.key) == message.number:
                del self._running[message.key]
            yield from self._next(message.key)
            if message.number in self._earlier:
                self._earlier.remove(message.number)
            elif message.sequence not in self._left:
                yield from self._end_waits(message.sequence)

    def settled(self, start: int, stop: int) -> Iterator[Message]:
        """Note that nobody must wait for these requests any more; yield those whose turn it is now."""
        for sequence in [sequence for sequence in self._left if start <= sequence < stop]:
            self._unlink(self._left.pop(sequence))
        for after in [after for after in self._early if start <= after < stop]:
            yield from self._end_waits(after)

    def withdraw(self, message: Message) -> bool:
        """Take out a message that waits; return whether it did. A request that must follow another keeps its place."""
        if self._held.pop(message.number, None) is None:
            return False
        if message.number not in self._after:
            self._leave_queue(message)
        elif message.sequence:
            self._left[message.sequence] = message.number
        else:
            self._unlink(message.number)  # nobody waits for an event
        return True

    def clear(self) -> list[Message]:
        """Forget and return what waits. What runs goes before all that comes, if its asker starts again."""
        waiting = list(self)
        for table in (self._held, self._queues, self._after, self._early, self._left):
            table.clear()
        self._earlier.update(self._running.values())
        return waiting

    def _place(self, message: Message, after: int) -> Iterator[Message]:
        if after:
            self._after[message.number] = after
            self._early.setdefault(after, {})[message.number] = message.sequence
        else:
            self._queues.setdefault(message.key, OrderedDict())[message.number] = None
            yield from self._next(message.key)

    def _unlink(self, number: int) -> None:
        after = self._after.pop(number)
        del self._early[after][number]
        if not self._early[after]:
            del self._early[after]

    def _end_waits(self, after: int) -> Iterator[Message]:
        """Let those queue that waited for a request, and then those that waited for one whose place was there."""
        over = [after]
        for one in over:
            for number, sequence in self._early.pop(one, {}).items():
                del self._after[number]
                if number in self._held:
                    yield from self._place(self._held[number], 0)
                else:
                    del self._left[sequence]
                    over.append(sequence)

    def _leave_queue(self, message: Message) -> None:
        queue = self._queues[message.key]
        del queue[message.number]
        if not queue:
            del self._queues[message.key]

    def _next(self, key: str) -> Iterator[Message]:
        if key not in self._running and key in self._queues:
            message = self._held[next(iter(self._queues[key]))]
            self._leave_queue(message)
            del self._held[message.number]
            self._running[key] = message.number
            yield message
