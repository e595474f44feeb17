"""A job process as a child of its node: how it starts, what it leaves in its log, and that it surely ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from cellnet.jobs.assignment import GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process

__all__ = ["TAIL_BYTES", "JobProcess", "launched"]

TAIL_BYTES = 1500
"""How much of a log goes into an error; a message's error has room for 2,000 characters."""

_COMMAND = [sys.executable, "-P", "-m", "cellnet.jobs.process"]


class JobProcess:
    """A running job process."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id, which is its group's and its session's too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, negative for a signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until it ends, and return how."""
        return await self._process.wait()

    def tail(self) -> str:
        """Return the end of its log, whole lines only."""
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - TAIL_BYTES))
                text = log.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""
        if size > TAIL_BYTES:
            _, _, text = text.partition("\n")
        return text.strip()


@asynccontextmanager
async def launched(message: bytes, folder: Path) -> AsyncIterator[JobProcess]:
    """Start a job process in *folder*, and end it, with all that it started, when the block is left.

    :param message: what it reads from the descriptor that it inherits
    :raises OSError: if the system cannot start it
    """
    log = folder / "log"
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs, log.open("wb") as output, anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [*_COMMAND, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # what user code leaves in its temporary folder goes with the job's
                env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        try:
            await _write(ours, message)
            yield JobProcess(process, log)
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)


async def _write(end: socket.socket, message: bytes) -> None:
    """Write *message*; if the process is gone already, its exit code and its log say why."""
    left = memoryview(message)
    with contextlib.suppress(ConnectionError):
        while left:
            try:
                left = left[end.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(end)


async def _end(process: Process) -> None:
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with anyio.move_on_after(GRACE_SECONDS):
            await process.wait()
    # the group may outlive its leader: what a job starts ends with the job
    _signal(process.pid, signal.SIGKILL)
    with anyio.move_on_after(GRACE_SECONDS):
        await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of a group of zombies
        os.killpg(group, number)
