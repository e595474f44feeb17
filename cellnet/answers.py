"""What this cell asked, and who waits for it: answers find their calls, and large ones are fetched first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from cellnet.calls import Call
from cellnet.errors import CellError, DeadlineBeforeExecution, DeadlineExceeded, Indeterminate
from cellnet.message import Reply
from cellnet.payload import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.arrival import Arrival
    from cellnet.calls import Question, Replies
    from cellnet.contents import Contents
    from cellnet.errors import DeliveryError
    from cellnet.fqcn import FQCN
    from cellnet.neighbours import Neighbours
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.events import Failed, Replied

__all__ = ["Answers"]


class Answers:
    """The calls that wait, by number."""

    def __init__(self, endpoint: Endpoint, contents: Contents, changed: Callable[[], None]) -> None:
        """Begin with none.

        :param changed: called when the endpoint may have something to send
        """
        self._endpoint = endpoint
        self._contents = contents
        self._changed = changed
        self._calls: dict[int, Call | Replies] = {}
        self._arriving: dict[int, dict[FQCN, Arrival]] = {}
        """Large answers that are on their way, by call and cell."""

    async def to(self, question: Question, encoding: int, data: bytes, neighbours: Neighbours) -> Any:
        """Ask one cell, and return its answer.

        :param neighbours: among whom it waits while the first on the way has no room
        :raises: as :meth:`cellnet.Cell.request` does
        """
        name, topic, once, key, deadline = question
        number, call = 0, Call()
        try:
            if neighbours.is_crowded(name):
                with deadline.limit():
                    await neighbours.wait_in_order(name)
                if deadline.is_over:
                    told = f"there was no room to send {topic} to {name} in {deadline.seconds:.3g} s"
                    raise DeadlineBeforeExecution(told)
            number = self._endpoint.request(
                [name], topic, encoding, data, deadline=deadline.at, now=anyio.current_time(), once=once, key=key
            )
            self._calls[number] = call
            self._changed()
            await call.wait(deadline)
        finally:
            call.give_up(self.forget(number))
        return call.result()

    def expect(self, number: int, call: Call | Replies) -> None:
        """Let a call wait."""
        self._calls[number] = call

    def failed(self, event: Failed) -> None:
        """Take the news that a cell will not answer."""
        self._answer(event.call, Reply(event.destination, error=event.error))

    def replied(self, event: Replied) -> None:
        """Take an answer."""
        if event.encoding != Encoding.REFERENCE:
            self._answer(event.call, Reply.of(event))
        elif event.call in self._calls:
            self._fetch(event)

    def forget(self, number: int) -> list[tuple[FQCN, DeliveryError]]:
        """Want no more answers to a call, and tell those who still work on one; return who owed one, and why."""
        if self._calls.pop(number, None) is None:
            return []
        owed = self._endpoint.give_up(number, anyio.current_time())
        for source, arrival in self._arriving.pop(number, {}).items():
            arrival.cancel()
            owed.append((source, DeadlineExceeded(f"{source} answered, and its answer did not all come in time")))
        self._changed()
        return owed

    def _fetch(self, event: Replied) -> None:
        arriving = self._arriving.setdefault(event.call, {})
        self._calls[event.call].arriving()

        def done(outcome: tuple[int, bytes] | CellError) -> None:
            del arriving[event.source]
            if isinstance(outcome, CellError):
                self._lost(event, outcome)
            else:
                encoding, payload = outcome
                self._answer(event.call, Reply.of(event._replace(encoding=encoding, payload=payload)))

        try:
            arriving[event.source] = self._contents.fetch(event.source, event.payload, done)
        except CellError as error:
            self._lost(event, error)

    def _lost(self, event: Replied, error: CellError) -> None:
        lost = Indeterminate(f"{event.source} answered, and its answer was lost: {error}")
        self._answer(event.call, Reply(event.source, error=lost))

    def _answer(self, number: int, reply: Reply) -> None:
        call = self._calls.get(number)
        if call is not None and call.answer(reply):
            del self._calls[number]
