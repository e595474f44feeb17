"""A cell's journal: the answers of durable handlers, saved together with what the handlers did.

A handler's effect and its answer are one transaction, committed before the answer leaves. So after a restart there
are two cases: the answer is there, and is given again; or it is not, and nothing was done. See ``docs/durable.md`` and
``docs/decisions/0005-durable-handlers.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread

from cellnet.errors import ConfigurationError, LocalProtocolError
from cellnet.ledger import Ledger
from cellnet.message import Durable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from cellnet.fqcn import FQCN
    from cellnet.ledger import Answer
    from cellnet.protocol.events import Message

__all__ = ["Journal", "Transaction"]

T = TypeVar("T")


class Transaction:
    """The open transaction of a durable handler, in which it keeps tables of its own."""

    def __init__(self, execute: Callable[[str, Any], Awaitable[list[tuple[Any, ...]]]]) -> None:
        self._execute = execute
        self._is_over = False

    async def execute(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        """Execute one statement, and return its rows. It takes effect if the handler returns, and only then.

        :raises sqlite3.Error: if the statement is wrong, or cannot be carried out
        :raises LocalProtocolError: if it would end the transaction or use the journal's own tables, or if the handler
            is over
        :raises JournalError: if SQLite has undone the whole transaction, after an error before
        """
        if self._is_over:
            raise LocalProtocolError("the handler is over, and its transaction with it")
        return await self._execute(sql, parameters)

    def end(self) -> None:
        """Take no more statements."""
        self._is_over = True


class Journal:
    """The journal of one cell, open inside ``async with``. Handlers run in it one after the other.

    The disk is waited for in a thread, one at a time. A virtual clock knows nothing of threads, and must not be used.
    """

    def __init__(self, path: Path | str, topics: Iterable[str]) -> None:
        """Name the file, which is made if there is none.

        :param topics: those of the durable handlers
        """
        self.ledger = Ledger(Path(path))
        self._topics = tuple(topics)
        self._turn: anyio.Lock
        self._thread: anyio.CapacityLimiter

    @classmethod
    def of(cls, handlers: Mapping[str, object], path: Path | str | None) -> Self | None:
        """Return the journal that a cell with these handlers works with, if any.

        :raises ConfigurationError: if it needs one, and has none
        """
        topics = [topic for topic, handler in handlers.items() if isinstance(handler, Durable)]
        if topics and path is None:
            raise ConfigurationError(f"the handler of {topics[0]} is durable: name a file as the cell's journal")
        return None if path is None else cls(path, topics)

    async def __aenter__(self) -> Self:
        """Open the file.

        :raises ConfigurationError: if it cannot be used
        """
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        await self._in_thread(self.ledger.open, self._topics)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._in_thread(self.ledger.close)

    async def answer(self, cell: FQCN, message: Message, handle: Callable[[Transaction], Awaitable[Answer]]) -> Answer:
        """Answer a message from what is saved; else have it handled, and save its answer with its effect.

        What is raised, a cancellation too, leaves no effect and no answer behind. An answer with ``RAISED`` has no
        effect either, and is saved. Nothing is saved of an event: nobody can ask for it again.

        :param cell: what this cell was called when it was asked
        :raises JournalError: if the file cannot be read or written; nothing took effect
        """
        seconds = max(0.0, message.deadline - anyio.current_time())
        await self._turn.acquire()
        try:
            answer = await self._in_thread(self.ledger.begin, cell, message)
            if answer is None:
                answer = await self._handled(handle)
                with anyio.CancelScope(shield=True):  # what is done is saved, wanted or not
                    answer = await self._in_thread(self.ledger.finish, cell, message, answer, seconds)
            return answer
        finally:
            if self.ledger.is_open:
                with anyio.CancelScope(shield=True):
                    await self._in_thread(self.ledger.roll_back)
            self._turn.release()

    async def _handled(self, handle: Callable[[Transaction], Awaitable[Answer]]) -> Answer:
        transaction = Transaction(self._execute)
        try:
            return await handle(transaction)
        finally:
            transaction.end()

    async def _execute(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        return await self._in_thread(self.ledger.execute, sql, parameters)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._thread)
