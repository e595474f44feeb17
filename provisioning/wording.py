"""How numbers and lists are said to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["counted", "listed"]


def counted(number: int, noun: str) -> str:
    """Return *number* with the right form of a regular *noun*."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(options: Iterable[str]) -> str:
    """Return *options* with commas."""
    return ", ".join(options)
