"""What somebody signed, changed and signed anew by the same key: so that reading goes on behind the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.protocol.frames import pack
from cellnet.signing import sign
from tests.fuzz.mutation import vary_packed
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

__all__ = ["recertified", "resigned"]

_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_SEQUENCE, _BIT_STRING = 0x30, 0x03


def resigned(rng: random.Random, signed: bytes, context: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Change the body of a placement or delegation."""
    body = vary_packed(rng, msgpack.unpackb(signed)[0])
    return pack(body, sign(key, context, body))


def recertified(rng: random.Random, certificate: bytes, authority: ec.EllipticCurvePrivateKey) -> bytes:
    """Change what a certificate says."""
    said = mutate(rng, x509.load_der_x509_certificate(certificate).tbs_certificate_bytes)
    signature = authority.sign(said, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return _der(_SEQUENCE, said + _ECDSA_WITH_SHA256 + _der(_BIT_STRING, b"\x00" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
