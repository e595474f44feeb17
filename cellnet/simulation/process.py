"""A process in virtual time: it starts, is killed, is stopped by a signal and goes on, and starts again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from cellnet.simulation.timeline import Timeline

__all__ = ["Process"]


class Process(ABC):
    """One process after another on one machine."""

    def __init__(self, timeline: Timeline, rng: random.Random) -> None:
        self.timeline = timeline
        self.rng = rng
        self.life = 0
        """Changes at every start and every end."""
        self.is_up = False
        """Whether it runs, or is stopped by a signal."""
        self.is_frozen = False
        """Whether it is stopped by a signal."""
        self.answers = True
        """Whether the machine is on."""
        self._missed: deque[Callable[[], None]] = deque()

    def start(self) -> None:
        """Begin a life."""
        self.life += 1
        self.is_up = self.answers = True
        self._begin()
        self._settle()

    def die(self, *, told: bool) -> None:
        """End this life at once.

        :param told: whether the neighbours learn so: a process that is killed leaves a machine that closes its links,
            a machine that loses its power does not
        """
        self.life += 1
        self.is_up = self.is_frozen = False
        self.answers = told
        self._missed.clear()
        self._end()

    def freeze(self) -> None:
        """Stop reading and the timers, as SIGSTOP does."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on: what arrived and what is due come in either order."""
        self.is_frozen = False
        steps = [self._catch_up, self._read]
        if self.rng.random() < 0.5:
            steps.reverse()
        for step in steps:
            step()

    def do(self, action: Callable[[], None]) -> None:
        """Do something in this process: now, or once it is no longer frozen."""
        if self.is_frozen:
            self._missed.append(action)
        else:
            action()
            self._settle()

    def later(self, time: float, action: Callable[[], None]) -> None:
        """Do something in this process at *time*, unless this life is over by then."""
        self.timeline.at(time, partial(self._do_in, self.life, action))

    def _do_in(self, life: int, action: Callable[[], None]) -> None:
        if life == self.life:
            self.do(action)

    def _catch_up(self) -> None:
        while self._missed:
            self.do(self._missed.popleft())

    @abstractmethod
    def _begin(self) -> None:
        """Make what a life begins with."""

    @abstractmethod
    def _end(self) -> None:
        """Leave behind what a process leaves that ends."""

    @abstractmethod
    def _settle(self) -> None:
        """Take what an action brought; to follow each of them."""

    @abstractmethod
    def _read(self) -> None:
        """Read all that arrived."""
