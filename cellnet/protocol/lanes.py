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

    A request may arrive before an earlier one that was lost on the way; it says which one it must follow.
    """

    __slots__ = ("_after", "_earlier", "_early", "_held", "_queues", "_running")

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._held: dict[int, Message] = {}
        self._queues: dict[str, OrderedDict[int, None]] = {}
        """By key, the numbers of messages that wait for nothing else."""
        self._after: dict[int, int] = {}
        """By number, the request that must have ended before a message may take its place in the queue."""
        self._early: dict[int, list[int]] = {}
        """The same the other way round."""
        self._earlier: set[int] = set()
        """The numbers of those that run, and that an earlier start asked for."""

    @property
    def held(self) -> int:
        """How many messages wait."""
        return len(self._held)

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
            self._unlink(message)
            yield from self._place(message, after)

    def ended(self, message: Message) -> Iterator[Message]:
        """Note that a message ended, whether or not it ran; yield the one whose turn it is now."""
        if message.key:
            if self._running.get(message.key) == message.number:
                del self._running[message.key]
            yield from self._next(message.key)
            if message.number in self._earlier:
                self._earlier.remove(message.number)
            else:
                yield from self.settled(message.sequence, message.sequence + 1)

    def settled(self, start: int, stop: int) -> Iterator[Message]:
        """Note that these requests ended, or will never come; yield those whose turn it is now."""
        for after in [after for after in self._early if start <= after < stop] if self._early else ():
            yield from self._end_wait(after)

    def withdraw(self, message: Message) -> bool:
        """Take out a message that waits; return whether it did. Who waits for it, waits for what it waited for."""
        if self._held.pop(message.number, None) is None:
            return False
        after = self._after.get(message.number, 0)
        if not after:
            self._leave_queue(message)
        else:
            self._unlink(message)
            for number in self._early.pop(message.sequence, ()) if message.sequence else ():
                self._after[number] = after
                self._early.setdefault(after, []).append(number)
        return True

    def restart(self) -> list[Message]:
        """Forget and return what waits, as another start asks from now on; what runs of the earlier one goes first."""
        waiting = list(self)
        for table in (self._held, self._queues, self._after, self._early):
            table.clear()
        self._earlier.update(self._running.values())
        return waiting

    def _place(self, message: Message, after: int) -> Iterator[Message]:
        if after:
            self._after[message.number] = after
            self._early.setdefault(after, []).append(message.number)
        else:
            self._queues.setdefault(message.key, OrderedDict())[message.number] = None
            yield from self._next(message.key)

    def _unlink(self, message: Message) -> None:
        after = self._after.pop(message.number)
        self._early[after].remove(message.number)
        if not self._early[after]:
            del self._early[after]

    def _end_wait(self, after: int) -> Iterator[Message]:
        """Let those queue that waited for a request."""
        for number in self._early.pop(after):
            del self._after[number]
            yield from self._place(self._held[number], 0)

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
