"""The event loop of gRPC: one for the whole process, in a thread of its own, whatever loops the cells have.

gRPC keeps one queue of events for a process, and more than one loop at it disturb each other. So this is the one
piece of state that belongs to a module here: it is gRPC's own, made when it is first needed, ended with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any

from cellnet.drivers.crossing import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["GrpcLoop"]

END_SECONDS = 2.0


class GrpcLoop:
    """A thread with an event loop."""

    _only: GrpcLoop | None = None
    _making = threading.Lock()

    @classmethod
    def of_process(cls) -> GrpcLoop:
        """Return the one of this process."""
        with cls._making:
            if cls._only is None:
                cls._only = cls()
        return cls._only

    def __init__(self) -> None:
        self.host: Host
        """How to reach the loop from others."""
        self._loop = _new_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cellnet-grpc", daemon=True)
        self._thread.start()
        self._is_ready.wait()
        atexit.register(self._stop)

    def start(self, work: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Do *work* in the loop; return what cancels it, to be called there."""
        begun: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            begun.append(task)
            task.add_done_callback(done)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            # an error holds the frames of its traceback, these a call, and that the connection
            begun.clear()

        def cancel() -> None:
            for task in begun:
                task.cancel()

        # in a context of its own: that of the caller says which kind of loop it runs in
        self._loop.call_soon_threadsafe(begin, context=Context())
        return cancel

    async def turn(self) -> None:
        """Wait until a long message may begin; to be called in the loop.

        Only one does at a time, until the loop has seen to all else: gRPC copies it and calls the system for half a
        millisecond, in which nothing else happens, and what is urgent would wait for those of all links.
        """
        await self._turn.acquire()
        self._loop.call_soon(self._turn.release)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._begin)
        self._loop.run_forever()

    def _begin(self) -> None:
        async def begin() -> None:
            self.host = Host()
            self._is_ready.set()

        self._beginning = self._loop.create_task(begin())

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's where that is installed: what crosses to and from it then costs a sixth less."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
