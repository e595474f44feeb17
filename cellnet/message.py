"""What handlers and callers see of a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN

__all__ = ["Handler", "Reply", "Request"]


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
class Reply:
    """One cell's answer to a broadcast."""

    source: FQCN
    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """Return the answer.

        :raises RemoteError: if the handler there raised
        :raises DeliveryError: if there was no answer
        """
        if self.error is not None:
            raise self.error
        return self.value


Handler = Callable[[Request], Awaitable[Any]]
"""Gets a request and returns a payload. What it raises reaches the caller as ``RemoteError``."""
