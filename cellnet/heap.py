"""The heap of a node's process: how much of what was freed is kept, as as much is taken again at once."""

from __future__ import annotations

import ctypes
import os

__all__ = ["KEPT_BYTES", "keep_freed"]

KEPT_BYTES = 64 << 20
"""The most that is kept at the heap's end; more is given back."""
MAPPED_BYTES = 1 << 20
"""A block of this size is not of the heap, and is given back when it is freed. The longest messages are shorter."""
HEAPS = 1
"""For all threads: each keeps what was freed in it."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""As `malloc.h` of the GNU C library numbers them."""


def keep_freed() -> None:
    """Let this process keep what it frees, up to a limit, if its C library can be told so.

    Else the kernel takes back a message of half a MiB as soon as it has been sent, and clears as many pages for the
    next one, while whoever waits for the interpreter waits for that. An operator who has set something of the kind by
    the environment is left alone.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:
        for what, value in ((_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_THRESHOLD, MAPPED_BYTES), (_ARENA_MAX, HEAPS)):
            tell(what, value)
