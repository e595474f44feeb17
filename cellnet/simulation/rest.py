"""Whether a cell is at rest: once nobody asks any more, and all was repaired, its tables are empty again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cellnet.protocol.askers import Asker
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.simulation.cell import SimulatedCell

__all__ = ["leftovers"]

MAX_TIMERS = 256
"""Beside one for each link and session: cancelled ones are only swept out when they are many."""


def leftovers(cell: SimulatedCell, below: Iterable[str], *, answers: int) -> list[str]:
    """Return what a cell at rest, in a network without faults, does not have; one line each.

    :param below: the cells that are below it
    :param answers: how many answers it may keep for those who asked
    """
    if not cell.is_up or cell.is_frozen:
        return ["it does not run"]
    endpoint, owner = cell.endpoint, cell.owner
    known = {str(member.fqcn) for member in endpoint.router.members()}
    found = {
        "missing among the cells known below": set(below) - known,
        "unknown among the cells known below": known - set(below),
        "handlers": owner.handling,
        "callers that wait": owner.awaited + len(owner.waiting_for_room),
        "streams": owner.streams,
        **_messages(endpoint, answers),
        **_links(cell),
        **_routes(endpoint),
        **_contents(endpoint),
    }
    return [
        f"{what}: {', '.join(sorted(value)) if isinstance(value, set) else value}"
        for what, value in found.items()
        if value
    ]


def _messages(endpoint: Endpoint, answers: int) -> dict[str, int]:
    asking, answering = endpoint.exchange.asking, endpoint.exchange.answering
    sessions = list(asking.sessions.those(lambda _name: True))
    askers = list(answering._askers)
    few = MAX_TIMERS + len(endpoint.connections) + len(sessions)
    return {
        "answers awaited": asking.pending,
        "calls": len(asking._calls),
        "transmissions of which nothing is known": sum(len(session.flying.keys()) for session in sessions),
        "events that wait for a session": asking.untold + sum(len(session.events) for session in sessions),
        "requests worked on": answering.running,
        "requests with an ordering key that wait": sum(asker.lanes.held for asker in askers),
        "places of requests that were taken out": sum(asker.lanes.left for asker in askers),
        "answers kept": max(0, answering.records - answers),
        "bytes of answers kept": answering.cached_bytes if not answering.records else 0,
        "sessions to here of nobody": len(answering._askers._sessions) - sum(map(_sessions, askers)),
        "timers": len(endpoint.timers) if len(endpoint.timers) > few else 0,
    }


def _sessions(asker: Asker) -> int:
    return (asker.current is not None) + (asker.offered is not None)


def _links(cell: SimulatedCell) -> dict[str, int]:
    endpoint = cell.endpoint
    live = endpoint.connections.keys()
    return {
        "bytes queued": sum(connection.queued_bytes for connection in live),
        "links without a neighbour": sum(connection.neighbour is None for connection in live),
        "links that the owner closed": len(live - cell.ends.keys()),
        "links that the endpoint forgot": len(cell.ends.keys() - live),
        "links to a parent, too few": int(endpoint.router.parent is None and cell.parent is not None),
    }


def _contents(endpoint: Endpoint) -> dict[str, int]:
    plane = endpoint.plane
    feeds = [neighbour.feed for neighbour in plane._neighbours()]
    return {
        "contents held": len(plane.offers),
        "contents awaited": len(plane.fetches),
        "contents that pass": len(plane.transit.passages) + len(plane.transit.objects) + len(plane.transit.pulls),
        "bytes that were promised to contents that pass": plane.transit.promised,
        "contents that pass and lie in a buffer": len(plane.transit._volatile),
        "contents that neighbours want": sum(len(feed.supplies) for feed in feeds),
        "contents wanted of neighbours": sum(len(feed.wants) for feed in feeds),
    }


def _routes(endpoint: Endpoint) -> dict[str, int]:
    live = endpoint.connections.keys()
    return {
        "own routes over dead links": sum(
            route.out not in live for route in endpoint.switch._own.values() if route.out is not None
        ),
        "labels of routes from dead links": sum(
            route.source is not None and route.source not in live
            for connection in live
            for route in connection.routes_out()
        ),
        "routes from neighbours over dead links": sum(
            route.out is not None and route.out not in live
            for connection in live
            for route in connection.routes.values()
        ),
    }
