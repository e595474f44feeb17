"""The project's own certificate authority: one root, which issues to every participant directly.

The same key signs certificates, placements and the kits' manifests; whoever holds it is the project.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cellnet.errors import ConfigurationError
from provisioning.files import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cellnet.credentials import Identity

__all__ = ["Authority", "key_pem"]

ROOT_LIFE = datetime.timedelta(days=3653)
LEAF_LIFE = datetime.timedelta(days=90)
SKEW = datetime.timedelta(minutes=5)
"""How far a site's clock may be behind ours before a new certificate looks like one from the future."""

_CERTIFICATE = "rootCA.pem"
_KEY = "rootCA.key"


@dataclass(frozen=True, slots=True)
class Authority:
    """A project's root certificate and its key."""

    project: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, project: str, now: datetime.datetime | None = None) -> Authority:
        """Make a new authority for *project*."""
        now = now or datetime.datetime.now(datetime.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, project)])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + ROOT_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(project, certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Read what :meth:`save` wrote.

        :raises ConfigurationError: naming the file that is missing, malformed or readable by others
        """
        certificate_file, key_file = folder / _CERTIFICATE, folder / _KEY
        remedy = "restore it from a backup, or give another folder to start anew, with kits that trust a new root"
        try:
            mode = key_file.stat().st_mode
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            certificate.verify_directly_issued_by(certificate)
            (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            belongs = key.public_key() == certificate.public_key()
        except OSError as error:
            raise ConfigurationError(f"cannot be read ({error.strerror}): {remedy}", str(error.filename)) from None
        except Exception as error:  # the library has many words for a damaged file, and no common one
            raise ConfigurationError(f"holds no certificate and key ({error!r}): {remedy}", str(folder)) from None
        if mode & 0o077:
            message = f"is readable by others (mode {mode & 0o777:04o}): the key may be known; at least run chmod 600"
            raise ConfigurationError(message, str(key_file))
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not belongs:
            raise ConfigurationError(f"is not the key of {_CERTIFICATE}: {remedy}", str(key_file))
        return cls(str(name.value), certificate, key)

    def save(self, folder: Path) -> None:
        """Write certificate and key to *folder*, which is made if need be; only its owner can look inside."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_file(folder / _KEY, key_pem(self.key), 0o600)
        write_file(folder / _CERTIFICATE, self.certificate_pem, 0o600)

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate, as every kit has it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        *,
        common_name: str,
        org: str,
        hosts: Sequence[str] = (),
        now: datetime.datetime | None = None,
        life: datetime.timedelta = LEAF_LIFE,
    ) -> x509.Certificate:
        """Certify that *public_key* is *identity*'s.

        :param usage: to listen or to connect, as in :mod:`cellnet.credentials`
        :param common_name: for people who read certificates; no program does
        :param hosts: names and addresses at which it listens
        :raises ConfigurationError: if this is another project's authority, or has expired
        """
        now = now or datetime.datetime.now(datetime.UTC)
        if identity.project != self.project:
            raise ConfigurationError(f"this is the authority of project {self.project!r}, not of {identity.project!r}")
        if now >= self.certificate.not_valid_after_utc:
            raise ConfigurationError(f"the authority expired on {self.certificate.not_valid_after_utc:%Y-%m-%d}")
        names = [x509.UniformResourceIdentifier(identity.uri), *map(_host_name, hosts)]
        subject = [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, org),
        ]
        root = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(_serial())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key, not encrypted, as TLS libraries read it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _serial() -> int:
    return secrets.randbits(128) or 1  # zero is no serial number


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,  # the root's too: it signs placements and manifests
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
