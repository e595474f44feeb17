"""Who may have a name below a cell: one start at a time, and never an earlier one after a later one.

A second cell of the same name may be the same one, started again while its old link still looks alive, or another
process with the same kit. Who holds the name is asked: if it answers, it keeps the name, and the newcomer is told.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cellnet.errors import HandshakeError
from cellnet.protocol.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.fqcn import FQCN
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.handshake import Neighbour
    from cellnet.protocol.timers import Timer, Timers

__all__ = ["STALE_EPOCH", "Fencing", "StaleEpoch"]

PROBE_SECONDS = 2.0
"""How long a holder may be silent when it is asked; a newcomer waits so long in its handshake."""
MAX_EPOCHS = 16384
"""Names whose last start is remembered, also when it left; the least recently used is forgotten."""
STALE_EPOCH = "stale-epoch"
"""The code of a refusal because a later start is known."""


class _Newcomer(NamedTuple):
    connection: Connection
    neighbour: Neighbour
    timer: Timer


class Fencing:
    """The names of one cell's children, and who waits for one."""

    def __init__(
        self,
        timers: Timers,
        admit: Callable[[Connection, Neighbour, float], None],
        refuse: Callable[[Connection, HandshakeError, float], None],
        is_deaf: Callable[[], bool],
    ) -> None:
        """Begin with no names.

        :param admit: takes in a newcomer that had to wait
        :param refuse: tells one that it cannot have the name
        :param is_deaf: whether children are not read from now, so that their silence means nothing
        """
        self._timers = timers
        self._admit = admit
        self._refuse = refuse
        self._is_deaf = is_deaf
        self._epochs: OrderedDict[FQCN, int] = OrderedDict()
        self._waiting: dict[FQCN, _Newcomer] = {}

    def __len__(self) -> int:
        """Return how many newcomers wait."""
        return len(self._waiting)

    def claim(self, connection: Connection, neighbour: Neighbour, holder: Connection | None, now: float) -> bool:
        """Return whether a newcomer may have its name now; if not, it is told later.

        :param holder: the link of whoever has the name
        :raises HandshakeError: if a later start is known, or another one waits for the same name
        """
        name = neighbour.fqcn
        last = self._epochs.get(name, 0)
        if holder is not None and holder.neighbour is not None:
            last = max(last, holder.neighbour.epoch)  # which may have been forgotten above
        if neighbour.epoch < last:
            raise StaleEpoch(neighbour.name, last)
        if holder is None or holder.neighbour is None:
            return True
        if holder.neighbour.epoch == neighbour.epoch:  # over another link: it lives
            self.alive(holder, now)
            return True
        if name in self._waiting:
            raise _taken(neighbour)
        holder.control(Kind.PROBE)
        self._waiting[name] = _Newcomer(connection, neighbour, self._look_at(holder, now + PROBE_SECONDS))
        return False

    def admitted(self, neighbour: Neighbour) -> None:
        """Remember who has a name."""
        self._epochs[neighbour.fqcn] = neighbour.epoch
        self._epochs.move_to_end(neighbour.fqcn)
        if len(self._epochs) > MAX_EPOCHS:
            self._epochs.popitem(last=False)

    def alive(self, holder: Connection, now: float) -> None:
        """Take a holder's answer: it keeps its name."""
        if holder.neighbour is not None and (newcomer := self._take(holder.neighbour.fqcn)) is not None:
            self._refuse(newcomer.connection, _taken(newcomer.neighbour), now)

    def left(self, connection: Connection, now: float) -> None:
        """Note that a link ended: a holder's, whose name is free now, or that of one who waits."""
        if connection.neighbour is not None:
            self._over(connection.neighbour.fqcn, now)
            return
        for name, newcomer in self._waiting.items():
            if newcomer.connection is connection:
                self._take(name)
                return

    def renamed(self, error: HandshakeError, now: float) -> None:
        """Refuse all who wait: the names that they wait for are no longer below this cell."""
        waiting, self._waiting = self._waiting, {}
        for newcomer in waiting.values():
            newcomer.timer.cancel()
            self._refuse(newcomer.connection, error, now)

    def _look_at(self, holder: Connection, when: float) -> Timer:
        return self._timers.at(when, partial(self._look, holder))

    def _look(self, holder: Connection, now: float) -> None:
        """Give a name away if its holder is silent. While its bytes arrive, its answer may be behind them."""
        assert holder.neighbour is not None  # noqa: S101  # it has the name
        name = holder.neighbour.fqcn
        if self._is_deaf():
            holder.not_read(now)
        until = holder.heard + PROBE_SECONDS
        if now < until:
            self._waiting[name] = self._waiting[name]._replace(timer=self._look_at(holder, until))
        else:
            self._over(name, now)

    def _over(self, name: FQCN, now: float) -> None:
        newcomer = self._take(name)
        if newcomer is not None:
            self._admit(newcomer.connection, newcomer.neighbour, now)

    def _take(self, name: FQCN) -> _Newcomer | None:
        newcomer = self._waiting.pop(name, None)
        if newcomer is not None:
            newcomer.timer.cancel()
        return newcomer


class StaleEpoch(HandshakeError):
    """Say that a later start of the same cell is known.

    :param last: the epoch of that start
    """

    def __init__(self, name: str, last: int) -> None:
        super().__init__(f"a later start of {name} has been here: this one is to be restarted", STALE_EPOCH)
        self.last = last


def _taken(neighbour: Neighbour) -> HandshakeError:
    return HandshakeError(
        f"another {neighbour.name} is connected and answers: a name belongs to one process at a time",
        "name-taken",
        temporary=True,
    )
