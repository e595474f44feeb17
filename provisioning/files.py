"""Write files that others must not read, not even for a moment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["replace_file", "write_file"]


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Make a new file with *content* and exactly *mode*, whatever the umask.

    :raises OSError: if there is one already, or it cannot be written
    """
    # Born private: a chmod afterwards would leave a moment for others to open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Put *content* in the place of a file, if there is one: whoever reads meanwhile finds the old or the new.

    :raises OSError: if it cannot be written; the old one is then still there
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
