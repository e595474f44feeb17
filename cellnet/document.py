"""A document that the project's issuer signed: its body, the signature, and the certificate that the key belongs to.

It says itself who signed it, so it is believed wherever the project's roots are known, also after the issuer changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.errors import HandshakeError
from cellnet.signing import sign, unpack_signed, verify

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["authority_key", "open_document", "sign_document"]


def sign_document(context: bytes, body: bytes, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return *body* with the issuer's signature under *context*."""
    certificate = issuer.public_bytes(serialization.Encoding.DER)
    signed: bytes = msgpack.packb([body, sign(key, context, body), certificate])
    return signed


def open_document(context: bytes, signed: bytes, roots: Iterable[x509.Certificate], *, what: str) -> bytes:
    """Return the body of what :func:`sign_document` made.

    :param what: what it should be, for the error's text
    :raises HandshakeError: if it is malformed, or was not signed by an issuer below one of *roots*
    """
    body, signature, certificate = unpack_signed(signed, bytes, bytes, bytes, what=what)
    try:
        issuer = x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise HandshakeError(f"the {what} is malformed", f"bad-{what}") from None
    verify(authority_key(issuer, roots), signature, context, body, what=what)
    return bytes(body)


def authority_key(issuer: x509.Certificate, roots: Iterable[x509.Certificate]) -> ec.EllipticCurvePublicKey:
    """Return the key of an authority, once one of the roots says that it is one.

    :raises HandshakeError: if none does
    """
    for root in roots:
        try:
            issuer.verify_directly_issued_by(root)
            is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            key = issuer.public_key()
        except Exception:  # noqa: S112 - the library has many words for "it was not", and no common one
            continue
        if is_authority and isinstance(key, ec.EllipticCurvePublicKey):
            return key
    raise HandshakeError("the issuer is no authority of this project's", "untrusted")
