"""Faults in asking and answering, each as a test that fails; once mended, it belongs to the tests of its module."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.envelope import Answer, Status
from cellnet.protocol.events import Cancelled, Failed, Message
from cellnet.protocol.frames import Kind, pack, unpack
from tests.protocol.conftest import MINUTE, Net, Peer, events, new_endpoint

if TYPE_CHECKING:
    from cellnet.protocol.endpoint import Endpoint

A = [FQCN("A")]


def fails(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(reason=reason, strict=True, raises=(AssertionError, KeyError))


@fails("a request that failed is still waited for by its broadcast")
def test_a_broadcast_does_not_wait_for_those_that_failed() -> None:
    net = Net.tree("A", "B")
    net.request("server", "A", "B", "X", once=False)
    net.run()
    assert len(net.outcomes("server")) == 3


@fails("a counter of an earlier session is taken for one of the present session")
def test_what_ended_does_not_take_along_what_is_under_way_in_a_later_session() -> None:
    server, peer = asked()
    ask(server)
    reply(peer, 7, 2, sequence=2)
    ask(server)
    assert requests(peer) == [[7, 1], [7, 2]]
    peer.send(Kind.CLOSED, 7, 99, body=pack("no such session"))
    peer.opened(8, 2)
    ask(server, once=False)
    assert requests(peer) == [[8, 1], [8, 2]]
    reply(peer, 8, 1, sequence=3)
    events(server)
    peer.send(Kind.NACK, "unreachable", "gone", [["A", 8, 2]], label=0)
    assert [str(failed.error) for failed in events(server, Failed)] == ["gone"]


@fails("what is in doubt from an earlier session is said to be not executed")
def test_what_may_have_run_in_an_earlier_session_is_not_said_to_be_not_executed() -> None:
    server, peer = asked()
    ask(server, once=False)
    ask(server)
    assert requests(peer) == [[7, 1], [7, 2]]
    events(server)
    peer.send(Kind.CLOSED, 7, 2, body=pack("no such session"))
    peer.send(Kind.NACK, "unreachable", "gone", [["A", 0, 2]], label=0)
    assert [type(failed.error).__name__ for failed in events(server, Failed)] == ["Indeterminate"]


@fails("CLOSED to an OPEN leaves the request in it in doubt")
def test_a_request_whose_open_was_refused_was_not_executed() -> None:
    server = new_endpoint("server")
    peer = Peer.child(server, "A")
    peer.bind(0, "A", "server")
    server.request(A, "t", 0, b"", deadline=3.0, now=0.0)
    for attempt in count(1):
        assert Kind.OPEN in peer.kinds()
        peer.send(Kind.CLOSED, 0, attempt, body=pack("too many"))
        if (due := server.due) >= 3.0:
            break
        peer.now = due
        server.tick(due)
    server.tick(3.0)
    assert [type(failed.error).__name__ for failed in events(server, Failed)] == ["StillUnreachable"]


@fails("what waited for its turn starts after its deadline, and is cancelled at once")
def test_what_waits_for_its_turn_until_its_deadline_never_starts() -> None:
    net = Net.tree("A")
    for number in range(3):
        net.request("server", "A", topic="hold", payload=str(number).encode(), key="k", deadline=net.now + 5)
    net.tick(10)
    assert [message.payload for message in net.received("A", Message)] == [b"0"]
    assert len(net.received("A", Cancelled)) == 1


def asked() -> tuple[Endpoint, Peer]:
    """Return a cell that asked its neighbour once, and was answered in session 7."""
    server = new_endpoint("server")
    peer = Peer.child(server, "A")
    peer.bind(0, "A", "server")
    ask(server)
    peer.frames()
    peer.opened(7)
    reply(peer, 7, 1, sequence=1)
    return server, peer


def ask(server: Endpoint, *, once: bool = True) -> None:
    server.request(A, "t", 0, b"", deadline=MINUTE, now=0.0, once=once)


def reply(peer: Peer, session: int, counter: int, *, sequence: int) -> None:
    peer.send(Kind.REPLY, session, counter, body=Answer(sequence, 0, Status.OK, 0, b"").pack())


def requests(peer: Peer) -> list[list[int]]:
    """Return session and counter of the requests that came since the last call."""
    return [unpack(frame.header, int, int) for frame in peer.frames() if frame.kind is Kind.REQUEST]
