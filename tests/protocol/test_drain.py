"""A cell that is to end takes nothing new, answers what it took, and leaves nobody in doubt about the rest."""

from __future__ import annotations

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol import envelope
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Failed, Message, Replied
from cellnet.protocol.frames import Kind
from tests.protocol.conftest import MINUTE, Net


def restart(net: Net, name: str, epoch: int) -> None:
    """End a cell, and start it again in its place."""
    net.cut(name)
    net.add(name, epoch)
    net.connect(name)
    net.run()


def held(net: Net, name: str) -> list[Message]:
    return [message for message in net.received(name, Message) if message.topic == "hold"]


def test_what_was_taken_is_answered_and_what_comes_then_goes_to_the_next_start() -> None:
    net = Net.tree("A", "B")
    net.request("B", "A")
    net.request("B", "A", topic="hold", payload=b"taken")
    net.run()
    net["A"].drain()
    net.request("B", "A", payload=b"later")
    net["B"].send(FQCN("A"), "news", 1, b"!", deadline=net.now + MINUTE, now=net.now)
    net.request("server", "A", payload=b"in no session yet")
    net.tick(1)
    assert [m.payload for m in net.received("A", Message)] == [b"?", b"taken"]
    (message,) = held(net, "A")
    net["A"].ended(message.number, Status.OK, 0, b"done", net.now)
    assert net["A"].exchange.answering.running == 0
    net["A"].drained(net.now)
    net.run()
    restart(net, "A", 2)
    net.tick(5)
    assert [o.payload for o in net.outcomes("B") if isinstance(o, Replied)] == [b"?", b"done", b"later"]
    assert [o.payload for o in net.outcomes("server") if isinstance(o, Replied)] == [b"in no session yet"]
    ran = [m.payload for m in net.received("A", Message)]
    assert sorted(ran) == sorted([b"?", b"taken", b"later", b"in no session yet"])


def test_what_was_on_its_way_is_not_in_doubt_and_what_did_not_end_is() -> None:
    net = Net.tree("A", "B")
    net.request("B", "A")
    net.request("B", "A", topic="hold")
    net.run()
    net.outcomes("B")
    net.links["A"].child_reads = False
    net.request("B", "A", payload=b"on its way")
    net.request("B", "A", payload=b"once", once=False)
    net.tick(1)
    net["A"].drained(net.now)
    net.run()
    restart(net, "A", 2)
    net.tick(5)
    outcomes = net.outcomes("B")
    assert [o.payload for o in outcomes if isinstance(o, Replied)] == [b"on its way"]
    assert [type(o.error).__name__ for o in outcomes if isinstance(o, Failed)] == ["Unreachable", "Indeterminate"]


def test_what_an_earlier_start_may_have_run_stays_in_doubt() -> None:
    net = Net.tree("A", "B")
    net.request("B", "A")
    net.request("B", "A", topic="hold")
    net.run()
    net.outcomes("B")
    net.links["A"].child_reads = False
    net.cut("A")
    net.add("A", 2)
    net.connect("A")
    net.links["A"].child_reads = True
    net["A"].drain()
    net.run()
    net["A"].drained(net.now)
    net.run()
    restart(net, "A", 3)
    net.tick(5)
    assert net.failures("B") == {"A": "Indeterminate"}
    assert [m.doubt for m in held(net, "A")] == [False, True]


@pytest.mark.parametrize("limit", [1, 64])
def test_of_many_requests_in_the_middle_more_are_held_for_in_doubt_than_are(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(envelope, "MAX_RANGES", limit)
    monkeypatch.setattr("cellnet.protocol.answering.MAX_RANGES", limit)
    net = Net.tree("A", "B")
    net.request("B", "A")
    net.run()
    net.outcomes("B")
    for topic in ("hold", "late", "hold"):
        if topic == "late":  # it is lost on its way
            net.links["A"].tamper = lambda _frame: b""
        net.request("B", "A", topic=topic)
        net.run()
        net.links["A"].tamper = None
    net["A"].drained(net.now)
    net.run()
    restart(net, "A", 2)
    net.tick(5)
    replied = [o for o in net.outcomes("B") if isinstance(o, Replied)]
    assert len(replied) == (1 if limit > 1 else 0)


def test_who_asked_in_no_session_that_is_open_is_told_nothing() -> None:
    net = Net.tree("A", "B")
    net["A"].drained(net.now)
    net.run()
    assert net.links["A"].sent(Kind.DRAINED) == 0


def test_what_waited_for_its_turn_when_a_cell_was_drained_goes_to_its_next_start() -> None:
    net = Net.tree("A")
    for payload in (b"runs", b"waits"):
        net.request("server", "A", topic="hold" if payload == b"runs" else "echo", payload=payload, key="k")
        net.tick(0.1)
    net.request("server", "A", payload=b"makes sure that the session is used")
    net["server"].send(FQCN("A"), "news", 0, b"", deadline=net.now + 9, now=net.now, key="k")
    net.tick(0.1)
    net["A"].drain()
    net["A"].drained(net.now)
    net.run()
    net.cut("A")
    net.outcomes("server")
    net.add("A", 2)
    net.connect("A")
    net.tick(5)
    assert [outcome.payload for outcome in net.outcomes("server") if isinstance(outcome, Replied)] == [b"waits"]
    assert [message.payload for message in net.received("A", Message) if message.doubt] == [b"runs"]
