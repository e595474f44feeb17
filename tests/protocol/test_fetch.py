"""A content that a cell wants, from its first byte to its last: over links that break, and as long as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.fetch import MAX_ALTERED, NO_PROGRESS_SECONDS, SILENCE_SECONDS, Altered
from cellnet.protocol.frames import FRAME_BYTES, MAX_DATA, Kind
from cellnet.protocol.plane import LOOK_SECONDS
from cellnet.protocol.want import WINDOW_BYTES
from tests.protocol.conftest import Net, Peer, new_endpoint
from tests.protocol.contents import (
    NAME,
    Counted,
    Growing,
    Taken,
    content,
    data,
    fetch,
    nothing_is_left,
    offer,
    only_offers_are_left,
    plane_is_empty,
)

if TYPE_CHECKING:
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.frames import Buffer

WHOLE = content(2 * WINDOW_BYTES + 12_345)


@pytest.fixture
def net() -> Net:
    return Net.tree("A.a", "B.b")


# Links that break


@pytest.mark.parametrize("hop", ["A.a", "A", "B", "B.b"])
@pytest.mark.parametrize("origin", ["A.a", "B.b"])
def test_after_a_link_is_lost_at_any_moment_it_goes_on_from_the_first_byte_that_is_missing(
    hop: str, origin: str
) -> None:
    destination = "B.b" if origin == "A.a" else "A.a"
    losses = 0
    for moves in range(0, 160, 3):
        net = Net.tree("A.a", "B.b")
        source, sink = Counted(WHOLE), Taken()
        fetch(net, destination, origin, offer(net, origin, source), sink)
        links = list(net.links.values())
        for number in range(moves):
            links[number % len(links)].move(net.now)
        losses += not sink.outcomes
        had = sink.position
        net.cut(hop)
        assert sink.position >= had
        net.connect(hop)
        net.run()
        net.tick(1)
        assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)
        assert source.sent - len(WHOLE) <= WINDOW_BYTES + FRAME_BYTES
        only_offers_are_left(net.endpoints.values())
        net.tick(100)  # the news that all of it is there may have been lost
        nothing_is_left(net.endpoints.values())
        if had == len(WHOLE):
            break
    assert losses > 5


def test_after_many_links_were_lost_it_is_still_whole(net: Net) -> None:
    source, sink = Counted(WHOLE), Taken()
    fetch(net, "B.b", "A.a", offer(net, "A.a", source), sink)
    for number in range(12):
        for link in net.links.values():
            link.move(net.now)
        hop = ("A", "B.b", "A.a", "B")[number % 4]
        net.cut(hop)
        net.connect(hop)
        net.tick(0.2)
    net.tick(1)
    assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)
    nothing_is_left(net.endpoints.values())


def test_it_is_wanted_at_once_when_the_way_to_the_holder_is_there_again(net: Net) -> None:
    sink = Taken()
    fetch(net, "server", "A.a", offer(net, "A.a", WHOLE), sink)
    net.cut("A")
    net.tick(20)
    assert sink.outcomes == []
    net.connect("A")
    net.run()
    assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)
    nothing_is_left(net.endpoints.values())


def test_a_link_that_is_lost_for_too_long_fails_it_and_a_patient_sink_too(net: Net) -> None:
    sinks = [Taken(), Taken(is_patient=True)]
    for sink in sinks:
        fetch(net, "B.b", "A.a", offer(net, "A.a", Growing()), sink)
    net.cut("A")
    net.tick(NO_PROGRESS_SECONDS - 5)
    assert [sink.outcomes for sink in sinks] == [[], []]
    net.tick(5 + LOOK_SECONDS)
    assert {outcome for sink in sinks for outcome in sink.outcomes} <= {"unreachable", "lost"}
    assert [len(sink.outcomes) for sink in sinks] == [1, 1]
    net.tick(200)
    nothing_is_left(net.endpoints.values())


def test_a_holder_that_was_restarted_has_it_no_longer(net: Net) -> None:
    sink = Taken()
    source = Growing()
    source.whole = b"the first"
    fetch(net, "B.b", "A.a", offer(net, "A.a", source), sink)
    net.run()
    net.cut("A.a")
    net.add("A.a", epoch=2)
    net.connect("A.a")
    net.tick(5)
    assert (sink.outcomes, sink.bytes) == (["gone"], b"the first")
    nothing_is_left(net.endpoints.values())


# Silence


def test_what_does_not_get_on_for_a_minute_fails_and_what_may_wait_does_not(net: Net) -> None:
    held = [offer(net, "A.a", Growing(), seconds=0) for _ in range(2)]
    sinks = [Taken(), Taken(is_patient=True)]
    fetches = [fetch(net, "B.b", "A.a", one, sink) for one, sink in zip(held, sinks, strict=True)]
    net.tick(NO_PROGRESS_SECONDS - 1)
    assert sinks[0].outcomes == []
    net.tick(LOOK_SECONDS)
    assert sinks[0].outcomes == ["lost"]
    net.tick(3000)
    assert sinks[1].outcomes == []
    fetches[1].cancel()
    net.tick(100)
    nothing_is_left(net.endpoints.values())


def test_what_was_forgotten_on_the_way_is_wanted_anew_after_half_a_minute(net: Net) -> None:
    source, sink = Counted(WHOLE), Taken()
    fetch(net, "B.b", "A.a", offer(net, "A.a", source), sink)
    for _ in range(3):
        for link in net.links.values():
            link.move(net.now)
    for connection in net["B"].connections:  # as if it did not know of it any more, and told nobody
        for supply in list(connection.feed.supplies.values()):
            connection.feed.drop(supply)
    net.tick(LOOK_SECONDS - 1)
    assert sink.outcomes == []
    net.tick(SILENCE_SECONDS)
    assert (sink.outcomes, sink.bytes) == (["whole"], WHOLE)


def test_who_is_silent_is_asked_again_under_another_label() -> None:
    cell = new_endpoint("R")
    above, sink = Peer.parent(cell, "R"), Taken()
    cell.plane.fetch(FQCN("server"), NAME, sink, 0.0)
    data(above, 1, 0, b"first")
    said: list[tuple[float, Kind, int]] = []
    for now in range(1, 90):
        above.now = now
        above.send(Kind.PING)
        cell.tick(now)
        said += [(now, one.kind, one.label) for one in above.frames() if one.kind in (Kind.WANT, Kind.ABORT)]
    assert said == [
        (1, Kind.WANT, 1),
        (15, Kind.WANT, 1),
        (30, Kind.ABORT, 1),
        (30, Kind.WANT, 2),
        (30, Kind.WANT, 2),
        (45, Kind.ABORT, 2),
        (45, Kind.WANT, 3),
        (45, Kind.WANT, 3),
        (60, Kind.ABORT, 3),
    ]
    assert sink.outcomes == ["lost"]
    plane_is_empty(cell)


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        ("gone", "", "the neighbour did not say why"),
        ("gone", "it is away", "it is away"),
        ("mine", "", ""),
    ],
)
def test_a_code_of_ours_never_comes_without_a_reason(code: str, reason: str, told: str) -> None:
    class Told(Taken):
        def fail(self, code: str, reason: str) -> None:
            super().fail(code, reason)
            said.append((code, reason))

    cell, said = new_endpoint("R"), list[tuple[str, str]]()
    above = Peer.parent(cell, "R")
    cell.plane.fetch(FQCN("server"), NAME, Told(), 0.0)
    above.send(Kind.ABORT, True, code, reason, label=1)
    assert said == [(code, told)]


# Sinks


class Refusing(Taken):
    """A sink that says of what it takes, or of its end, that it was altered."""

    def __init__(self, times: int, *, at: str) -> None:
        super().__init__()
        self.times = times
        self.at = at

    def write(self, data: Buffer) -> None:
        self._refuse("write")
        super().write(data)

    def end(self) -> None:
        self._refuse("end")
        super().end()

    def _refuse(self, at: str) -> None:
        if at == self.at and self.times > 0:
            self.times -= 1
            self.told()
            raise Altered("it is not what it was")


@pytest.mark.parametrize("at", ["write", "end"])
@pytest.mark.parametrize(("times", "outcome"), [(1, "whole"), (MAX_ALTERED, "whole"), (MAX_ALTERED + 1, "altered")])
def test_what_was_altered_is_wanted_again_so_many_times(net: Net, at: str, times: int, outcome: str) -> None:
    sink = Refusing(times, at=at)
    held = offer(net, "A.a", b"nothing that matters", is_for_one=False)
    fetched = fetch(net, "B.b", "A.a", held, sink)
    while not sink.outcomes:
        fetched._progressed = net.now  # that nothing else ends it
        net.tick(1)
    assert sink.outcomes == [outcome]
    assert net["B.b"].plane.refused >= times
    net.tick(200)
    nothing_is_left(net.endpoints.values())


@pytest.mark.parametrize("at", ["write", "end"])
def test_a_sink_may_cancel_while_it_says_that_it_was_altered(net: Net, at: str) -> None:
    sink = Refusing(1, at=at)
    held = offer(net, "A.a", b"nothing that matters")
    fetched = fetch(net, "B.b", "A.a", held, sink)
    sink.told = fetched.cancel
    net.run()
    assert sink.outcomes == []
    assert fetched._again is None, "what is cancelled is not to be wanted again"
    net.tick(100)
    nothing_is_left(net.endpoints.values())


def test_a_sink_may_cancel_while_it_takes_something(net: Net) -> None:
    class Cancelling(Taken):
        def write(self, data: Buffer) -> None:
            super().write(data)
            fetched.cancel()

    sink = Cancelling()
    fetched = fetch(net, "B.b", "A.a", offer(net, "A.a", WHOLE), sink)
    net.run()
    assert sink.outcomes == []
    assert 0 < len(sink.bytes) <= MAX_DATA
    assert WHOLE.startswith(bytes(sink.bytes))
    nothing_is_left(net.endpoints.values())


def test_a_sink_may_cancel_when_it_has_all(net: Net) -> None:
    sink = Taken()
    fetched = fetch(net, "B.b", "A.a", offer(net, "A.a", WHOLE), sink)
    sink.told = fetched.cancel
    net.run()
    assert sink.outcomes == ["whole"]
    nothing_is_left(net.endpoints.values())


# Several that end together


def together(cell: Endpoint, number: int, **how: Any) -> tuple[list[Fetch], list[Taken]]:
    """Want several contents, all of which are cancelled when one of them fails."""
    sinks = [Taken(**how) for _ in range(number)]
    fetches = [cell.plane.fetch(FQCN("server"), NAME, sink, 0.0) for sink in sinks]

    def cancel() -> None:
        for one in fetches:
            one.cancel()

    for sink in sinks:
        sink.told = cancel
    return fetches, sinks


def test_when_one_fails_for_silence_others_may_be_cancelled() -> None:
    cell = new_endpoint("R")
    above = Peer.parent(cell, "R")
    _fetches, sinks = together(cell, 3)
    for now in range(1, 200):
        above.now = now
        above.send(Kind.PING)
        cell.tick(now)
    assert [sink.outcomes for sink in sinks] == [["lost"], [], []]
    plane_is_empty(cell)


def test_when_one_fails_with_its_link_others_may_be_cancelled() -> None:
    cell = new_endpoint("R")
    above = Peer.parent(cell, "R")
    fetches, sinks = together(cell, 3)
    for one in fetches:
        one._progressed = -NO_PROGRESS_SECONDS
    cell.close(above.connection, 0.0)
    assert [sink.outcomes for sink in sinks] == [["lost"], [], []]
    cell.tick(100)
    plane_is_empty(cell)


def test_when_one_fails_as_a_link_begins_others_may_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = new_endpoint("R")
    fetches, sinks = together(cell, 3)
    for one in fetches:
        one._progressed = -NO_PROGRESS_SECONDS
    monkeypatch.setattr(cell.plane, "next_hop", lambda _holder: None)
    cell.plane.reachable(lambda _name: True, 0.0)
    assert [sink.outcomes for sink in sinks] == [["unreachable"], [], []]
    cell.tick(100)
    plane_is_empty(cell)


def test_what_waits_to_be_wanted_again_may_be_cancelled(net: Net) -> None:
    sink = Taken()
    fetched = fetch(net, "B.b", "A.x", bytes(16), sink)
    net.run()
    assert fetched.want is None
    fetched.extend(net.now)
    fetched.cancel()
    net.tick(100)
    assert sink.outcomes == []
    nothing_is_left(net.endpoints.values())
