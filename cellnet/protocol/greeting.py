"""What speaks at the other end, when it is no cell: told by its first bytes, for errors that say what to change."""

from __future__ import annotations

from cellnet.protocol.frames import PREFIX, Kind

__all__ = ["CELL", "speaker"]

CELL = "cellnet over tcp"

_HTTP = (b"HTTP/", b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ")
_HTTP_2 = b"PRI * HTTP/2"
_SETTINGS = 4
_TLS = {0x15: "TLS", 0x16: "TLS"}
"""An alert, and a handshake."""


def speaker(first: bytes) -> str | None:
    """Return what the first bytes of a peer say that it speaks, such as ``HTTP``; None if that cannot be told.

    Of a listener that is a cell over TCP, it is :data:`CELL`.
    """
    if first.startswith(_HTTP_2) or (len(first) >= 9 and first[3] == _SETTINGS and not any(first[5:9])):
        return "HTTP/2, as gRPC does"
    if first.startswith(_HTTP):
        return "HTTP"
    if len(first) >= 3 and first[1] == 3 and first[2] <= 4:
        return _TLS.get(first[0])
    if len(first) >= PREFIX.size and PREFIX.unpack_from(first)[2] == Kind.HELLO and first[:2] == b"\0\0":
        return CELL
    return None
