"""Waiting for something to change, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["Wakeup"]


class Wakeup:
    """Wakes all who wait now. Costs nothing while nobody does, unlike an event that is made anew each time."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake everybody who waits. Who comes later waits for the next time."""
        if self._event is not None:
            self._event.set()
            self._event = None

    def wait(self) -> Awaitable[None]:
        """Wait for the next :meth:`notify`. Look at what you wait for before and after: much may have changed."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event.wait()
