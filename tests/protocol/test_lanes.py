"""Ordering keys: what bears the same key runs one after the other, in the order in which it was sent."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellnet.protocol.events import Message
from cellnet.protocol.lanes import Lanes
from tests.protocol.halves import A

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

T = TypeVar("T")

numbers = count(1)


def message(sequence: int, key: str = "k") -> Message:
    return Message(next(numbers), A, 1, sequence, False, key, "t", 0, b"", 60.0)


class Lane:
    """Lanes, and who started in them."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.messages: dict[int, Message] = {}

    def add(self, sequence: int, key: str = "k", *, after: int = 0) -> list[int]:
        """Let a message arrive; return who starts then."""
        one = self.messages[sequence] = message(sequence, key)
        return self.started(self.lanes.add(one, after))

    def event(self, after: int = 0, key: str = "k") -> tuple[Message, list[int]]:
        one = message(0, key)
        return one, self.started(self.lanes.add(one, after))

    def ended(self, sequence: int) -> list[int]:
        return self.started(self.lanes.ended(self.messages[sequence]))

    def settled(self, start: int, stop: int) -> list[int]:
        return self.started(self.lanes.settled(start, stop))

    @staticmethod
    def started(messages: Iterable[Message]) -> list[int]:
        return [one.sequence for one in messages]


def test_messages_with_one_key_run_one_after_the_other_in_the_order_of_their_arrival() -> None:
    lane = Lane()
    assert lane.add(1) == [1]
    assert lane.add(2) == lane.add(3) == []
    assert lane.lanes.held == 2
    assert lane.ended(1) == [2]
    assert lane.ended(2) == [3]
    assert lane.ended(3) == []
    assert lane.lanes.held == 0
    assert lane.add(4) == [4]


def test_messages_with_other_keys_run_beside_them() -> None:
    lane = Lane()
    assert lane.add(1) == [1]
    assert lane.add(2, "l") == [2]
    assert lane.add(3, "l") == []
    assert lane.ended(1) == []
    assert lane.ended(2) == [3]


def test_a_message_without_a_key_that_ended_is_no_news() -> None:
    lane = Lane()
    assert lane.add(2, after=1) == []
    assert list(lane.lanes.ended(message(1, ""))) == []
    assert lane.lanes.held == 1


def test_a_request_that_comes_before_its_predecessor_waits_for_it() -> None:
    lane = Lane()
    assert lane.add(2, after=1) == []
    assert lane.add(1) == [1]
    assert lane.ended(1) == [2]
    assert lane.ended(2) == []


def test_a_request_whose_predecessor_is_settled_waits_no_longer() -> None:
    lane = Lane()
    assert lane.add(3, after=2) == []
    assert lane.settled(1, 2) == lane.settled(3, 9) == []
    assert lane.settled(1, 3) == [3]
    assert lane.settled(1, 3) == []


def test_what_comes_later_says_nothing_of_those_that_wait() -> None:
    lane = Lane()
    assert lane.add(2, after=1) == lane.add(3, after=2) == lane.add(4, "l", after=1) == []
    event, started = lane.event()
    assert started == [0]
    assert list(lane.lanes.ended(event)) == []
    assert lane.add(1) == [1]
    assert lane.ended(1) == [2, 4]
    assert lane.ended(2) == [3]


def test_who_follows_one_that_is_withdrawn_before_or_later_waits_for_whom_that_waited_for() -> None:
    lane = Lane()
    assert lane.add(2, after=1) == lane.add(3, after=2) == []
    assert lane.lanes.withdraw(lane.messages[2])
    assert lane.ended(2) == []
    assert 2 in lane.lanes
    assert lane.add(4, after=2) == []
    assert (lane.lanes.held, lane.lanes.left) == (2, 1)
    assert lane.add(1) == [1]
    assert lane.ended(1) == [3]
    assert 2 not in lane.lanes
    assert lane.ended(3) == [4]


def test_places_are_kept_along_a_chain_of_those_that_are_withdrawn_until_the_first_is_over() -> None:
    lane = Lane()
    for sequence in range(2, 2000):
        assert lane.add(sequence, after=sequence - 1) == []
        assert lane.lanes.withdraw(lane.messages[sequence])
        assert lane.ended(sequence) == []
    assert lane.add(2000, after=1999) == lane.add(2001, after=1000) == []
    assert lane.settled(1, 2) == [2001]
    assert lane.ended(2001) == [2000]
    assert (lane.lanes.held, lane.lanes.left) == (0, 0)


def test_a_place_is_not_kept_for_one_that_is_settled_nor_for_an_event() -> None:
    lane = Lane()
    assert lane.add(2, after=1) == lane.add(3, after=2) == []
    event, started = lane.event(after=1)
    assert started == []
    assert lane.lanes.withdraw(event)
    assert lane.lanes.withdraw(lane.messages[2])
    assert lane.settled(2, 3) == [3]
    assert lane.lanes.left == 0
    assert not lane.lanes._early


def test_who_comes_again_may_follow_another_or_nobody_any_more() -> None:
    lane = Lane()
    assert lane.add(4, after=3) == []
    assert lane.started(lane.lanes.follow(lane.messages[4], 3)) == []
    assert lane.started(lane.lanes.follow(lane.messages[4], 2)) == []
    assert lane.settled(3, 4) == []
    assert lane.started(lane.lanes.follow(lane.messages[4], 0)) == [4]
    assert lane.started(lane.lanes.follow(lane.messages[4], 0)) == []


def test_what_is_withdrawn_while_it_waits_never_runs_and_what_runs_cannot_be() -> None:
    lane = Lane()
    assert lane.add(1) == [1]
    assert lane.add(2) == lane.add(3) == lane.add(5, after=4) == lane.add(6, after=4) == []
    assert not lane.lanes.withdraw(lane.messages[1])
    for sequence in (2, 5):
        assert lane.lanes.withdraw(lane.messages[sequence])
        assert not lane.lanes.withdraw(lane.messages[sequence])
    assert lane.lanes.held == 2
    assert lane.ended(2) == []
    assert lane.ended(1) == [3]
    assert lane.settled(4, 5) == []
    assert lane.ended(3) == [6]


picks = st.integers(0, 5)


def chosen(items: Collection[T], pick: int) -> T:
    """Return one of the first few: drawing from what there is costs more than all the rest of a step."""
    return sorted(items)[pick % len(items)]  # type: ignore[type-var]


class Told(NamedTuple):
    """A transmission that is on its way."""

    number: int
    """Of the message, for events and requests alike."""
    sequence: int
    key: str
    after: int


class LaneMachine(RuleBasedStateMachine):
    """An asker whose messages come in any order, repeated or never, to an answerer that ends them in any order.

    The asker's side is a list of what is pending; the answerer's side treats the lanes as records do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.sequence = 0
        self.made = count(1)
        self.asked: dict[int, str] = {}
        """Keys by sequence."""
        self.pending: list[int] = []
        self.lane: dict[str, list[int]] = {"k": [], "l": []}
        """By key, what is pending, and what was given up or answered while one before is pending."""
        self.settleable: set[int] = set()
        self.told: list[Told] = []
        self.arrived: dict[int, Message] = {}
        """By sequence."""
        self.held: dict[int, tuple[Message, int]] = {}
        """What waits, and for whom it was said to wait."""
        self.running: dict[str, Message] = {}
        self.ended: set[int] = set()
        """Sequences that were answered, or settled."""
        self.expired: set[int] = set()
        """Sequences that never run, as their time passed while they waited."""
        self.after: dict[int, int] = {}
        """By number of message, the predecessor when it was first told."""
        self.newest_event: dict[str, int] = {}
        self.sound = True

    # The asker.

    def last(self, key: str, before: int) -> int:
        return max((one for one in self.lane[key] if one < before), default=0)

    def remove(self, sequence: int) -> None:
        """Want no more answer; what comes before all that is pending with its key may be settled."""
        self.pending.remove(sequence)
        lane = self.lane[self.asked[sequence]]
        while lane and lane[0] not in self.pending:
            self.settleable.add(lane.pop(0))

    @rule(key=st.sampled_from("kkkl"))
    def ask(self, key: str) -> None:
        self.sequence += 1
        self.asked[self.sequence] = key
        self.transmit(self.sequence)
        self.pending.append(self.sequence)
        self.lane[key].append(self.sequence)

    @rule(key=st.sampled_from("kkkl"))
    def tell(self, key: str) -> None:
        number = next(self.made)
        after = self.last(key, self.sequence + 1)
        self.after[number] = after
        self.told.append(Told(number, 0, key, after))

    @precondition(lambda self: self.pending)
    @rule(pick=picks)
    def repeat(self, pick: int) -> None:
        self.transmit(chosen(self.pending, pick))

    @precondition(lambda self: self.ended & set(self.pending))
    @rule(pick=picks)
    def hear_the_answer(self, pick: int) -> None:
        self.remove(chosen(self.ended & set(self.pending), pick))

    @precondition(lambda self: self.pending)
    @rule(pick=picks)
    def give_up(self, pick: int) -> None:
        self.remove(chosen(self.pending, pick))

    def transmit(self, sequence: int) -> None:
        key = self.asked[sequence]
        self.told.append(Told(next(self.made), sequence, key, self.last(key, sequence)))

    # The answerer.

    @precondition(lambda self: self.told)
    @rule(pick=picks)
    def arrive(self, pick: int) -> None:
        told = chosen(self.told, pick)
        self.told.remove(told)
        if told.sequence:
            one = self.arrived.get(told.sequence)
            after = self.unended(told.after)
            if one is not None and one.number in self.held:
                if self.held[one.number][1] not in self.ended | {0}:
                    self.held[one.number] = one, after
                self.start(self.lanes.follow(one, after))
            if one is not None or told.sequence in self.ended | self.expired:
                return
        else:
            if told.number < self.newest_event.get(told.key, 0):
                return  # an event that was overtaken by another does not run
            self.newest_event[told.key] = told.number
        one = Message(told.number, A, 1, told.sequence, False, told.key, "t", 0, b"", 60.0)
        if told.sequence:
            self.arrived[told.sequence] = one
        after = self.unended(told.after)
        self.held[one.number] = one, after
        self.start(self.lanes.add(one, after))

    def unended(self, sequence: int) -> int:
        return 0 if sequence in self.ended | self.expired and sequence not in self.lanes else sequence

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        one = self.running.pop(chosen(self.running, pick))
        self.ended.add(one.sequence)
        self.start(self.lanes.ended(one))

    @precondition(lambda self: any(one.sequence for one, _after in self.held.values()))
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        """Take out a request whose time passed while it waits; its asker may not know yet."""
        one, _after = self.held.pop(chosen({number for number, (one, _) in self.held.items() if one.sequence}, pick))
        self.expired.add(one.sequence)
        assert self.lanes.withdraw(one)
        self.start(self.lanes.ended(one))

    @precondition(lambda self: self.settleable - self.ended)
    @rule(pick=picks)
    def settle(self, pick: int) -> None:
        """Hear that something is settled, as a record does: stop it, whether it waits or runs."""
        self.settle_one(chosen(self.settleable - self.ended, pick))

    def settle_one(self, sequence: int) -> None:
        self.ended.add(sequence)
        one = self.arrived.get(sequence)
        if one is not None:
            waited = self.lanes.withdraw(one)
            _one, after = self.held.pop(one.number, (None, None))
            assert waited == (after is not None)
            if not waited and sequence not in self.expired:
                assert self.running.pop(one.key) is one
            if sequence not in self.expired:
                self.start(self.lanes.ended(one))
        self.start(self.lanes.settled(sequence, sequence + 1))

    def start(self, messages: Iterable[Message]) -> None:
        self.sound = False
        for one in messages:
            del self.held[one.number]
            assert one.key not in self.running, "two messages with one key run at a time"
            self.running[one.key] = one
            before = one.sequence or self.after[one.number] + 1
            for sequence in self.pending:
                is_over = sequence in self.ended | self.expired
                if sequence < before and self.asked[sequence] == one.key and not is_over:
                    raise AssertionError(f"{one.sequence} started before {sequence}")
        self.sound = True

    # What always holds.

    @invariant()
    def nobody_waits_for_nobody(self) -> None:
        assert self.lanes.held == len(self.held)
        for one, after in self.held.values():
            assert one.key in self.running or (after and self.unended(after))

    def teardown(self) -> None:
        """Nothing is held for ever: when all that ran has ended and all else is settled, nobody waits."""
        if not self.sound:
            return
        for sequence in list(self.pending):
            self.remove(sequence)
        for _ in range(len(self.asked) + len(self.held) + 1):
            for key in sorted(self.running):
                one = self.running.pop(key)
                self.ended.add(one.sequence)
                self.start(self.lanes.ended(one))
        for sequence in sorted(set(self.asked) - self.ended):
            if sequence not in self.arrived or sequence in self.expired:
                self.settle_one(sequence)
        while self.running:
            for key in sorted(self.running):
                one = self.running.pop(key)
                self.ended.add(one.sequence)
                self.start(self.lanes.ended(one))
        assert not self.held
        for table in Lanes.__slots__:
            assert not getattr(self.lanes, table), table


TestLaneMachine = LaneMachine.TestCase
LaneMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True, database=None
)


def test_what_was_withdrawn_takes_no_room_while_others_wait() -> None:
    lanes = Lanes()
    first, *later = [Message(n, A, 1, 0, False, "k", "t", 0, b"", 60.0) for n in range(1, 2000)]
    assert list(lanes.add(first, 0)) == [first]
    for message in later:
        assert list(lanes.add(message, 0)) == []
        assert lanes.withdraw(message)
    assert lanes.held == len(lanes._queues) == 0
