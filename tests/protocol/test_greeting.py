"""What speaks at the other end is told by its first bytes."""

from __future__ import annotations

import pytest

from cellnet.errors import HandshakeError
from cellnet.protocol.connection import Connection
from cellnet.protocol.frames import Kind
from cellnet.protocol.greeting import CELL, speaker
from cellnet.protocol.handshake import Handshake, Self
from tests.protocol.conftest import MEMORY, NONCE, WALL, encode_frame


@pytest.mark.parametrize(
    ("first", "spoken"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"CONNECT a:1 HTTP/1.1\r\n", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2, as gRPC does"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", "HTTP/2, as gRPC does"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "TLS"),
        (encode_frame(Kind.HELLO, bytes(300)), CELL),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
        (b"\x14\x03\x03", None),
        (b"\x16\x09\x09\x00", None),
        (b"\xff" * 16, None),
        (b"\x00", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell(first: bytes, spoken: str | None) -> None:
    assert speaker(first) == spoken


def test_a_link_to_what_is_no_cell_ends_with_what_it_is() -> None:
    connection = Connection(Handshake(Self("C1", "cell", 1), MEMORY, NONCE, WALL), is_listener=False, now=0.0)
    with pytest.raises(HandshakeError, match="the other side speaks HTTP: compare the scheme") as caught:
        connection.receive(b"HTTP/1.1 400 Bad Request\r\n", 0.0)
    assert caught.value.code == "wrong-scheme"


def test_only_the_first_bytes_are_looked_at() -> None:
    connection = Connection(Handshake(Self("C1", "cell", 1), MEMORY, NONCE, WALL), is_listener=False, now=0.0)
    hello = encode_frame(Kind.HELLO, b"GET / HTTP/1.1\r\n")
    list(connection.receive(hello[:16], 0.0))
    (frame,) = connection.receive(hello[16:], 0.0)
    assert frame.header == b"GET / HTTP/1.1\r\n"
