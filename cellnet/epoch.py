"""The number of a cell's start: higher than that of each start before, or nobody would believe the later one."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from cellnet.protocol.endpoint import MAX_LAST_EPOCH

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["clock_epoch", "next_epoch"]

logger = logging.getLogger("cellnet.cell")


def clock_epoch() -> int:
    """Return the clock's microseconds, with 12 random bits below them against a coarse clock."""
    return time.time_ns() // 1000 << 12 | int.from_bytes(os.urandom(2), "big") >> 4


def next_epoch(file: Path) -> int:
    """Return the clock's epoch, or the one after the last that *file* remembers if the clock was set back.

    A file that cannot be read or written is warned of, and the clock is believed.
    """
    epoch = clock_epoch()
    try:
        epoch = max(epoch, _last(file) + 1)
        _write(file, str(epoch))
    except OSError as error:
        logger.warning("%s: a clock that was set back will not be noticed: %s", file, error.strerror)
    return epoch


def _last(file: Path) -> int:
    try:
        last = int(file.read_text("ascii"))
    except FileNotFoundError:
        return 0
    except ValueError:
        last = -1
    if not 0 <= last <= MAX_LAST_EPOCH:
        logger.warning("%s: holds no number of a start, and is made anew", file)
        return 0
    return last


def _write(file: Path, text: str) -> None:
    written = file.with_name(f"{file.name}.new")
    with written.open("w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    written.replace(file)
