"""The registry: the folder beside the kits that never leaves the project, with its authorities' keys and its memory.

::

    authority/authority.json    the project's name, and how the keys are encrypted
    authority/rootCA.pem        the roots that kits trust
    authority/root.key          needed only to make an issuer or a new root; may be kept somewhere else meanwhile
    authority/roots.bin         how the roots changed, once they have: every node that is renewed gets it
    authority/next.key          that of a new root which issues nothing yet
    authority/issuer.pem        certificate and key of what issues every day
    authority/issued.jsonl      every certificate ever issued, one a line, each with the digest of the line before
    authority/kits.json         what each kit was made from, so that only what changed is made again
"""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellnet.errors import ConfigurationError
from cellnet.roots import changed
from provisioning.authority import ISSUER_LIFE, LEAF_LIFE, Authority, certificates_pem, name_of
from provisioning.files import replace_file, write_file
from provisioning.issuance import Issuance, append
from provisioning.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from cellnet.credentials import Identity
    from provisioning.lock import Lock

__all__ = ["FOLDER", "Registry", "held", "publish"]

FOLDER = "authority"
WAIT_SECONDS = 5.0
"""For who changes the project now: a command, or the issuer that renews certificates."""

_ABOUT = "authority.json"
_ROOTS = "rootCA.pem"
_ROOT_KEY = "root.key"
_NEXT_KEY = "next.key"
_HISTORY = "roots.bin"
_ISSUER = "issuer.pem"
_ISSUED = "issued.jsonl"
_KITS = "kits.json"
_POLL_SECONDS = 0.02
_KEY_BEGINS = b"-----BEGIN ENCRYPTED PRIVATE KEY"
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
    """The newest last."""
    issuer: Authority
    records: Records
    now: datetime.datetime
    _lock: Lock
    life: datetime.timedelta = LEAF_LIFE
    """Of the certificates that it issues."""
    history: bytes = b""
    """How the roots changed, see :mod:`cellnet.roots`; empty before they did."""
    _new_files: dict[str, bytes | None] = field(default_factory=dict, repr=False)
    """Keys and certificates that are not on disk yet, by file, in their order; None, where one is to go."""
    _issued: list[Issuance] = field(default_factory=list)

    @classmethod
    def create(cls, project: str, lock: Lock, now: datetime.datetime | None = None) -> Registry:
        """Make the registry of a new project, with a root and an issuer."""
        now = now or datetime.datetime.now(datetime.UTC)
        about = _About(project=project, lock=lock.kind, salt=secrets.token_hex(16))
        root = Authority.create(project, now)
        registry = cls(about, (root.certificate,), root, Records(), now, lock)
        registry._new_files[_ROOT_KEY] = lock.encrypt(root.key, registry._salt)
        registry._new_files[_ROOTS] = certificates_pem(root.certificate)
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
        key = _key(folder / _ISSUER, lock, bytes.fromhex(about.salt))
        try:
            root = next(one for one in roots if one.subject == certificate.issuer)
            issuer = Authority.adopt(certificate, key, root)
        except Exception as error:  # the library has many words for what does not belong together
            raise ConfigurationError(f"is not the issuer of {_ROOTS} ({error!r}): {_REMEDY}", str(folder)) from None
        history = _read(folder / _HISTORY) if (folder / _HISTORY).exists() else b""
        registry = cls(about, roots, issuer, _parse(Records, folder / _KITS), now, lock, history=history)
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

    @staticmethod
    def issuer_in(folder: Path) -> x509.Certificate:
        """Return the certificate of who issues what is in kits beside *folder*, which needs no key.

        :raises ConfigurationError: if it cannot be read
        """
        return _certificates(folder / _ISSUER)[0]

    @property
    def project(self) -> str:
        """The project whose registry this is."""
        return self.about.project

    @property
    def server(self) -> str | None:
        """The participant that is the server; None, if it has no kit."""
        return next((name for name, kit in self.records.kits.items() if kit.facts["type"] == "server"), None)

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

    def add_root(self, folder: Path) -> None:
        """Make a new root, which is trusted from now on as the old one is, and issues nothing yet.

        :raises ConfigurationError: if the old root's key is not in *folder*
        """
        old = self._root(folder, _ROOT_KEY, self.roots[-1])
        _root, _space, number = name_of(old.certificate).partition(" ")
        new = Authority.create(self.project, self.now, name=f"root {int(number or 1) + 1}")
        self._new_files[_NEXT_KEY] = self._lock.encrypt(new.key, self._salt)
        self._trust((old.certificate, new.certificate), old.key)

    def move_below_new_root(self, folder: Path) -> None:
        """Let a new issuer issue, below the new root; the old root's key is not needed any more, and goes.

        :raises ConfigurationError: if the new root's key is not in *folder*
        """
        new = self._root(folder, _NEXT_KEY, self.roots[-1])
        self._new_files[_ROOT_KEY] = self._lock.encrypt(new.key, self._salt)
        self._take_issuer(new.issuing(self.now))
        self._new_files[_NEXT_KEY] = None

    def drop_old_roots(self, folder: Path) -> None:
        """Trust the newest root alone from now on.

        :raises ConfigurationError: if its key is not in *folder*
        """
        new = self._root(folder, _ROOT_KEY, self.roots[-1])
        self._trust((new.certificate,), new.key)

    def save(self, folder: Path) -> None:
        """Write what is new: first what was issued, then keys, and last what the kits were made from.

        :raises OSError: if that is impossible
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / _ABOUT).exists():
            write_file(folder / _ABOUT, self.about.model_dump_json(indent=1).encode() + b"\n", 0o600)
        append(folder / _ISSUED, self._issued)
        for name, content in self._new_files.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                replace_file(folder / name, content, 0o600)
        replace_file(folder / _KITS, self.records.model_dump_json().encode() + b"\n", 0o600)
        self._issued.clear()
        self._new_files.clear()

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
        root = self._root(folder, _ROOT_KEY, self.issuer.anchor)
        self._take_issuer(root.issuing(self.now))
        if (end := root.certificate.not_valid_after_utc) - self.now < ISSUER_LIFE / 3:
            logger.warning("%s: the root expires on %s: change it, with cellnet ca rotate", folder, f"{end:%Y-%m-%d}")

    def _root(self, folder: Path, name: str, certificate: x509.Certificate) -> Authority:
        key = _key(folder / name, self._lock, self._salt)
        try:
            return Authority.adopt(certificate, key)
        except ValueError as error:
            raise ConfigurationError(f"is not that of the root in {_ROOTS}: {error}", str(folder / name)) from None

    def _trust(self, roots: tuple[x509.Certificate, ...], key: ec.EllipticCurvePrivateKey) -> None:
        self.roots, self.history = roots, changed(self.history, self.project, roots, key)
        self._new_files[_HISTORY] = self.history
        self._new_files[_ROOTS] = certificates_pem(*roots)

    def _take_issuer(self, issuer: Authority) -> None:
        self.issuer = issuer
        # in one file, so that there never is the certificate of one with the key of another
        key = self._lock.encrypt(issuer.key, self._salt)
        self._new_files[_ISSUER] = certificates_pem(issuer.certificate) + key


def publish(out: Path, server: str | None, documents: Mapping[str, bytes]) -> None:
    """Put documents for the server into the registry in *out*, and into the server's kit, where they are not yet.

    :param server: the server's participant; None, if it has no kit
    :raises OSError: if one cannot be written
    """
    for name, content in documents.items():
        places = [(out / FOLDER / name, 0o600)]
        if server is not None:
            places.append((out / server / "startup" / name, 0o644))
        for place, mode in places:
            if place.parent.is_dir() and not (place.exists() and place.read_bytes() == content):
                replace_file(place, content, mode)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from changing the registry in *folder* meanwhile; wait for who does so now, but not for long.

    :raises ConfigurationError: if somebody else still does after some seconds
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _wait_for_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= until:
                raise ConfigurationError("another command changes this project now: wait for it", str(folder)) from None
            time.sleep(_POLL_SECONDS)


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
        return lock.decrypt(data[data.index(_KEY_BEGINS) :], salt)
    except Exception:
        message = f"is not opened by this {lock.kind}, or is damaged: give the one that it was made with"
        raise ConfigurationError(message, str(path)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read ({error.strerror}): {_REMEDY}", str(path)) from None
