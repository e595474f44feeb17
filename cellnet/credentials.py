"""Who a cell is: its certificate, its private key, and whom it trusts.

An identity is exactly one URI subject alternative name, ``cellnet://<project>/<role>/<base name>``. Common names
and message headers are never read for it.

Everything here computes: the time is an argument, and nothing is read from or written to disk but by
:meth:`Credentials.load`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

import msgpack
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from cellnet.denial import Denied, key_digest
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.placement import Delegation, Placement
from cellnet.signing import public_key_bytes, unpack_signed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["CONNECT", "LISTEN", "ROLES", "SKEW", "Credentials", "Identity", "Peer", "Shown", "is_of_key"]

ROLES = ("server", "relay", "client", "admin")
"""The roles that a certificate may name."""

SKEW = datetime.timedelta(minutes=5)
"""So long before it was issued a certificate begins to hold, as somebody's clock may be behind."""

LISTEN = ExtendedKeyUsageOID.SERVER_AUTH
CONNECT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says its holder is."""

    project: str
    role: str
    name: str

    @property
    def uri(self) -> str:
        """The identity as it stands in a certificate."""
        return f"cellnet://{quote(self.project, safe='')}/{self.role}/{quote(self.name, safe='')}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Read an identity from its URI.

        :raises ConfigurationError: if it is not one in canonical form
        """
        try:
            parts = urlsplit(uri)
        except ValueError:  # such as an IPv6 address that does not end
            raise ConfigurationError(f"{uri!r} is no identity: it is no URI") from None
        steps = parts.path.split("/")
        if parts.scheme != "cellnet" or len(steps) != 3 or steps[1] not in ROLES:
            raise ConfigurationError(f"{uri!r} is no identity: cellnet://<project>/<role>/<name> is wanted")
        # netloc, not hostname: the latter folds case
        identity = cls(unquote(parts.netloc), steps[1], unquote(steps[2]))
        if not identity.project or not identity.name or identity.uri != uri:
            raise ConfigurationError(f"{uri!r} is no identity in canonical form")
        return identity

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Identity:
        """Read the identity of a certificate's holder.

        :raises ConfigurationError: if the certificate has not exactly one URI subject alternative name
        """
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        except Exception as error:  # extensions are parsed only now, and may be malformed in many ways
            raise ConfigurationError(f"a certificate cannot be read: {error}") from None
        if len(uris) != 1:
            raise ConfigurationError(f"a certificate needs exactly one URI name, this one has {len(uris)}")
        return cls.parse(uris[0])


@dataclass(slots=True)
class Credentials:
    """A cell's certificates and keys.

    A relay has two pairs with one identity: one for listening, one for connecting; any other cell has one.
    A job cell has its site's certificate, a key of its own, and the site's delegation to that key.

    Everybody in a process who needs them has the same object, so :meth:`renew` is seen by all.
    """

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    """The leaf certificate first."""
    roots: tuple[x509.Certificate, ...]
    placement: Placement | None = None
    delegation: Delegation | None = None
    files: tuple[Path, Path, Path] | None = None
    """Certificate, key and roots as files, which is how TLS wants them."""
    listening: Credentials | None = field(default=None, repr=False)
    """The pair to listen with, if it is another one."""
    denied: Denied = field(default_factory=Denied, repr=False, compare=False)
    """Whose certificates hold no longer, as far as is known by now."""

    @classmethod
    def load(
        cls, certificate: Path, key: Path, roots: Path, *, placement: bytes = b"", listening: Credentials | None = None
    ) -> Credentials:
        """Read credentials from PEM files.

        :param placement: the signed placement, if the cell has one
        :param listening: the pair that a relay listens with; the two share what is known of revoked certificates
        :raises ConfigurationError: naming the file, if one is missing or malformed
        """
        loaded_key = _read(key, _parse_key)
        chain = _read(certificate, x509.load_pem_x509_certificates)
        anchors = tuple(_read(roots, x509.load_pem_x509_certificates))
        if public_key_bytes(loaded_key.public_key()) != public_key_bytes(_public_key(chain[0])):
            raise ConfigurationError(f"the key does not belong to the certificate {certificate}", str(key))
        denied = listening.denied if listening else Denied()
        files = (certificate, key, roots)
        credentials = cls(loaded_key, tuple(chain), anchors, files=files, listening=listening, denied=denied)
        Identity.of(chain[0])
        if not placement:
            return credentials
        try:
            return replace(credentials, placement=Placement.verify(placement, credentials.issuer_key))
        except HandshakeError as error:
            raise ConfigurationError(str(error), str(certificate.parent)) from None

    @property
    def identity(self) -> Identity:
        """Who the certificate says its holder is."""
        return Identity.of(self.chain[0])

    @property
    def _public(self) -> bytes:
        return public_key_bytes(self.key.public_key())

    @property
    def chain_der(self) -> list[bytes]:
        """The certificates in DER, the leaf first."""
        return [certificate.public_bytes(serialization.Encoding.DER) for certificate in self.chain]

    @property
    def roots_der(self) -> list[bytes]:
        """The roots in DER."""
        return [root.public_bytes(serialization.Encoding.DER) for root in self.roots]

    @property
    def issuer_key(self) -> ec.EllipticCurvePublicKey:
        """The key of who issued the certificate, and signed the placement with it."""
        return _public_key(self.chain[1] if len(self.chain) > 1 else self.roots[0])

    def renew(self, newer: Credentials) -> None:
        """Take over what newer certificates for the same keys say.

        :raises ConfigurationError: if they are another cell's, or for other keys
        """
        if newer.identity != self.identity or public_key_bytes(newer.key.public_key()) != self._public:
            raise ConfigurationError(
                f"the certificates of {newer.identity.uri} do not renew those of {self.identity.uri}"
            )
        if newer.listening is not None and self.listening is not None:
            self.listening.renew(newer.listening)
        self.chain, self.roots, self.files = newer.chain, newer.roots, newer.files
        self.placement = newer.placement

    def take_chain(self, chain: Sequence[bytes], roots: Sequence[bytes], now: datetime.datetime) -> None:
        """Take over a newer certificate of the site whose job this is, and the roots that the site trusts by now.

        :param chain: in DER, the leaf first
        :param roots: in DER
        :raises HandshakeError: if it does not hold, is not the site's, for another key, or no newer
        """
        try:
            trusted = tuple(map(x509.load_der_x509_certificate, roots))
        except (ValueError, TypeError) as error:
            raise HandshakeError(f"the roots are malformed: {error}", "bad-roots") from None
        judge = replace(self, roots=trusted)
        peer = judge.verify_chain(chain, LISTEN if self.identity.role == "server" else CONNECT, now)
        newer = tuple(x509.load_der_x509_certificate(one) for one in chain)
        if peer.identity != self.identity or peer.key != self.chain[0].public_key():
            raise HandshakeError("the certificate is not that of this job's site", "untrusted")
        if newer[0].not_valid_after_utc < self.chain[0].not_valid_after_utc:
            raise HandshakeError("the certificate is older than the one that there is", "expired")
        self.chain, self.roots = newer, trusted

    def site(self, now: datetime.datetime) -> Peer:
        """Return the site of this certificate as its own job cells see it, whatever the certificate's usage.

        :raises HandshakeError: if the certificate has expired
        """
        if now > self.chain[0].not_valid_after_utc:
            raise HandshakeError(f"the certificate of {self.identity.name} has expired: renew it", "expired")
        return Peer(self.identity, _public_key(self.chain[0]), self.chain_der[0], self.issuer_key)

    def delegate(self, job: str, role: str, not_after: datetime.datetime) -> Credentials:
        """Make credentials for a job cell of this site: a new key, and the site's delegation to it."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = public_key_bytes(key.public_key())
        delegation = Delegation(self.identity.name, job, role, public, int(not_after.timestamp())).issue(self.key)
        return Credentials(key, self.chain, self.roots, delegation=delegation, denied=self.denied)

    def pack(self) -> bytes:
        """Return job credentials as bytes for an inherited descriptor. They hold a private key."""
        key = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        delegation = self.delegation.signed if self.delegation else b""
        return cast("bytes", msgpack.packb([key, self.chain_der, self.roots_der, delegation]))

    @classmethod
    def unpack(cls, data: bytes, now: datetime.datetime) -> Credentials:
        """Read what :meth:`pack` made.

        :raises HandshakeError: if it is malformed or has expired
        """
        key, chain, roots, signed = unpack_signed(data, bytes, list, list, bytes, what="job credential")
        try:
            certificates = tuple(x509.load_der_x509_certificate(der) for der in chain)
            site_key = _public_key(certificates[0])
            return cls(
                _elliptic(serialization.load_der_private_key(key, None)),
                certificates,
                tuple(x509.load_der_x509_certificate(der) for der in roots),
                delegation=Delegation.verify(signed, site_key, now),
            )
        except HandshakeError:
            raise
        except Exception as error:  # as in verify_chain
            raise HandshakeError(f"the job credential is malformed: {error}", "bad-job") from None

    def verify_chain(self, chain: Sequence[bytes], usage: x509.ObjectIdentifier, now: datetime.datetime) -> Peer:
        """Verify a peer's certificates against our roots.

        :param chain: in DER, the leaf first
        :param usage: the extended key usage that the leaf must have, :data:`LISTEN` or :data:`CONNECT`
        :raises HandshakeError: saying which rule it breaks
        """
        try:
            identity, key, usages, issuer = self._verify(chain, now)
        except HandshakeError:
            raise
        except Exception as error:  # bytes that somebody made up bring the library to raise nearly anything
            raise HandshakeError(f"the peer's certificate is not acceptable: {error}", "untrusted") from None
        if usage not in usages:
            wanted = "listening" if usage == LISTEN else "connecting"
            raise HandshakeError(f"the certificate of {identity.name} is not for {wanted}", "wrong-usage")
        return Peer(identity, key, bytes(chain[0]), issuer)

    def _verify(
        self, chain: Sequence[bytes], now: datetime.datetime
    ) -> tuple[Identity, ec.EllipticCurvePublicKey, x509.ExtendedKeyUsage, ec.EllipticCurvePublicKey]:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        leaf = certificates[0]
        identity = Identity.of(leaf)
        verifier = (
            PolicyBuilder()
            .store(Store(list(self.roots)))
            .time(now)
            .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_LEAF_POLICY)
            .build_client_verifier()
        )
        try:
            path = verifier.verify(leaf, certificates[1:]).chain
        except VerificationError as error:
            raise HandshakeError(_explain(leaf, now, error), "untrusted") from None
        if any(map(self.denied.includes, path[:-1])):
            raise HandshakeError(f"the certificate of {identity.name} was revoked", "revoked")
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return identity, _public_key(leaf), usages, _public_key(path[1])


def is_of_key(certificate: bytes, key: object) -> bool:
    """Whether a certificate, in DER, is one for that public key."""
    try:
        return bool(x509.load_der_x509_certificate(certificate).public_key() == key)
    except Exception:
        return False


@dataclass(frozen=True, slots=True)
class Peer:
    """A neighbour whose certificate was verified."""

    identity: Identity
    key: ec.EllipticCurvePublicKey = field(repr=False)
    certificate: bytes = field(repr=False)
    """In DER."""
    issuer: ec.EllipticCurvePublicKey = field(repr=False)
    """The key of the authority that issued it, which signs its placement too."""

    @property
    def shown(self) -> Shown:
        """What is remembered of its certificate for as long as a link lives."""
        leaf = x509.load_der_x509_certificate(self.certificate)
        return Shown(leaf.serial_number, bytes.fromhex(key_digest(self.key)), leaf.not_valid_after_utc.timestamp())


class Shown(NamedTuple):
    """The little of a certificate that may end a link: a thousand whole ones would be most of a megabyte."""

    serial: int
    key: bytes
    """The SHA-256 of its public key."""
    not_after: float
    """In seconds since 1970."""


# An absent key usage means "any use" to TLS libraries, so presence is demanded and the usage checked by us.
_LEAF_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.CRITICAL, lambda _policy, _leaf, value: _refuse_ca(value))
    .require_present(x509.KeyUsage, Criticality.CRITICAL, None)
    .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
)


def _refuse_ca(constraints: x509.BasicConstraints) -> None:
    if constraints.ca:
        raise ValueError("a cell's certificate may not be an authority's")


def _explain(leaf: x509.Certificate, now: datetime.datetime, error: VerificationError) -> str:
    name = leaf.subject.rfc4514_string()
    if now > leaf.not_valid_after_utc:
        return f"the certificate of {name} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
    if now < leaf.not_valid_before_utc:
        start = leaf.not_valid_before_utc
        return f"the certificate of {name} is valid from {start:%Y-%m-%d %H:%M} UTC: check the clock"
    return f"the certificate of {name} was not issued by this project's authority, or breaks its rules ({error})"


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"a certificate must hold a P-256 key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError("a certificate must hold a P-256 key")
    return key


def _parse_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    return _elliptic(serialization.load_pem_private_key(data, None))


def _elliptic(key: object) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a P-256 key")
    return key


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
    except Exception as error:  # the library has many words for a damaged file, and no common one
        raise ConfigurationError(f"is not what it should be: {error}", str(path)) from None
