"""The handlers of a cell: one task for each message, ended by its deadline or its origin."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.errors import CellError, PayloadTooLarge
from cellnet.message import Request
from cellnet.payload import Encoding, decode, encode
from cellnet.protocol.envelope import Status
from cellnet.protocol.frames import INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

    from cellnet.message import Handler
    from cellnet.protocol.events import Message

__all__ = ["Inbox", "pack_payload"]

MAX_ERROR_CHARACTERS = 2000
MAX_HANDLERS = 16384
"""Handlers that may run when an event comes; beyond it, the event is dropped and counted as refused."""

logger = logging.getLogger("cellnet.cell")


class Inbox:
    """Runs handlers. What they raise goes to whoever asked, and never further."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        tasks: TaskGroup,
        ended: Callable[[int, Status, int, bytes], None],
        stopped: Callable[[int], None],
    ) -> None:
        self._name = name
        self._handlers = handlers
        self._tasks = tasks
        self._ended = ended
        self._stopped = stopped
        self._running: dict[int, anyio.CancelScope] = {}

    def __len__(self) -> int:
        return len(self._running)

    def receive(self, message: Message) -> bool:
        """Start the handler of a message; return False for an event that there was no room for.

        Requests were counted before: one that there is no room for is answered, and does not come here.
        """
        if not message.wants_reply and len(self._running) >= MAX_HANDLERS:
            self._ended(message.number, Status.BUSY, 0, b"")
            return False
        if message.doubt:
            self._ended(message.number, Status.UNKNOWN, 0, b"")
            return True
        handler = self._handlers.get(message.topic)
        if handler is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            self._refuse(message, "no-handler", f"no handler for {message.topic[:80]!r} (there are: {known})")
            return True
        scope = self._running[message.number] = anyio.CancelScope(deadline=message.deadline)
        self._tasks.start_soon(self._run, handler, message, scope)
        return True

    def cancel(self, number: int) -> None:
        """Stop the handler of a message that nobody wants answered."""
        if scope := self._running.get(number):
            scope.cancel()

    async def _run(self, handler: Handler, message: Message, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                try:
                    payload = decode(message.encoding, message.payload)
                    request = Request(message.origin, message.topic, payload, message.deadline)
                    if anyio.current_time() >= message.deadline or scope.cancel_called:
                        scope.cancel()  # it waited too long for its turn on the event loop
                        return
                    encoding, data = pack_payload(await handler(request))
                except CellError as error:
                    self._refuse(message, type(error).__name__, str(error))
                except Exception as error:  # a handler's error is its caller's to see, whatever it is
                    logger.info("%s: the handler of %s raised", self._name, message.topic, exc_info=True)
                    self._refuse(message, type(error).__name__, str(error))
                else:
                    self._answer(message, Status.OK, encoding, data)
        finally:
            is_unanswered = self._running.pop(message.number, None) is not None
            if is_unanswered and scope.cancel_called:  # else the whole cell ends
                self._stopped(message.number)

    def _answer(self, message: Message, status: Status, encoding: int, payload: bytes) -> None:
        self._running.pop(message.number, None)
        self._ended(message.number, status, encoding, payload)

    def _refuse(self, message: Message, code: str, text: str) -> None:
        self._answer(message, Status.RAISED, *encode([code, text[:MAX_ERROR_CHARACTERS]]))
        if not message.wants_reply:
            logger.warning("%s: an event on %s was lost: %s: %s", self._name, message.topic[:80], code, text)


def pack_payload(value: Any) -> tuple[Encoding, bytes]:
    """Encode a payload.

    :raises LocalProtocolError: if it is something that cannot be sent
    :raises PayloadTooLarge: if it is larger than a message may be
    """
    encoding, data = encode(value)
    if len(data) > INLINE_LIMIT:
        raise PayloadTooLarge(f"a payload of {len(data)} bytes is too large: {INLINE_LIMIT} are allowed in a message")
    return encoding, data
