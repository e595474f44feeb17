"""A startup kit: everything that one participant needs to start, as a folder and as frozen values.

::

    <kit>/startup/   kit.json, certificates, keys, placement.bin, roster.json, rootCA.pem, start.sh,
                     manifest.json (the SHA-256 of every file but itself), manifest.sig (the authority's signature)
    <kit>/local/     the node's own state, free to edit
    <kit>/transfer/  what users hand to the node, and take from it

The law of this file: nothing under ``startup/`` is believed before the manifest is, so a kit that was edited,
or that lost a file on its way, says so instead of half working.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator, BaseModel, ConfigDict, RootModel, ValidationError, model_validator

from cellnet.credentials import Credentials, Identity
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.signing import sign, verify
from cellnet.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ENDPOINTS", "Endpoint", "Kit", "KitFile", "Member", "Role", "Roster", "Security", "sign_manifest"]

Role = Literal["server", "relay", "client", "admin"]
Security = Literal["clear", "tls", "mtls"]

ENDPOINTS: dict[Role, tuple[bool, bool]] = {
    "server": (True, False),
    "relay": (True, True),
    "client": (False, True),
    "admin": (False, True),
}
"""Whether each role listens, and whether it connects."""

_MANIFEST = "manifest.json"
_SIGNATURE = "manifest.sig"
_ROOTS = "rootCA.pem"
_CONTEXT = b"cellnet kit 1"
_REMEDY = "take the kit from its origin again, or provision it anew"


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname or not parts.port or url != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(f"{url!r} is no address: <scheme>://<host>:<port> is wanted")
    return url


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Endpoint(_Frozen):
    """Say where a node listens, or whereto it connects."""

    url: Annotated[str, AfterValidator(_check_url)]
    """Such as ``tcp://0.0.0.0:8002`` to listen, ``tcp://localhost:8002`` to connect."""
    security: Security
    parent: str | None = None
    """The base name of the node at the other end; None to listen, and behind an ingress, where it is learned."""


class Member(_Frozen):
    """Describe a participant to the server."""

    name: str
    role: Role
    fqcn: str
    """As provisioned; a cell's real one follows from its link. Empty for an admin, who is no cell."""
    fqsn: str
    """Empty unless the member is a client."""
    parent: str
    """The base name of the node that it connects to; empty behind an ingress."""


class Roster(RootModel[tuple[Member, ...]]):
    """Hold what ``roster.json`` says: all members of the project but the server."""

    # JSON has no tuples: strict for the members, lax for the list around them
    model_config = ConfigDict(frozen=True)


class KitFile(_Frozen):
    """Hold what ``kit.json`` says."""

    format: Literal[1] = 1
    project: str
    name: str
    role: Role
    listen: Endpoint | None = None
    connect: Endpoint | None = None

    @model_validator(mode="after")
    def _role_has_its_endpoints(self) -> KitFile:
        if (self.listen is not None, self.connect is not None) != ENDPOINTS[self.role]:
            raise ValueError(f"a {self.role} has not the endpoints that it should have")
        return self


@dataclass(frozen=True, slots=True)
class Kit:
    """A startup kit that was found whole and unaltered."""

    path: Path
    project: str
    name: str
    """The base name: ``server`` for the server, whatever its folder is called."""
    role: Role
    listen: Endpoint | None
    connect: Endpoint | None
    placement: bytes = field(repr=False)
    """The signed placement; empty for the server, which is placed below nobody."""
    credentials: Credentials = field(repr=False)
    roster: tuple[Member, ...] = field(default=(), repr=False)
    """The other members of the project; only the server knows them."""

    @property
    def local(self) -> Path:
        """The folder for the node's own state."""
        return self.path / "local"

    @property
    def surroundings(self) -> Surroundings:
        """What its site says of the network around it.

        :raises ConfigurationError: if that is wrong, and where
        """
        return Surroundings.load(self.local / "network.yml")

    @property
    def transfer(self) -> Path:
        """The folder through which users hand files to the node."""
        return self.path / "transfer"

    @classmethod
    def load(cls, path: Path | str) -> Kit:
        """Read the kit in the folder *path*.

        :raises ConfigurationError: naming the file that is missing, altered, superfluous or readable by others
        """
        path = Path(path).absolute()
        startup = _check_folders(path)
        files = _verified_files(startup)
        config: KitFile = _parse(KitFile, startup / "kit.json", files)
        listens, connects = ENDPOINTS[config.role]
        placement = _take(startup / "placement.bin", files) if connects else b""
        credentials = _load_credentials(startup, listens, connects, placement)
        _check_identity(startup, config, credentials)
        roster: tuple[Member, ...] = ()
        if config.role == "server":
            roster = _parse(Roster, startup / "roster.json", files).root
        return cls(
            path,
            config.project,
            config.name,
            config.role,
            config.listen,
            config.connect,
            placement,
            credentials,
            roster,
        )


def sign_manifest(files: Mapping[str, bytes], authority: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
    """Return *files*, the content of ``startup/``, with a manifest and its signature added."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = json.dumps({"format": 1, "files": digests}, indent=1).encode() + b"\n"
    return {**files, _MANIFEST: manifest, _SIGNATURE: sign(authority, _CONTEXT, manifest)}


class _Manifest(_Frozen):
    format: Literal[1]
    files: dict[str, str]


def _check_folders(path: Path) -> Path:
    startup = path / "startup"
    if not path.is_dir():
        raise ConfigurationError("there is no such folder: give the folder of a startup kit", str(path))
    if path.name == "startup" and (path / _MANIFEST).exists():
        raise ConfigurationError(f"is only part of a kit: give the folder above it, {path.parent}", str(path))
    if not startup.is_dir():
        raise ConfigurationError("is no startup kit: it has no folder 'startup'", str(path))
    for name in ("local", "transfer"):
        if not (path / name).is_dir():
            raise ConfigurationError("the folder is missing: make it, empty", str(path / name))
    return startup


def _verified_files(startup: Path) -> dict[str, bytes]:
    """Read every file of the manifest, after checking that there are no others, and that none was altered."""
    manifest = _read(startup / _MANIFEST)
    signature = _read(startup / _SIGNATURE)
    authority = _root_key(startup / _ROOTS)
    try:
        verify(authority, signature, _CONTEXT, manifest)
    except HandshakeError:
        message = f"was altered, or is not from the authority in {_ROOTS}: {_REMEDY}"
        raise ConfigurationError(message, str(startup / _MANIFEST)) from None
    expected = _parse(_Manifest, startup / _MANIFEST, {_MANIFEST: manifest}).files
    _check_names(startup, set(expected) | {_MANIFEST, _SIGNATURE})
    files = {}
    for name, digest in expected.items():
        if name.endswith(".key"):
            _check_private(startup / name)
        files[name] = _read(startup / name)
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ConfigurationError(f"was altered after it was provisioned: {_REMEDY}", str(startup / name))
    return files


def _root_key(path: Path) -> ec.EllipticCurvePublicKey:
    content = _read(path)
    try:
        key = x509.load_pem_x509_certificates(content)[0].public_key()
    except Exception as error:  # the library has many words for a damaged certificate, and no common one
        raise ConfigurationError(f"is no certificate ({error}): {_REMEDY}", str(path)) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigurationError(f"does not hold a P-256 key: {_REMEDY}", str(path))
    return key


def _check_names(startup: Path, expected: set[str]) -> None:
    try:
        found = {entry.name for entry in startup.iterdir()}
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(startup)) from None
    for name in sorted(expected - found):
        raise ConfigurationError(f"the file is missing: {_REMEDY}", str(startup / name))
    for name in sorted(found - expected):
        message = "is no part of the kit: move it away (local/ and transfer/ are free to use)"
        raise ConfigurationError(message, str(startup / name))


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
    if mode & 0o077:
        message = f"is readable by others (mode {mode & 0o777:04o}): the key may be known; at least run chmod 600"
        raise ConfigurationError(message, str(path))


def _load_credentials(startup: Path, listens: bool, connects: bool, placement: bytes) -> Credentials:
    roots = startup / _ROOTS
    server = Credentials.load(startup / "server.crt", startup / "server.key", roots) if listens else None
    if connects:
        client, key = startup / "client.crt", startup / "client.key"
        return Credentials.load(client, key, roots, placement=placement, listening=server)
    assert server is not None  # noqa: S101 - every role listens or connects, see ENDPOINTS
    return server


def _check_identity(startup: Path, config: KitFile, credentials: Credentials) -> None:
    wanted = Identity(config.project, config.role, config.name)
    for own in filter(None, (credentials, credentials.listening)):
        if own.identity != wanted:
            message = f"is the certificate of {own.identity.uri}, the kit is that of {wanted.uri}: {_REMEDY}"
            raise ConfigurationError(message, str(own.files[0] if own.files else startup))
    placement = credentials.placement
    if placement and Identity(placement.project, placement.role, placement.name) != wanted:
        raise ConfigurationError(f"is the placement of another cell: {_REMEDY}", str(startup / "placement.bin"))


def _parse(model: type[Any], path: Path, files: Mapping[str, bytes]) -> Any:
    try:
        return model.model_validate_json(_take(path, files))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{key + ': ' if key else ''}{first['msg']}: {_REMEDY}", str(path)) from None


def _take(path: Path, files: Mapping[str, bytes]) -> bytes:
    if path.name not in files:
        raise ConfigurationError(f"the file is missing, from the manifest too: {_REMEDY}", str(path))
    return files[path.name]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"the file is missing: {_REMEDY}", str(path)) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
