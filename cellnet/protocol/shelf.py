"""Pieces of objects that passed through this cell, kept for whoever wants them next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Shelf"]

MAX_AGE = 4
"""Looks, after which a piece is kept no longer that nobody wanted since: about a minute."""


class Shelf:
    """Pieces, in the order in which they came: whoever is behind wants next what came first of what is here.

    All were checked before they came here.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        """Begin empty.

        :param room: tells how many bytes may be kept now
        """
        self.size = 0
        """Bytes."""
        self._room = room
        self._pieces: dict[tuple[bytes, int], tuple[bytes, int]] = {}
        self._look = 0

    def has(self, content: bytes, index: int) -> bool:
        """Whether a piece is here."""
        return (content, index) in self._pieces

    def read(self, content: bytes, index: int) -> bytes | None:
        """Return a piece, if it is here."""
        kept = self._pieces.get((content, index))
        if kept is None:
            return None
        self._pieces[content, index] = kept[0], self._look  # in the same place
        return kept[0]

    def put(self, content: bytes, index: int, piece: bytes) -> None:
        """Keep a piece, if there is room or what came before makes room."""
        self._drop((content, index))
        self._pieces[content, index] = piece, self._look
        self.size += len(piece)
        self.shrink()

    def shrink(self) -> None:
        """Forget what came first, until there is room for the rest."""
        room = self._room()
        while self.size > room and self._pieces:
            self._drop(next(iter(self._pieces)))

    def age(self) -> None:
        """Forget what nobody wanted for a long time; called every few seconds."""
        self._look += 1
        for key in [key for key, (_, look) in self._pieces.items() if look + MAX_AGE <= self._look]:
            self._drop(key)

    def _drop(self, key: tuple[bytes, int]) -> None:
        kept = self._pieces.pop(key, None)
        if kept is not None:
            self.size -= len(kept[0])
