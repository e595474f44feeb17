"""The third lane of a link: each content its turn, behind all else, and nothing before it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.connection import BATCH_BYTES
from cellnet.protocol.frames import FRAME_BYTES, MAX_DATA, PREFIX, Kind
from tests.protocol.conftest import Peer, new_endpoint, request_body
from tests.protocol.contents import EVERYTHING, Counted, Growing, Small, content, said, want

if TYPE_CHECKING:
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.frames import Buffer, Frame
    from cellnet.protocol.offer import Offer, Source

MIB = 1 << 20


@pytest.fixture
def holder() -> Endpoint:
    return new_endpoint("server")


@pytest.fixture
def peer(holder: Endpoint) -> Peer:
    return Peer.child(holder, "C")


def offered(holder: Endpoint, source: Source) -> Offer:
    return holder.plane.offer(source, now=0.0, is_for_one=False)


def taken(peer: Peer, limit: int = BATCH_BYTES) -> tuple[int, dict[int, int]]:
    """Take one batch; return its size, and how many bytes of each content are in it."""
    buffers = peer.connection.take(0.0, limit)
    shares: dict[int, int] = {}
    for head, body in zip(buffers[::2], buffers[1::2], strict=True):
        label = PREFIX.unpack_from(head)[4]
        shares[label] = shares.get(label, 0) + len(head) + len(body)
    return sum(map(len, buffers)), shares


def test_each_of_several_contents_gets_the_same_bytes_however_small_its_pieces_are(
    holder: Endpoint, peer: Peer
) -> None:
    whole = content(8 * MIB)
    sources: list[Source] = [Counted(whole), Small(whole), Small(whole, 40_000), Counted(whole)]
    for label, source in enumerate(sources, 1):
        want(peer, label, "server", offered(holder, source).content, upto=EVERYTHING)
    total: dict[int, int] = {}
    for _ in range(20):
        size, shares = taken(peer)
        assert BATCH_BYTES <= size < BATCH_BYTES + 2 * FRAME_BYTES
        for label, share in shares.items():
            total[label] = total.get(label, 0) + share
        if len(total) == len(sources):
            assert max(total.values()) - min(total.values()) <= 3 * FRAME_BYTES
    assert sum(total.values()) > 20 * BATCH_BYTES


def test_what_has_nothing_to_send_saves_up_no_turns(holder: Endpoint, peer: Peer) -> None:
    growing = Growing()
    held = offered(holder, growing)
    want(peer, 1, "server", offered(holder, Counted(content(16 * MIB))).content, upto=EVERYTHING)
    want(peer, 2, "server", held.content, upto=EVERYTHING)
    for _ in range(10):
        assert taken(peer)[1].keys() == {1}
        held.ready()
    growing.whole = content(4 * MIB)
    held.ready()
    _size, shares = taken(peer, 8 * FRAME_BYTES)
    assert abs(shares[1] - shares[2]) <= MAX_DATA


def test_a_content_that_had_the_link_for_itself_owes_nothing_for_that(holder: Endpoint, peer: Peer) -> None:
    want(peer, 1, "server", offered(holder, Counted(content(8 * MIB))).content, upto=EVERYTHING)
    for _ in range(3):
        assert taken(peer)[1].keys() == {1}
    want(peer, 2, "server", offered(holder, Counted(content(8 * MIB))).content, upto=EVERYTHING)
    for _ in range(3):
        shares = taken(peer, 8 * FRAME_BYTES)[1]
        assert abs(shares[1] - shares[2]) <= FRAME_BYTES + 100


def test_contents_leave_behind_control_and_messages(holder: Endpoint, peer: Peer) -> None:
    want(peer, 1, "server", offered(holder, Counted(content(3 * FRAME_BYTES))).content, upto=EVERYTHING)
    peer.bind(0, "C", "server")
    peer.open(request=request_body(1, payload=b"?"))
    holder.send(FQCN("C"), "news", 1, b"", deadline=60.0, now=0.0)
    peer.connection.control(Kind.PING)
    kinds = peer.kinds()
    assert kinds[0] is Kind.PING
    assert kinds[-2:] == [Kind.DATA, Kind.END]
    assert not {Kind.DATA, Kind.END} & set(kinds[:-2])
    assert Kind.OPEN in kinds


def test_a_message_waits_for_one_batch_of_contents_at_most(holder: Endpoint, peer: Peer) -> None:
    want(peer, 1, "server", offered(holder, Counted(content(4 * MIB))).content, upto=EVERYTHING)
    assert BATCH_BYTES <= taken(peer)[0] <= BATCH_BYTES + FRAME_BYTES + 100
    peer.connection.control(Kind.PING)
    assert PREFIX.unpack_from(peer.connection.take(0.0)[0])[2] == Kind.PING


def test_nothing_is_read_before_the_link_asks_for_it(holder: Endpoint, peer: Peer) -> None:
    source = Counted(content(4 * MIB))
    want(peer, 1, "server", offered(holder, source).content, upto=EVERYTHING)
    assert source.sent == 0
    taken(peer)
    assert source.sent <= BATCH_BYTES + FRAME_BYTES


def test_what_leaves_is_counted(holder: Endpoint, peer: Peer) -> None:
    statistics = peer.connection.statistics
    before = statistics.bytes_sent
    want(peer, 1, "server", offered(holder, Counted(content(FRAME_BYTES + 1))).content, upto=EVERYTHING)
    buffers = peer.connection.take(0.0)
    assert statistics.bytes_sent - before == sum(map(len, buffers))
    assert (statistics.frames_sent[Kind.DATA], statistics.frames_sent[Kind.END]) == (1, 1)


def test_the_owner_is_woken_once_when_more_of_a_content_is_wanted_or_there(holder: Endpoint, peer: Peer) -> None:
    source = Growing()
    held = offered(holder, source)
    woken: list[bool] = []
    peer.connection.wake = lambda: woken.append(peer.connection.has_output)
    want(peer, 1, "server", held.content, upto=5)
    assert peer.frames() == []
    woken.clear()
    source.whole = b"123456789"
    held.ready()
    held.ready()
    assert (woken, peer.connection.has_output) == ([False], True)
    assert [bytes(frame.body) for frame in peer.frames()] == [b"12345"]
    held.ready()
    assert (woken, peer.connection.has_output) == ([False], False)
    want(peer, 1, "server", held.content, upto=8)
    assert woken == [False, False]
    assert [bytes(frame.body) for frame in peer.frames()] == [b"678"]
    source.length = 8
    held.ready()
    assert said(peer.frames()) == [(Kind.END, 1)]


def test_what_is_stopped_while_it_waits_for_its_turn_has_none(holder: Endpoint, peer: Peer) -> None:
    held = [offered(holder, Counted(content(10, number))) for number in range(3)]
    for label, one in enumerate(held, 1):
        want(peer, label, "server", one.content, upto=EVERYTHING)
    peer.send(Kind.ABORT, False, "stopped", "", label=2)
    held[2].withdraw("gone", "it is")
    assert said(peer.frames()) == [(Kind.ABORT, 3), (Kind.DATA, 1), (Kind.END, 1)]
    assert peer.connection.feed.has_output is False


class Failing(Counted):
    """What cannot be read any more, and is withdrawn when that is found."""

    held: Offer

    def read(self, offset: int, limit: int) -> Buffer:
        if offset:
            self.held.withdraw("gone", "the disk is broken")
            return b""
        return super().read(offset, min(limit, 5))


@pytest.mark.parametrize("others", [0, 2])
def test_a_content_may_be_withdrawn_while_it_is_read(holder: Endpoint, peer: Peer, others: int) -> None:
    failing = Failing(content(10))
    failing.held = offered(holder, failing)
    want(peer, 1, "server", failing.held.content, upto=EVERYTHING)
    for label in range(2, 2 + others):
        want(peer, label, "server", offered(holder, Counted(content(10))).content, upto=EVERYTHING)
    frames: list[Frame] = peer.frames()
    rest = [(kind, label) for label in range(2, 2 + others) for kind in (Kind.DATA, Kind.END)]
    assert said(frames) == [(Kind.DATA, 1), *rest, (Kind.ABORT, 1)]
    assert not peer.connection.has_output
    assert len(peer.connection.feed.supplies) == others


def test_messages_leave_without_contents_if_it_is_not_the_turn_of_these(holder: Endpoint, peer: Peer) -> None:
    want(peer, 1, "server", offered(holder, Counted(content(MIB))).content, upto=EVERYTHING)
    peer.connection.control(Kind.PING)
    assert len(peer.connection.take(0.0, contents=False)) == 1
    assert peer.connection.take(0.0, contents=False) == []
    assert peer.connection.has_output
    assert taken(peer)[1].keys() == {1}
