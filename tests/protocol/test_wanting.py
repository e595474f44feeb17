"""Frames of contents, one by one, as a neighbour says them: what is wanted comes, and whatever else comes does harm to
nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol import want as wants
from cellnet.protocol.frames import FRAME_BYTES, OFFSET, Kind, unpack
from cellnet.protocol.offer import Held
from cellnet.protocol.plane import FORGET_SECONDS, LOOK_SECONDS, MAX_OFFSET
from cellnet.protocol.want import MAX_WINDOW_BYTES, WINDOW_BYTES
from tests.protocol.conftest import Peer, encode_frame, new_endpoint
from tests.protocol.contents import (
    EVERYTHING,
    NAME,
    Counted,
    Growing,
    Taken,
    content,
    data,
    plane_is_empty,
    said,
    want,
)

if TYPE_CHECKING:
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.frames import Frame
    from cellnet.protocol.offer import Offer


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


def offered(endpoint: Endpoint, whole: bytes = b"", **how: Any) -> Offer:
    how.setdefault("is_for_one", False)
    return endpoint.plane.offer(Counted(whole), now=0.0, **how)


def fetched(endpoint: Endpoint, sink: Taken | None = None) -> Taken:
    sink = sink or Taken()
    endpoint.plane.fetch(FQCN("server"), NAME, sink, 0.0)
    return sink


def bodies(frames: list[Frame]) -> bytes:
    return b"".join(frame.body for frame in frames)


# As who holds it


def test_nothing_beyond_what_is_wanted_is_sent(relay: Endpoint, below: Peer) -> None:
    whole = content(3 * FRAME_BYTES)
    held = offered(relay, whole)
    sent = b""
    for upto in (0, 1, 1, 0, FRAME_BYTES, 2 * FRAME_BYTES + 5, 2 * FRAME_BYTES, 3 * FRAME_BYTES - 1):
        want(below, 1, "R", held.content, upto=upto)
        sent += bodies(frames := below.frames())
        assert all(frame.kind is Kind.DATA for frame in frames)
        assert sent == whole[: max(upto, len(sent))]
    assert len(sent) == len(whole) - 1
    want(below, 1, "R", held.content, upto=EVERYTHING)
    last, end = below.frames()
    assert (OFFSET.unpack(last.header), last.body) == ((len(whole) - 1,), whole[-1:])
    assert (end.kind, unpack(end.header, int)) == (Kind.END, [len(whole)])
    want(below, 1, "R", held.content, upto=EVERYTHING)
    assert below.frames() == []


def test_the_end_is_said_to_who_wants_no_more_than_all(relay: Endpoint, below: Peer) -> None:
    held = offered(relay, b"12345")
    want(below, 1, "R", held.content, start=2, upto=5)
    assert said(below.frames()) == [(Kind.DATA, 1), (Kind.END, 1)]
    want(below, 2, "R", held.content, start=5, upto=5)
    assert said(below.frames()) == [(Kind.END, 2)]
    want(below, 3, "R", held.content, start=6, upto=9)
    assert below.frames() == []


def test_each_label_is_a_want_of_its_own(relay: Endpoint, below: Peer) -> None:
    held = offered(relay, b"12345")
    for label in (1, 2, 5):
        want(below, label, "R", held.content, start=label - 1, upto=5)
    assert [(frame.label, bytes(frame.body)) for frame in below.frames() if frame.kind is Kind.DATA] == [
        (1, b"12345"),
        (2, b"2345"),
        (5, b"5"),
    ]


def test_what_is_said_late_of_a_label_that_ended_does_not_begin_it_again(relay: Endpoint, below: Peer) -> None:
    source = Growing()
    held = relay.plane.offer(source, now=0.0, is_for_one=False)
    want(below, 1, "R", held.content, upto=9)
    want(below, 2, "R", held.content, upto=9)
    below.send(Kind.ABORT, False, "lost", "", label=2)
    for label in (2, 0, 1 << 31 | 3):
        want(below, label, "R", held.content, upto=9)
        (abort,) = below.frames()
        assert (abort.label, unpack(abort.header, bool, str, str)[:2]) == (label, [True, "lost"])
    assert list(below.connection.feed.supplies) == [1]


def test_labels_begin_anew_when_all_were_used(relay: Endpoint, below: Peer) -> None:
    held = offered(relay, b"1")
    for label in (1, 2**31, 2**32 - 1, 0, 1):
        want(below, label, "R", held.content, upto=1)
        assert said(below.frames()) == [(Kind.DATA, label), (Kind.END, label)]
        below.send(Kind.ABORT, False, "done", "", label=label)
    feed = below.connection.feed
    feed._labels = 2**32 - 2
    assert [feed.next_label() for _ in range(3)] == [2**32 - 1, 0, 1]


def test_what_is_not_held_is_gone(relay: Endpoint, below: Peer) -> None:
    want(below, 1, "R", NAME, upto=9)
    (abort,) = below.frames()
    assert unpack(abort.header, bool, str, str)[:2] == [True, "gone"]


def test_a_content_that_lies_the_way_it_is_wanted_from_is_unreachable(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    for label, (peer, name) in enumerate(((above, "server"), (below, "R.c"), (above, "R.x")), 1):
        want(peer, label, name, upto=9)
        (abort,) = peer.frames()
        assert unpack(abort.header, bool, str, str)[:2] == [True, "unreachable"]
    plane_is_empty(relay)


def test_a_content_of_a_cell_that_is_not_where_it_should_be_is_wanted_from_above(
    relay: Endpoint, above: Peer, below: Peer
) -> None:
    want(below, 1, "R.c.d", upto=9)
    assert below.frames() == []
    (passed_on,) = above.frames()
    assert (passed_on.kind, unpack(passed_on.header, str, bytes, int, int, int)[0]) == (Kind.WANT, "R.c.d")


def test_nothing_is_forgotten_that_was_not_sent(relay: Endpoint, below: Peer) -> None:
    held = offered(relay, content(10), is_for_one=True)
    want(below, 1, "R", held.content, start=5, acknowledged=5, upto=5)
    assert held.source.forgotten == 0  # type: ignore[attr-defined]  # it counts
    want(below, 2, "R", held.content, upto=6)
    below.frames()
    want(below, 2, "R", held.content, acknowledged=MAX_OFFSET, upto=6)
    assert held.source.forgotten == 6  # type: ignore[attr-defined]  # it counts


def test_who_wants_again_what_was_acknowledged_hears_that_it_is_gone_and_others_have_the_rest(
    relay: Endpoint, below: Peer
) -> None:
    held = offered(relay, whole := content(10), is_for_one=True)
    want(below, 1, "R", held.content, upto=8)
    assert bodies(below.frames()) == whole[:8]
    want(below, 1, "R", held.content, acknowledged=7, upto=8)
    want(below, 2, "R", held.content, start=6, acknowledged=6, upto=10)
    (abort,) = below.frames()
    assert (abort.kind, abort.label) == (Kind.ABORT, 2)
    assert unpack(abort.header, bool, str, str)[1] == "gone"
    want(below, 3, "R", held.content, start=7, acknowledged=7, upto=10)
    assert bodies(below.frames()) == whole[7:]
    assert [supply.label for supply in held.supplies] == [1, 3]
    want(below, 3, "R", held.content, acknowledged=10, upto=10)
    want(below, 1, "R", held.content, acknowledged=7, upto=8)
    assert [frame.label for frame in below.frames() if frame.kind is Kind.ABORT] == [1]
    assert [supply.label for supply in held.supplies] == [3]


@pytest.mark.parametrize("code", ["done", "stopped"])
def test_who_had_what_was_for_one_or_wants_it_no_more_leaves_it_to_nobody(
    relay: Endpoint, above: Peer, below: Peer, code: str
) -> None:
    held = offered(relay, content(10), is_for_one=True)
    want(above, 1, "R", held.content, upto=9)
    want(below, 1, "R", held.content, upto=9)
    above.frames(), below.frames()
    above.send(Kind.ABORT, False, code, "", label=1)
    assert said(below.frames()) == [(Kind.ABORT, 1)]
    assert above.frames() == []
    assert relay.plane.offers == {}


@pytest.mark.parametrize("code", ["lost", "altered", "busy", "x" * 5000])
def test_after_any_other_code_it_is_still_held(relay: Endpoint, below: Peer, code: str) -> None:
    held = offered(relay, content(10), is_for_one=True)
    want(below, 1, "R", held.content, upto=9)
    below.send(Kind.ABORT, False, code, "", label=1)
    below.send(Kind.ABORT, False, code, "", label=1)
    assert below.frames() == []
    plane_is_empty(relay)
    assert list(relay.plane.offers) == [held.content]


def test_a_neighbour_that_says_no_more_what_it_wants_is_forgotten(relay: Endpoint, above: Peer, below: Peer) -> None:
    held = relay.plane.offer(Growing(), now=0.0, seconds=1000, is_for_one=False)
    want(below, 1, "R", held.content, upto=9)
    want(below, 2, "server", upto=9)
    for now in range(1, int(FORGET_SECONDS + LOOK_SECONDS) + 2):
        if now == FORGET_SECONDS - 1:
            assert len(below.connection.feed.supplies) == 2
        for peer in (above, below):
            peer.now = now
            peer.send(Kind.PING)
        relay.tick(now)
    plane_is_empty(relay)
    assert Kind.ABORT in above.kinds()


# As who wants it


def test_what_comes_is_taken_and_more_is_wanted_in_time(relay: Endpoint, above: Peer) -> None:
    sink, whole = fetched(relay), content(WINDOW_BYTES + 2 * (WINDOW_BYTES // 2))
    offset, upto = 0, 0
    while offset < len(whole):
        for frame in above.frames():
            assert (frame.kind, frame.label) == (Kind.WANT, 1)
            holder, name, start, acknowledged, upto = unpack(frame.header, str, bytes, int, int, int)
            assert (holder, name, start, acknowledged) == ("server", NAME, 0, offset)
        assert 0 < upto - offset <= MAX_WINDOW_BYTES
        data(above, 1, offset, piece := whole[offset : offset + FRAME_BYTES])
        offset += len(piece)
    above.frames()
    above.send(Kind.END, len(whole), label=1)
    assert (sink.outcomes, sink.bytes) == (["whole"], whole)
    (done,) = above.frames()
    assert (done.kind, unpack(done.header, bool, str, str)) == (Kind.ABORT, [False, "done", ""])
    plane_is_empty(relay)


def test_data_that_came_before_or_for_no_label_is_ignored_and_counted(relay: Endpoint, above: Peer) -> None:
    sink = fetched(relay)
    data(above, 1, 0, b"first")
    for number, (label, offset, body) in enumerate(((1, 0, b"first"), (1, 3, b"xx"), (1, 5, b""), (2, 0, b"other"))):
        data(above, label, offset, body)
        assert relay.plane.refused == number + 1
    above.send(Kind.END, 5, label=2)
    above.send(Kind.ABORT, True, "gone", "x", label=2)
    assert relay.plane.refused == 5
    data(above, 1, 5, b", second")
    assert (sink.bytes, sink.outcomes) == (b"first, second", [])


def test_what_still_comes_for_a_label_that_was_stopped_is_ignored_and_counted(relay: Endpoint, above: Peer) -> None:
    sink = Taken()
    fetch = relay.plane.fetch(FQCN("server"), NAME, sink, 0.0)
    data(above, 1, 0, b"first")
    fetch.cancel()
    data(above, 1, 5, b"second")
    above.send(Kind.END, 11, label=1)
    assert (sink.bytes, sink.outcomes, relay.plane.refused) == (b"first", [], 2)
    again = fetched(relay)
    assert [label for kind, label in said(above.frames()) if kind is Kind.WANT] == [1, 2]
    data(above, 1, 0, b"first")
    data(above, 2, 0, b"again")
    assert (sink.bytes, again.bytes) == (b"first", b"again")


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Kind.DATA, OFFSET.pack(6), b"leaves a gap", label=1),
        encode_frame(Kind.DATA, OFFSET.pack(3), b"overlaps", label=1),
        encode_frame(Kind.DATA, OFFSET.pack(2**64 - 1), b"far away", label=1),
        encode_frame(Kind.DATA, OFFSET.pack(5), b"more than wanted", label=1),
        encode_frame(Kind.END, b"\x91\x04", label=1),
        encode_frame(Kind.END, b"\x91\x06", label=1),
    ],
)
def test_what_cannot_be_ends_the_label_and_it_is_wanted_again(relay: Endpoint, above: Peer, frame: bytes) -> None:
    sink = fetched(relay, Taken(upto=9))
    data(above, 1, 0, b"first")
    above.frames()
    above.send_bytes(frame)
    (abort,) = above.frames()
    assert unpack(abort.header, bool, str, str)[:2] == [False, "lost"]
    assert (relay.plane.refused, sink.bytes, sink.outcomes) == (1, b"first", [])
    relay.tick(0.05)
    (again,) = above.frames()
    assert (again.label, unpack(again.header, str, bytes, int, int, int)[2:]) == (2, [5, 5, 9])
    data(above, 2, 5, b"rest")
    above.send(Kind.END, 9, label=2)
    assert (sink.bytes, sink.outcomes) == (b"firstrest", ["whole"])


@pytest.mark.parametrize("code", sorted(wants.TEMPORARY))
def test_after_bad_news_that_may_pass_it_is_wanted_again_after_pauses_that_double(
    relay: Endpoint, above: Peer, code: str
) -> None:
    sink = fetched(relay)
    (fetch,) = relay.plane.fetches
    above.frames()
    now, pauses = 0.0, []
    for label in range(1, 9):
        above.send(Kind.ABORT, True, code, "not now", label=label)
        assert fetch._again is not None
        pauses.append(fetch._again.when - now)
        above.now = now = fetch._again.when
        relay.tick(now)
        assert [one for kind, one in said(above.frames()) if kind is Kind.WANT] == [label + 1]
    assert pauses == pytest.approx([0.75 * min(2.0, 0.05 * 2**n) for n in range(8)])
    data(above, 9, 0, b"at last")
    above.send(Kind.ABORT, True, code, "not now", label=9)
    assert fetch._again.when - now == pytest.approx(0.75 * 0.05)
    assert (sink.bytes, sink.outcomes) == (b"at last", [])


def test_after_other_bad_news_it_is_given_up_and_the_reason_is_cut(relay: Endpoint, above: Peer) -> None:
    sinks = []
    for label, code in enumerate(("gone", "stopped", "nonsense", "x" * 5000), 1):
        sinks.append(fetched(relay))
        above.send(Kind.ABORT, True, code, "why" * 5000, label=label)
    assert [sink.outcomes for sink in sinks] == [["gone"], ["stopped"], ["nonsense"], ["x" * 500]]
    assert Kind.ABORT not in above.kinds()
    plane_is_empty(relay)


# What is malformed


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Kind.DATA, b"", b"no offset", label=1),
        encode_frame(Kind.DATA, bytes(7), b"half of one", label=9),
        encode_frame(Kind.END, b"\x90", label=1),
        encode_frame(Kind.END, b"\x91\xff", label=9),
        encode_frame(Kind.ABORT, b"\x92\xc3\xa0", label=9),
    ],
)
def test_what_is_malformed_ends_the_link_and_what_was_wanted_is_wanted_elsewhere(
    relay: Endpoint, above: Peer, frame: bytes
) -> None:
    fetched(relay)
    above.send_bytes(frame)
    assert "RemoteProtocolError" in above.error()
    assert [fetch.want for fetch in relay.plane.fetches] == [None]


@pytest.mark.parametrize(
    "fields",
    [
        ("R", NAME, 0, 0),
        ("R", NAME[:15], 0, 0, 1),
        ("R", NAME + b"x", 0, 0, 1),
        ("not a name", NAME, 0, 0, 1),
        ("R", NAME, MAX_OFFSET + 1, 0, 1),
        ("R", NAME, 0, MAX_OFFSET + 1, 1),
        ("R", NAME, 0, 0, MAX_OFFSET + 1),
        ("R", NAME, -1, 0, 1),
        ("R", NAME, 0, 0, True),
    ],
)
def test_a_want_that_cannot_be_ends_the_link(relay: Endpoint, below: Peer, fields: tuple[Any, ...]) -> None:
    held = offered(relay, b"12345")
    want(below, 1, "R", held.content, upto=MAX_OFFSET)
    below.frames()
    below.send(Kind.WANT, *fields, label=1)
    assert "RemoteProtocolError" in below.error()
    plane_is_empty(relay)


@pytest.mark.parametrize("kind", [Kind.WANT, Kind.DATA, Kind.END, Kind.ABORT])
def test_nobody_talks_of_contents_before_the_handshake_is_done(relay: Endpoint, above: Peer, kind: Kind) -> None:
    newcomer = Peer.child(relay, "d", joined=False)
    if kind is Kind.DATA:
        newcomer.send_bytes(encode_frame(kind, OFFSET.pack(0), b"x"))
    else:
        newcomer.send(kind, "R", NAME, 0, 0, 1)
    assert "is not allowed during the handshake" in newcomer.error()


# Buffers


def test_buffers_lie_one_after_the_other_wherever_they_are_cut() -> None:
    whole = content(100)
    held = Held([whole[:10], b"", memoryview(bytearray(whole[10:11])), whole[11:40], memoryview(whole)[40:]])
    assert held.length == 100
    for offset in range(101):
        for limit in (1, 5, 29, 30, 31, 100):
            assert held.read(offset, limit) == whole[offset : offset + limit]
    assert isinstance(held.read(12, 20), memoryview)
    assert held.read(200, 1) == b""
    assert (Held([]).length, Held([]).read(0, 10)) == (0, b"")


def test_buffers_of_numbers_count_in_bytes() -> None:
    numbers = memoryview(bytearray(16)).cast("d")
    held = Held([numbers, b"end"])
    assert (held.length, held.read(0, 100)) == (19, bytes(16) + b"end")
