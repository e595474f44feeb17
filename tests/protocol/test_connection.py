"""One link: what waits in it and for how long, its labels, and how it is kept alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol import connection as module
from cellnet.protocol.connection import (
    BATCH_BYTES,
    BUDGET_BYTES,
    FRAME_OVERHEAD_BYTES,
    RESERVE_BYTES,
    Connection,
    Route,
)
from cellnet.protocol.frames import MAX_REMAINING_MS, Frame, Kind, pack, unpack
from cellnet.protocol.handshake import Handshake, Self
from tests.protocol.conftest import MEMORY, NONCE, WALL, decode_frames, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

ME = FQCN("R1")
NOW = 1000.0
LATER = NOW + 60


@pytest.fixture
def connection() -> Connection:
    return new_connection()


def new_connection(*, is_listener: bool = True) -> Connection:
    handshake = Handshake(Self("R1", "cell", 1), MEMORY, NONCE, WALL)
    return Connection(handshake, is_listener=is_listener, now=NOW)


def route(destination: str | None = "A", origin: FQCN = ME) -> Route:
    return Route(origin, FQCN(destination) if destination else None)


def forward(connection: Connection, way: Route, size: int = 0, *, expires: float = LATER) -> bool:
    return connection.forward(way, Kind.REQUEST, b"", bytes(size), expires=expires)


def sent(connection: Connection, now: float = NOW) -> list[Frame]:
    return decode_frames(connection.take(now))


# Labels


def test_a_label_is_bound_before_it_is_used_and_only_once(connection: Connection) -> None:
    way, other = route("A"), route(None)
    for each in (way, other, way):
        assert forward(connection, each)
    frames = sent(connection)
    assert [(f.kind, f.label) for f in frames] == [
        (Kind.BIND, 0),
        (Kind.REQUEST, 0),
        (Kind.BIND, 1),
        (Kind.REQUEST, 1),
        (Kind.REQUEST, 0),
    ]
    assert [unpack(f.header, str, (str, type(None))) for f in frames if f.kind is Kind.BIND] == [
        ["R1", "A"],
        ["R1", None],
    ]


def test_a_full_table_gives_the_label_that_was_not_used_for_longest(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LABELS", 3)
    ways = [route(name) for name in "ABCD"]
    for way in ways[:3]:
        forward(connection, way)
    forward(connection, ways[0])
    forward(connection, ways[3])
    assert ways[3].label == 1
    assert connection.owner(1) is ways[3]
    assert ways[1].out is None
    sent(connection)
    forward(connection, ways[1])
    assert [(f.kind, f.label) for f in sent(connection)] == [(Kind.BIND, 2), (Kind.REQUEST, 2)]
    assert len(list(connection.routes_out())) == 3


def test_labels_that_were_released_are_given_again(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LABELS", 3)
    ways = [route(name) for name in "ABCDE"]
    for way in ways[:3]:
        forward(connection, way)
    connection.release(ways[0])
    connection.release(ways[1])
    connection.release(ways[1])
    assert connection.owner(0) is None
    for way in ways[3:]:
        forward(connection, way)
    assert sorted(way.label for way in connection.routes_out()) == [0, 1, 2]
    assert ways[2].out is connection


def test_a_route_that_was_evicted_does_not_take_its_heirs_label_along(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LABELS", 1)
    old, new = route("A"), route("B")
    forward(connection, old)
    forward(connection, new)
    connection.release(old)
    assert connection.owner(0) is new


def test_what_a_neighbour_binds_is_bounded_by_the_range_of_labels(connection: Connection) -> None:
    bound = connection.bind(4095, ME, None)
    assert connection.routes == {4095: bound}
    with pytest.raises(RemoteProtocolError, match="label 4096"):
        connection.bind(4096, ME, None)


def test_a_label_that_is_bound_anew_gives_back_what_its_old_route_held_further_on(connection: Connection) -> None:
    out = new_connection()
    old = connection.bind(7, ME, FQCN("A"))
    forward(out, old)
    assert out.owner(0) is old
    connection.bind(7, ME, FQCN("B"))
    assert out.owner(0) is None


def test_a_broadcasts_route_has_a_label_on_every_link_it_takes(connection: Connection) -> None:
    one, two = new_connection(), new_connection()
    way = connection.bind(1, ME, None)
    branches = []
    for out in (one, two):
        branch = way.branch(out)
        branches.append(branch)
        forward(out, branch)
        assert (branch.origin, branch.source, branch.source_label) == (ME, connection, 1)
    assert way.branch(one) is branches[0]
    way.end()
    assert one.owner(0) is two.owner(0) is None


def test_a_broadcasts_route_forgets_links_that_ended(connection: Connection) -> None:
    way = route(None)
    old = [new_connection() for _ in range(3)]
    for out in old:
        forward(out, way.branch(out))
        out.release(way.branch(out))
    way.branch(connection)
    assert len(way._branches) == 1


# What waits


def test_frames_about_the_link_go_ahead_of_messages_but_for_news_that_ends_them(connection: Connection) -> None:
    forward(connection, route())
    connection.control(Kind.PRESENCE)
    connection.control(Kind.LOST, "A", True, label=4)
    connection.control(Kind.NACK)
    connection.control(Kind.PING)
    connection.go_away("bye")
    assert [f.kind for f in sent(connection)] == [
        Kind.NACK,
        Kind.PING,
        Kind.BIND,
        Kind.REQUEST,
        Kind.PRESENCE,
        Kind.LOST,
        Kind.GOAWAY,
    ]


def test_a_link_is_full_at_its_budget_and_takes_answers_up_to_the_reserve(connection: Connection) -> None:
    way = route()
    assert not connection.is_full
    while not connection.is_full:
        assert forward(connection, way, 65536)
    assert connection.queued_bytes < BUDGET_BYTES + 70000
    assert connection.refuses_new
    while forward(connection, way, 65536):
        pass
    assert BUDGET_BYTES + RESERVE_BYTES - 66000 < connection.queued_bytes <= BUDGET_BYTES + RESERVE_BYTES + 600
    assert connection.statistics.dropped == 1
    while connection.take(NOW):
        pass
    assert connection.queued_bytes == 0
    assert not connection.is_full


def test_small_frames_are_bounded_by_what_they_take_in_memory(connection: Connection) -> None:
    way = route()
    count = 0
    while not connection.is_full:
        forward(connection, way)
        count += 1
    assert count <= BUDGET_BYTES // FRAME_OVERHEAD_BYTES


def test_for_a_full_parent_senders_wait_and_nothing_is_refused() -> None:
    connection = new_connection(is_listener=False)
    while not connection.is_full:
        forward(connection, route(), 65536)
    assert not connection.refuses_new


def test_a_neighbour_that_never_reads_gets_no_more_control_frames_and_is_ended(connection: Connection) -> None:
    connection.control(Kind.PING)
    while not connection.is_stuck:
        connection.control(Kind.NACK, bytes(1000))
        assert connection.queued_bytes <= BUDGET_BYTES + RESERVE_BYTES + 2000
    assert connection.statistics.dropped == 1
    assert connection.tick(NOW) == "the neighbour does not read"


def test_a_batch_ends_with_the_frame_that_reaches_its_limit(connection: Connection) -> None:
    way = route()
    for _ in range(10):
        forward(connection, way, 65536)
    sizes = []
    while buffers := connection.take(NOW):
        sizes.append(sum(map(len, buffers)))
    assert all(BATCH_BYTES <= size < BATCH_BYTES + 70000 for size in sizes[:-1])
    assert sum(sizes) == connection.statistics.bytes_sent
    assert connection.statistics.frames_sent[Kind.REQUEST] == 10


def test_the_owner_is_woken_before_there_is_something_to_send_after_there_was_nothing(connection: Connection) -> None:
    woken: list[bool] = []
    connection.wake = lambda: woken.append(not connection.has_output)
    assert not connection.has_output
    forward(connection, route())
    forward(connection, route())
    connection.control(Kind.PING)
    assert woken == [True]
    sent(connection)
    assert not connection.has_output
    connection.control(Kind.PING)
    assert woken == [True, True]


def test_what_is_held_of_an_incomplete_frame_is_known_to_who_makes_room_for_it(connection: Connection) -> None:
    frame = encode_frame(Kind.REQUEST, b"header", b"body")
    assert list(connection.receive(frame[:20], NOW)) == []
    assert connection.held_bytes == 20
    buffer = memoryview(bytearray(20) + frame[20:])
    (received,) = connection.receive(buffer, NOW, connection.held_bytes)
    assert (received.header, received.body) == (b"header", b"body")
    assert (connection.held_bytes, connection.statistics.bytes_received) == (0, len(frame))


# Deadlines


def test_the_time_a_frame_waits_is_subtracted_from_its_deadline(connection: Connection) -> None:
    forward(connection, route(), expires=NOW + 2)
    bind, request = sent(connection, NOW + 0.5)
    assert (bind.remaining_ms, request.remaining_ms) == (0, 1500)


@pytest.mark.parametrize("waits", [2.0, 1.9995, 3.0])
def test_a_frame_whose_time_is_up_is_dropped_and_counted(connection: Connection, waits: float) -> None:
    forward(connection, route(), expires=NOW + 2)
    assert [f.kind for f in sent(connection, NOW + waits)] == [Kind.BIND]
    assert connection.statistics.dropped == 1
    assert connection.queued_bytes == 0


@pytest.mark.parametrize("expires", [float("inf"), NOW + 1e9])
def test_a_deadline_that_is_too_far_away_for_the_wire_is_the_farthest_there(
    connection: Connection, expires: float
) -> None:
    forward(connection, route(), expires=expires)
    assert sent(connection)[1].remaining_ms == MAX_REMAINING_MS


# Time


def establish(connection: Connection) -> Connection:
    join = pack(1, "", "C1", "cell", 1, NONCE, [], "memory", "clear", b"", b"", [])
    connection.send_hello()
    connection.neighbour = connection.handshake.join_received(join, b"", ME)
    sent(connection)
    return connection


def test_a_handshake_may_take_five_seconds(connection: Connection) -> None:
    assert connection.due(0.5) == NOW + 5
    assert connection.tick(NOW + 4.9) is None
    assert connection.tick(NOW + 5) == "the handshake took longer than 5 s"
    assert not connection.has_output


@pytest.mark.parametrize(("jitter", "at"), [(0.0, 5.0), (1.0, 3.5)])
def test_a_silent_link_sends_a_ping(connection: Connection, jitter: float, at: float) -> None:
    establish(connection)
    assert connection.due(jitter) == NOW + at
    assert connection.tick(NOW + at - 0.1) is None
    assert not connection.has_output
    assert connection.tick(NOW + at) is None
    assert [f.kind for f in sent(connection, NOW + at)] == [Kind.PING]
    assert connection.due(jitter) == NOW + at + at
    connection.tick(NOW + at + 1)
    assert not connection.has_output


def test_a_ping_that_cannot_leave_is_not_followed_by_another(connection: Connection) -> None:
    establish(connection)
    for seconds in (5, 6, 9.9):
        connection.due(0.0)
        assert connection.tick(NOW + seconds) is None
    assert [f.kind for f in sent(connection, NOW + 10)] == [Kind.PING]


def test_a_link_is_looked_at_when_it_may_be_dead_although_it_has_nothing_to_say(connection: Connection) -> None:
    establish(connection)
    forward(connection, route(), expires=NOW + 100)
    sent(connection, NOW + 11)
    assert connection.due(0.0) == NOW + 12


@given(st.floats(0, 1e6), st.floats(0, 20), st.floats(0, 1))
def test_what_is_due_is_done_so_that_the_same_time_is_not_due_again(start: float, later: float, jitter: float) -> None:
    handshake = Handshake(Self("R1", "cell", 1), MEMORY, NONCE, WALL)
    connection = Connection(handshake, is_listener=True, now=start)
    assert connection.tick(connection.due(jitter)) is not None
    establish(connection)
    connection.not_read(start + later)
    due = connection.due(jitter)
    assert connection.tick(due) is not None or connection.due(jitter) > due


@pytest.mark.parametrize(
    "hear",
    [
        lambda connection: list(connection.receive(b"\x00", NOW + 10)),
        lambda connection: connection.not_read(NOW + 10),
    ],
)
def test_a_neighbour_that_was_not_heard_for_twelve_seconds_is_dead(
    connection: Connection, hear: Callable[[Connection], object]
) -> None:
    establish(connection)
    assert connection.tick(NOW + 11.9) is None
    hear(connection)
    assert connection.tick(NOW + 21.9) is None
    assert connection.tick(NOW + 22) == "nothing was heard for 12 s"
