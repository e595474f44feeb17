"""The two shapes of waiting for answers: one call, and a broadcast whose replies come as they come."""

from __future__ import annotations

import math
from collections import deque
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import anyio
import anyio.lowlevel

from cellnet.errors import DeadlineBeforeExecution
from cellnet.message import Reply
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from cellnet.errors import DeliveryError
    from cellnet.fqcn import FQCN

__all__ = ["Call", "Deadline", "Replies"]

REQUEST_SECONDS = 60.0
"""The deadline of a message whose caller has none."""
MARGIN = 0.1
MAX_MARGIN_SECONDS = 0.05


class Deadline:
    """When a call must end: a little before the caller's own scope does.

    If both ended at the same moment, the scope would cancel the call, and its outcome would never arrive. So a tenth
    of what is left, at most 50 ms, is kept for telling it.
    """

    __slots__ = ("at", "seconds")

    def __init__(self, limit: float = REQUEST_SECONDS) -> None:
        now = anyio.current_time()
        left = anyio.current_effective_deadline() - now
        self.seconds = limit if left == math.inf else left - max(0.0, min(MARGIN * left, MAX_MARGIN_SECONDS))
        """How long it is from now; not positive if it has passed."""
        self.at = now + self.seconds

    async def check(self, topic: str, destination: FQCN) -> None:
        """Let nothing begin after it: a scope that has ended cancels here, as it does anywhere.

        :raises DeadlineBeforeExecution: if it has passed, and the scope has not noticed
        """
        if self.seconds <= 0:
            await anyio.lowlevel.checkpoint()
            raise DeadlineBeforeExecution(f"the deadline passed before {topic} was sent to {destination}")

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return anyio.current_time() >= self.at

    @contextmanager
    def limit(self) -> Iterator[None]:
        """End the block then, without an exception: what follows it tells how it ended.

        A cancellation from elsewhere passes through, but for one that comes when the time was over anyhow: on a busy
        machine the caller's own scope may have ended too before this one was looked at.
        """
        try:
            with anyio.CancelScope(deadline=self.at):
                yield
        except anyio.get_cancelled_exc_class():
            if not self.is_over:
                raise


class Question(NamedTuple):
    """What is asked of one cell, but for the payload."""

    destination: FQCN
    topic: str
    once: bool
    key: str
    deadline: Deadline


class Call:
    """One request that waits for one answer."""

    __slots__ = ("_changed", "_reply")

    def __init__(self) -> None:
        self._changed = anyio.Event()
        self._reply: Reply | None = None

    def answer(self, reply: Reply) -> bool:
        """Take the answer; return that no other is wanted."""
        if self._reply is None:
            self._reply = reply
            self._changed.set()
        return True

    def give_up(self, owed: Iterable[tuple[FQCN, DeliveryError]]) -> None:
        """Take what stands for answers that are awaited no longer."""
        for source, error in owed:
            self.answer(Reply(source, error=error))

    def arriving(self) -> None:
        """Note that the answer is here, but for its payload, which is large and on its way."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, deadline: Deadline) -> None:
        """Wait for the answer, or until the deadline.

        Until an answer is here, the endpoint sees to it that there is one at the deadline, and so there need be no
        scope for it, which takes as long as much else of a request.
        """
        try:
            await self._changed.wait()
        except anyio.get_cancelled_exc_class():
            if not deadline.is_over:
                raise
        if self._reply is None:
            with deadline.limit():
                await self._changed.wait()

    def result(self) -> Any:
        """Return the value of the answer, once there is one.

        :raises RemoteError: if the handler raised
        :raises DeliveryError: if there is no answer
        """
        reply, self._reply = self._reply, None
        assert reply is not None  # noqa: S101  # whoever asks for it has waited, and asks once
        try:
            return reply.result()
        finally:
            del reply  # as an error refers to all frames that it passes


class Replies(AbstractAsyncContextManager["Replies"]):
    """The answers to a broadcast, in order of arrival.

    Every cell that was asked gives exactly one reply, if only an error; the iteration ends after the last. Leaving
    the block cancels what is still under way.
    """

    def __init__(
        self,
        send: Callable[[Replies, AsyncExitStack], Awaitable[tuple[int, Iterable[FQCN]]]],
        forget: Callable[[int], Iterable[tuple[FQCN, DeliveryError]]],
        limit: float,
    ) -> None:
        self._send = send
        self._forget = forget
        self._limit = limit
        self._arrived: deque[Reply] = deque()
        self._changed = Wakeup()
        self._missing: set[FQCN] = set()
        self._sequence: int | None = None
        self._deadline: Deadline
        self._held = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._deadline = Deadline(self._limit)
        async with AsyncExitStack() as held:
            self._sequence, destinations = await self._send(self, held)
            self._held = held.pop_all()
        self._missing.update(destinations)
        for reply in self._arrived:
            self._missing.discard(reply.source)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        async with self._held:
            if self._sequence is not None:
                self._forget(self._sequence)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        while not self._arrived:
            if not self._missing:
                raise StopAsyncIteration
            with self._deadline.limit():
                await self._changed.wait()
            if self._deadline.is_over:
                self._give_up()
        return self._arrived.popleft()

    def answer(self, reply: Reply) -> bool:
        """Take one cell's answer; return that others are wanted too."""
        self._missing.discard(reply.source)
        self._arrived.append(reply)
        self._changed.notify()
        return False

    def arriving(self) -> None:
        """Note that a large answer is on its way."""

    @property
    def deadline(self) -> Deadline:
        """Until when replies are awaited."""
        return self._deadline

    def _give_up(self) -> None:
        assert self._sequence is not None  # noqa: S101  # nobody iterates before the block is entered
        for source, error in sorted(self._forget(self._sequence), key=lambda owed: owed[0]):
            self.answer(Reply(source, error=error))
        self._missing.clear()
