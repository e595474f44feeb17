"""Payloads that are files: read from the disk as they leave, and written to it as they come.

A path as a payload sends the file there. Where it comes, it is a file of its own in the cell's folder for files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cellnet.errors import ConfigurationError, LocalProtocolError, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from cellnet.protocol.frames import Buffer

__all__ = ["FileSource", "FileTarget", "Folder", "LocalFile"]

MAX_FILE_BYTES = 64 << 30
AHEAD_BYTES = 8 << 20
"""What the system is asked to read before it is wanted, so that the disk is not waited for."""


class LocalFile(bytes):
    """The path of a file that came, in place of its bytes.

    Only this cell makes one: what comes over a link are other bytes, and never taken for a path.
    """

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(os.fsdecode(self))


class Folder:
    """Where a cell keeps the files that come: in a folder of its own, made for the first one, and removed in the end.

    What a message brought is removed when its handler ends. What an answer brought is the caller's to move away, or to
    remove; else it stays until the cell ends.
    """

    def __init__(self, path: Path | str, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Name a folder.

        :param path: an existing one, on a disk with room
        :param max_bytes: the largest file that is taken
        """
        self._parent = Path(path)
        self._max_bytes = max_bytes
        self._own = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            tempfile.TemporaryFile(dir=self._parent).close()  # what cannot be kept here is told now, not by a message
        except OSError as error:
            raise ConfigurationError(f"{self._parent} cannot be the folder for files: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def target(self, size: int) -> FileTarget:
        """Return where a file of that size goes.

        :raises PayloadTooLarge: if there is no room for it
        :raises ConfigurationError: if the folder cannot be written
        """
        if size > self._max_bytes:
            raise PayloadTooLarge(f"a file of {size} bytes is too large here: {self._max_bytes} are allowed")
        try:
            if not self._own:
                own = tempfile.TemporaryDirectory(prefix="cellnet-", dir=self._parent, ignore_cleanup_errors=True)
                self._own = self._stack.enter_context(own)
            free = shutil.disk_usage(self._own).free
            if size > free:
                raise PayloadTooLarge(f"a file of {size} bytes is too large here: the disk has {free} bytes left")
            return FileTarget(*tempfile.mkstemp(dir=self._own))
        except OSError as error:
            raise ConfigurationError(f"no file can be made in {self._parent}: {error.strerror}") from None


class FileTarget:
    """A file that comes."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.size = 0
        """Bytes that were written."""
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._path = path

    def write(self, data: Buffer) -> None:
        """Write at the end.

        :raises OSError: if that fails
        """
        while len(data):
            count = self._file.write(data)
            self.size += count
            data = memoryview(data)[count:]

    def finish(self) -> LocalFile:
        """Return its path, when all was written."""
        self._file.close()
        return LocalFile(os.fsencode(self._path))

    def discard(self) -> None:
        """Remove it, unless it is finished."""
        if not self._file.closed:
            self._file.close()
            Path(self._path).unlink(missing_ok=True)


class FileSource:
    """A file that is sent. It must stay as it is until then; if it does not, whoever wants it is told."""

    def __init__(self, path: Path, changed: Callable[[str], None]) -> None:
        """Open a file.

        :param changed: told once why it can be sent no longer
        :raises LocalProtocolError: if it cannot be read
        """
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise LocalProtocolError(f"{path} cannot be sent: {error.strerror}") from None
        self._path = path
        self._changed = changed
        self._state = self._look()
        self._ahead = 0

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self._state[0]

    def read(self, offset: int, limit: int) -> Buffer:
        """Return what is there: all *limit* bytes, unless it ends before; nothing once it was changed."""
        if self._file.closed:
            return b""
        if not self._ahead - AHEAD_BYTES <= offset < self._ahead - AHEAD_BYTES // 2:
            self._ahead = offset + AHEAD_BYTES
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._file.fileno(), offset, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        wanted = min(limit, self.length - offset)
        try:
            data = os.pread(self._file.fileno(), wanted, offset)
            if len(data) == wanted and self._look() == self._state:
                return data
            reason = f"{self._path.name} was changed while it was sent"
        except OSError as error:
            reason = f"{self._path.name} cannot be read any more: {error.strerror}"
        self.close()
        self._changed(reason)
        return b""

    def acknowledged(self, offset: int) -> None:
        """Keep all: another may want it from the start."""

    def close(self) -> None:
        """Read no more. Safe to repeat."""
        self._file.close()

    def _look(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns
