"""A document that the project's issuer signed: its body, the signature, and the certificate that the key belongs to.

It says itself who signed it, so it is believed wherever the project's roots are known, also after the issuer changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
from cryptography import x509
from cryptography.exceptions import InvalidSignature
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
    try:
        key = issuer.public_key()
        is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        is_ours = is_authority and any(_is_issued_by(issuer, root) for root in roots)
    except Exception:  # the library has many words for a damaged certificate, and no common one
        raise HandshakeError("the issuer's certificate is malformed", "untrusted") from None
    if not is_ours or not isinstance(key, ec.EllipticCurvePublicKey):
        raise HandshakeError("the issuer is no authority of this project's", "untrusted")
    return key


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
