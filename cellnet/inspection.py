"""What a kit holds, for people: its place, its certificates and how long they last."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cellnet.credentials import CONNECT, LISTEN
from cellnet.errors import ConfigurationError, HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cellnet.credentials import Credentials
    from cellnet.kit import Endpoint, Kit

__all__ = ["Certificate", "certificates_below", "describe", "fingerprint", "verify_kit"]

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate of a kit."""

    path: Path
    name: str
    """Whose it is, for people: the common name."""
    usage: str
    """``listens`` or ``connects``."""
    serial: str
    hosts: tuple[str, ...]
    not_after: datetime.datetime

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read the first certificate in a file.

        :raises ConfigurationError: if it cannot be read, or holds none
        """
        try:
            return cls._of(x509.load_pem_x509_certificate(path.read_bytes()), path)
        except OSError as error:
            raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
        except Exception as error:  # the library has many words for a damaged certificate, and no common one
            raise ConfigurationError(f"is no certificate of a kit: {error}", str(path)) from None

    @classmethod
    def _of(cls, certificate: x509.Certificate, path: Path) -> Certificate:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        (common,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        hosts = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
        return cls(
            path,
            str(common.value),
            "listens" if LISTEN in usages else "connects",
            f"{certificate.serial_number:x}",
            hosts,
            certificate.not_valid_after_utc,
        )

    def days_left(self, now: datetime.datetime) -> int:
        """Return how many whole days it holds; below zero, if it has expired."""
        return (self.not_after - now) // DAY

    def as_json(self, now: datetime.datetime) -> dict[str, Any]:
        """Return what programs read."""
        return {
            "file": str(self.path),
            "name": self.name,
            "usage": self.usage,
            "serial": self.serial,
            "hosts": list(self.hosts),
            "not_after": self.not_after.isoformat(),
            "days_left": self.days_left(now),
        }


def certificates_below(folders: Iterable[Path]) -> list[Certificate]:
    """Return the certificates of all kits in *folders* or one level below, those that end first in front.

    :raises ConfigurationError: if there is no kit, or a certificate cannot be read
    """
    found = [
        Certificate.read(path)
        for folder in folders
        for place in (folder, *sorted(folder.glob("*")))
        for path in sorted((place / "startup").glob("*.crt"))
        if path.name != "issuer.crt"
    ]
    if not found:
        raise ConfigurationError(f"there is no kit in {', '.join(map(str, folders))}")
    return sorted(found, key=lambda one: one.not_after)


def describe(kit: Kit, now: datetime.datetime) -> dict[str, Any]:
    """Return what a kit says, without its secrets."""
    placement = kit.credentials.placement
    return {
        "project": kit.project,
        "name": kit.name,
        "role": kit.role,
        "listen": _endpoint(kit.listen),
        "connect_to": _endpoint(kit.connect),
        "others": list(map(_endpoint, kit.others)),
        "parents": list(placement.parents) if placement else [],
        "fqsn": (placement.fqsn or None) if placement else None,
        "roster": [member.model_dump() for member in kit.roster],
        "roots": list(map(fingerprint, kit.credentials.roots)),
        "certificates": [one.as_json(now) for one in certificates_below([kit.path])],
    }


def verify_kit(kit: Kit, now: datetime.datetime) -> None:
    """See that the certificates of a kit, whose files are all right, hold for what the node does.

    :raises ConfigurationError: saying which does not, and why
    """
    for credentials, usage in _pairs(kit):
        try:
            credentials.verify_chain(credentials.chain_der, usage, now)
        except HandshakeError as error:
            raise ConfigurationError(str(error), str(credentials.files[0] if credentials.files else kit.path)) from None


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as people compare it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def _pairs(kit: Kit) -> Iterator[tuple[Credentials, x509.ObjectIdentifier]]:
    if kit.connect:
        yield kit.credentials, CONNECT
    if kit.listen:
        yield kit.credentials.listening or kit.credentials, LISTEN


def _endpoint(endpoint: Endpoint | None) -> dict[str, Any] | None:
    return endpoint.model_dump() if endpoint else None
