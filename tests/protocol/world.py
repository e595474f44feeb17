"""Processes that start, stop, move and lose each other; and what must hold, whatever they do.

Unlike in ``Net``, several processes may have one name, and a link may fall silent: its bytes vanish, and each side
finds that out by itself.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cellnet.errors import Indeterminate, NotExecuted
from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Cancelled, Failed, LinkFailed, MemberJoined, MemberLeft, Message, Replied
from tests.protocol.conftest import MEMORY, new_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.events import Event
    from cellnet.protocol.frames import Kind

__all__ = ["Asked", "Process", "Wire", "World", "steps"]


@dataclass(eq=False)
class Process:
    """One start of one cell."""

    number: int
    base: str
    place: str
    """The base name of the parent that it dials; empty for the root."""
    endpoint: Endpoint
    is_alive: bool = True
    is_fenced: bool = False
    """Whether it was told that a later start is known, and it can have no other epoch."""
    is_twin: bool = False
    """Whether it was told, last, that another one has its name."""
    below: dict[FQCN, int] = field(default_factory=dict)
    """Who is below it by its events alone, and the epoch of each."""
    held: dict[int, Message] = field(default_factory=dict)

    @property
    def name(self) -> FQCN:
        assert self.endpoint.fqcn is not None
        return self.endpoint.fqcn

    @property
    def is_joined(self) -> bool:
        return self.base == ROOT or self.endpoint.router.parent is not None

    @property
    def is_idle(self) -> bool:
        """Whether it has no parent, and does not dial one."""
        return self.base != ROOT and all(connection.is_listener for connection in self.endpoint.connections)


@dataclass(eq=False)
class Wire:
    """A link."""

    above: Process
    below: Process
    listening: Connection
    connecting: Connection
    vanishes: str = ""
    """Which bytes vanish: those that go ``up``, those that go ``down``, or ``both``."""
    is_held: bool = False
    """Whether nobody reads: what is sent waits where it is."""
    ended: set[Connection] = field(default_factory=set)

    def ends(self, connection: Connection) -> tuple[Process, Connection, Process, bool]:
        """Return whose side this is, the other side and whose that is, and whether anything arrives there."""
        if connection is self.listening:
            return self.above, self.connecting, self.below, self.vanishes not in ("down", "both")
        return self.below, self.listening, self.above, self.vanishes not in ("up", "both")

    def carry(self, now: float) -> bool:
        """Move what is queued, once."""
        moved = False
        for source in (self.listening, self.connecting):
            _me, target, process, arrives = self.ends(source)
            if source not in self.ended and not self.is_held and (buffers := source.take(now)):
                moved = True
                if arrives and target not in self.ended:
                    process.endpoint.receive(target, b"".join(buffers), now)
        return moved

    def end(self, connection: Connection, now: float, *, says: bool = True) -> None:
        """Close one side, which first sends what is queued; the other side follows, if it hears of it."""
        if connection in self.ended:
            return
        process, other, neighbour, arrives = self.ends(connection)
        while says and arrives and other not in self.ended and (buffers := connection.take(now)):
            neighbour.endpoint.receive(other, b"".join(buffers), now)
        for side, owner in ((connection, process), *(((other, neighbour),) if arrives else ())):
            self.ended.add(side)
            owner.endpoint.close(side, now)

    def sent(self, kind: Kind) -> int:
        return sum(side.statistics.frames_sent[kind] for side in (self.listening, self.connecting))


@dataclass(eq=False)
class Asked:
    """A message, and what became of it at each destination."""

    origin: Process
    payload: bytes
    outcomes: dict[FQCN, Replied | Failed] = field(default_factory=dict)
    awaited: set[FQCN] = field(default_factory=set)


class World:
    """All processes and links there are, in virtual time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.processes: list[Process] = []
        """Those that are alive."""
        self.wires: list[Wire] = []
        self.asked: dict[bytes, Asked] = {}
        self.calls: dict[tuple[Process, int], Asked] = {}
        self.runs: Counter[tuple[bytes, FQCN]] = Counter()
        """How often each message ran at each destination, whichever process that was; not those said to be in doubt."""
        self.never: set[tuple[bytes, FQCN]] = set()
        """What was said to be not executed."""
        self.latest: dict[tuple[Process, str, FQCN], int] = {}
        """By answerer or parent, the last epoch seen of each asker or child."""
        self.memories: dict[str, OrderedDict[FQCN, int]] = {}
        """By the name of each relay, the last epochs of its children: a start that forgot them would take in an earlier
        start, which nobody answers who knew the later one."""
        self._made = 0

    # What happens.

    def start(self, base: str, place: str, *, clock: str = "right") -> Process:
        """Start a process; with its clock set ``back``, its epoch is below that of all that were started before."""
        self._made += 1
        epoch = self._made if clock == "back" else 1000 * self._made
        endpoint = new_endpoint(base, epoch, seed=f"{base} {self._made}")
        endpoint._fencing._epochs = self.memories.setdefault(base, OrderedDict())
        process = Process(self._made, base, place, endpoint)
        self.processes.append(process)
        return process

    def listener(self, place: str) -> Process | None:
        """Return who takes in children at a place; of several, one that has joined."""
        there = [process for process in self.processes if process.base == place and process.endpoint.fqcn is not None]
        return min(there, key=lambda process: (not process.is_joined, -process.number), default=None)

    def dial(self, process: Process, above: Process | None = None) -> None:
        """Let a process join its parent, if it has none, does not try already, and may."""
        above = above or self.listener(process.place)
        if above is None or not process.is_idle or process.is_fenced:
            return
        listening, connecting = (
            one.endpoint.open(MEMORY, is_listener=listens, now=self.now, role="server" if one.base == ROOT else "cell")
            for one, listens in ((above, True), (process, False))
        )
        self.wires.append(Wire(above, process, listening, connecting))

    def kill(self, process: Process, *, quietly: bool = False) -> None:
        """End a process at once. If *quietly*, as a machine without power: its neighbours do not hear of it."""
        process.is_alive = False
        self.processes.remove(process)
        for wire in self.of(process):
            if quietly:
                wire.vanishes = "both"
            wire.end(wire.listening if wire.above is process else wire.connecting, self.now, says=False)

    def of(self, process: Process) -> list[Wire]:
        """Return the links of a process."""
        return [wire for wire in self.wires if process in (wire.above, wire.below)]

    def uplink(self, process: Process) -> Wire | None:
        """Return the link to a process's parent, as it believes itself."""
        wires = (wire for wire in self.wires if wire.below is process and wire.connecting not in wire.ended)
        return next(wires, None)

    def run(self) -> None:
        """Move bytes until nothing moves."""
        while sum(wire.carry(self.now) for wire in self.wires) or self._happened():
            pass
        self.wires = [wire for wire in self.wires if len(wire.ended) < 2]

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.run()
        end = self.now + seconds
        while self.now < end:
            self.now = max(self.now, min([end, *(process.endpoint.due for process in self.processes)]))
            for process in self.processes:
                process.endpoint.tick(self.now)
            self.run()

    def ask(self, origin: Process, destinations: list[FQCN], topic: str, *, seconds: float = 60.0, **how: Any) -> Asked:
        """Send a request, which is answered at once if its topic is ``echo``, and never if it is ``hold``."""
        asked = self._new(origin)
        asked.awaited |= set(destinations)
        call = origin.endpoint.request(
            destinations, topic, 1, asked.payload, deadline=self.now + seconds, now=self.now, **how
        )
        self.calls[origin, call] = asked
        return asked

    def tell(self, origin: Process, destination: FQCN) -> None:
        """Send an event."""
        asked = self._new(origin)
        try:
            origin.endpoint.send(destination, "news", 1, asked.payload, deadline=self.now + 5, now=self.now)
        except NotExecuted:
            self.never.add((asked.payload, destination))

    def finish(self, process: Process) -> None:
        """Answer all that a process holds, and what begins then."""
        while process.held:
            number, message = process.held.popitem()
            process.endpoint.ended(number, Status.OK, 1, message.payload, self.now)
            self._happened()

    def _new(self, origin: Process) -> Asked:
        payload = str(len(self.asked)).encode()
        asked = self.asked[payload] = Asked(origin, payload)
        return asked

    # What the owners of the endpoints do, and see.

    def _happened(self) -> bool:
        happened = False
        for process in list(self.processes):
            while process.endpoint.events:
                happened = True
                self._take(process, process.endpoint.events.popleft())
        return happened

    def _take(self, process: Process, event: Event) -> None:
        if isinstance(event, Message):
            self._message(process, event)
        elif isinstance(event, Cancelled):
            process.held.pop(event.number, None)
            process.endpoint.stopped(event.number, self.now)
        elif isinstance(event, Replied | Failed):
            self._outcome(process, event)
        elif isinstance(event, MemberJoined):
            if event.member.fqcn.parent == process.name:  # of those further below, their own parents know
                self.in_order(process, "child", event.member.fqcn, event.member.epoch)
            process.below[event.member.fqcn] = event.member.epoch
        elif isinstance(event, MemberLeft):
            assert process.below.pop(event.member.fqcn) == event.member.epoch
        elif isinstance(event, LinkFailed):
            self._link_failed(process, event)

    def _message(self, process: Process, message: Message) -> None:
        assert message.answerer is not None
        here = message.payload, message.answerer  # under whatever name it was asked: it may have another by now
        asked = self.asked[message.payload]
        self.in_order(process, "asker", message.origin, message.epoch)
        assert message.epoch == asked.origin.endpoint._epoch, f"{asked.origin.base} is taken for another start"
        assert here not in self.never, f"{here} was said to be not executed"
        if message.doubt:
            process.endpoint.ended(message.number, Status.UNKNOWN, 0, b"", self.now)
            return
        self.runs[here] += 1
        assert self.runs[here] == 1, f"{here} ran twice"
        if message.topic == "hold":
            process.held[message.number] = message
        else:
            process.endpoint.ended(message.number, Status.OK, 1, message.payload, self.now)

    def _outcome(self, process: Process, outcome: Replied | Failed) -> None:
        asked = self.calls[process, outcome.call]
        where = outcome.source if isinstance(outcome, Replied) else outcome.destination
        here = asked.payload, where
        assert asked.origin is process
        asked.awaited.remove(where)
        asked.outcomes[where] = outcome
        if isinstance(outcome, Replied):
            assert outcome.payload == asked.payload
            assert self.runs[here] == 1, f"{here} was answered and did not run"
        elif isinstance(outcome.error, NotExecuted):
            assert self.runs[here] == 0, f"{here} is said to be not executed, and ran"
            self.never.add(here)
        else:
            assert isinstance(outcome.error, Indeterminate)

    def _link_failed(self, process: Process, event: LinkFailed) -> None:
        code = getattr(event.error, "code", "")
        if not event.connection.is_listener:
            process.is_twin = code == "name-taken"
        if code == "stale-epoch" and not event.connection.is_listener:
            process.is_fenced = not getattr(event.error, "temporary", False)
        for wire in self.wires:
            if event.connection is wire.listening and "connected anew" in str(event.error):
                (now_there,) = (
                    one.below
                    for one in self.of(process)
                    if one.listening.neighbour is not None
                    and wire.listening.neighbour is not None
                    and one.listening is process.endpoint.children.get(wire.listening.neighbour.fqcn)
                )
                is_well = wire.below.is_alive and not wire.vanishes and wire.connecting not in wire.ended
                assert not is_well or now_there is wire.below, f"{wire.below.base} lives, and lost its name"
            if event.connection in (wire.listening, wire.connecting):
                wire.end(event.connection, self.now)

    # What always holds.

    def in_order(self, where: Process, what: str, name: FQCN, epoch: int) -> None:
        """Note an epoch that was seen; none follows a later one."""
        last = self.latest.get((where, what, name), 0)
        assert epoch >= last, f"at {where.base}, epoch {epoch} of the {what} {name} came after {last}"
        self.latest[where, what, name] = epoch

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way that can move."""
        ends = [(wire, side) for wire in self.wires for side in (wire.listening, wire.connecting)]
        return not any(process.endpoint.events for process in self.processes) and not any(
            side.has_output for wire, side in ends if side not in wire.ended
        )


def steps(origin: FQCN, destination: FQCN) -> set[FQCN]:
    """Return the links between two cells of a tree, each by its lower cell."""

    def up(name: FQCN) -> Iterator[FQCN]:
        while name.parent is not None:
            yield name
            name = name.parent

    return set(up(origin)) ^ set(up(destination))
