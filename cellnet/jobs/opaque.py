"""A value as bytes that pass through nodes unread: a node needs neither numpy nor trust to carry them."""

from __future__ import annotations

from typing import Any

from cellnet.errors import RemoteProtocolError
from cellnet.payload import decode, encode

__all__ = ["packed", "unpacked"]


def packed(value: object) -> bytes:
    """Return *value* as bytes.

    :raises LocalProtocolError: if it holds something that is neither a plain value nor an array
    """
    encoded = encode(value)
    return b"".join((bytes([encoded.encoding]), *encoded.buffers))


def unpacked(data: object) -> Any:
    """Read what :func:`packed` made.

    :raises RemoteProtocolError: if it is malformed
    """
    if not isinstance(data, bytes) or not data:
        raise RemoteProtocolError("a packed value is malformed")
    return decode(data[0], data[1:])
