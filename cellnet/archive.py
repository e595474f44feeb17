"""An archive of a startup kit: one zip file for its way to the site, the same bytes for the same kit.

It has the kit as it was provisioned, without what a node wrote into ``local/`` and ``transfer/``. It can be encrypted
to recipients (age, x25519), so that whoever carries it does not get the keys.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_ARCHIVE_BYTES", "pack", "unpack"]

MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_FILES = 1000

_FOLDERS = ("local", "startup", "transfer")
_BESIDE = ("Dockerfile", "compose.yaml", "kubernetes.yaml")
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, for zip files
_AGE = b"age-encryption.org/"


def pack(kit: Path, recipients: Sequence[str] = ()) -> bytes:
    """Return the kit in the folder *kit* as a zip file; encrypted, if there are *recipients*.

    :param recipients: public keys such as ``age1...``
    :raises ConfigurationError: if the kit cannot be read, a recipient is none, or age is not installed
    """
    plain = io.BytesIO()
    try:
        with zipfile.ZipFile(
            plain, "w", zipfile.ZIP_STORED
        ) as archive:  # how things are compressed would be no constant
            for folder in _FOLDERS:
                archive.writestr(_entry(f"{kit.name}/{folder}/", stat.S_IFDIR | 0o700), b"")
            beside = sorted(path for path in kit.iterdir() if path.name in _BESIDE or path.suffix == ".service")
            for path in (*beside, *sorted((kit / "startup").iterdir())):
                mode = stat.S_IFREG | stat.S_IMODE(path.stat().st_mode)
                archive.writestr(_entry(f"{kit.name}/{path.relative_to(kit)}", mode), path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot be packed: {error.strerror}", str(error.filename or kit)) from None
    return _encrypted(plain.getvalue(), recipients) if recipients else plain.getvalue()


def unpack(data: bytes, out: Path, identity: Path | None = None) -> Path:
    """Write the kit that :func:`pack` packed into the folder *out*, with the modes that it had; return where it is.

    :param identity: the file with the secret key, if it is encrypted
    :raises ConfigurationError: if it is no archive of a kit, cannot be decrypted, or there is something in its place
    """
    if data.startswith(_AGE):
        data = _decrypted(data, identity)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            name = _check(entries)
            contents = {entry.filename: archive.read(entry) for entry in entries if not entry.is_dir()}
    except ConfigurationError:
        raise
    except Exception as error:  # the library has many words for a damaged archive, and no common one
        raise ConfigurationError(f"this is no archive of a kit: {error}") from None
    try:
        return _write(name, entries, contents, out)
    except OSError as error:
        raise ConfigurationError(f"cannot be unpacked: {error.strerror}", str(error.filename or out)) from None


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _BEGINNING)
    entry.create_system = 3  # so that modes are those of Unix, wherever it is made
    entry.external_attr = mode << 16 | (0x10 if stat.S_ISDIR(mode) else 0)
    return entry


def _check(entries: Sequence[zipfile.ZipInfo]) -> str:
    """Return the kit's name, if all entries are its own, few and small: nothing else is ever written."""
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_ARCHIVE_BYTES:
        raise ConfigurationError("this is no archive of a kit: it is too large")
    if not entries:
        raise ConfigurationError("this is no archive of a kit: it is empty")
    name = entries[0].filename.partition("/")[0]
    for entry in entries:
        parts = entry.filename.removesuffix("/").split("/")
        if entry.is_dir():
            is_ours = len(parts) == 2 and parts[1] in _FOLDERS
        else:
            is_ours = len(parts) == 2 or (len(parts) == 3 and parts[1] == "startup")
            is_ours = is_ours and stat.S_IFMT(entry.external_attr >> 16) == stat.S_IFREG
        is_odd = any(part in ("", ".", "..") or "\\" in part for part in parts)
        if parts[0] != name or not is_ours or is_odd:
            raise ConfigurationError(f"this is no archive of a kit: it has {entry.filename!r}")
    return name


def _write(name: str, entries: Sequence[zipfile.ZipInfo], contents: dict[str, bytes], out: Path) -> Path:
    if (out / name).exists():
        raise ConfigurationError("there is one already: move it away, or give another folder", str(out / name))
    out.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=out))
    try:
        for folder in _FOLDERS:
            (stage / name / folder).mkdir(mode=0o700, parents=True)
        (stage / name).chmod(0o700)
        for entry in entries:
            if entry.filename in contents:
                descriptor = os.open(stage / entry.filename, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(contents[entry.filename])
                    os.fchmod(descriptor, entry.external_attr >> 16 & 0o755)
        (stage / name).rename(out / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out / name


def _encrypted(data: bytes, recipients: Sequence[str]) -> bytes:
    age = _age()
    try:
        keys = [age.x25519.Recipient.from_str(recipient) for recipient in recipients]
    except age.RecipientError as error:
        raise ConfigurationError(f"a recipient is a public key such as age1...: {error}") from None
    encrypted: bytes = age.encrypt(data, keys)
    return encrypted


def _decrypted(data: bytes, identity: Path | None) -> bytes:
    if identity is None:
        raise ConfigurationError("this archive is encrypted: give the file with your secret key (--identity)")
    age = _age()
    try:
        lines = [line.strip() for line in identity.read_text(encoding="ascii").splitlines()]
        keys = [age.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
        plain: bytes = age.decrypt(data, keys)
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(identity)) from None
    except (ValueError, age.IdentityError):
        raise ConfigurationError("holds no secret keys such as AGE-SECRET-KEY-1...", str(identity)) from None
    except age.DecryptError:
        raise ConfigurationError("the archive was not encrypted to this key, or is damaged", str(identity)) from None
    return plain


def _age() -> Any:
    try:
        import pyrage
    except ImportError:
        raise ConfigurationError("encryption needs the extra 'age': pip install 'cellnet-fl[age]'") from None
    return pyrage
