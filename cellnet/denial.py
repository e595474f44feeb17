"""Whose certificates hold no longer: a list that the project's issuer signs, and what a cell knows of it.

A certificate is meant by its serial number, and by its key, so that a key that became known is not certified again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack
from cryptography.hazmat.primitives import serialization

from cellnet.document import open_document, sign_document
from cellnet.errors import HandshakeError
from cellnet.signing import unpack_signed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

__all__ = ["MAX_DENIED", "Denial", "Denied", "key_digest"]

MAX_DENIED = 10_000
"""Certificates on one list; those that have expired anyhow need not be there."""

_CONTEXT = b"cellnet denial 1"


@dataclass(frozen=True, slots=True)
class Denial:
    """One version of the list."""

    project: str
    version: int
    """Grows with every change: an older one is never taken for a newer."""
    serials: tuple[str, ...] = ()
    """In hexadecimal digits."""
    keys: tuple[str, ...] = ()
    """The SHA-256 of public keys, see :func:`key_digest`."""

    def issue(self, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
        """Return this list with the issuer's signature."""
        body = msgpack.packb([self.project, self.version, list(self.serials), list(self.keys)])
        return sign_document(_CONTEXT, body, issuer, key)

    @classmethod
    def verify(cls, signed: bytes, roots: Iterable[x509.Certificate]) -> Denial:
        """Read a signed list.

        :raises HandshakeError: if it is malformed, too long, or was not signed by the project's issuer
        """
        body = open_document(_CONTEXT, signed, roots, what="denial")
        project, version, serials, keys = unpack_signed(body, str, int, list, list, what="denial", most=MAX_DENIED)
        if not all(isinstance(one, str) for one in (*serials, *keys)):
            raise HandshakeError("the denial is malformed", "bad-denial")
        return cls(project, version, tuple(serials), tuple(keys))


class Denied:
    """The newest list that a cell has seen; all its credentials share it."""

    __slots__ = ("_keys", "_serials", "signed", "version")

    def __init__(self) -> None:
        self.version = 0
        self.signed = b""
        """As it came, to be passed on; empty before there was any."""
        self._serials: frozenset[str] = frozenset()
        self._keys: frozenset[str] = frozenset()

    def read(self, signed: bytes, project: str, roots: Iterable[x509.Certificate]) -> Denial:
        """Return what a list says; nothing changes yet.

        :raises HandshakeError: if it is malformed, another project's, or was not signed by the project's issuer
        """
        denial = Denial.verify(signed, roots)
        if denial.project != project:
            raise HandshakeError(f"the denial is that of project {denial.project}", "wrong-project")
        return denial

    def take(self, signed: bytes, project: str, roots: Iterable[x509.Certificate]) -> bool:
        """Take a list if it is newer, and say whether it was.

        :raises HandshakeError: as :meth:`read`
        """
        denial = self.read(signed, project, roots)
        if denial.version <= self.version:
            return False
        self.version, self.signed = denial.version, signed
        self._serials, self._keys = frozenset(denial.serials), frozenset(denial.keys)
        return True

    def includes(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate holds no longer."""
        if not self.version:
            return False
        return self.has(certificate.serial_number, key_digest(certificate.public_key()))

    def has(self, serial: int, key: str) -> bool:
        """Whether a certificate with that number, or for the key with that digest, holds no longer."""
        return f"{serial:x}" in self._serials or key in self._keys


def key_digest(key: CertificatePublicKeyTypes) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo) in hexadecimal digits."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()
