"""The time of the event loop that runs, and that on the wall."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["running_clock", "wall_time"]


def running_clock() -> Callable[[], float]:
    """Return what tells the time here, for who asks often: anyio finds out anew each time which event loop runs."""
    loop = current_token().native_token
    return loop.time if isinstance(loop, asyncio.AbstractEventLoop) else anyio.current_time


def wall_time() -> datetime.datetime:
    """Return what certificates are compared with."""
    return datetime.datetime.now(datetime.UTC)
