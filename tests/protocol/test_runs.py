"""Frames that only pass: they leave as they lie, in their order, and nothing else about them changes."""

from __future__ import annotations

import pytest

from cellnet.fqcn import FQCN, MAX_HOPS
from cellnet.protocol import connection as connection_module
from cellnet.protocol import runs as runs_module
from cellnet.protocol.frames import Frame, Kind, pack, unpack
from cellnet.protocol.runs import FRAME_OVERHEAD_BYTES, Run
from tests.protocol.conftest import Peer, decode_frames, encode_frame, new_endpoint


class Relay:
    """A server with two children; routes from one to the other are known to it, so that what follows passes."""

    def __init__(self) -> None:
        self.endpoint = new_endpoint("server")
        self.a, self.b = Peer.child(self.endpoint, "A"), Peer.child(self.endpoint, "B")
        for label in (0, 1):
            self.a.bind(label, "A", "B" if label == 0 else "B.x")
        self.b.send(Kind.PRESENCE, body=pack([1, "B.x", "cell", "", 1, "memory", "clear", []]))
        for label in (0, 1):
            self.a.send_bytes(frame(0, label=label))
        assert self.passed == 0
        assert [one.kind for one in self.b.frames()] == [Kind.BIND, Kind.REQUEST] * 2

    @property
    def passed(self) -> int:
        """How many runs wait for the second child."""
        return sum(isinstance(queued, Run) for queued in self.b.connection._data)


@pytest.fixture
def relay() -> Relay:
    return Relay()


def frame(number: int, kind: Kind = Kind.REQUEST, *, label: int = 0, hop: int = 9, left: int = 5000) -> bytes:
    return encode_frame(kind, pack(7, number), b"body %d" % number, label=label, hop=hop, remaining_ms=left)


def numbers(frames: list[Frame]) -> list[int]:
    return [int(unpack(one.header, int, int)[1]) for one in frames if one.kind >= Kind.REQUEST]


def test_what_came_together_leaves_together_one_link_further(relay: Relay) -> None:
    relay.a.send_bytes(frame(1) + frame(2, Kind.REPLY) + frame(3, label=1) + frame(4))
    assert relay.passed == 1
    (data,) = relay.b.connection.take(0.0)
    out = decode_frames([bytes(data)])
    assert [(one.kind, one.hop, one.remaining_ms, one.body) for one in out] == [
        (Kind.REQUEST, 8, 5000, b"body 1"),
        (Kind.REPLY, 8, 5000, b"body 2"),
        (Kind.REQUEST, 8, 5000, b"body 3"),
        (Kind.REQUEST, 8, 5000, b"body 4"),
    ]
    labels = [one.label for one in out]
    assert labels[0] == labels[1] == labels[3] != labels[2]
    assert relay.b.connection.queued_bytes == 0
    for statistics in (relay.a.connection.statistics.frames_received, relay.b.connection.statistics.frames_sent):
        assert (statistics[Kind.REQUEST], statistics[Kind.REPLY]) == (5, 1)


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_it_may_come_in_any_pieces_of_memory_that_can_be_written_into_or_not(relay: Relay, pieces: int) -> None:
    data = b"".join(frame(number) for number in range(1, 20))
    for start in range(0, len(data), pieces):
        relay.a.send_bytes(data[start : start + pieces])
    assert numbers(relay.b.frames()) == list(range(1, 20))


def test_what_waits_has_less_time_left_and_what_has_none_is_dropped_and_counted(relay: Relay) -> None:
    relay.a.send_bytes(frame(1, left=100) + frame(2, left=30) + frame(3, left=31))
    relay.b.now = 0.0305
    assert [(one.remaining_ms, one.body) for one in relay.b.frames()] == [(70, b"body 1"), (1, b"body 3")]
    assert relay.b.connection.statistics.dropped == 1
    relay.a.now = relay.b.now
    relay.a.send_bytes(frame(4, left=5))
    relay.b.now += 1
    assert relay.b.connection.take(relay.b.now) == []
    assert (relay.b.connection.statistics.dropped, relay.b.connection.queued_bytes) == (2, 0)


def test_nothing_overtakes_what_only_passes(relay: Relay) -> None:
    new = encode_frame(Kind.BIND, pack("A.y", "B"), label=5)
    relay.a.send_bytes(frame(1) + frame(2) + new + frame(3, label=5) + frame(4))
    frames = relay.b.frames()
    assert numbers(frames) == [1, 2, 3, 4]
    assert [one.kind for one in frames].index(Kind.BIND) == 2


def test_what_comes_before_a_violation_passes_all_the_same(relay: Relay) -> None:
    relay.a.send_bytes(frame(1) + frame(2) + encode_frame(Kind.REQUEST, b"", label=99))
    assert "label 99, which was never bound" in relay.a.error()
    assert numbers(relay.b.frames())[:2] == [1, 2]


def test_a_broadcast_on_the_route_of_one_cell_ends_the_link(relay: Relay) -> None:
    relay.a.send_bytes(frame(1) + frame(2, Kind.BROADCAST))
    assert "BROADCAST does not fit its route" in relay.a.error()
    assert numbers(relay.b.frames())[:1] == [1]


@pytest.mark.parametrize(("changes", "said"), [({"hop": 1}, "used up"), ({"left": 0}, None)])
def test_what_may_go_no_further_is_looked_at(relay: Relay, changes: dict[str, int], said: str | None) -> None:
    relay.a.send_bytes(frame(1, **changes))
    assert relay.b.frames() == []
    assert relay.endpoint.switch.refused == 1
    told = [str(unpack(one.header, str, str, list)[1]) for one in relay.a.frames() if one.kind is Kind.NACK]
    assert (said is None and not told) or (said is not None and said in told[0])


def test_more_hops_than_there_can_be_end_the_link(relay: Relay) -> None:
    relay.a.send_bytes(frame(1, hop=MAX_HOPS + 1))
    assert f"{MAX_HOPS} are allowed" in relay.a.error()


def test_who_left_gets_nothing_more_and_the_origin_hears_so(relay: Relay) -> None:
    relay.endpoint.router.leave(FQCN("B.x"), relay.b.connection)
    relay.a.send_bytes(frame(1) + frame(2, label=1) + frame(3))
    assert numbers(relay.b.frames()) == [1, 3]
    (nack,) = [one for one in relay.a.frames() if one.kind is Kind.NACK]
    assert unpack(nack.header, str, str, list)[2] == [["B.x", 7, 2]]


def test_a_full_link_refuses_what_is_new_and_takes_answers(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUDGET_BYTES", 2000)
    monkeypatch.setattr(connection_module, "RESERVE_BYTES", 1000)
    requests, replies = [frame(number) for number in range(1, 31)], [frame(n, Kind.REPLY) for n in range(31, 61)]
    relay.a.send_bytes(b"".join(requests) + b"".join(replies))
    assert 2000 <= relay.b.connection.queued_bytes <= 3000 + FRAME_OVERHEAD_BYTES
    out = numbers(relay.b.frames())
    taken = [number for number in out if number <= 30]
    assert taken == list(range(1, len(taken) + 1))
    assert 2000 <= len(taken) * (len(requests[0]) + FRAME_OVERHEAD_BYTES) <= 2000 + 250
    assert out[len(taken) :] == list(range(31, 31 + len(out) - len(taken)))
    nacked = [unpack(one.header, str, str, list) for one in relay.a.frames() if one.kind is Kind.NACK]
    assert {code for code, _, _ in nacked} == {"busy"}
    assert len(nacked) + relay.a.connection.statistics.dropped == 30 - len(taken)
    assert relay.b.connection.statistics.dropped == 30 - (len(out) - len(taken))


def test_a_run_is_not_longer_than_a_batch_should_be(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "RUN_BYTES", 200)
    relay.a.send_bytes(b"".join(frame(number) for number in range(1, 31)))
    assert relay.passed > 3
    assert numbers(relay.b.frames()) == list(range(1, 31))


def test_labels_in_use_are_not_the_first_to_be_forgotten(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_LABELS", 2)
    relay.a.send_bytes(frame(1))  # now the route to B.x was used least recently
    other = Peer.child(relay.endpoint, "C")
    other.bind(0, "C", "B")
    other.send_bytes(frame(2))
    relay.a.send_bytes(frame(3))
    frames = relay.b.frames()
    assert numbers(frames) == [1, 2, 3]
    assert [one.kind for one in frames].count(Kind.BIND) == 1
    relay.a.send_bytes(frame(4, label=1))
    assert [one.kind for one in relay.b.frames()] == [Kind.BIND, Kind.REQUEST]


def test_contents_in_between_are_no_part_of_a_run(relay: Relay) -> None:
    relay.a.send_bytes(frame(1) + encode_frame(Kind.DATA, bytes(8), b"of nothing that is known") + frame(2))
    assert [one.kind for one in relay.b.frames()] == [Kind.REQUEST] * 2
