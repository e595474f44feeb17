"""An asker and an answerer over a channel that loses, repeats and delays, both restarted at any time.

No request starts twice at one start of the answerer; one that was answered started once in all; one that is said to be
not executed never started, and never will; every request ends by its deadline; and nothing is left of any.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellnet.errors import Indeterminate, NotExecuted, RemoteProtocolError, Unreachable
from cellnet.protocol import answering as answering_module
from cellnet.protocol.envelope import Content, Status, part
from cellnet.protocol.events import Cancelled, Failed, Message, Replied
from cellnet.protocol.frames import Kind, unpack
from tests.protocol.conftest import MINUTE
from tests.protocol.halves import A, B, Cell

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN


@dataclass(frozen=True, eq=False)
class Flight:
    """A frame on its way."""

    source: Cell
    target: FQCN
    kind: Kind
    header: bytes
    body: bytes
    seconds: float
    """Until its deadline, as the time on its way is not known."""
    repeated: bool = False

    @property
    def carries(self) -> bool:
        """Whether it is an OPEN with a request in it."""
        return self.kind is Kind.OPEN and part(self.body)[1] != b""


@dataclass
class Asked:
    """One request, which its number names."""

    number: int
    call: int
    deadline: float
    epoch: int
    """Of the asker."""
    key: str
    outcome: Replied | Failed | None = None


picks = st.integers(0, 4)


class OnceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(answering_module, "MAX_INCOMING", 6)
        self.patch.setattr(answering_module, "MAX_RECORDS", 4)
        self.now = 100.0
        self.asker, self.answerer = Cell(A, now=self.now), Cell(B, now=self.now)
        self.wire: list[Flight] = []
        self.asked: list[Asked] = []
        self.starts: Counter[tuple[int, int]] = Counter()
        """By start of the answerer and number."""
        self.ended: set[tuple[int, int]] = set()
        """The same, of what ended there."""
        self.running: list[Message] = []
        self.cancelled: set[int] = set()

    # The asker.

    @rule(within=st.sampled_from([0, 1, 5, 60, 60]), once=st.booleans(), key=st.sampled_from(["", "k"]))
    def ask(self, within: float, once: bool, key: str) -> None:
        if not within:
            self.tell(key)
            return
        number = len(self.asked)
        content = Content.of("t", 0, bytes([number]), key)
        deadline = self.now + within
        asked = Asked(number, 0, deadline, self.asker.epoch, key)
        self.asked.append(asked)
        asking = self.asker.exchange.asking
        asked.call = asking.ask([B], content, deadline=deadline, now=self.now, once=once, key=key)
        self.work()

    def tell(self, key: str) -> None:
        self.asked.append(Asked(len(self.asked), 0, math.inf, 0, key))
        content = Content.of("t", 0, bytes([len(self.asked) - 1]), key)
        self.asker.exchange.asking.tell(B, content, deadline=self.now + 5, now=self.now, key=key)
        self.work()

    def give_up(self, pick: int) -> None:
        asked = self.awaited[pick % len(self.awaited)]
        ((name, error),) = self.asker.exchange.asking.give_up(asked.call, self.now)
        asked.outcome = Failed(asked.call, name, error)
        self.work()

    def restart_the_asker(self) -> None:
        for asked in self.awaited:
            asked.epoch = 0
        self.now += 0.01
        self.asker = Cell(A, self.asker.epoch + 1, now=self.now)

    @property
    def awaited(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.outcome is None and asked.epoch == self.asker.epoch]

    # The answerer.

    @precondition(lambda self: self.running)
    @rule()
    def end_all(self) -> None:
        for _ in range(len(self.running)):
            self.end(0)

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        message = self.running.pop(pick % len(self.running))
        answering = self.answerer.exchange.answering
        if message.number in self.cancelled:
            answering.stopped(message.number)
        else:
            self.ended.add((self.answerer.epoch, message.payload[0]))
            answering.answer(message.number, Status.OK, 0, message.payload)
        self.work()

    def restart_the_answerer(self) -> None:
        self.now += 0.01  # no start takes no time
        self.answerer = Cell(B, self.answerer.epoch + 1, now=self.now)
        self.running.clear()
        self.cancelled.clear()
        # Nobody on the way repeats an OPEN; in a session that is not sealed, what it carries would run again.
        self.wire = [flight for flight in self.wire if not (flight.repeated and flight.carries)]

    # The channel.

    @precondition(lambda self: self.wire)
    @rule(pick=picks)
    def deliver(self, pick: int) -> None:
        self.arrive(self.wire.pop(pick % len(self.wire)))
        self.work()

    @precondition(lambda self: self.wire)
    @rule()
    def deliver_all(self) -> None:
        for _ in range(50):
            if self.wire:
                self.arrive(self.wire.pop(0))
                self.work()

    def repeat(self, pick: int) -> None:
        at = pick % len(self.wire)
        self.wire[at] = replace(self.wire[at], repeated=True)
        self.wire.append(replace(self.wire[at]))

    def lose(self, pick: int) -> None:
        self.wire.pop(pick % len(self.wire))

    def refuse(self, pick: int) -> None:
        """Bring back the news that a frame was not delivered, which nobody says of one that was repeated."""
        flight = self.refusable[pick % len(self.refusable)]
        self.wire.remove(flight)
        session, counter = unpack(flight.header, int, int)
        if flight.source is self.asker:
            error = Unreachable("gone")
            self.asker.exchange.nack_received(B, session, counter, error, self.now)
        self.work()

    def lose_the_way(self) -> None:
        self.asker.exchange.lost(B.__eq__, self.now)
        self.work()

    @rule(seconds=st.sampled_from([0.03, 0.5, 2.5, 11]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := min(self.asker.timers.due, self.answerer.timers.due)) <= end:
            self.now = max(self.now, due)
            for cell in (self.asker, self.answerer):
                cell.now = self.now
                cell.timers.run(self.now)
            self.work()
        self.now = end
        self.work()

    @property
    def refusable(self) -> list[Flight]:
        kinds = (Kind.OPEN, Kind.REQUEST)
        return [flight for flight in self.wire if flight.kind in kinds and not flight.repeated]

    def arrive(self, flight: Flight) -> None:
        target = self.asker if flight.target == A else self.answerer
        assert flight.source.name is not None
        expires = self.now + flight.seconds
        try:
            target.exchange.received(flight.source.name, flight.kind, flight.header, flight.body, expires, self.now)
        except RemoteProtocolError as error:
            pytest.fail(f"{flight.kind.name} is said to be malformed: {error}")

    def work(self) -> None:
        """Put on the wire what was sent, and do what the owners do."""
        for cell in (self.asker, self.answerer):
            cell.now = self.now
        for event in self.answerer.happened():
            if isinstance(event, Cancelled):
                self.cancelled.add(event.number)
            elif event.doubt:
                self.ended.add((self.answerer.epoch, event.payload[0]))
                self.answerer.exchange.answering.answer(event.number, Status.UNKNOWN, 0, b"")
            else:
                self.check_turn(self.asked[event.payload[0]])
                self.starts[self.answerer.epoch, event.payload[0]] += 1
                self.running.append(event)
        for outcome in self.asker.happened():
            (asked,) = (one for one in self.awaited if one.call == outcome.call)
            assert self.now <= asked.deadline
            asked.outcome = outcome
            if isinstance(outcome, Replied):
                assert outcome.payload == bytes([asked.number])
        for cell in (self.asker, self.answerer):
            for sent in cell.take():
                flight = Flight(cell, *sent[:4], seconds=sent.expires - self.now)
                if flight.seconds > 0:
                    self.wire.append(flight)

    # All of it.

    @precondition(lambda self: self.asked)
    @rule(
        pick=picks,
        what=st.sampled_from(["give up", "repeat", "repeat", "lose", "lose", "refuse", "refuse", "way", "A", "B"]),
    )
    def trouble(self, what: str, pick: int) -> None:
        """Do what only happens now and then."""
        if what == "way":
            self.lose_the_way()
        elif what == "A":
            self.restart_the_asker()
        elif what == "B":
            self.restart_the_answerer()
        elif what == "give up" and self.awaited:
            self.give_up(pick)
        elif what == "refuse" and self.refusable:
            self.refuse(pick)
        elif what == "repeat" and self.wire:
            self.repeat(pick)
        elif what == "lose" and self.wire:
            self.lose(pick)

    def check_turn(self, asked: Asked) -> None:
        """Nothing starts before what was asked earlier with the same key, and is still wanted, has ended."""
        for one in self.awaited:
            if one.key and (one.key, one.epoch) == (asked.key, asked.epoch) and one.number < asked.number:
                assert (self.answerer.epoch, one.number) in self.ended, f"{asked.number} starts before {one.number}"

    # What always holds.

    @invariant()
    def everything_ends_by_its_deadline(self) -> None:
        assert all(asked.deadline > self.now for asked in self.awaited)

    @invariant()
    def nothing_starts_twice(self) -> None:
        assert set(self.starts.values()) <= {1}
        runs = Counter(number for _epoch, number in self.starts)
        for asked in self.asked:
            if asked.deadline == math.inf:
                assert runs[asked.number] <= 1
            elif isinstance(asked.outcome, Replied):
                assert runs[asked.number] == 1, f"request {asked.number} was answered"
            elif asked.outcome is not None and isinstance(asked.outcome.error, NotExecuted):
                assert runs[asked.number] == 0, f"request {asked.number} is said to be not executed"
            else:
                assert asked.outcome is None or isinstance(asked.outcome.error, Indeterminate)

    def teardown(self) -> None:
        self.patch.undo()
        self.deliver_all()
        self.wire.clear()
        self.end_all()
        self.nothing_starts_twice()
        for _ in range(20):
            self.wait(MINUTE)
            self.wire.clear()
            self.end_all()
        self.nothing_starts_twice()
        assert self.awaited == []
        asking, answering = self.asker.exchange.asking, self.answerer.exchange.answering
        assert (asking.pending, asking.untold) == (0, 0)
        session = asking.sessions.known(B)
        if session is not None:
            assert not any((session.pending, session.flying, session.events, session.keys))
        assert (answering.records, answering.running, answering.cached_bytes) == (0, 0, 0)
        assert not answering._messages
        for cell in (self.asker, self.answerer):
            assert cell.timers.due == math.inf
            assert len(cell.timers) == 0


TestOnceMachine = OnceMachine.TestCase
TestOnceMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_who_follows_a_request_that_expired_does_not_begin_before_one_that_is_on_its_way_still() -> None:
    machine = OnceMachine()
    machine.ask(1, once=False, key="")
    machine.deliver_all()
    machine.end_all()
    machine.deliver_all()
    machine.ask(60, once=False, key="k")
    machine.ask(1, once=False, key="k")
    machine.arrive(machine.wire.pop())
    machine.ask(60, once=False, key="k")
    late = machine.wire.pop()
    machine.wait(2.5)
    machine.arrive(late)
    machine.work()
    assert [message.payload for message in machine.running] == []
    machine.deliver_all()
    machine.end_all()
    assert [message.payload for message in machine.running] == [b"\3"]
    machine.teardown()
