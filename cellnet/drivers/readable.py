"""Waiting until a socket has bytes, again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    import socket

__all__ = ["Readable"]


class Readable:
    """Tells when a socket has bytes to read. On asyncio it stays registered with the event loop between two waits.

    To register and to forget is several system calls each time, which is half of what waking up for one message costs.
    Elsewhere it is anyio's own waiting, which on trio costs next to nothing.
    """

    __slots__ = ("_is_registered", "_loop", "_sock", "_waiter")

    def __init__(self, sock: socket.socket) -> None:
        """Watch a socket, once somebody waits."""
        loop = current_token().native_token
        self._loop = loop if isinstance(loop, asyncio.AbstractEventLoop) else None
        self._sock = sock
        self._is_registered = False
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until there are bytes, or :meth:`close` is called. It may also return without either."""
        if self._loop is None:
            await anyio.wait_readable(self._sock)
            return
        waiter = self._waiter = self._loop.create_future()
        if not self._is_registered:
            self._loop.add_reader(self._sock, self._wake)
            self._is_registered = True
        try:
            await waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Wake whoever waits, and watch no more. To be called before the socket is closed."""
        if self._loop is not None and self._is_registered:
            self._forget()
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def _wake(self) -> None:
        if self._waiter is None:
            self._forget()  # nobody reads just now, and the event loop would call again and again
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _forget(self) -> None:
        assert self._loop is not None  # noqa: S101  # or it was never registered
        self._loop.remove_reader(self._sock)
        self._is_registered = False
