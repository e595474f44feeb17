"""What is said in a session arrives once and as it was said, or not at all."""

from __future__ import annotations

import pytest

from cellnet.errors import RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.channel import Channel
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.sealing import BrokenSeal, Seal, seal_content

SESSION = 7
A, B = bytes(32), bytes([1]) * 32


def ends(*, sealed: bool) -> tuple[Channel, Channel]:
    here, there = (Seal(A, B, b"ends"), Seal(B, A, b"ends")) if sealed else (None, None)
    return Channel(SESSION, here), Channel(SESSION, there)


@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_said_is_read_once_whichever_way_it_goes(sealed: bool) -> None:
    for here, there in (ends(sealed=sealed), reversed(ends(sealed=sealed))):
        for counter in (1, 2):
            header, body = here.wrap(Kind.REQUEST, b"said")
            assert unpack(header, int, int) == [SESSION, counter]
            assert (body == b"said") is not sealed
            assert there.unwrap(Kind.REQUEST, counter, body) == b"said"
            assert there.unwrap(Kind.REQUEST, counter, body) is None
        assert here.sent == 2
        assert here.is_sealed is sealed


def test_what_was_sealed_for_another_kind_or_counter_or_altered_uses_up_no_counter() -> None:
    here, there = ends(sealed=True)
    _header, body = here.wrap(Kind.REQUEST, b"said")
    for kind, counter, forged in (
        (Kind.EVENT, 1, body),
        (Kind.REQUEST, 2, body),
        (Kind.REQUEST, 1, body[:-1]),
        (Kind.REQUEST, 1, body[:-1] + bytes([body[-1] ^ 1])),
        (Kind.REQUEST, 1, b""),
    ):
        with pytest.raises(BrokenSeal):
            there.unwrap(kind, counter, forged)
    assert there.unwrap(Kind.REQUEST, 1, body) == b"said"


@pytest.mark.parametrize("sealed", [True, False])
def test_an_entry_of_a_broadcast_brings_its_order_and_opens_the_content(sealed: bool) -> None:
    here, there = ends(sealed=sealed)
    content, digest = seal_content(b"content", A) if sealed else (b"content", b"")
    entry = here.wrap_entry(FQCN("C"), b"order", A if sealed else b"", digest)
    assert (entry.destination, entry.session, entry.counter) == (FQCN("C"), SESSION, 1)
    assert (entry.order == b"order") is not sealed
    assert there.unwrap_entry(1, entry.order, content) == (b"order", b"content")
    assert there.unwrap_entry(1, entry.order, content) is None


def test_a_content_that_somebody_else_sealed_is_not_opened_though_he_had_the_key() -> None:
    here, there = ends(sealed=True)
    _content, digest = seal_content(b"content", A)
    entry = here.wrap_entry(FQCN("C"), b"order", A, digest)
    with pytest.raises(BrokenSeal):
        there.unwrap_entry(1, entry.order, seal_content(b"another", A)[0])


def test_an_entry_whose_maker_broke_the_form_is_malformed() -> None:
    here, there = ends(sealed=True)
    seal = Seal(A, B, b"ends")
    for counter, said in enumerate((b"", pack(b"order", A), pack(b"order", A[:-1], b""), pack("order", A, b"")), 1):
        with pytest.raises(RemoteProtocolError):
            there.unwrap_entry(counter, seal.seal(Kind.BROADCAST, SESSION, counter, said), b"")
    assert here.sent == 0
