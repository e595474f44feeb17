"""Contents that pass through a relay: it keeps what it may, and nothing longer than it takes to pass it on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol import passage
from cellnet.protocol.frames import FRAME_BYTES, OFFSET, Kind, unpack
from cellnet.protocol.want import LAG_SECONDS, LEAST_WINDOW_BYTES, MAX_WINDOW_BYTES, WINDOW_BYTES
from tests.protocol.conftest import Net, Peer, encode_frame, new_endpoint
from tests.protocol.contents import (
    EVERYTHING,
    NAME,
    Taken,
    content,
    data,
    fetch,
    nothing_is_left,
    offer,
    plane_is_empty,
    said,
    want,
)

if TYPE_CHECKING:
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.passage import Transit


@pytest.fixture
def relay() -> Endpoint:
    return new_endpoint("R")


@pytest.fixture
def above(relay: Endpoint) -> Peer:
    return Peer.parent(relay, "R")


@pytest.fixture
def below(relay: Endpoint, above: Peer) -> Peer:
    child = Peer.child(relay, "c")
    above.frames()
    return child


def wanted(peer: Peer) -> dict[int, list[int]]:
    """Return what was wanted since the last call, by label: from where, what is acknowledged, up to where."""
    frames = peer.frames()
    assert {frame.kind for frame in frames} <= {Kind.WANT}
    return {frame.label: unpack(frame.header, str, bytes, int, int, int)[2:] for frame in frames}


def held(transit: Transit) -> int:
    return sum(len(piece) for one in transit.passages for piece in one._pieces)


# What passes


@pytest.mark.parametrize("by", ["holder", "receiver"])
def test_what_is_given_up_on_its_way_is_kept_no_longer(relay: Endpoint, above: Peer, below: Peer, by: str) -> None:
    want(below, 1, "server", start=0, acknowledged=0, upto=EVERYTHING)
    label = next(iter(wanted(above)))
    (one,) = relay.plane.transit.passages
    data(above, label, 0, b"first")
    assert one._pieces
    if by == "holder":
        above.send(Kind.ABORT, True, "gone", "it is", label=label)
    else:
        below.send(Kind.ABORT, False, "stopped", "", label=1)
    assert not one._pieces


def test_more_is_wanted_while_the_link_is_waited_for_and_less_while_it_brings_more_than_is_worked_off(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    above.connection.feed.waited = above.now
    want(below, 1, "server", start=0, acknowledged=0, upto=EVERYTHING)
    came, upto = 0, wanted(above)[1][2]
    assert upto == WINDOW_BYTES

    def pass_on(seconds: float, *, is_waited_for: bool, size: int = FRAME_BYTES) -> int:
        """Let frames come and leave for so long; return how much is under way at most, in the end."""
        nonlocal came, upto
        under_way, end = [], above.now + seconds
        while above.now < end:
            above.now += 0.001
            if is_waited_for:
                above.connection.feed.waited = above.now
            data(above, 1, came, bytes(count := min(size, upto - came)))
            came += count
            below.frames()
            upto = max([upto, *(said[2] for said in wanted(above).values())])
            under_way.append(upto - came)
        return max(under_way[-50:])

    doubled = 6 * LAG_SECONDS  # 1.125 to the power of 6
    assert 1.2 * WINDOW_BYTES < pass_on(doubled, is_waited_for=True) < 3 * WINDOW_BYTES
    assert pass_on(10 * doubled, is_waited_for=True) > MAX_WINDOW_BYTES * 3 // 4
    assert pass_on(2 * LAG_SECONDS, is_waited_for=False) > MAX_WINDOW_BYTES // 2, "what is under way comes first"
    assert pass_on(0.3, is_waited_for=False) <= LEAST_WINDOW_BYTES
    assert pass_on(10 * doubled, is_waited_for=True) > MAX_WINDOW_BYTES * 3 // 4
    fast = 8 * FRAME_BYTES
    worked_off = 5 * fast  # in LAG_SECONDS
    assert 0.8 * worked_off < pass_on(0.3, is_waited_for=False, size=fast) < 1.2 * worked_off, "messages wait as long"
    above.connection.feed.waited = math.inf
    assert pass_on(20 * doubled, is_waited_for=False) > MAX_WINDOW_BYTES * 3 // 4, "it is not known"


def test_what_was_kept_is_not_copied_again_when_more_comes(relay: Endpoint, above: Peer, below: Peer) -> None:
    want(below, 1, "server", start=0, acknowledged=0, upto=EVERYTHING)
    label = next(iter(wanted(above)))
    (one,) = relay.plane.transit.passages
    kept: list[object] = []
    for number, word in enumerate((b"first", b"other", b"third")):
        buffer = bytearray(encode_frame(Kind.DATA, OFFSET.pack(5 * number), word, label=label))
        relay.receive(above.connection, memoryview(buffer), 0.0)
        relay.keep()
        buffer[:] = bytes(len(buffer))
        assert [id(piece) for piece in one._pieces][:number] == [id(piece) for piece in kept]
        kept = list(one._pieces)
    assert b"".join(bytes(frame.body) for frame in below.frames()) == b"firstotherthird"


def test_more_is_under_way_while_the_link_out_waits_and_less_while_it_is_the_slower_one(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    want(below, 1, "server", start=0, acknowledged=0, upto=EVERYTHING)
    (one,) = relay.plane.transit.passages
    came, upto = 0, wanted(above)[1][2]
    assert upto == WINDOW_BYTES
    for _ in range(40):  # what comes leaves at once
        data(above, 1, came, bytes(FRAME_BYTES))
        came += FRAME_BYTES
        below.frames()
        upto = max([upto, *(said[2] for said in wanted(above).values())])
    assert upto - came > MAX_WINDOW_BYTES - WINDOW_BYTES
    assert one._window == MAX_WINDOW_BYTES
    while came < upto:  # and now nothing leaves
        data(above, 1, came, piece := bytes(min(FRAME_BYTES, upto - came)))
        came += len(piece)
    assert WINDOW_BYTES < one._window < MAX_WINDOW_BYTES * 3 // 4
    assert not wanted(above)


def test_what_is_wanted_below_is_wanted_above_and_what_comes_goes_down(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    whole = content(FRAME_BYTES + 10)
    want(below, 1, "server", start=0, acknowledged=0, upto=1000)
    assert wanted(above) == {1: [0, 0, 1000]}
    data(above, 1, 0, whole[:600])
    data(above, 1, 600, whole[600:1000])
    frames = below.frames()
    (frame,) = frames  # what has come in two leaves as one
    assert (frame.label, *OFFSET.unpack(frame.header), bytes(frame.body)) == (1, 0, whole[:1000])
    want(below, 1, "server", acknowledged=700, upto=EVERYTHING)
    assert wanted(above) == {1: [0, 700, 1000 + WINDOW_BYTES]}
    data(above, 1, 1000, whole[1000:])
    above.send(Kind.END, len(whole), label=1)
    assert relay.plane.transit.promised == len(whole) - 1000
    assert said(below.frames()) == [(Kind.DATA, 1), (Kind.END, 1)]
    assert relay.plane.transit.promised == 0
    below.send(Kind.ABORT, False, "done", "", label=1)
    (done,) = above.frames()
    assert unpack(done.header, bool, str, str) == [False, "done", ""]
    plane_is_empty(relay)


def test_a_piece_that_is_larger_than_what_is_wanted_is_passed_on_in_two(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    want(below, 1, "server", start=7, upto=17)
    transit = relay.plane.transit
    (one,) = transit.passages
    one.want.upto, transit.promised = 27, 20  # as if more had been wanted once
    data(above, 1, 7, b"0123456789abcdefghij")
    assert [bytes(frame.body) for frame in below.frames()] == [b"0123456789"]
    assert (held(transit), transit.promised) == (10, 10)
    want(below, 1, "server", start=7, upto=100)
    assert [bytes(frame.body) for frame in below.frames()] == [b"abcdefghij"]


def test_a_want_without_room_is_passed_on_at_once_so_that_labels_keep_their_order(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    want(below, 1, "server", upto=0)
    want(below, 2, "server", upto=5)
    assert wanted(above) == {1: [0, 0, 0], 2: [0, 0, 5]}
    want(below, 1, "server", upto=3)
    assert wanted(above) == {1: [0, 0, 3]}


def test_bad_news_and_the_end_of_a_link_are_passed_on_and_nothing_is_kept(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    for label in (1, 2, 3):
        want(below, label, "server", upto=EVERYTHING)
        data(above, label, 0, b"some")
    above.send(Kind.ABORT, True, "gone", "it is", label=1)
    above.send(Kind.END, 9, label=2)
    relay.close(above.connection, 0.0)
    aborts = [frame for frame in below.frames() if frame.kind is Kind.ABORT]
    assert [(one.label, *unpack(one.header, bool, str, str)[:2]) for one in aborts] == [
        (1, True, "gone"),
        (2, True, "lost"),
        (3, True, "lost"),
    ]
    plane_is_empty(relay)


def test_when_who_wants_it_is_lost_it_is_wanted_no_more(relay: Endpoint, above: Peer, below: Peer) -> None:
    want(below, 1, "server", upto=EVERYTHING)
    data(above, 1, 0, b"some")
    above.frames()
    relay.close(below.connection, 0.0)
    (abort,) = [frame for frame in above.frames() if frame.kind is Kind.ABORT]
    assert unpack(abort.header, bool, str, str)[:2] == [False, "lost"]
    plane_is_empty(relay)


# How much


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> int:
    limit = 2 * WINDOW_BYTES + 5 * FRAME_BYTES
    monkeypatch.setattr(passage, "TRANSIT_BYTES", limit)
    return limit


def test_a_relay_wants_of_each_half_of_what_the_others_leave_free_and_at_least_a_frame(
    relay: Endpoint, above: Peer, below: Peer, crowded: int
) -> None:
    for label in range(1, 10):
        want(below, label, "server", upto=EVERYTHING)
    shares = [upto for _start, _acknowledged, upto in wanted(above).values()]
    free = crowded
    for share in shares:
        assert share == max(free // 3, FRAME_BYTES)
        free -= share
    transit = relay.plane.transit
    assert transit.promised == sum(shares) <= crowded
    for label, upto in enumerate(shares, 1):
        for offset in range(0, upto, FRAME_BYTES):
            data(above, label, offset, bytes(min(FRAME_BYTES, upto - offset)))
    assert held(transit) == transit.promised == sum(shares)
    assert wanted(above) == {}


def test_beside_a_dozen_that_do_not_get_on_one_more_finds_room_for_as_much_as_each_of_them_has(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    for label in range(1, 13):
        want(below, label, "server", upto=EVERYTHING)
    transit = relay.plane.transit
    for one in transit.passages:
        one._window = MAX_WINDOW_BYTES
    for one in [*transit.passages] * 3:
        one.extend()
    above.frames()
    assert sum(one.promised for one in transit.passages) > 2 * MAX_WINDOW_BYTES
    want(below, 13, "server", upto=EVERYTHING)
    assert wanted_last(above)[13] == WINDOW_BYTES


def test_in_little_room_all_get_on_and_who_is_alone_has_it_all(
    relay: Endpoint, above: Peer, below: Peer, crowded: int
) -> None:
    for label in range(1, 8):
        want(below, label, "server", upto=EVERYTHING)
    uptos = {label: upto for label, (_start, _acknowledged, upto) in wanted(above).items()}
    positions = dict.fromkeys(uptos, 0)
    transit = relay.plane.transit
    for number in range(600):
        label = 1 + number % 7
        if count := min(FRAME_BYTES, uptos[label] - positions[label]):
            data(above, label, positions[label], bytes(count))
            positions[label] += count
        while buffers := below.connection.take(0.0):
            assert buffers
        for frame in above.frames():
            uptos[frame.label] = unpack(frame.header, str, bytes, int, int, int)[4]
        assert transit.promised == sum(one.promised for one in transit.passages)
        assert transit.promised <= crowded + 7 * FRAME_BYTES
    assert min(positions.values()) > 30 * FRAME_BYTES
    for label in range(1, 7):
        below.send(Kind.ABORT, False, "stopped", "", label=label)
    while positions[7] < uptos[7]:
        data(above, 7, positions[7], bytes(count := min(FRAME_BYTES, uptos[7] - positions[7])))
        positions[7] += count
    while below.connection.take(0.0):
        pass
    assert wanted_last(above)[7] - positions[7] > crowded // 4, "who is alone has it all"
    below.send(Kind.ABORT, False, "stopped", "", label=7)
    plane_is_empty(relay)


def wanted_last(peer: Peer) -> dict[int, int]:
    frames = [frame for frame in peer.frames() if frame.kind is Kind.WANT]
    return {frame.label: unpack(frame.header, str, bytes, int, int, int)[4] for frame in frames}


def test_a_slow_child_delays_only_its_own_wants(relay: Endpoint, above: Peer, below: Peer) -> None:
    other = Peer.child(relay, "d")
    want(below, 1, "server", upto=EVERYTHING)
    want(other, 1, "server", upto=EVERYTHING)
    offsets = {1: 0, 2: 0}
    for _ in range(100):
        uptos = wanted_last(above)
        for label in (1, 2):
            while offsets[label] < uptos.get(label, 0):
                data(above, label, offsets[label], bytes(FRAME_BYTES))
                offsets[label] += FRAME_BYTES
        while other.connection.take(0.0):
            pass
    assert offsets[1] == held(relay.plane.transit) == WINDOW_BYTES
    assert offsets[2] > 10 * WINDOW_BYTES


def test_all_that_passes_a_small_relay_comes_as_it_was(crowded: int) -> None:
    net = Net.tree("R.a", "R.b", "R.c")
    whole = [content(3 * WINDOW_BYTES, number) for number in range(4)]
    pairs = [("server", "R.a"), ("R.a", "R.b"), ("R.b", "server"), ("R.c", "R.a")]
    sinks = [Taken() for _ in pairs]
    for (origin, destination), one, sink in zip(pairs, whole, sinks, strict=True):
        fetch(net, destination, origin, offer(net, origin, one), sink)
    net.tick(0.1)
    for one, sink in zip(whole, sinks, strict=True):
        assert (sink.outcomes, sink.bytes) == (["whole"], one)
    nothing_is_left(net.endpoints.values())


# What lies in a buffer that is used again


def test_what_passes_is_copied_when_it_is_to_be_kept(relay: Endpoint, above: Peer, below: Peer) -> None:
    want(below, 1, "server", upto=EVERYTHING)
    buffer = bytearray(encode_frame(Kind.DATA, OFFSET.pack(0), b"as it came", label=1))
    relay.receive(above.connection, memoryview(buffer), 0.0)
    relay.keep()
    buffer[:] = bytes(len(buffer))
    relay.keep()
    assert [bytes(frame.body) for frame in below.frames()] == [b"as it came"]


def test_what_is_not_kept_changes_with_the_buffer(relay: Endpoint, above: Peer, below: Peer) -> None:
    """Or nothing would have to be kept, and the test above would show nothing."""
    want(below, 1, "server", upto=EVERYTHING)
    buffer = bytearray(encode_frame(Kind.DATA, OFFSET.pack(0), b"as it came", label=1))
    relay.receive(above.connection, memoryview(buffer), 0.0)
    buffer[:] = bytes(len(buffer))
    assert [bytes(frame.body) for frame in below.frames()] == [bytes(10)]


def test_what_leaves_at_once_is_not_copied(relay: Endpoint, above: Peer, below: Peer) -> None:
    want(below, 1, "server", upto=EVERYTHING)
    buffer = bytearray(encode_frame(Kind.DATA, OFFSET.pack(0), b"as it came", label=1))
    relay.receive(above.connection, memoryview(buffer), 0.0)
    _head, body = below.connection.take(0.0)
    assert isinstance(body, memoryview)
    assert body.obj is buffer


def test_what_a_cell_takes_for_itself_is_its_own(relay: Endpoint, above: Peer) -> None:
    sink = Taken()
    relay.plane.fetch(FQCN("server"), NAME, sink, 0.0)
    buffer = bytearray(encode_frame(Kind.DATA, OFFSET.pack(0), b"as it came", label=1))
    relay.receive(above.connection, memoryview(buffer), 0.0)
    buffer[:] = bytes(len(buffer))
    assert sink.bytes == b"as it came"


def test_what_lies_in_a_buffer_that_is_lent_is_not_copied(relay: Endpoint, above: Peer, below: Peer) -> None:
    want(below, 1, "server", upto=EVERYTHING)
    lent, used_again = (bytearray(encode_frame(Kind.DATA, OFFSET.pack(at), b"as it came", label=1)) for at in (0, 10))
    relay.receive(above.connection, memoryview(lent), 0.0)
    assert relay.keep(lent=True)
    assert not relay.keep(), "nothing came since"
    lent[-4:] = b"left"
    relay.receive(above.connection, memoryview(used_again), 0.0)
    assert relay.keep()
    used_again[:] = bytes(len(used_again))
    assert [bytes(frame.body) for frame in below.frames()] == [b"as it left" + b"as it came"]
