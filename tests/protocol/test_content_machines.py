"""Contents between cells that lose each other, stop reading and start again, as a machine that hypothesis drives.

After every step, what came of a content is what it begins with; who was told that no more comes was told the truth, and
once; and no cell wants or keeps more than it may. In the end, when the links are whole again, all that can still be had
has come, and nothing is left of what was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coverage import Coverage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cellnet.fqcn import ROOT
from cellnet.protocol.fetch import NO_PROGRESS_SECONDS
from cellnet.protocol.frames import FRAME_BYTES
from cellnet.protocol.passage import TRANSIT_BYTES
from cellnet.protocol.records import SealedSource
from cellnet.protocol.want import MAX_WINDOW_BYTES, WINDOW_BYTES
from tests.protocol import laws
from tests.protocol.contents import Checked, Growing, Opened, Taken, content, listed, nothing_is_left
from tests.protocol.world import World

if TYPE_CHECKING:
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.offer import Offer
    from tests.protocol.world import Process

PLACES = {"A": ROOT, "B": ROOT, "R": "A", "c": "R", "d": "R", "y": "B"}
MOST = 12
"""Contents that are under way."""
SIZES = (0, 1, 5000, FRAME_BYTES, 3 * FRAME_BYTES, 700_000, WINDOW_BYTES + 300_001)
OBJECT_SIZES = (1, 5000, 3 * FRAME_BYTES, 700_000, WINDOW_BYTES + 200_000)
WHOLE = content(max(SIZES))
KEY = bytes(32)
EXAMPLES = 25 if Coverage.current() else 60
picks = st.integers(0, 99)


@dataclass(eq=False)
class Passing:
    """One content, from one process to another."""

    holder: Process
    taker: Process
    source: Growing
    size: int
    offer: Offer
    sink: Taken
    progressed: float
    fetch: Fetch | None = None
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        return bool(self.is_cancelled or self.sink.outcomes or not self.taker.is_alive)

    @property
    def is_held(self) -> bool:
        return self.holder.is_alive and self.offer.content in self.holder.endpoint.plane.offers


class ContentsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.start(ROOT, "")
        self.passing: list[Passing] = []
        for base, place in PLACES.items():
            self.world.dial(self.world.start(base, place))
            self.world.run()

    # Contents.

    @rule(
        pick=picks,
        to=picks,
        size=st.sampled_from(SIZES),
        there=st.sampled_from([0, 1000, 1 << 30]),
        room=st.sampled_from([0, 100_000, 1 << 62]),
        is_sealed=st.booleans(),
        is_for_one=st.booleans(),
    )
    def want(self, pick: int, to: int, size: int, there: int, room: int, *, is_sealed: bool, is_for_one: bool) -> None:
        if sum(not one.is_over for one in self.passing) >= MOST:
            return
        holder, taker = self.process(pick), self.process(to)
        if holder.endpoint.fqcn is None:
            return
        source = Growing()
        source.whole = WHOLE[: min(there, size)]
        source.length = size if there >= size else None
        sink = Opened(KEY) if is_sealed and source.length is not None else Taken(upto=room, is_patient=room < size)
        sealed = SealedSource(source, KEY) if isinstance(sink, Opened) else source  # type: ignore[arg-type]  # all have a length
        offer = holder.endpoint.plane.offer(sealed, now=self.world.now, is_for_one=is_for_one)
        one = Passing(holder, taker, source, size, offer, sink, self.world.now)
        self.watch(one)
        self.passing.append(one)
        one.fetch = taker.endpoint.plane.fetch(holder.name, offer.content, sink, self.world.now)

    @rule(
        pick=picks, to=st.lists(picks, min_size=1, max_size=4), size=st.sampled_from(OBJECT_SIZES), again=st.booleans()
    )
    def want_an_object(self, pick: int, to: list[int], size: int, *, again: bool) -> None:
        """Let some want what one offers, or what another wants already."""
        if sum(not one.is_over for one in self.passing) + len(to) > MOST:
            return
        shared = [one for one in self.passing if one.is_held and isinstance(one.sink, Checked)]
        if again and shared:
            first = shared[pick % len(shared)]
            holder, offer, size = first.holder, first.offer, first.size
        else:
            holder = self.process(pick)
            if holder.endpoint.fqcn is None:
                return
            size += len(self.passing)  # another object each time: the same one would be had though it was withdrawn
            offer = holder.endpoint.plane.offer_object(listed(WHOLE[:size]))
        source = Growing()
        source.length = size
        for taker in (self.process(place) for place in to):
            one = Passing(holder, taker, source, size, offer, Checked(offer.content), self.world.now)
            self.watch(one)
            self.passing.append(one)
            one.fetch = taker.endpoint.plane.fetch(holder.name, offer.content, one.sink, self.world.now)

    @rule(pick=picks, more=st.sampled_from([1, 100_000, 1 << 30]))
    def more_is_there(self, pick: int, more: int) -> None:
        for one in self.picked(pick):
            self.grow(one, more)

    @rule(pick=picks, more=st.sampled_from([1, 100_000, 1 << 40]))
    def more_has_room(self, pick: int, more: int) -> None:
        for one in self.picked(pick):
            one.sink.upto += more
            assert one.fetch is not None
            one.fetch.extend(self.world.now)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        for one in self.picked(pick):
            one.is_cancelled = True
            assert one.fetch is not None
            one.fetch.cancel()

    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        for one in self.picked(pick):
            one.offer.withdraw("gone", "it is withdrawn")

    # What happens to links and cells.

    @rule(pick=picks, times=st.integers(1, 4))
    def carry(self, pick: int, times: int) -> None:
        """Move what waits on some links, and not what that causes."""
        for wire in self.world.wires[pick % max(1, len(self.world.wires)) :][:times]:
            wire.carry(self.world.now)

    @rule()
    def run(self) -> None:
        self.world.run()

    @rule(seconds=st.sampled_from([0.1, 0.1, 2.5, 13, 40]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(pick=picks, again=st.booleans(), silently=st.booleans())
    def cut(self, pick: int, *, again: bool, silently: bool) -> None:
        process = self.process(pick, but_root=True)
        if (wire := self.world.uplink(process)) is not None:
            if silently:
                wire.vanishes = "both"
                return
            wire.end(wire.connecting, self.world.now, says=False)
        if again:
            self.world.dial(process)
            self.world.run()

    @rule(pick=picks, is_held=st.booleans())
    def stop_reading(self, pick: int, *, is_held: bool) -> None:
        if (wire := self.world.uplink(self.process(pick, but_root=True))) is not None:
            wire.is_held = is_held

    @rule()
    def dial_all(self) -> None:
        for process in self.world.processes:
            self.world.dial(process)
            self.world.run()

    @rule(pick=picks)
    def restart(self, pick: int) -> None:
        process = self.process(pick, but_root=True)
        self.world.kill(process)
        self.world.run()
        self.world.wait(0.01)
        self.world.dial(self.world.start(process.base, process.place))
        self.world.run()

    def process(self, pick: int, *, but_root: bool = False) -> Process:
        processes = self.world.processes[but_root:]
        return processes[pick % len(processes)]

    def picked(self, pick: int) -> list[Passing]:
        """Return one of the contents that are under way, if any is."""
        alive = [one for one in self.passing if not one.is_over]
        return [alive[pick % len(alive)]] if alive else []

    def grow(self, one: Passing, more: int) -> None:
        if one.source.length is None:
            one.source.whole = WHOLE[: min(len(one.source.whole) + more, one.size)]
            one.source.length = one.size if len(one.source.whole) == one.size else None
            one.offer.ready()

    def watch(self, one: Passing) -> None:
        """Check each thing that a sink is told, when it is told."""
        write = one.sink.write

        def note(data: Buffer) -> None:
            one.progressed = self.world.now
            write(data)

        def told() -> None:
            (how,) = one.sink.outcomes
            assert not one.is_cancelled
            if how == "whole":
                assert one.sink.bytes == WHOLE[: one.size]
            elif how == "gone":
                assert not one.is_held, "it is said to be gone, and is there"
            else:
                assert how in ("lost", "unreachable")
                assert self.world.now - one.progressed >= NO_PROGRESS_SECONDS, f"{how}, and it got on"

        one.sink.write = note  # type: ignore[method-assign]  # for this one only
        one.sink.told = told

    # What always holds.

    @invariant()
    def what_came_is_what_was_sent(self) -> None:
        for one in self.passing:
            assert WHOLE.startswith(one.sink.bytes)
            assert len(one.sink.bytes) <= min(one.size, one.sink.upto)

    @invariant()
    def nobody_wants_or_keeps_more_than_it_may(self) -> None:
        for process in self.world.processes:
            plane = process.endpoint.plane
            transit = plane.transit
            promised = sum(one.promised for one in (*transit.passages, *transit.pulls))
            assert transit.promised == promised + sum(one.list_bytes for one in transit.objects.values())
            most = TRANSIT_BYTES + FRAME_BYTES * (len(transit.passages) + len(transit.pulls))
            assert transit.promised <= most
            assert transit.shelf.size == sum(len(piece) for piece, _ in transit.shelf._pieces.values())
            assert transit.shelf.size <= max(0, TRANSIT_BYTES - transit.promised)
            for pull in transit.pulls:
                assert pull.shares
                assert 0 <= sum(map(len, pull.ahead.values())) <= pull.promised
            for passage in transit.passages:
                assert 0 <= sum(map(len, passage._pieces)) <= passage.promised <= WINDOW_BYTES
                assert passage._supply.label in passage._supply.feed.supplies
            takers = [passage.want for passage in transit.passages] + [fetch.want for fetch in plane.fetches]
            pulled = [pull._want for pull in transit.pulls if not pull._is_over]
            wants = [want for neighbour in plane._neighbours() for want in neighbour.feed.wants.values()]
            assert {want for want in (*takers, *pulled) if want is not None} == set(wants)
            assert all(want.position <= want.upto <= want.position + MAX_WINDOW_BYTES for want in wants)
            assert all(want.upto <= want.position + WINDOW_BYTES for want in wants if want not in pulled)
            supplies = [one for neighbour in plane._neighbours() for one in neighbour.feed.supplies.values()]
            assert all(one.position <= one.upto for one in supplies)
            origins = [supply for offer in plane.offers.values() for supply in offer.supplies]
            origins += [passage._supply for passage in transit.passages]
            origins += [share.supply for one in transit.objects.values() for share in one.shares]
            assert set(origins) == set(supplies)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else a step failed, and that is what is to be told
            self.come_to_rest()

    def come_to_rest(self) -> None:
        """Repair all, let all come that can, and let time pass until nobody wants anything."""
        for wire in self.world.wires:
            wire.is_held = False
        for one in self.passing:
            self.grow(one, 1 << 30)
            one.sink.upto = 1 << 62
            if not one.is_over and one.fetch is not None:
                one.fetch.extend(self.world.now)
        laws.repair(self.world)
        self.world.wait(5)
        for one in self.passing:
            assert one.is_over or not one.is_held, "it can be had, and has not come"
        for one in self.passing:
            if isinstance(one.sink, Checked) and one.is_held:
                one.offer.withdraw("gone", "it is withdrawn")
        self.world.wait(200)
        assert all(one.is_over for one in self.passing)
        self.what_came_is_what_was_sent()
        nothing_is_left(process.endpoint for process in self.world.processes)
        for process in self.world.processes:
            due = [entry for entry in process.endpoint.timers._heap if entry[2].action is not None]
            assert len(due) == len(process.endpoint.connections)


TestContentsMachine = ContentsMachine.TestCase
TestContentsMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
