"""Errors of sites: what a site's node logs as an error, sent to the server and kept there, if the project allows it.

Both ends are bounded: a site keeps the newest records that could not be sent yet, and the server's file is begun anew
when it is large.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.errors import DeliveryError, LocalProtocolError, RemoteError
from cellnet.fqcn import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from cellnet.cell import Cell
    from cellnet.message import Request

__all__ = ["ERRORS_TOPIC", "ErrorFile", "SentErrors", "errors_sent"]

ERRORS_TOPIC = "cellnet.errors"
MAX_WAITING = 100
"""Records of a site that wait to be sent."""
MAX_CHARACTERS = 2000
"""Of one message."""
MAX_FILE_BYTES = 10 * 1024 * 1024
"""Of the server's file; one older one is kept."""
SEND_SECONDS = 1.0

logger = logging.getLogger("cellnet.node")


@asynccontextmanager
async def errors_sent(cell: Cell) -> AsyncGenerator[SentErrors]:
    """Send to the server what is logged as an error inside the block."""
    errors, root = SentErrors(), logging.getLogger()
    root.addHandler(errors)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(errors.send, cell)
            yield errors
            tasks.cancel_scope.cancel()
    finally:
        root.removeHandler(errors)


class SentErrors(logging.Handler):
    """The errors that a node logs, on their way to the server."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.dropped = 0
        """Records for which there was no room."""
        self._waiting: deque[list[Any]] = deque(maxlen=MAX_WAITING)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record until it can be sent; called from any thread."""
        self.dropped += len(self._waiting) == MAX_WAITING
        self._waiting.append([record.created, record.name, record.getMessage()[:MAX_CHARACTERS]])

    async def send(self, cell: Cell) -> None:
        """Send what comes, a second's records at once; to be cancelled."""
        while True:
            await anyio.sleep(SEND_SECONDS)
            if not self._waiting:
                continue
            records, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
            try:
                await cell.request(ROOT, ERRORS_TOPIC, list(records))
            except RemoteError as error:
                logger.warning("%s: the server takes no errors, so none are sent: %s", cell.name, error)
                return
            except DeliveryError as error:
                logger.warning("%s: errors could not be sent, and will be later: %s", cell.name, error)
                self._put_back(records)

    def _put_back(self, records: deque[list[Any]]) -> None:
        """Keep what was not sent before what came since, but no more than there is room for."""
        since = list(self._waiting)
        self.dropped += max(0, len(records) + len(since) - MAX_WAITING)
        self._waiting = deque((*records, *since), maxlen=MAX_WAITING)


class ErrorFile:
    """The server's file with the errors of all sites, a JSON object a line; the one before it ends with ``.1``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def answer(self, request: Request) -> None:
        """Write down what a site sends.

        :raises LocalProtocolError: if it is no list of records
        """
        if not isinstance(request.payload, list) or len(request.payload) > MAX_WAITING:
            raise LocalProtocolError("a list of records is wanted")
        lines = [_line(str(request.origin), record) for record in request.payload]
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_FILE_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            logger.warning("%s: cannot be written: %s", self._path, error.strerror)


def _line(site: str, record: Any) -> str:
    match record:
        case [float() as time, str() as name, str() as message]:
            pass
        case _:
            raise LocalProtocolError("a record has a time, a logger and a message")
    said = {"time": time, "site": site, "logger": name[:200], "message": message[:MAX_CHARACTERS]}
    return json.dumps(said) + "\n"
