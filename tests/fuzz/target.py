"""What is fuzzed: one decoder, where its inputs come from, and which errors it may answer them with."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

__all__ = ["Lab", "Target", "laboratory"]


@dataclass(frozen=True)
class Target:
    """One decoder."""

    make: Callable[[random.Random], bytes]
    """Returns a mutated input. It is not measured."""
    take: Callable[[bytes], object]
    """Decodes an input. False says that it was refused without an error, as an endpoint does."""
    errors: tuple[type[Exception], ...] = ()
    """Those that its documentation names."""
    is_signed: bool = False
    """Whether its inputs were signed anew after they were changed, by the key that it should be."""
    settle: Callable[[], None] | None = None
    """Called after each input, and not measured: checks what the input did, and makes ready for the next."""
    goes_on: bool = False
    """Whether it remembers the inputs before: then one is shown again only after them."""


@dataclass(frozen=True)
class Lab:
    """What targets are made in."""

    folder: Path
    """An empty one, for those that read files."""
    stack: ExitStack
    """Closed after the last input."""


@contextmanager
def laboratory() -> Iterator[Lab]:
    """Make a lab that leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="cellnet-fuzz-") as name, ExitStack() as stack:
        yield Lab(Path(name), stack)
