"""Signatures over fields, each under a context, so that none is valid in another's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["load_public_key", "public_key_bytes", "sign", "unpack_signed", "verify"]

_MAX_LIST = 128
"""Elements: a list takes its memory when its length is read, although nothing may follow."""


def sign(key: ec.EllipticCurvePrivateKey, context: bytes, *fields: bytes) -> bytes:
    """Sign *fields* under *context* (ECDSA over P-256 and SHA-256)."""
    return key.sign(_transcript(context, fields), ec.ECDSA(hashes.SHA256()))


def verify(
    key: ec.EllipticCurvePublicKey, signature: bytes, context: bytes, *fields: bytes, what: str = "signature"
) -> None:
    """Check what :func:`sign` made.

    :raises HandshakeError: if the signature is another key's, another context's or over other fields
    """
    try:
        key.verify(signature, _transcript(context, fields), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise HandshakeError(f"the {what} was not signed by the key that it should be", "bad-signature") from None


def public_key_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as an uncompressed point of 65 bytes."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def load_public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """Read what :func:`public_key_bytes` made.

    :raises HandshakeError: if it is no point of the curve
    """
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise HandshakeError("the peer's public key is malformed", "bad-signature") from None


def unpack_signed(data: bytes, *types: type, what: str, most: int = _MAX_LIST) -> list[Any]:
    """Read a list with exactly these types of fields.

    :param what: what it should be, for the error's text
    :param most: how many elements a list in it may have
    :raises HandshakeError: if it is anything else
    """
    try:
        fields = msgpack.unpackb(data, max_array_len=most)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise HandshakeError(f"the {what} is malformed", f"bad-{what.split()[0]}") from error
    if (
        not isinstance(fields, list)
        or len(fields) != len(types)
        or not all(type(value) is kind for value, kind in zip(fields, types, strict=True))
    ):
        raise HandshakeError(f"the {what} is malformed", f"bad-{what.split()[0]}")
    return fields


def _transcript(context: bytes, fields: Sequence[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in (context, *fields))
