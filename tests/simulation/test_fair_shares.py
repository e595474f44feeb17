"""One receiver that reads slowly takes nothing from the others, as bytes leave a relay only for those who want them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.chunks import DIGEST_BYTES, MIN_CHUNK_BYTES, Verifier
from cellnet.protocol.offer import Held
from cellnet.simulation.errand import text
from cellnet.simulation.history import History
from cellnet.simulation.world import World
from tests.protocol.contents import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.protocol.frames import Buffer
    from cellnet.simulation.cell import SimulatedCell
    from cellnet.simulation.timeline import Timeline

MIB = 1 << 20
WHOLE = memoryview(bytes(text("shared", 4 * MIB)) * 4)
SIZE = len(WHOLE)
RECEIVERS = 24
RATE = 2 * MIB
"""Of the link to each receiver, in bytes per second."""
TRUNK = 40 * MIB
"""Of the link from the holder to the relay: less than all receivers together could take."""
LATENCY = 0.0005
SLOW = 64 * 1024
BEGIN = 2.0
HOLDER = FQCN("H")


class Reader:
    """Reads a content at a rate, and notes when it had all."""

    is_patient = False

    def __init__(self, timeline: Timeline, rate: float, named: bytes) -> None:
        self.read = 0
        self.ended_at = 0.0
        self._timeline = timeline
        self._rate = rate
        self._verifier = Verifier(named, None, 0, self._piece) if len(named) == DIGEST_BYTES else None

    @property
    def position(self) -> int:
        return self.read if self._verifier is None else self._verifier.position

    @property
    def upto(self) -> int:
        """To where it has read, and what it has room for besides."""
        room = SLOW if self._verifier is None else SLOW + MIN_CHUNK_BYTES
        return min(1 << 62, int((self._timeline.now - BEGIN) * self._rate) + room)

    def write(self, data: Buffer) -> None:
        if self._verifier is None:
            self._take(data)
        else:
            self._verifier.write(data)

    def rewind(self) -> None: ...

    def end(self) -> None:
        assert self.read == SIZE
        self.ended_at = self._timeline.now

    def _piece(self, index: int, piece: bytes) -> None:
        if index:
            self._take(piece)

    def _take(self, data: Buffer) -> None:
        end = self.read + len(data)
        assert data == WHOLE[self.read : end]
        self.read = end

    def fail(self, code: str, reason: str) -> None:
        raise AssertionError(f"{code}: {reason}")


def _fetch(cell: SimulatedCell, content: bytes, reader: Reader) -> None:
    cell.endpoint.plane.fetch(HOLDER, content, reader, BEGIN)


def share(rates: Sequence[float], *, is_object: bool) -> list[Reader]:
    """Let so many receivers behind one relay fetch one content; return them once all fast ones have it."""
    names = [HOLDER, *(FQCN(f"C{number}") for number in range(len(rates)))]
    world = World("shares", {FQCN("server"): 0.0} | dict.fromkeys(names, LATENCY), History())
    for name in names:
        world.paths[name].rate = TRUNK if name == HOLDER else RATE
    world.start()
    world.run(BEGIN)
    plane = world.cells[HOLDER].endpoint.plane
    held = Held([WHOLE])
    offer = plane.offer_object(listed(held)) if is_object else plane.offer(held, now=BEGIN, is_for_one=False)
    readers = [Reader(world.timeline, rate, offer.content) for rate in rates]
    for name, reader in zip(names[1:], readers, strict=True):
        cell = world.cells[name]
        cell.do(partial(_fetch, cell, offer.content, reader))
    while not all(reader.ended_at for reader in readers if reader._rate > SLOW):
        for name in names[1:]:
            cell = world.cells[name]
            for fetch in cell.endpoint.plane.fetches:
                cell.do(partial(fetch.extend, world.timeline.now))
        world.run(world.timeline.now + 0.1)
        assert world.timeline.now < BEGIN + 60
    assert not world.excess()
    return readers


@pytest.mark.parametrize("is_object", [False, True], ids=["live", "object"])
def test_one_slow_receiver_of_many_leaves_the_others_nine_tenths_of_what_they_have_alone(*, is_object: bool) -> None:
    fast = [float(1 << 40)] * (RECEIVERS - 1)
    alone = share(fast, is_object=is_object)
    *others, slow = share([*fast, SLOW], is_object=is_object)
    for reader, before in zip(others, alone, strict=True):
        assert before.ended_at - BEGIN >= 0.9 * (reader.ended_at - BEGIN)
    seconds = max(reader.ended_at for reader in others) - BEGIN
    trunk = SIZE if is_object else (RECEIVERS - 1) * SIZE
    assert seconds < 2 * max(SIZE / RATE, trunk / TRUNK)
    assert 0 < slow.position <= SLOW * (seconds + 3)
