"""How a project's roots change: a history of documents, each signed with the key of a root that was trusted before it.

A kit has the roots of the day it was made, in its manifest. Who renews a node's certificates gives it the whole
history, which the node follows from these on. So neither the issuer nor the server can bring a root of their own.
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
    from collections.abc import Sequence

__all__ = ["MAX_CHANGES", "MAX_HISTORY_BYTES", "MAX_ROOTS", "changed", "extends", "follow"]

MAX_ROOTS = 4
"""Trusted at a time: the old one and the new one, and some more that nobody needs."""
MAX_CHANGES = 64
"""In a history; two for each change of the root, which is due every ten years."""
MAX_HISTORY_BYTES = 256 * 1024
"""Of a whole history: a document with two roots has one kilobyte."""

_CONTEXT = b"cellnet roots 1"


def changed(history: bytes, project: str, roots: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a history that goes on with a document which says what is trusted from then on.

    :param history: empty, if there was no change before
    :param key: that of a root which is trusted before
    :raises HandshakeError: if the history is malformed, or as long as one may be
    """
    body = msgpack.packb([project, [root.public_bytes(serialization.Encoding.DER) for root in roots]])
    document = msgpack.packb([body, sign(key, _CONTEXT, body)])
    longer: bytes = msgpack.packb([*(_documents(history) if history else ()), document])
    _documents(longer)  # which is refused if it is too long
    return longer


def extends(history: bytes, known: bytes) -> bool:
    """Whether a history begins with all that is known already.

    :raises HandshakeError: if one of them is none
    """
    first = _documents(known)
    return _documents(history)[: len(first)] == first


def follow(history: bytes, project: str, roots: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return what is trusted in the end by who trusted *roots* at some time, which need not be the first.

    :param history: as :func:`changed` makes it
    :raises HandshakeError: if a document is malformed, or another project's
    """
    trusted = tuple(roots)
    for document in _documents(history):
        body, signature = unpack_signed(document, bytes, bytes, what="roots")
        if any(_is_signed(root, signature, body) for root in trusted):
            trusted = _named(body, project)
    return trusted


def _documents(history: bytes) -> list[bytes]:
    try:
        documents = msgpack.unpackb(history, max_array_len=MAX_CHANGES) if len(history) <= MAX_HISTORY_BYTES else None
    except (ValueError, msgpack.UnpackException, RecursionError):
        documents = None
    if not isinstance(documents, list) or not all(isinstance(one, bytes) for one in documents):
        raise HandshakeError("the history of roots is malformed", "bad-roots")
    return documents


def _is_signed(root: x509.Certificate, signature: bytes, body: bytes) -> bool:
    key = root.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        verify(key, signature, _CONTEXT, body, what="roots")
    except HandshakeError:
        return False  # it was signed before or after the time of this root
    return True


def _named(body: bytes, project: str) -> tuple[x509.Certificate, ...]:
    named, ders = unpack_signed(body, str, list, what="roots", most=MAX_ROOTS)
    if named != project:
        raise HandshakeError(f"the roots are those of project {named}", "wrong-project")
    try:
        roots = tuple(map(x509.load_der_x509_certificate, ders))
        are_fine = bool(roots) and all(isinstance(root.public_key(), ec.EllipticCurvePublicKey) for root in roots)
    except Exception:  # the library has many words for a damaged certificate, and reads its key only when asked
        are_fine = False
    if not are_fine:
        raise HandshakeError("the roots are malformed", "bad-roots")
    return roots
