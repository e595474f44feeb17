"""Write files that others must not read, not even for a moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_file"]


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Make a new file with *content* and exactly *mode*, whatever the umask.

    :raises OSError: if there is one already, or it cannot be written
    """
    # Born private: a chmod afterwards would leave a moment for others to open it.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
