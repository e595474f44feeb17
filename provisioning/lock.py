"""How an authority's keys are kept: encrypted, with a key file or a passphrase.

A key file holds 256 random bits, and lies somewhere else than what it opens. A passphrase is what a person can
remember, so it is made expensive to guess (scrypt, RFC 7914: 128 MiB of memory for each try).
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cellnet.errors import ConfigurationError
from provisioning.files import write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Lock", "default_key_file"]

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Lock:
    """What opens an authority's keys."""

    kind: Literal["key file", "passphrase"]
    secret: bytes = field(repr=False)

    @classmethod
    def of_file(cls, path: Path, *, create: bool = False) -> Lock:
        """Take the key file at *path*, which is made if it is not there and *create* is set.

        :raises ConfigurationError: if it is missing, empty, or readable by others
        """
        try:
            if create and not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_file(path, secrets.token_hex(32).encode() + b"\n", 0o600)
            mode = path.stat().st_mode
            secret = path.read_bytes().strip()
        except OSError as error:
            raise ConfigurationError(f"the key file cannot be read: {error.strerror}", str(path)) from None
        if mode & 0o077:
            raise ConfigurationError("the key file is readable by others: run chmod 600", str(path))
        if not 32 <= len(secret) <= _MAX_BYTES:
            message = f"is no key file: 32 to {_MAX_BYTES} bytes are wanted, there are {len(secret)}"
            raise ConfigurationError(message, str(path))
        return cls("key file", secret)

    @classmethod
    def of_passphrase(cls, text: str) -> Lock:
        """Take what a person typed.

        :raises ConfigurationError: if it is shorter than 12 characters
        """
        if len(text) < 12:
            raise ConfigurationError("the passphrase is too short: at least 12 characters are wanted")
        return cls("passphrase", text.encode())

    def encrypt(self, key: ec.EllipticCurvePrivateKey, salt: bytes) -> bytes:
        """Return *key* in PEM, encrypted."""
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._password(salt)),
        )

    def decrypt(self, data: bytes, salt: bytes) -> object:
        """Return the key in *data*.

        :raises ValueError: if this lock does not open it, or it is no key
        """
        return serialization.load_pem_private_key(data, self._password(salt))

    def _password(self, salt: bytes) -> bytes:
        if self.kind == "key file":
            return self.secret  # random already: stretching adds nothing
        return _stretched(self.secret, salt)


@lru_cache(maxsize=2)
def _stretched(secret: bytes, salt: bytes) -> bytes:
    return Scrypt(salt, 32, 2**17, 8, 1).derive(secret).hex().encode()


def default_key_file(project: str) -> Path:
    """Return where a project's key file is, unless the operator says otherwise: with the user's settings."""
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "cellnet" / "keys" / f"{project}.key"
