"""The registry: the folder beside the kits that never leaves the project, with its authorities' keys and its memory.

::

    authority/authority.json    the project's name, and how the keys are encrypted
    authority/rootCA.pem        the roots that kits trust
    authority/root.key          needed only to make an issuer or a new root; may be kept somewhere else meanwhile
    authority/issuer.crt, .key  what issues every day
    authority/issued.jsonl      every certificate ever issued, one a line, each with the digest of the line before
    authority/kits.json         what each kit was made from, so that only what changed is made again
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellnet.errors import ConfigurationError
from provisioning.authority import ISSUER_LIFE, LEAF_LIFE, Authority, certificates_pem
from provisioning.files import replace_file, write_file
from provisioning.issuance import Issuance, append
from provisioning.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from cellnet.credentials import Identity
    from provisioning.lock import Lock

__all__ = ["FOLDER", "Registry", "held"]

FOLDER = "authority"

_ABOUT = "authority.json"
_ROOTS = "rootCA.pem"
_ROOT_KEY = "root.key"
_ISSUER = "issuer.crt"
_ISSUER_KEY = "issuer.key"
_ISSUED = "issued.jsonl"
_KITS = "kits.json"
_REMEDY = "restore it from a backup, or give another folder to start anew, with kits that trust a new root"

logger = logging.getLogger("cellnet.provisioning")


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    project: str
    lock: str
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


@dataclass(slots=True)
class Registry:
    """A project's authorities and what they issued; what is new is in memory until :meth:`save`."""

    about: _About
    roots: tuple[x509.Certificate, ...]
    issuer: Authority
    records: Records
    now: datetime.datetime
    _lock: Lock
    life: datetime.timedelta = LEAF_LIFE
    """Of the certificates that it issues."""
    _new_keys: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Keys and certificates that are not on disk yet, by file."""
    _issued: list[Issuance] = field(default_factory=list)

    @classmethod
    def create(cls, project: str, lock: Lock, now: datetime.datetime | None = None) -> Registry:
        """Make the registry of a new project, with a root and an issuer."""
        now = now or datetime.datetime.now(datetime.UTC)
        about = _About(project=project, lock=lock.kind, salt=secrets.token_hex(16))
        root = Authority.create(project, now)
        registry = cls(about, (root.certificate,), root, Records(), now, lock)
        registry._new_keys[_ROOT_KEY] = lock.encrypt(root.key, registry._salt)
        registry._new_keys[_ROOTS] = certificates_pem(root.certificate)
        registry._take_issuer(root.issuing(now))
        return registry

    @classmethod
    def load(cls, folder: Path, lock: Lock, now: datetime.datetime | None = None) -> Registry:
        """Read what :meth:`save` wrote, and make a new issuer if the old one is near its end and the root is there.

        :raises ConfigurationError: naming the file that is missing, malformed or readable by others
        """
        now = now or datetime.datetime.now(datetime.UTC)
        about = _parse(_About, folder / _ABOUT)
        if about.lock != lock.kind:
            raise ConfigurationError(f"its keys are encrypted with a {about.lock}: give it", str(folder))
        roots = _certificates(folder / _ROOTS)
        (certificate,) = _certificates(folder / _ISSUER)
        key = _key(folder / _ISSUER_KEY, lock, bytes.fromhex(about.salt))
        try:
            root = next(one for one in roots if one.subject == certificate.issuer)
            issuer = Authority.adopt(certificate, key, root)
        except Exception as error:  # the library has many words for what does not belong together
            raise ConfigurationError(f"is not the issuer of {_ROOTS} ({error!r}): {_REMEDY}", str(folder)) from None
        registry = cls(about, roots, issuer, _parse(Records, folder / _KITS), now, lock)
        if certificate.not_valid_after_utc - now < ISSUER_LIFE / 3:
            registry._renew_issuer(folder)
        return registry

    @staticmethod
    def lock_of(folder: Path) -> str | None:
        """Return what the keys in *folder* are encrypted with, ``key file`` or ``passphrase``; None without any keys.

        :raises ConfigurationError: if that cannot be read
        """
        return str(_parse(_About, folder / _ABOUT).lock) if folder.exists() else None

    @staticmethod
    def records_in(folder: Path) -> Records:
        """Return what the kits beside *folder* were made from, which needs no key.

        :raises ConfigurationError: if that cannot be read
        """
        return Records.model_validate(_parse(Records, folder / _KITS)) if folder.exists() else Records()

    @staticmethod
    def project_in(folder: Path) -> str:
        """Return the name of the project whose registry is in *folder*.

        :raises ConfigurationError: if there is none, or it cannot be read
        """
        return str(_parse(_About, folder / _ABOUT).project)

    @staticmethod
    def roots_in(folder: Path) -> tuple[x509.Certificate, ...]:
        """Return the roots that kits beside *folder* trust, which needs no key.

        :raises ConfigurationError: if they cannot be read
        """
        return _certificates(folder / _ROOTS)

    @property
    def project(self) -> str:
        """The project whose registry this is."""
        return self.about.project

    def issue(
        self,
        identity: Identity,
        public_key: ec.EllipticCurvePublicKey,
        usage: x509.ObjectIdentifier,
        *,
        common_name: str,
        org: str,
        hosts: Sequence[str] = (),
        why: str,
    ) -> x509.Certificate:
        """Issue a certificate as :meth:`Authority.issue`, and note it.

        :param why: for whoever reads the log
        """
        certificate = self.issuer.issue(
            identity, public_key, usage, common_name=common_name, org=org, hosts=hosts, now=self.now, life=self.life
        )
        self._issued.append(Issuance.of(certificate, identity, self.now, why))
        return certificate

    def save(self, folder: Path) -> None:
        """Write what is new: first what was issued, then keys, and last what the kits were made from.

        :raises OSError: if that is impossible
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / _ABOUT).exists():
            write_file(folder / _ABOUT, self.about.model_dump_json(indent=1).encode() + b"\n", 0o600)
        append(folder / _ISSUED, self._issued)
        for name, content in self._new_keys.items():
            replace_file(folder / name, content, 0o600)
        replace_file(folder / _KITS, self.records.model_dump_json().encode() + b"\n", 0o600)
        self._issued.clear()
        self._new_keys.clear()

    @property
    def _salt(self) -> bytes:
        return bytes.fromhex(self.about.salt)

    def _renew_issuer(self, folder: Path) -> None:
        if not (folder / _ROOT_KEY).exists():
            # nothing may stop here: nodes are renewed by this issuer as long as it holds
            end = self.issuer.certificate.not_valid_after_utc
            message = "the issuer expires on %s, and only the root can make a new one: put its key here"
            logger.warning(f"%s: {message}", folder / _ROOT_KEY, f"{end:%Y-%m-%d}")
            return
        key = _key(folder / _ROOT_KEY, self._lock, self._salt)
        root = Authority.adopt(self.roots[0], key)
        self._take_issuer(root.issuing(self.now))

    def _take_issuer(self, issuer: Authority) -> None:
        self.issuer = issuer
        self._new_keys[_ISSUER_KEY] = self._lock.encrypt(issuer.key, self._salt)
        self._new_keys[_ISSUER] = certificates_pem(issuer.certificate)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from changing the registry in *folder* meanwhile.

    :raises ConfigurationError: if somebody else does so now
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError("another command changes this project now: wait for it", str(folder)) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _parse(model: type[Any], path: Path) -> Any:
    try:
        return model.model_validate_json(_read(path))
    except ValidationError as error:
        raise ConfigurationError(f"is damaged ({error.errors()[0]['msg']}): {_REMEDY}", str(path)) from None


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(_read(path)))
    except ValueError as error:
        raise ConfigurationError(f"holds no certificate ({error}): {_REMEDY}", str(path)) from None


def _key(path: Path, lock: Lock, salt: bytes) -> object:
    data = _read(path)
    mode = path.stat().st_mode
    if mode & 0o077:
        message = f"is readable by others (mode {mode & 0o777:04o}): at least run chmod 600"
        raise ConfigurationError(message, str(path))
    try:
        return lock.decrypt(data, salt)
    except Exception:
        message = f"is not opened by this {lock.kind}, or is damaged: give the one that it was made with"
        raise ConfigurationError(message, str(path)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read ({error.strerror}): {_REMEDY}", str(path)) from None
