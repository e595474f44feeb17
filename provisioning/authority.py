"""The project's certificate authorities: a root, which is needed rarely, and an issuing one, which serves every day.

Every kit trusts the root alone. The issuing authority's key signs certificates, placements, rosters and the kits'
manifests; its certificate travels with what it issued. Nobody below it can issue anything.
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

from cellnet.credentials import SKEW
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.credentials import Identity

__all__ = ["ISSUER_LIFE", "LEAF_LIFE", "ROOT_LIFE", "Authority", "certificates_pem", "key_pem", "name_of"]

ROOT_LIFE = datetime.timedelta(days=3653)
ISSUER_LIFE = datetime.timedelta(days=731)
LEAF_LIFE = datetime.timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority of a project, with its key."""

    project: str
    certificate: x509.Certificate
    """Its own."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    root: x509.Certificate | None = None
    """Who issued its certificate; None if it did so itself."""

    @classmethod
    def create(cls, project: str, now: datetime.datetime | None = None, *, name: str = "root") -> Authority:
        """Make a new root for *project*.

        :param name: no two roots of one project have the same
        """
        now = now or datetime.datetime.now(datetime.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name, project)
        builder = _ca(subject, key, now, now + ROOT_LIFE, path_length=1).issuer_name(subject)
        return cls(project, builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def adopt(cls, certificate: x509.Certificate, key: object, root: x509.Certificate | None = None) -> Authority:
        """Take a certificate and its key, as they were kept.

        :raises ValueError: if they are no authority's, or do not belong together
        """
        certificate.verify_directly_issued_by(root or certificate)
        (project,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the key is not that of the certificate")
        return cls(str(project.value), certificate, key, root)

    def issuing(self, now: datetime.datetime | None = None) -> Authority:
        """Make a new issuing authority below this root.

        :raises ConfigurationError: if the root has expired
        """
        now = now or datetime.datetime.now(datetime.UTC)
        self._check_time(now)
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(now + ISSUER_LIFE, self.certificate.not_valid_after_utc)
        builder = _ca(_subject(f"issuer {now:%Y-%m-%d}", self.project), key, now, end, path_length=0)
        signed = builder.issuer_name(self.certificate.subject).add_extension(self._key_identifier, critical=False)
        return Authority(self.project, signed.sign(self.key, hashes.SHA256()), key, self.certificate)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a holder of its certificates shows beside them: everything between them and the root."""
        return (self.certificate,) if self.root else ()

    @property
    def anchor(self) -> x509.Certificate:
        """The root certificate."""
        return self.root or self.certificate

    @property
    def certificate_pem(self) -> bytes:
        """The root certificate, as every kit has it."""
        return certificates_pem(self.anchor)

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
        self._check_time(now)
        names = [x509.UniformResourceIdentifier(identity.uri), *map(_host_name, hosts)]
        subject = [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, org),
        ]
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
            .add_extension(self._key_identifier, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)

    def _check_time(self, now: datetime.datetime) -> None:
        if now >= self.certificate.not_valid_after_utc:
            raise ConfigurationError(f"the authority expired on {self.certificate.not_valid_after_utc:%Y-%m-%d}")


def name_of(certificate: x509.Certificate) -> str:
    """Return what an authority is called: ``root``, ``root 2``, or ``issuer`` with the day when it began."""
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def certificates_pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as TLS libraries read them."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key, not encrypted, as TLS libraries read it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _subject(name: str, project: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, project)]
    )


def _ca(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    end: datetime.datetime,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(_serial())
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
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
        digital_signature=True,  # an authority's too: it signs placements and manifests
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )
