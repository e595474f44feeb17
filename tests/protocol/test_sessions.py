"""The sessions that a cell opens: asked for until there is an answer, left when a way breaks, forgotten when idle."""

from __future__ import annotations

import pytest

from cellnet.errors import Busy
from cellnet.protocol import asking as asking_module
from cellnet.protocol import sessions as sessions_module
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message, Replied
from tests.protocol.conftest import Net


@pytest.mark.parametrize("pause", [1, 15])
def test_a_session_that_was_forgotten_is_not_mistaken_for_the_old_one(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 1)
    net = Net.tree("A", "B")
    for number, name in enumerate(("A", "B", "A")):
        net.request("server", name, payload=str(number).encode())
        net.tick(pause)
    assert [o.payload for o in net.outcomes("server") if isinstance(o, Replied)] == [b"0", b"1", b"2"]


def test_a_request_that_finds_no_room_for_a_session_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 2)
    net = Net.tree("A", "B", "C")
    for name in ("A", "B"):
        net.request("server", name, topic="hold")
    net.run()
    for destinations in (["C"], ["B", "C"], ["C", "A"]):
        with pytest.raises(Busy, match="this cell has requests open at 2 cells"):
            net.request("server", *destinations)
    net.run()
    assert net["server"].exchange.pending == 2
    for name in ("A", "B"):
        (message,) = net.received(name, Message)
        net[name].ended(message.number, Status.OK, 0, b"", net.now)
    net.run()
    assert [type(outcome) for outcome in net.outcomes("server")] == [Replied, Replied]
    net.request("server", "C", "A")
    net.run()
    assert [type(outcome) for outcome in net.outcomes("server")] == [Replied, Replied]
    assert [message.sequence for message in net.received("A", Message)] == [1, 2]
    assert net["server"].exchange.pending == 0


def test_there_may_be_a_session_for_each_answer_that_a_cell_waits_for() -> None:
    """Else a broadcast could find no room for its last destinations but that of its first."""
    assert sessions_module.MAX_SESSIONS >= asking_module.MAX_PENDING
