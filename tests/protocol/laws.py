"""What holds in a ``World`` after every step, and what is left when it has come to rest."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from cellnet.fqcn import FQCN, ROOT
from cellnet.protocol.events import Replied
from cellnet.protocol.frames import Kind
from tests.protocol.world import steps

if TYPE_CHECKING:
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint
    from tests.protocol.world import Process, World

__all__ = ["labels_lead_somewhere", "names_are_unique", "nothing_is_left", "presence_is_exact", "repair", "routes_lead"]


def presence_is_exact(world: World) -> None:
    """Every cell knows its children and those that they know, as far as nothing is under way or vanishes."""
    for process in world.processes:
        router = process.endpoint.router
        behind: dict[Connection, set[tuple[FQCN, int]]] = defaultdict(set)
        for member in router.members():
            link = router.next_hop(member.fqcn)
            assert link is not None
            behind[link].add((member.fqcn, member.epoch))
        assert process.below == dict(one for members in behind.values() for one in members)
        assert set(behind) == set(process.endpoint.children.values())
        for wire in world.of(process):
            if wire.above is not process or wire.listening in wire.ended or wire.listening.neighbour is None:
                continue
            child, there = wire.listening.neighbour, wire.below.endpoint
            if wire.vanishes:
                assert all(name == child.fqcn or child.fqcn.is_ancestor_of(name) for name, _ in behind[wire.listening])
            else:
                assert there.router.parent is wire.connecting
                assert child.fqcn == there.fqcn
                known = {(member.fqcn, member.epoch) for member in there.router.members()}
                expected = known | {(there.fqcn, there._epoch)}
                assert behind[wire.listening] == expected, f"{process.base} does not know who is below it"


def names_are_unique(world: World) -> None:
    """No cell has two children of one name; who waits for a name is on a link that is there, and not in yet."""
    for process in world.processes:
        endpoint = process.endpoint
        children = [one for one in endpoint.connections if one.is_listener and one.neighbour is not None]
        assert set(children) == set(endpoint.children.values())
        for name, connection in endpoint.children.items():
            assert connection.neighbour is not None
            assert connection.neighbour.fqcn == name
            assert name.parent == endpoint.fqcn
        for name, newcomer in endpoint._fencing._waiting.items():
            assert newcomer.connection in endpoint.connections
            assert newcomer.connection.neighbour is None
            assert name.parent == endpoint.fqcn


def labels_lead_somewhere(world: World) -> None:
    """Labels belong to routes that lead from a link that is there, or from the cell, to another that is."""
    for process in world.processes:
        endpoint = process.endpoint
        for connection in endpoint.connections:
            for label, route in connection._labels.items():
                assert (route.out, route.label) == (connection, label), "a label is held for a route that ended"
                if route.source is None:
                    begin = endpoint.switch._own[route.destination]
                else:
                    assert route.source in endpoint.connections, "a label is held for a link that ended"
                    begin = route.source.routes[route.source_label]
                assert route is begin or route in begin._branches.values()
            for label, route in connection.routes.items():
                assert (route.source, route.source_label) == (connection, label)
                for out in [one.out for one in (route, *route._branches.values()) if one.out is not None]:
                    assert out in endpoint.connections, "a route leads to a link that ended"
        assert all(route.origin == endpoint.fqcn for route in endpoint.switch._own.values())


def repair(world: World) -> None:
    """Let everybody dial who has no parent; end who can never join, and start the last of a name again.

    Of a cell that was started twice, and is below two parents, the last start is the cell.
    """
    lost: list[Process] = []
    latest = {process.base: process for process in sorted(world.processes, key=lambda one: one.endpoint._epoch)}
    for process in [process for process in world.processes if latest[process.base] is not process]:
        world.kill(process)
    for _ in range(6):
        for _ in range(16):  # a silent link is found within 15 seconds
            for process in sorted(world.processes, key=lambda one: (one.base != ROOT, one.place, one.number)):
                world.dial(process)
                world.run()
            world.wait(1)
        lost = [process for process in world.processes if not process.is_joined]
        for process in [process for process in lost if process.is_fenced or process.is_twin]:
            world.kill(process)
            if process.is_fenced and all(one.base != process.base for one in world.processes):
                world.start(process.base, process.place)
        world.run()
        if not lost:
            return
    raise AssertionError(f"{[process.base for process in lost]} could not join")


def routes_lead(world: World) -> None:
    """Any two cells reach each other, over the links between them and no others, each once."""
    names = sorted((process.name for process in world.processes), key=str)
    assert len(set(names)) == len(names)
    by_name = {process.name: process for process in world.processes}
    links = {wire.below.name: wire for wire in world.wires}
    for origin in names:
        asked = world.ask(by_name[origin], names, "echo")
        world.wait(0.5)
        assert {name: type(outcome) for name, outcome in asked.outcomes.items()} == dict.fromkeys(names, Replied)
    for number, origin in enumerate(names):
        destination = names[number - 1]
        for kind, targets in ((Kind.BROADCAST, names), (Kind.REQUEST, [destination])):
            before = {name: wire.sent(kind) for name, wire in links.items()}
            asked = world.ask(by_name[origin], targets, "echo")
            world.run()
            assert not asked.awaited
            crossed = {name for name, wire in links.items() for _ in range(wire.sent(kind) - before[name])}
            expected = set(links) if kind is Kind.BROADCAST else steps(origin, destination)
            assert crossed == expected
            assert sum(wire.sent(kind) - before[name] for name, wire in links.items()) == len(expected)


def nothing_is_left(world: World) -> None:
    """At rest nothing waits, is remembered or is due but the next look at each link."""
    for process in world.processes:
        _is_at_rest(process.endpoint)
        assert process.held == {}
    for asked in world.asked.values():
        assert not asked.awaited or not asked.origin.is_alive


def _is_at_rest(endpoint: Endpoint) -> None:
    asking, answering = endpoint.exchange.asking, endpoint.exchange.answering
    assert (asking.pending, asking.untold, asking._calls) == (0, 0, {})
    assert (answering.running, answering.records, answering.cached_bytes, answering._messages) == (0, 0, 0, {})
    assert len(endpoint._fencing) == 0
    for connection in endpoint.connections:
        assert (connection.queued_bytes, connection.has_output) == (0, False)
        assert connection.neighbour is not None
    due = [entry for entry in endpoint.timers._heap if entry[2].action is not None]
    assert len(due) == len(endpoint.connections)
    for session in asking.sessions.those(lambda _name: True):
        assert (session.opening, session.settling) == (None, None)
    numbers = answering._askers._sessions
    assert len(numbers) <= 2 * len(answering._askers)
