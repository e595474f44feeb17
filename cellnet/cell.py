"""A cell: a named place in the network that other cells can reach, however far away they are."""

from __future__ import annotations

import os
import random
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.lowlevel

from cellnet import drivers as ways
from cellnet.answers import Answers
from cellnet.calls import REQUEST_SECONDS, Deadline, Question, Replies
from cellnet.clock import running_clock, wall_time
from cellnet.contents import Contents
from cellnet.directory import MEMBERS_TOPIC, Directory
from cellnet.epoch import clock_epoch
from cellnet.errors import DeadlineBeforeExecution, LocalProtocolError
from cellnet.fqcn import FQCN, Pattern, check_segment
from cellnet.groups import unwrapped
from cellnet.inbox import Inbox
from cellnet.journal import Journal
from cellnet.neighbours import Neighbours
from cellnet.payload import encode
from cellnet.protocol.endpoint import MAX_CHILDREN, Endpoint
from cellnet.protocol.events import Attached, Cancelled, Failed, LinkFailed, Message, Replied
from cellnet.statistics import CellStatistics
from cellnet.streams import STREAM_TOPIC, Streams
from cellnet.trust import Trust
from cellnet.uplink import Parent
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AsyncExitStack
    from pathlib import Path

    from cellnet.arrival import Progress
    from cellnet.credentials import Credentials
    from cellnet.drivers.base import Driver, Ingress
    from cellnet.files import Folder
    from cellnet.message import Durable, Handler
    from cellnet.payload import Packed
    from cellnet.protocol.envelope import Status
    from cellnet.protocol.events import Event
    from cellnet.protocol.routing import Member
    from cellnet.stream import Stream
    from cellnet.streams import StreamHandler

__all__ = ["Cell"]

MAX_PAYLOAD_BYTES = 8 << 30


class Cell(anyio.AsyncContextManagerMixin):
    """A named cell. It listens, connects, or does both; it is usable inside ``async with``.

    ``server`` is the root of the network. Any other cell gets its full name, :attr:`fqcn`, from the parent that it
    connects to. Handlers answer requests by topic; topics that begin with ``cellnet.`` are the library's own.
    """

    def __init__(
        self,
        name: str,
        *,
        handlers: Mapping[str, Handler | Durable] | None = None,
        streams: Mapping[str, StreamHandler] | None = None,
        journal: Path | str | None = None,
        epoch: int | None = None,
        drivers: Mapping[str, Driver] | None = None,
        max_children: int = MAX_CHILDREN,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        files: Folder | None = None,
        progress: Callable[[Progress], None] | None = None,
        request_seconds: float = REQUEST_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        """Make a cell that has no links yet.

        :param name: its base name; ``server`` for the root
        :param handlers: what answers requests and takes events, by topic
        :param streams: what takes the streams that others open, by topic
        :param journal: the file in which durable handlers keep what they did; made if there is none
        :param epoch: the number of this start, higher than of each before; by default the clock's. Whoever can keep
            a file should let :func:`~cellnet.epoch.next_epoch` choose it, in case the clock is set back
        :param drivers: further drivers, or others in place of the built-in ones, by scheme
        :param max_children: how many cells may connect to this one
        :param max_payload_bytes: the largest payload or answer that this cell takes; its memory must hold it
        :param files: where the files go that others send; without one, this cell takes none
        :param progress: told now and then how much has come of each large payload
        :param request_seconds: the deadline of messages whose caller's scope has none
        :param rng: where the jitter of pauses comes from
        :raises InvalidName: if *name* is no valid segment
        :raises ConfigurationError: if there are durable handlers, and no journal
        """
        self.name = check_segment(name)
        self._stream_handlers = dict(streams or {})
        self._drivers = {**ways.built_in(), **(drivers or {})}
        self._request_seconds = request_seconds
        self._rng = rng or random.SystemRandom()
        self._endpoint = Endpoint(
            self.name,
            clock_epoch() if epoch is None else epoch,
            entropy=os.urandom,
            random=self._rng.random,
            wall=wall_time,
            max_children=max_children,
        )
        self._directory = Directory(self._endpoint, self.request)
        self._handlers = {
            **(handlers or {}),
            MEMBERS_TOPIC: self._directory.answer,
        }
        self._journal = Journal.of(self._handlers, journal)
        self._contents = Contents(
            self._endpoint, self._dispatch, max_bytes=max_payload_bytes, folder=files, progress=progress
        )
        self._answers = Answers(self._endpoint, self._contents, self._dispatch)
        self._answered = Wakeup()
        self._taking = False

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        self._clock = running_clock()
        with unwrapped(), self._contents:
            async with self._journal or nullcontext(), anyio.create_task_group() as tasks:
                self._neighbours = Neighbours(self._endpoint, self._drivers, self._rng, tasks, self._received)
                self._streams = Streams(self._endpoint, self._stream_handlers, self.request, tasks, self._dispatch)
                self._trust = Trust(self._endpoint, self._neighbours, self.request, tasks)
                handlers = {**self._handlers, **self._trust.handlers, STREAM_TOPIC: self._streams.accept}
                self._inbox = Inbox(
                    self.name, handlers, self._journal, self._contents, tasks, self._ended, self._stopped
                )
                tasks.start_soon(self._neighbours.keep_time)
                tasks.start_soon(self._neighbours.keep_dates)
                tasks.start_soon(self._neighbours.keep_flushing)
                try:
                    yield self
                    await self._neighbours.close()
                finally:
                    self._neighbours.abort()
                tasks.cancel_scope.cancel()

    # Links.

    @property
    def fqcn(self) -> FQCN:
        """Its full name.

        :raises LocalProtocolError: before it has joined a parent
        """
        if self._endpoint.fqcn is None:
            raise LocalProtocolError(f"{self.name} has no full name before it has joined its parent")
        return self._endpoint.fqcn

    async def listen(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        security: str | None = None,
        per_address: int | None = None,
    ) -> str:
        """Accept children at *url*; return where that is, with a port 0 replaced by the real one.

        :param security: ``clear``, ``tls`` or ``mtls``; by default mtls where there are credentials and a network
        :param per_address: how many arrivals of one host may be in their handshake; none where an ingress is in front
        :raises ConfigurationError: if it cannot listen there
        """
        return await self._neighbours.listen(url, credentials, security, per_address=per_address)

    async def connect(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        security: str | None = None,
        ingress: Ingress | None = None,
        others: Sequence[Parent] = (),
        reconnect: bool = True,
    ) -> None:
        """Join the parent at *url*; return when it, or one of the others, has taken this cell in.

        What may pass by itself is tried again until the caller's scope ends. Afterwards the link is made again
        whenever it is lost. Below another parent :attr:`fqcn` is another; who uses the former one reaches this cell.

        :param ingress: what ends TLS in front of the parent, if something does
        :param others: whom to join while it stays away, the best first; until it could be reached for a minute
        :param reconnect: whether to join again; :meth:`wait_disconnected` tells when the link is lost
        :raises HandshakeError: if one side refused the other, and trying again would not help
        :raises ConnectDeadline: shortly before the scope ends, with the last reason
        """
        parents = [Parent(url, security, ingress), *others]
        await self._neighbours.connect(parents, credentials, reconnect=reconnect, deadline=Deadline(float("inf")))

    async def wait_disconnected(self) -> None:
        """Wait until the link to the parent is lost."""
        await self._neighbours.disconnected.wait()

    def renew(self) -> None:
        """Use what the credentials have now, after :meth:`~cellnet.Credentials.renew`; the parent is joined again."""
        self._trust.renew()

    def deny(self, signed: bytes) -> None:
        """Take a list of revoked certificates, if it is newer than the last one; the cells below are told.

        Within seconds no cell below this one, and none that learns of it, has a link with who is on the list.

        :param signed: as :class:`~cellnet.denial.Denial` was issued
        :raises HandshakeError: if the project's issuer did not sign it, or this cell has no credentials
        """
        self._trust.deny(signed)

    async def drain(self) -> None:
        """Take no more messages, and wait until those that began have been answered, and large answers fetched.

        To be called before this cell is left, in a scope that limits it. Who asks meanwhile asks again, until another
        start of this cell answers: nothing that this one did not begin is in doubt.
        """
        self._endpoint.drain()
        try:
            while self._endpoint.exchange.answering.running or self._contents.owed:
                await self._answered.wait()
        finally:
            self._endpoint.drained(anyio.current_time())
            self._dispatch()

    # Messages.

    async def request(
        self, destination: str | FQCN, topic: str, payload: object = None, *, once: bool = True, key: str = ""
    ) -> Any:
        """Send a request and return the handler's answer.

        It is repeated until it is answered, over lost links and restarted relays, and the far handler runs only once.
        It ends a little before the caller's scope does, to tell how; the far handler is cancelled then. In a scope
        that has ended already it is cancelled, and nothing is sent.

        :param payload: None, bytes, plain values, or arrays inside them, of any size, or the path of a file; not to
            be changed until this call ends
        :param once: if False, it is sent a single time, and the first bad news ends it
        :param key: requests and events with the same key run one after the other, in the order of these calls; a
            handler that asks back with its own key may wait for itself, until its deadline
        :raises Unreachable: if no such cell was present until the deadline
        :raises RemoteError: if the handler raised, or the cell has none for *topic*
        :raises Busy: if a cell on the way, or the receiver, had no room until the deadline
        :raises DeadlineBeforeExecution: if the request could not leave in time
        :raises Indeterminate: if the cell was restarted, or there was no answer in time: the handler may have run
        :raises LocalProtocolError: if the payload, the topic or the key is one that cannot be sent
        """
        name = FQCN(destination)
        deadline = Deadline(self._request_seconds)
        await deadline.check(topic, name)
        packed = encode(payload)
        question = Question(name, topic, once, key, deadline)
        if self._contents.is_inline(packed):
            return await self._answers.to(question, packed.encoding, packed.joined(), self._neighbours)
        with self._contents.held(packed) as (encoding, data):
            return await self._answers.to(question, encoding, data, self._neighbours)

    async def send(self, destination: str | FQCN, topic: str, payload: object = None, *, key: str = "") -> None:
        """Send an event: it arrives at most once, and nobody answers.

        :param key: as for :meth:`request`
        :raises Unreachable: if it is known that no link leads to *destination*
        :raises Busy: if too much waits to be sent there
        :raises DeadlineBeforeExecution: if it could not leave in time
        :raises LocalProtocolError: if the payload, the topic or the key is one that cannot be sent
        """
        name = FQCN(destination)
        deadline = Deadline(self._request_seconds)
        await deadline.check(topic, name)
        with self._contents.handed_over(encode(payload)) as (encoding, data):
            with deadline.limit():
                await anyio.lowlevel.checkpoint_if_cancelled()
                await self._neighbours.wait_in_order(name)
                now = anyio.current_time()
                self._endpoint.send(name, topic, encoding, data, deadline=deadline.at, now=now, key=key)
                self._dispatch()
                await anyio.lowlevel.cancel_shielded_checkpoint()  # only now: others shall not overtake it
                return
            raise DeadlineBeforeExecution(f"there was no room to send {topic} to {name} in {deadline.seconds:.3g} s")

    def broadcast(
        self, destinations: str | Pattern | Iterable[str | FQCN], topic: str, payload: object = None
    ) -> Replies:
        """Send a request to many cells; over each link it goes once, and again only to those that do not answer.

        :param destinations: a pattern such as ``R1.*``, meaning the cells that are present now, or names
        :returns: a context manager, inside which the replies can be iterated over in order of arrival
        :raises InvalidName: if a name or the pattern is malformed
        :raises LocalProtocolError: if the payload is something that cannot be sent
        """
        packed = encode(payload)
        wanted: Pattern | list[FQCN]
        if isinstance(destinations, str):
            destinations = Pattern(destinations)
        if isinstance(destinations, Pattern):
            wanted = [FQCN(destinations.text)] if destinations.is_literal else destinations
        else:
            wanted = [FQCN(name) for name in destinations]

        async def send(replies: Replies, held: AsyncExitStack) -> tuple[int, list[FQCN]]:
            names = await self._directory.resolve(wanted) if isinstance(wanted, Pattern) else wanted
            encoding, data = await held.enter_async_context(self._contents.shared(packed))
            now = anyio.current_time()
            number = self._endpoint.request(names, topic, encoding, data, deadline=replies.deadline.at, now=now)
            self._answers.expect(number, replies)
            self._dispatch()
            return number, names

        return Replies(send, self._answers.forget, self._request_seconds)

    def share(self, payload: object) -> AbstractAsyncContextManager[Packed]:
        """Return a context manager that prepares a payload for many cells, or many times.

        What it gives may be the payload of any number of messages of this cell, and the answer of its handlers, until
        the block ends. A large one leaves this cell once for each child, however many cells below want it.

        :raises LocalProtocolError: if the payload is something that cannot be sent
        :raises Busy: on entry, if too many large payloads are under way
        """
        return self._contents.share(payload)

    def open_stream(self, destination: str | FQCN, topic: str) -> Stream:
        """Return a stream of bytes to another cell, for ``async with``.

        It is opened there at its first use, with the first bytes, so that these arrive after one way and not after a
        round trip. If that fails, its next use says so.

        :param topic: which of the far cell's stream handlers is to take it
        :raises InvalidName: if *destination* is malformed
        """
        return self._streams.open(FQCN(destination), topic)

    # Who is there.

    def members(self) -> list[Member]:
        """Return the cells that are present below this one, in order of arrival."""
        return list(self._endpoint.router.members())

    async def wait_present(self, names: Iterable[str | FQCN]) -> None:
        """Wait until all of *names*, cells below this one, are present."""
        await self._directory.wait_present([FQCN(name) for name in names])

    def statistics(self) -> CellStatistics:
        """Return this moment's figures."""
        ledger, links = None if self._journal is None else self._journal.ledger, self._neighbours
        away, moves = links.arrivals.turned_away, links.moves
        return CellStatistics.of(self._endpoint, ledger, handling=len(self._inbox), turned_away=away, moves=moves)

    # What the endpoint has to tell.

    def _dispatch(self) -> None:
        self._take_all()
        self._neighbours.flush_soon()

    def _received(self) -> None:
        self._take_all()
        self._neighbours.flush()

    def _take_all(self) -> None:
        if self._taking:  # what is taken just now caused more, whose turn comes
            return
        events, self._taking = self._endpoint.events, True
        try:
            while events:
                self._take(events.popleft())
        finally:
            self._taking = False
        self._answered.notify()  # something may have: it costs nothing unless somebody waits

    def _take(self, event: Event) -> None:
        if isinstance(event, Message):
            if not self._inbox.receive(event):  # which may have taken further events, and counted theirs
                self._endpoint.switch.refused += 1
        elif isinstance(event, Replied):
            self._answers.replied(event)
        elif isinstance(event, Failed):
            self._answers.failed(event)
        elif isinstance(event, Cancelled):
            self._inbox.cancel(event.number)
        elif isinstance(event, LinkFailed):
            self._neighbours.end(event.connection, event.error)
        elif isinstance(event, Attached):
            self._neighbours.attached(event.connection)
        else:
            self._directory.note(event)
            self._trust.note(event)

    def _ended(self, message: int, status: Status, encoding: int, data: bytes) -> None:
        self._endpoint.ended(message, status, encoding, data, self._clock())
        self._dispatch()

    def _stopped(self, message: int) -> None:
        self._endpoint.stopped(message, self._clock())
        self._dispatch()
