"""The log of issued certificates: a line each, and each line holds the digest of the one before.

So a line cannot be changed or taken out later without all that follow; the last digest, kept elsewhere, seals it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from cellnet.denial import key_digest
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence
    from pathlib import Path

    from cellnet.credentials import Identity

__all__ = ["Issuance", "append", "read_issued"]

_FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Issuance:
    """One certificate, as the log tells of it."""

    time: str
    serial: str
    """In hexadecimal digits, as programs that show certificates write it."""
    identity: str
    usage: str
    not_after: str
    key: str
    """The SHA-256 of the public key (SubjectPublicKeyInfo)."""
    why: str

    @classmethod
    def of(cls, certificate: x509.Certificate, identity: Identity, now: datetime.datetime, why: str) -> Issuance:
        """Describe a certificate that was just issued."""
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return cls(
            f"{now:%Y-%m-%dT%H:%M:%SZ}",
            f"{certificate.serial_number:x}",
            identity.uri,
            ",".join(usage._name for usage in usages),
            f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            key_digest(certificate.public_key()),
            why,
        )


def append(path: Path, issued: Sequence[Issuance]) -> None:
    """Add to the log at *path*, which is made if need be, and see that it is on the disk.

    :raises OSError: if it cannot be written
    """
    if not issued:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        previous = _last_digest(file.read())
        lines = []
        for one in issued:
            line = json.dumps({**asdict(one), "previous": previous}).encode()
            previous = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        file.write(b"".join(lines))
        file.flush()
        os.fsync(descriptor)


def read_issued(path: Path) -> tuple[Issuance, ...]:
    """Read the log, and see that every line is where it was written.

    :raises ConfigurationError: naming the first line that is not
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    found, previous = [], _FIRST
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            said = entry.pop("previous")
            found.append(Issuance(**entry))
        except (ValueError, TypeError, KeyError, AttributeError):
            said = None
        if said != previous:
            message = "the log of issued certificates was changed here, or before: restore it from a backup"
            raise ConfigurationError(message, f"{path}:{number}")
        previous = hashlib.sha256(line).hexdigest()
    return tuple(found)


def _last_digest(content: bytes) -> str:
    lines = content.splitlines()
    return hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST
