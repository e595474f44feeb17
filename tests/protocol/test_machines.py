"""Cells that join, move, stop and lose each other in any order, as a machine that hypothesis drives.

After every step, every cell knows exactly who is below it, names belong to one process, no epoch follows a later one,
labels lead somewhere, and nothing ran twice or was said to be not executed and ran. In the end, when the links are
whole again, all cells reach each other over the tree, and nothing is left of what was.
"""

from __future__ import annotations

import sys

from coverage import Coverage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellnet.fqcn import FQCN, ROOT
from tests.protocol import laws
from tests.protocol.world import Process, World

PLACES = {"A": ROOT, "B": ROOT, "R": "A", "c": "R", "x": "A", "y": "B"}
"""By the base name of each cell, that of its parent. Only ``R`` moves."""
MOST_PROCESSES = 10
EXAMPLES = 40 if Coverage.current() else 120
"""Coverage makes them four times as slow, and learns nothing from most."""
picks = st.integers(0, 99)
clocks = st.sampled_from(["right", "right", "back"])


class CellsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.start(ROOT, "")
        for base, place in PLACES.items():
            self.world.dial(self.world.start(base, place))
            self.world.run()

    # Messages. What they cause is under way until something moves it.

    @rule(
        pick=picks,
        to=picks,
        topic=st.sampled_from(["echo", "echo", "hold"]),
        once=st.booleans(),
        key=st.sampled_from(["", "k"]),
        seconds=st.sampled_from([5, 20]),
    )
    def ask(self, pick: int, to: int, topic: str, *, once: bool, key: str, seconds: float) -> None:
        names = self.names()
        origin = self.process(pick)
        self.world.ask(origin, [names[to % len(names)]], topic, seconds=seconds, once=once, key=key)

    @rule(pick=picks, once=st.booleans(), topic=st.sampled_from(["echo", "hold"]), leaves=st.booleans())
    def ask_all(self, pick: int, topic: str, *, once: bool, leaves: bool = False) -> None:
        self.world.ask(self.process(pick), self.names(), topic, once=once, seconds=20)
        if leaves:
            self.world.wait(0.6)  # so long a broadcast waits for sessions

    @rule(pick=picks, to=picks)
    def tell(self, pick: int, to: int) -> None:
        names = self.names()
        self.world.tell(self.process(pick), names[to % len(names)])

    @rule(pick=picks)
    def carry(self, pick: int) -> None:
        """Move what waits on one link, and not what that causes."""
        if self.world.wires:
            self.world.wires[pick % len(self.world.wires)].carry(self.world.now)

    @rule()
    def run(self) -> None:
        self.world.run()

    @rule(seconds=st.sampled_from([0.1, 0.6, 2.5, 13]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    # Links.

    @rule(pick=picks, again=st.booleans())
    def cut(self, pick: int, *, again: bool) -> None:
        process = self.process(pick, but_root=True)
        if (wire := self.world.uplink(process)) is not None:
            wire.end(wire.connecting, self.world.now, says=False)
            self.world.run()
        if again:
            self.dial(pick)

    @rule(pick=picks, way=st.sampled_from(["up", "down", "both"]))
    def silence(self, pick: int, way: str) -> None:
        if (wire := self.world.uplink(self.process(pick, but_root=True))) is not None:
            wire.vanishes = way

    @rule(pick=picks)
    def give_up_silent_link(self, pick: int) -> None:
        """Let a child notice before its parent does, and dial again."""
        process = self.process(pick, but_root=True)
        if (wire := self.world.uplink(process)) is not None and wire.vanishes:
            wire.end(wire.connecting, self.world.now)
            self.dial(pick)

    @rule(pick=picks)
    def dial(self, pick: int) -> None:
        self.world.dial(self.process(pick, but_root=True))
        self.world.run()

    @rule()
    def dial_all(self) -> None:
        for process in self.world.processes:
            self.world.dial(process)
            self.world.run()

    # Processes.

    @rule(pick=picks)
    def join(self, pick: int) -> None:
        if len(self.world.processes) < MOST_PROCESSES:
            place = self.process(pick).base
            base = f"n{len({process.base for process in self.world.processes})}"
            self.world.dial(self.world.start(base, place))
            self.world.run()

    @rule(pick=picks, clock=clocks, quietly=st.booleans())
    def restart(self, pick: int, clock: str, *, quietly: bool) -> None:
        self.start_again(self.process(pick, but_root=True), clock, quietly=quietly)

    @rule(pick=picks, clock=clocks)
    def start_twin(self, pick: int, clock: str) -> None:
        """Start another process with the name of one that lives."""
        process = self.process(pick, but_root=True)
        if len(self.world.processes) < MOST_PROCESSES:
            self.start(process, clock)

    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        """End one of several processes of one name."""
        process = self.process(pick, but_root=True)
        if sum(one.base == process.base for one in self.world.processes) > 1:
            self.world.kill(process)
            self.world.run()

    @rule(pick=picks, seconds=st.sampled_from([0, 1]), finishes=st.booleans())
    def drain_and_restart(self, pick: int, seconds: float, *, finishes: bool) -> None:
        process = self.process(pick, but_root=True)
        process.endpoint.drain()
        self.world.wait(seconds)
        if finishes:
            self.world.finish(process)
        process.endpoint.drained(self.world.now)
        self.world.run()
        self.start_again(process, "right", quietly=False)

    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        """Answer all that a process holds."""
        self.world.finish(self.process(pick))

    @precondition(lambda self: any(process.base == "R" for process in self.world.processes))
    @rule(pick=picks, again=st.booleans())
    def move_the_relay(self, pick: int, *, again: bool) -> None:
        relays = [process for process in self.world.processes if process.base == "R"]
        relay = relays[pick % len(relays)]
        relay.place = "B" if relay.place == "A" else "A"
        if (wire := self.world.uplink(relay)) is not None:
            wire.end(wire.connecting, self.world.now, says=False)
            self.world.run()
        if again:
            self.world.dial(relay)
            self.world.run()

    def start_again(self, process: Process, clock: str, *, quietly: bool) -> None:
        self.world.kill(process, quietly=quietly)
        self.world.run()
        self.world.wait(0.01)  # no start takes no time
        self.start(process, clock)

    def start(self, process: Process, clock: str) -> Process:
        started = self.world.start(process.base, process.place, clock=clock)
        self.world.dial(started)
        self.world.run()
        return started

    def process(self, pick: int, *, but_root: bool = False) -> Process:
        processes = self.world.processes[but_root:]
        return processes[pick % len(processes)]

    def names(self) -> list[FQCN]:
        """Return the names that there are, whether or not who had them last is connected now."""
        names = {process.name for process in self.world.processes if process.endpoint.fqcn is not None}
        return sorted(names, key=str)

    # What always holds.

    @invariant()
    def laws_hold(self) -> None:
        laws.names_are_unique(self.world)
        laws.labels_lead_somewhere(self.world)
        if self.world.is_quiet:
            laws.presence_is_exact(self.world)

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else a step failed, and that is what is to be told
            self.come_to_rest()

    def come_to_rest(self) -> None:
        """Repair all links, use them, and let time pass until nothing is due."""
        laws.repair(self.world)
        self.laws_hold()
        laws.routes_lead(self.world)
        self.world.wait(75)  # the longest deadline, and then the last that is said of it
        laws.presence_is_exact(self.world)
        laws.nothing_is_left(self.world)


TestCellsMachine = CellsMachine.TestCase
TestCellsMachine.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
