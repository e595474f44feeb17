"""How fast the machine is just now: a shared one may be twice as slow a minute later."""

from __future__ import annotations

import time

__all__ = ["Stopwatch"]

USUAL_SECONDS = 0.043
"""What one sample takes on the machine for which the limits of processor time are written."""
SAMPLES = 3
FAR_BYTES = 32 << 20
"""More than a processor's cache holds: whoever shares it with us slows us down there too."""


class Stopwatch:
    """Seconds of processor time, as they would be at the usual pace.

    :meth:`lap` is called every second or so: it samples the pace, and leaves that out of what it counts.
    """

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._spent = 0.0
        self._far = bytearray(b"\x01") * FAR_BYTES
        self._sample()
        self._begin = time.process_time()

    def lap(self) -> None:
        """Count what was spent since the last call, and look at the pace again."""
        self._spent += time.process_time() - self._begin
        self._sample()
        self._begin = time.process_time()

    @property
    def spent(self) -> float:
        """What was counted, in seconds; on a machine that is faster than usual, as it was measured."""
        return self._spent / max(1.0, self.slowness)

    @property
    def slowness(self) -> float:
        """How many times longer than usual the samples took."""
        return sum(self._samples) / len(self._samples) / USUAL_SECONDS

    def __str__(self) -> str:
        return f"{self._spent:.1f} s of processor time, at {self.slowness:.2f} times the usual time for everything"

    def _sample(self) -> None:
        for _ in range(SAMPLES):
            begin = time.process_time()
            kept: dict[int, tuple[int, bytes]] = {}
            for number in range(100_000):
                kept[number & 255] = number, bytes(8)
            far, place = self._far, 1
            for _ in range(60_000):
                place = (place * 1_103_515_245 + 12_345 * far[place]) & (FAR_BYTES - 1)
            self._samples.append(time.process_time() - begin)
