"""What the owner of a simulated cell does with it: asks, waits, handles, answers. All of it goes into the history.

It does what :class:`cellnet.Cell` does with its endpoint, with planned actions in place of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cellnet.errors import NotExecuted
from cellnet.payload import Encoding
from cellnet.protocol.envelope import Status
from cellnet.protocol.frames import pack
from cellnet.protocol.plane import CONTENT_BYTES
from cellnet.simulation.bulk import Bulk
from cellnet.simulation.errand import Errand, number_in
from cellnet.simulation.history import Outcome
from cellnet.simulation.stream import SimulatedStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.errors import DeliveryError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.events import Failed, Message, Replied
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.offer import Offer
    from cellnet.simulation.cell import SimulatedCell
    from cellnet.simulation.history import History

__all__ = ["Owner"]

MARGIN_SECONDS = 0.05
"""How long before its deadline a call ends, to tell how; of a short one it is a tenth."""


@dataclass(eq=False, slots=True)
class _Call:
    errand: Errand
    deadline: float
    missing: dict[FQCN, str]
    """Whose answer is awaited, and what that is called in the history."""
    then: Callable[[bool], None] | None
    """Called at its end, with whether it was answered well."""
    number: int = 0
    is_right: bool = True
    payload: bytes = b""
    """What is sent, once that is known."""
    offer: Offer | None = None
    """Its large payload, which is held until the call ends."""
    stream: SimulatedStream | None = None
    """What it opens."""
    arriving: dict[FQCN, Fetch] = field(default_factory=dict)
    """Large answers that are on their way."""


@dataclass(eq=False, slots=True)
class _Handling:
    errand: Errand
    message: Message
    nested: _Call | None = None
    fetch: Fetch | None = None
    """Its large payload, while that is on its way."""


class Owner:
    """The tasks of one cell, through all its lives."""

    def __init__(self, cell: SimulatedCell, history: History, errands: dict[str, Errand], *, seals: bool) -> None:
        self.awaited = 0
        """Answers for which the endpoint was asked, and that are not there."""
        self.slowness = 0.0
        """Seconds that every handler takes longer now."""
        self.bulk = Bulk(cell, history.deliveries, seals=seals)
        self._streams: list[SimulatedStream] = []
        self._cell = cell
        self._history = history
        self._errands = errands
        self._calls: dict[int, _Call] = {}
        self.waiting_for_room: list[_Call] = []
        """Calls that could not be sent yet."""
        self._handling: dict[int, _Handling] = {}
        self._nested = 0
        self._crossing: set[tuple[int, FQCN]] = set()
        """Whose answer is no longer wanted since the last :meth:`compare`: one that is on its way here is ignored."""

    @property
    def handling(self) -> int:
        """How many handlers run."""
        return len(self._handling)

    @property
    def streams(self) -> int:
        """How many streams are open here."""
        self._streams = [stream for stream in self._streams if not stream.is_over]
        return len(self._streams)

    # As the origin.

    def ask(self, errand: Errand) -> None:
        """Begin an errand of the workload."""
        call = self._ask(errand, errand.seconds)
        if errand.cancel_after is not None:
            self._cell.later(self._now + errand.cancel_after, partial(self._end, call, Outcome.CANCELLED))

    def try_waiting(self) -> None:
        """Send what there is room for now."""
        waiting = self.waiting_for_room
        while waiting and self._send(waiting[0]):
            waiting.pop(0)

    def replied(self, event: Replied) -> None:
        """Take an answer."""
        is_ok = event.status == Status.OK
        call = self._calls.get(event.call)
        name = call.errand.name_at(event.source) if call is not None else ""
        is_right = not is_ok or event.payload == _answer(name)
        if is_ok and call is not None and event.source in call.missing:
            if event.encoding == Encoding.REFERENCE:
                self._fetch_answer(call, event)
                return
            if call.stream is not None:
                is_right = len(event.payload) == CONTENT_BYTES
                call.stream.answered(event.source, event.payload)
        self._tell(call, event.source, Outcome.OK if is_ok else Outcome.RAISED, is_right=is_right)

    def failed(self, event: Failed) -> None:
        """Take the news that there will be no answer."""
        self._tell(self._calls.get(event.call), event.destination, _outcome(event.error))

    def compare(self, pending: int) -> None:
        """Check, when all events were taken, that the endpoint waits for what its owner waits for.

        :param pending: for how many answers the endpoint waits
        """
        if pending != self.awaited:
            self._cell.faults.append(f"the endpoint awaits {pending} answers, its owner {self.awaited}")
            self.awaited = pending
        if self._crossing:
            self._crossing.clear()

    # As the destination.

    def received(self, message: Message) -> None:
        """Begin the handler of a message."""
        errand = self._errands[number_in(message.payload)]
        cell = self._cell
        if message.doubt:
            cell.reply(message.number, Status.UNKNOWN, b"")
            return
        handling = self._handling[message.number] = _Handling(errand, message)
        if not errand.large:
            self._begin(handling)
            return

        def arrived(is_here: bool) -> None:
            handling.fetch = None
            if is_here:
                self._begin(handling)
            else:
                self._history.lost(errand.name_at(cell.fqcn))
                self._answer(handling, is_right=False)

        handling.fetch = self.bulk.bring(message.source, message.payload.partition(b" ")[2], arrived)
        cell.later(message.deadline, partial(self._stop, handling))

    def _begin(self, handling: _Handling) -> None:
        """Begin the handler itself."""
        errand, message, cell = handling.errand, handling.message, self._cell
        name, origin = errand.name_at(cell.fqcn), message.origin
        self._history.ran(name, cell.name, self._now, asked_by=cell.homes[origin.base_name], called=str(origin))
        cell.trace.note(cell.name, "runs", name)
        if not message.wants_reply or errand.stream is not None:
            self._answer(handling, is_right=True)
            return
        end = self._now + errand.handling + self.slowness
        if end >= message.deadline:
            cell.later(message.deadline, partial(self._stop, handling))
        else:
            cell.later(end, partial(self._go_on, handling))

    def cancelled(self, number: int) -> None:
        """Stop a handler whose caller no longer waits."""
        if handling := self._handling.get(number):
            self._stop(handling)

    # As a process.

    def died(self) -> None:
        """Forget all; whoever waited here no longer wants to know."""
        now = self._now
        self._history.died(self._cell.name, now)
        for call in (*self._calls.values(), *self.waiting_for_room):
            for name in call.missing.values():
                self._history.told(name, Outcome.CANCELLED, now)
            call.missing.clear()
        self._calls.clear()
        self._crossing.clear()
        self.waiting_for_room.clear()
        self._handling.clear()
        self._streams.clear()
        self._history.deliveries.died(self._cell.name)
        self.awaited = 0

    @property
    def _now(self) -> float:
        return self._cell.timeline.now

    def _ask(self, errand: Errand, seconds: float, then: Callable[[bool], None] | None = None) -> _Call:
        deadline = self._now + seconds - min(MARGIN_SECONDS, seconds / 10)
        call = _Call(errand, deadline, {name: errand.name_at(name) for name in errand.destinations}, then)
        me = self._cell.name
        for destination, name in call.missing.items():
            self._history.asked(name, me, str(destination), deadline=deadline, key=errand.key)
        self._cell.trace.note(me, "asks", errand.form, errand.number)
        if self.waiting_for_room or not self._send(call):
            self.waiting_for_room.append(call)
        if call.missing:
            self._cell.later(deadline, partial(self._end, call, Outcome.INDETERMINATE))
        return call

    def _send(self, call: _Call) -> bool:
        """Hand a call to the endpoint; return whether that is settled, or must be tried again."""
        cell, errand = self._cell, call.errand
        if not call.missing:
            return True
        destinations = errand.destinations
        self._prepare(call)
        try:
            if errand.form == "broadcast":
                call.number = cell.request(destinations, call.payload, call.deadline, errand.key)
            elif not cell.has_room(destinations[0]):
                return False
            elif errand.form == "event":
                cell.send(destinations[0], call.payload, call.deadline, errand.key)
                self._finish(call, Outcome.CANCELLED)
                return True
            else:
                call.number = cell.request(destinations, call.payload, call.deadline, errand.key)
        except NotExecuted:
            self._finish(call, Outcome.NOT_EXECUTED)
            return True
        self._calls[call.number] = call
        self.awaited += len(call.missing)
        return True

    def _prepare(self, call: _Call) -> None:
        """Make what is sent: it may name contents, which are offered from now on."""
        errand, number = call.errand, call.errand.number
        if call.payload:
            return
        call.payload = errand.payload
        if errand.large:
            said, offer = self._offer(errand)
            call.payload, call.offer = number.encode() + b" " + said, offer
        elif errand.stream is not None:
            call.stream, said = SimulatedStream.opening(self._cell, self.bulk, number, errand.stream[0])
            call.payload = number.encode() + b" " + said
            self._streams.append(call.stream)

    def _offer(self, errand: Errand) -> tuple[bytes, Offer | None]:
        if errand.form == "broadcast":
            return self.bulk.share(errand.number, errand.large)
        is_event = errand.form == "event"
        said, offer = self.bulk.hold(errand.number, errand.large, is_for_one=is_event)
        return said, None if is_event else offer

    def _end(self, call: _Call, outcome: Outcome) -> None:
        """Want no more answers. What was never sent did not run."""
        if not call.missing:
            return
        if call.number:
            owed = dict(self._cell.give_up(call.number))
            self.awaited -= len(call.missing) - len(call.arriving)
            unknown = call.missing.keys() - owed.keys() - call.arriving.keys()
            self._crossing.update((call.number, name) for name in unknown)
            for fetch in call.arriving.values():
                fetch.cancel()
            call.arriving.clear()
            if outcome is Outcome.INDETERMINATE:
                for destination, error in owed.items():
                    self._note_told(call.missing.pop(destination), _outcome(error))
        elif outcome is Outcome.INDETERMINATE:
            outcome = Outcome.NOT_EXECUTED
        self._finish(call, outcome)

    def _finish(self, call: _Call, outcome: Outcome) -> None:
        for name in call.missing.values():
            self._note_told(name, outcome)
        call.missing.clear()
        call.is_right = False
        self._release(call)

    def _release(self, call: _Call) -> None:
        """Hold its payload no longer, as nobody owes an answer any more, and tell whoever waits for the whole."""
        if call.offer is not None:
            self.bulk.release(call.offer)
        if call.stream is not None and not call.is_right:
            call.stream.reset()
        if call.then is not None:
            call.then(call.is_right)

    def _fetch_answer(self, call: _Call, event: Replied) -> None:
        """Let a large answer come."""
        source = event.source
        self.awaited -= 1

        def arrived(is_here: bool) -> None:
            del call.arriving[source]
            if not is_here:
                self._history.lost(call.errand.name_at(source))
            self._told(call, source, Outcome.OK if is_here else Outcome.INDETERMINATE)

        call.arriving[source] = self.bulk.bring(source, event.payload, arrived)

    def _tell(self, call: _Call | None, destination: FQCN, outcome: Outcome, *, is_right: bool = True) -> None:
        if call is None or destination not in call.errand.destinations:
            self._cell.faults.append(f"it was told what became of a request to {destination}, and had made none")
            return
        if (call.number, destination) in self._crossing:
            self._crossing.remove((call.number, destination))
            return
        if destination in call.missing:
            self.awaited -= 1
        self._told(call, destination, outcome, is_right=is_right)

    def _told(self, call: _Call, destination: FQCN, outcome: Outcome, *, is_right: bool = True) -> None:
        call.missing.pop(destination, None)
        self._note_told(call.errand.name_at(destination), outcome, is_right=is_right)
        call.is_right &= outcome is Outcome.OK
        if not call.missing:
            self._release(call)

    def _note_told(self, name: str, outcome: Outcome, *, is_right: bool = True) -> None:
        self._history.told(name, outcome, self._now, value_is_right=is_right)
        self._cell.trace.note(self._cell.name, "told", name, outcome.value)

    def _go_on(self, handling: _Handling) -> None:
        """Ask whom the handler is to ask, or answer."""
        if self._handling.get(handling.message.number) is not handling:
            return
        errand = handling.errand
        seconds = handling.message.deadline - self._now
        if errand.asks is None:
            self._answer(handling, is_right=True)
        elif seconds > 0:
            self._nested += 1
            number = f"{errand.number}.{self._cell.fqcn.base_name}-{self._nested}"
            nested = Errand(number, "request", (errand.asks,), seconds, errand.handling / 4)
            self._errands[number] = nested
            handling.nested = self._ask(nested, seconds, lambda is_right: self._answer(handling, is_right=is_right))
        else:
            self._stop(handling)

    def _answer(self, handling: _Handling, *, is_right: bool) -> None:
        message, errand, cell = handling.message, handling.errand, self._cell
        number, name = message.number, errand.name_at(cell.fqcn)
        if not self._has_ended(handling):
            return
        if errand.raises or not is_right:
            cell.reply(number, Status.RAISED, pack("ValueError", "as planned"))
        elif errand.answer and message.wants_reply:
            said, _offer = self.bulk.hold(f"answer to {name}", errand.answer, is_for_one=True)
            cell.reply(number, Status.OK, said, Encoding.REFERENCE)
        elif errand.stream is not None:
            said = message.payload.partition(b" ")[2]
            half = errand.stream[1]
            stream = SimulatedStream.accepting(cell, self.bulk, errand.number, half, message.origin, said)
            self._streams.append(stream)
            cell.reply(number, Status.OK, stream.content)
        else:
            cell.reply(number, Status.OK, _answer(name) if message.wants_reply else b"")

    def _stop(self, handling: _Handling) -> None:
        if self._has_ended(handling):
            if handling.fetch is not None:
                handling.fetch.cancel()
            self._cell.stopped(handling.message.number)
            if handling.nested is not None:
                self._end(handling.nested, Outcome.CANCELLED)

    def _has_ended(self, handling: _Handling) -> bool:
        """Note that a handler ends; return whether it did not before."""
        number, cell = handling.message.number, self._cell
        if self._handling.get(number) is not handling:
            return False
        del self._handling[number]
        self._history.ended(handling.errand.name_at(cell.fqcn), cell.name, self._now)
        return True


def _outcome(error: DeliveryError) -> Outcome:
    return Outcome.NOT_EXECUTED if isinstance(error, NotExecuted) else Outcome.INDETERMINATE


def _answer(name: str) -> bytes:
    return b"answer to " + name.encode()
