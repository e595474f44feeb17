"""An enrolment: how the holder of keys asks for certificates without giving the keys away (PKCS #10, RFC 2986).

The keys are made where the node runs and stay there. What leaves is one text with a signing request for each pair that
the role needs, each signed by the key that it is for. What comes back has certificates and no keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cellnet.credentials import CONNECT, LISTEN, Identity
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["STEMS", "Enrolment"]

STEMS = {"server": LISTEN, "client": CONNECT}
"""The pairs of a kit by the names of their files, and what each is for."""

_NEEDS = {"server": ("server",), "relay": ("server", "client"), "client": ("client",), "admin": ("client",)}
_MAX_BYTES = 64 * 1024
_END = b"-----END CERTIFICATE REQUEST-----"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who asks, and for which public keys."""

    identity: Identity
    keys: Mapping[str, ec.EllipticCurvePublicKey]
    """By the names of the kit's files, ``server`` and ``client``."""

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all public keys, for two people to compare on the phone."""
        digest = hashes.Hash(hashes.SHA256())
        for stem in sorted(self.keys):
            digest.update(
                self.keys[stem].public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        return digest.finalize().hex(":", 2)

    @classmethod
    def make(cls, identity: Identity, *, listens: bool = False) -> tuple[bytes, dict[str, ec.EllipticCurvePrivateKey]]:
        """Make keys for *identity*, and return the request as a file, with the keys by the names of their files.

        :param listens: whether a client wants a certificate to listen with, too
        """
        stems = {*_NEEDS[identity.role], *(("server",) if listens else ())}
        keys = {stem: ec.generate_private_key(ec.SECP256R1()) for stem in sorted(stems)}
        return cls.of_keys(identity, keys), keys

    @staticmethod
    def of_keys(identity: Identity, keys: Mapping[str, ec.EllipticCurvePrivateKey]) -> bytes:
        """Return the request for keys that there are."""
        return b"".join(_signing_request(identity, stem, key) for stem, key in keys.items())

    @classmethod
    def read(cls, path: Path) -> Enrolment:
        """Read what :meth:`make` made.

        :raises ConfigurationError: if it is no request, or a part of it was not signed by its own key
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)
        except OSError as error:
            raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
        try:
            return cls.parse(data)
        except ConfigurationError as error:
            raise ConfigurationError(error.message, str(path)) from None

    @classmethod
    def parse(cls, data: bytes) -> Enrolment:
        """Read what :meth:`make` made.

        :raises ConfigurationError: as :meth:`read`
        """
        try:
            return cls._parse(data[:_MAX_BYTES])
        except ConfigurationError as error:
            raise ConfigurationError(f"is no request: {error}") from None
        except Exception as error:  # the library has many words for what is malformed, and no common one
            raise ConfigurationError(f"is no request: {error}") from None

    @classmethod
    def _parse(cls, data: bytes) -> Enrolment:
        parts = [x509.load_pem_x509_csr(part + _END) for part in data.split(_END)[:-1]]
        if not parts:
            raise ConfigurationError("there is nothing in it that begins as one")
        identities = {_identity(part) for part in parts}
        if len(identities) != 1:
            raise ConfigurationError("its parts are for different participants")
        identity = identities.pop()
        keys = {}
        for part in parts:
            key = part.public_key()
            if not part.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
                raise ConfigurationError("a part of it was not signed by its own P-256 key")
            if not isinstance(key.curve, ec.SECP256R1):
                raise ConfigurationError("a key of it is not on the curve P-256")
            keys[_stem(part)] = key
        if not keys.keys() >= set(_NEEDS[identity.role]):
            raise ConfigurationError(f"a {identity.role} needs keys for: {', '.join(_NEEDS[identity.role])}")
        return cls(identity, keys)


def _signing_request(identity: Identity, stem: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([STEMS[stem]]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _identity(part: x509.CertificateSigningRequest) -> Identity:
    names = part.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Identity.parse(uri)


def _stem(part: x509.CertificateSigningRequest) -> str:
    (usage,) = part.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return next(stem for stem, wanted in STEMS.items() if wanted == usage)
