"""The handlers of a cell: one task for each message, ended by its deadline or its origin."""

from __future__ import annotations

import logging
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast

import anyio

from cellnet.errors import CellError, JournalError, PayloadTooLarge
from cellnet.files import LocalFile
from cellnet.message import Durable, DurableRequest, Request
from cellnet.payload import Encoding, decode, encode
from cellnet.protocol.envelope import Status
from cellnet.protocol.frames import INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

    from cellnet.contents import Contents
    from cellnet.fqcn import FQCN
    from cellnet.journal import Journal, Transaction
    from cellnet.ledger import Answer
    from cellnet.message import Handler
    from cellnet.payload import Packed
    from cellnet.protocol.events import Message

__all__ = ["Inbox"]

MAX_ERROR_CHARACTERS = 2000
MAX_HANDLERS = 16384
"""Handlers that may run when an event comes; beyond it, the event is dropped and counted as refused."""

logger = logging.getLogger("cellnet.cell")


class Inbox:
    """Runs handlers. What they raise goes to whoever asked, and never further."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler | Durable],
        journal: Journal | None,
        contents: Contents,
        tasks: TaskGroup,
        ended: Callable[[int, Status, int, bytes], None],
        stopped: Callable[[int], None],
    ) -> None:
        """Run nothing yet.

        :param journal: open; there is one if there are durable handlers
        """
        self._name = name
        self._handlers = handlers
        self._journal = journal
        self._contents = contents
        self._tasks = tasks
        self._ended = ended
        self._stopped = stopped
        self._running: dict[int, anyio.CancelScope] = {}
        self._plain = {topic for topic, handler in handlers.items() if _is_plain(handler)}

    def __len__(self) -> int:
        return len(self._running)

    def receive(self, message: Message) -> bool:
        """Start the handler of a message; return False for an event that there was no room for.

        Requests were counted before: one that there is no room for is answered, and does not come here.
        """
        if not message.wants_reply and len(self._running) >= MAX_HANDLERS:
            self._ended(message.number, Status.BUSY, 0, b"")
            return False
        handler = self._handlers.get(message.topic)
        if message.doubt and not isinstance(handler, Durable):
            self._ended(message.number, Status.UNKNOWN, 0, b"")
            return True
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            text = f"no handler for {message.topic[:80]!r} (there are: {known})"
            self._answer(message, *_refusal("no-handler", text))
            return True
        if message.topic in self._plain and message.encoding != Encoding.REFERENCE:
            self._handle_now(cast("Callable[[Request], Any]", handler), message)
        else:
            self._start(handler, message)
        return True

    def cancel(self, number: int) -> None:
        """Stop the handler of a message that nobody wants answered."""
        if scope := self._running.get(number):
            scope.cancel()

    def _start(self, handler: Handler | Durable, message: Message) -> None:
        scope = self._running[message.number] = anyio.CancelScope(deadline=message.deadline)
        self._tasks.start_soon(self._run, handler, message, scope)

    def _handle_now(self, handler: Callable[[Request], Any], message: Message) -> None:
        """Let a plain function answer here and now: to make a task takes longer than most of them."""
        try:
            given = handler(Request(*_seen(message)))
            if isawaitable(given):
                self._start(lambda _request: given, message)
                return
            status, packed = Status.OK, encode(given)
        except Exception as error:  # as of any handler
            status, packed = self._failed(message, error)
        try:
            with self._contents.handed_over(packed) as (encoding, payload):
                answer = status, encoding, payload
        except CellError as error:
            answer = _raised(error)
        self._answer(message, *answer)

    async def _run(self, handler: Handler | Durable, message: Message, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                if anyio.current_time() >= message.deadline or scope.cancel_called:
                    scope.cancel()  # it waited too long for its turn on the event loop
                    return
                self._answer(message, *await self._answer_of(handler, message))
        finally:
            is_unanswered = self._running.pop(message.number, None) is not None
            if is_unanswered and scope.cancel_called:  # else the whole cell ends
                self._stopped(message.number)

    async def _answer_of(self, handler: Handler | Durable, message: Message) -> Answer:
        try:
            encoding, payload = await self._contents.bring(message.source, message.encoding, message.payload)
            message = message._replace(encoding=encoding, payload=payload)
            try:
                if isinstance(handler, Durable):
                    return await self._handle_durably(handler, message)
                status, packed = await self._handle(handler, message)
                with self._contents.handed_over(packed) as (encoding, payload):
                    return status, encoding, payload
            finally:
                if isinstance(message.payload, LocalFile):
                    message.payload.path.unlink(missing_ok=True)
        except CellError as error:
            return _raised(error)

    async def _handle_durably(self, durable: Durable, message: Message) -> Answer:
        assert self._journal is not None  # noqa: S101  # the cell was not made without one
        assert message.answerer is not None  # noqa: S101  # nobody asks a cell that has no name

        async def handle(transaction: Transaction) -> Answer:
            status, packed = await self._handle(durable.handler, message, transaction)
            if packed.size > INLINE_LIMIT or packed.encoding == Encoding.FILE:
                raise PayloadTooLarge(f"an answer of {packed.size} bytes cannot be kept: {INLINE_LIMIT} are allowed")
            return status, packed.encoding, packed.joined()

        try:
            return await self._journal.answer(message.answerer, message, handle)
        except JournalError as error:
            if message.doubt:  # an earlier start may have done it, and that cannot be read now
                return Status.UNKNOWN, 0, b""
            return _raised(error)

    async def _handle(
        self, handler: Callable[[Any], Any], message: Message, transaction: Transaction | None = None
    ) -> tuple[Status, Packed]:
        try:
            seen = _seen(message)
            request = Request(*seen) if transaction is None else DurableRequest(*seen, transaction)
            given = handler(request)
            return Status.OK, encode(await given if isawaitable(given) else given)
        except Exception as error:  # a handler's error is its caller's to see, whatever it is
            return self._failed(message, error)

    def _failed(self, message: Message, error: Exception) -> tuple[Status, Packed]:
        if not isinstance(error, CellError):
            logger.info("%s: the handler of %s raised", self._name, message.topic, exc_info=error)
        return Status.RAISED, _told(error)

    def _answer(self, message: Message, status: Status, encoding: int, payload: bytes) -> None:
        self._running.pop(message.number, None)
        self._ended(message.number, status, encoding, payload)
        if status is Status.RAISED and not message.wants_reply:
            code, text = decode(encoding, payload)
            logger.warning("%s: an event on %s was lost: %s: %s", self._name, message.topic[:80], code, text)


def _seen(message: Message) -> tuple[FQCN, str, Any, float]:
    """Return what a handler sees of a message.

    :raises RemoteProtocolError: if its payload is malformed
    """
    return message.source, message.topic, decode(message.encoding, message.payload), message.deadline


def _is_plain(handler: Handler | Durable) -> bool:
    """Whether to call a handler is to have its answer."""
    return not (
        isinstance(handler, Durable)
        or iscoroutinefunction(handler)
        or iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004  # not whether, but which
    )


def _told(error: Exception) -> Packed:
    return encode([type(error).__name__, str(error)[:MAX_ERROR_CHARACTERS]])


def _raised(error: Exception) -> Answer:
    packed = _told(error)
    return Status.RAISED, packed.encoding, packed.joined()


def _refusal(code: str, text: str) -> Answer:
    packed = encode([code, text[:MAX_ERROR_CHARACTERS]])
    return Status.RAISED, packed.encoding, packed.joined()
