"""The way between a cell and its parent in memory, and what can go wrong on it.

A path is there as long as the network is; over it goes one wire after another, each from a dial to its end. What is
kept back is not lost, as TCP would send it again and again: it arrives in order once the path lets it through, if
the wire is still there by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Direction", "Path", "Wire"]


class Direction:
    """One direction of a path."""

    __slots__ = ("is_open",)

    def __init__(self) -> None:
        self.is_open = True
        """Whether what was sent arrives, and with it the news that the sender closed or is gone."""


class Wire(Protocol):
    """One link from its dial to its end."""

    @property
    def is_open(self) -> bool:
        """Whether either side still has it."""
        ...

    def wake(self) -> None:
        """Look again at what the path lets through."""
        ...

    def cut(self) -> None:
        """End it; both sides learn so at once, and what was on the way is lost."""
        ...

    def leave(self, *, child: bool) -> None:
        """End one side; the other one learns so after what was sent."""
        ...


class Path:
    """The way from a cell to its parent and back."""

    def __init__(self) -> None:
        self.up, self.down = Direction(), Direction()
        """What the child sends, and what it is sent."""
        self._is_partitioned = False
        self._is_held = False
        self._wires: list[Wire] = []
        self._changed = Wakeup()

    # What goes wrong.

    def partition(self) -> None:
        """Let nothing pass in either direction, and no dial."""
        self._set(partitioned=True, held=self._is_held)

    def hold(self) -> None:
        """Keep back what the child sends; its dials too."""
        self._set(partitioned=self._is_partitioned, held=True)

    def release(self) -> None:
        """End a hold: what was kept back goes on, unless there is a partition too."""
        self._set(partitioned=self._is_partitioned, held=False)

    def repair(self) -> None:
        """End partition and hold."""
        self._set(partitioned=False, held=False)

    def cut(self) -> None:
        """Cut what is connected now, as a reset does."""
        for wire in self._open_wires():
            wire.cut()

    def leave(self, *, child: bool) -> None:
        """End one side of what is connected now, as the end of a process does."""
        for wire in self._open_wires():
            wire.leave(child=child)

    # Who goes over it.

    async def wait_open(self) -> None:
        """Wait until a dial gets through."""
        while not (self.up.is_open and self.down.is_open):
            await self._changed.wait()

    def add(self, wire: Wire) -> None:
        """Note a new wire."""
        self._wires = [*self._open_wires(), wire]

    def _set(self, *, partitioned: bool, held: bool) -> None:
        self._is_partitioned, self._is_held = partitioned, held
        self.up.is_open = not (partitioned or held)
        self.down.is_open = not partitioned
        self._changed.notify()
        for wire in self._open_wires():
            wire.wake()

    def _open_wires(self) -> Iterator[Wire]:
        return iter([wire for wire in self._wires if wire.is_open])
