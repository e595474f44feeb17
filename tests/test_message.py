"""What callers see of an answer, whatever arrived."""

from __future__ import annotations

import pytest

from cellnet.errors import RemoteError
from cellnet.fqcn import FQCN
from cellnet.message import Reply
from cellnet.payload import Encoding, encode
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Replied


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode(["ValueError"]).joined(),
        encode(["ValueError", 1]).joined(),
        encode([["ValueError"], "no"]).joined(),
        b"\x92" + b"\x91" * 1000 + b"\xc0\xa1a",
        b"\x92\xa1a" + b"\x91" * 1000 + b"\xc0",
    ],
    ids=lambda data: data.hex()[:20],
)
def test_an_error_that_is_not_two_texts_is_the_answerers_mistake(data: bytes) -> None:
    reply = Reply.of(Replied(1, FQCN("C1"), Status.RAISED, Encoding.VALUE, data))
    assert isinstance(reply.error, RemoteError)
    assert reply.error.code == "bad-reply"
