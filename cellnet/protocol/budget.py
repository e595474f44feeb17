"""How often others may make a cell do something that costs it much more than them: a token bucket for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Budget"]


class Budget:
    """A stock for each of those who spend, which fills up again with time.

    The token bucket of Turner (1986, "New directions in communications"), without its queue: what finds nothing left
    is refused.
    """

    def __init__(self, burst: float, per_second: float, spenders: int) -> None:
        """Begin with every stock full.

        :param burst: what a full stock holds
        :param spenders: of how many a stock is remembered; of more, those that are full again are forgotten
        """
        self._burst = burst
        self._per_second = per_second
        self._spenders = spenders
        self._stocks: dict[Hashable, tuple[float, float]] = {}
        """What was left, and when."""

    def __len__(self) -> int:
        return len(self._stocks)

    def spend(self, spender: Hashable, now: float) -> bool:
        """Take one from a stock; return whether there was one, and room to remember that."""
        left = self._left(spender, now)
        if left < 1:
            return False
        if spender not in self._stocks and len(self._stocks) >= self._spenders:
            self._stocks = {one: stock for one, stock in self._stocks.items() if self._left(one, now) < self._burst}
            if len(self._stocks) >= self._spenders:
                return False
        self._stocks[spender] = left - 1, now
        return True

    def _left(self, spender: Hashable, now: float) -> float:
        left, then = self._stocks.get(spender, (self._burst, now))
        return min(self._burst, left + (now - then) * self._per_second)
