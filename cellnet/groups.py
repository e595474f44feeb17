"""Exceptions out of a task group that the caller did not ask for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["leaves", "unwrapped"]


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what a group of one exception holds instead of the group.

    That a task group lies behind a context manager is no matter of its user's: what the body raised comes out as it
    went in. A group of several is raised as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a group holds, of its groups too; or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
