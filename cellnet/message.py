"""What handlers and callers see of a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellnet.errors import RemoteError, RemoteProtocolError
from cellnet.payload import decode
from cellnet.protocol.envelope import Status

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.journal import Transaction
    from cellnet.protocol.events import Replied

__all__ = ["Durable", "DurableHandler", "DurableRequest", "Handler", "Reply", "Request", "durable"]


@dataclass(frozen=True, slots=True)
class Request:
    """A message as its handler sees it."""

    origin: FQCN
    """The cell that sent it."""
    topic: str
    payload: Any
    """The value that was sent; arrays are read-only."""
    deadline: float
    """When the answer is no longer wanted, on anyio's clock. The handler is cancelled then."""


@dataclass(frozen=True, slots=True)
class DurableRequest(Request):
    """A message as a durable handler sees it."""

    transaction: Transaction
    """What it does here, and its answer, are saved together, or neither."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One cell's answer to a broadcast."""

    source: FQCN
    value: Any = None
    error: Exception | None = None

    @classmethod
    def of(cls, event: Replied) -> Reply:
        """Read what arrived."""
        try:
            value = decode(event.encoding, event.payload)
            if event.status == Status.OK:
                return cls(event.source, value)
            code, message = value
            if type(code) is not str or type(message) is not str:
                raise ValueError("an error without its two texts")
            return cls(event.source, error=RemoteError(str(event.source), code, message))
        except (RemoteProtocolError, TypeError, ValueError) as error:
            return cls(event.source, error=RemoteError(str(event.source), "bad-reply", str(error)))

    def result(self) -> Any:
        """Return the answer.

        :raises RemoteError: if the handler there raised
        :raises DeliveryError: if there was no answer
        """
        try:
            if self.error is not None:
                raise self.error
            return self.value
        finally:
            del self  # the error refers to this frame, and would wait for the garbage collector with all frames above


Handler = Callable[[Request], Any]
"""Gets a request and returns a payload. What it raises reaches the caller as ``RemoteError``.

A coroutine function runs in a task of its own. A plain function is called at once, one message after the other, and
the cell does nothing else meanwhile: it suits whatever takes microseconds, and costs half as much.
"""

DurableHandler = Callable[[DurableRequest], Awaitable[Any]]
"""As :data:`Handler`, with a transaction of the cell's journal."""


@dataclass(frozen=True, slots=True)
class Durable:
    """A handler that runs exactly once, even if its cell is killed and started again."""

    handler: DurableHandler


def durable(handler: DurableHandler) -> Durable:
    """Let a handler run exactly once, even if its cell is killed and started again, as far as its transaction goes.

    Its cell needs a journal. What the handler does in ``request.transaction`` is saved together with its answer,
    before the answer leaves. If it raises, nothing it did there remains, and the error is saved as the answer. If it
    is cancelled, or killed with its cell, nothing is saved: it runs again if it is still asked to, so whatever else
    it does must do no harm when done twice. The durable handlers of a cell run one after the other.
    """
    return Durable(handler)
