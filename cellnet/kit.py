"""A startup kit: everything that one participant needs to start, as a folder and as frozen values.

::

    <kit>/startup/   kit.json, certificates, keys, placement.bin, roster.bin, rootCA.pem, issuer.crt, start.sh,
                     manifest.json (the SHA-256 of every file but itself), manifest.sig (the issuer's signature)
    <kit>/local/     the node's own state, free to edit
    <kit>/transfer/  what users hand to the node, and take from it

The law of this file: nothing under ``startup/`` is believed before the manifest is, so a kit that was edited,
or that lost a file on its way, says so instead of half working.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography import x509
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cellnet.credentials import Credentials, Identity
from cellnet.document import authority_key
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.placement import MAX_PARENTS
from cellnet.renewal import renewed_credentials
from cellnet.roster import Member, Role, Roster
from cellnet.signing import sign, verify
from cellnet.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["ENDPOINTS", "Endpoint", "Kit", "KitFile", "Role", "Security", "sign_manifest"]

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
_ISSUER = "issuer.crt"
_ROSTER = "roster.bin"
_DENIED = "denied.bin"
_SIGNED_THEMSELVES = (_ROSTER, _DENIED)
_COMING = re.compile(r"\.(.+)-\w{8}")
"""What is about to replace a file, as provisioning names it."""
_INGRESS = "ingressCA.pem"
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


class KitFile(_Frozen):
    """Hold what ``kit.json`` says."""

    format: Literal[2] = 2
    project: str
    name: str
    role: Role
    listen: Endpoint | None = None
    connect: Endpoint | None = None
    others: Annotated[tuple[Endpoint, ...], Field(max_length=MAX_PARENTS - 1)] = ()
    """Whereto it connects while that cannot be reached, the best first."""
    control_port: int | None = None
    """Where users reach the Control API; of the server only."""
    allow_error_sending: bool = False
    """Whether sites send what their nodes log as errors to the server."""

    @model_validator(mode="after")
    def _role_has_its_endpoints(self) -> KitFile:
        connects = self.connect is not None
        if (self.listen is not None, connects) != ENDPOINTS[self.role] or (self.others and not connects):
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
    others: tuple[Endpoint, ...]
    """Whereto it connects while that cannot be reached, the best first."""
    placement: bytes = field(repr=False)
    """The signed placement; empty for the server, which is placed below nobody."""
    credentials: Credentials = field(repr=False)
    roster: tuple[Member, ...] = field(default=(), repr=False)
    """The other members of the project; only the server knows them."""
    ingress_ca: Path | None = None
    """Who certifies the ingress in front of the parent, if the project says so."""
    allow_error_sending: bool = False
    """Whether sites send what their nodes log as errors to the server."""

    @property
    def local(self) -> Path:
        """The folder for the node's own state."""
        return self.path / "local"

    @property
    def denied(self) -> Path:
        """The list of who was revoked, as the operator puts it into the server's kit; no other kit has one."""
        return self.path / "startup" / _DENIED

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
        roots = credentials.roots
        if (newer := renewed_credentials(path, credentials)) is not None:
            credentials.renew(newer)
            # what lies here was signed before or after they changed
            roots = tuple(dict.fromkeys((*roots, *credentials.roots)))
        roster = _load_roster(startup, config, files, roots) if config.role == "server" else ()
        for place in (startup / _DENIED, path / "local" / _DENIED):
            _take_denied(place, config.project, credentials, roots)
        return cls(
            path,
            config.project,
            config.name,
            config.role,
            config.listen,
            config.connect,
            config.others,
            placement,
            credentials,
            roster,
            startup / _INGRESS if _INGRESS in files else None,
            config.allow_error_sending,
        )


def sign_manifest(files: Mapping[str, bytes | None], issuer: ec.EllipticCurvePrivateKey) -> dict[str, bytes]:
    """Return *files*, the content of ``startup/``, with a manifest and its signature added.

    The manifest names without their digests what has a signature of its own and changes, and a key that is None: it was
    made at the site, and never left it.
    """
    digests = {
        name: None if content is None or name in _SIGNED_THEMSELVES else hashlib.sha256(content).hexdigest()
        for name, content in sorted(files.items())
    }
    manifest = json.dumps({"format": 2, "files": digests}, indent=1).encode() + b"\n"
    known = {name: content for name, content in files.items() if content is not None}
    return {**known, _MANIFEST: manifest, _SIGNATURE: sign(issuer, _CONTEXT, manifest)}


class _Manifest(_Frozen):
    format: Literal[2]
    files: dict[str, str | None]


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
    _check_owner(startup)
    manifest = _read(startup / _MANIFEST)
    signature = _read(startup / _SIGNATURE)
    issuer = _issuer_key(startup)
    try:
        verify(issuer, signature, _CONTEXT, manifest)
    except HandshakeError:
        message = f"was altered, or is not from the authority in {_ISSUER}: {_REMEDY}"
        raise ConfigurationError(message, str(startup / _MANIFEST)) from None
    expected = _parse(_Manifest, startup / _MANIFEST, {_MANIFEST: manifest}).files
    for name, digest in expected.items():
        if digest is None and name.endswith(".key") and not (startup / name).exists():
            raise ConfigurationError("put the key here that was made for the request", str(startup / name))
    _check_names(startup, set(expected) | {_MANIFEST, _SIGNATURE})
    files = {}
    for name, digest in expected.items():
        if name.endswith(".key"):
            _check_private(startup / name)
        files[name] = _read(startup / name)
        if digest is None and not name.endswith(".key") and name not in _SIGNED_THEMSELVES:
            raise ConfigurationError(f"the manifest says nothing about it: {_REMEDY}", str(startup / name))
        if digest is not None and hashlib.sha256(files[name]).hexdigest() != digest:
            raise ConfigurationError(f"was altered after it was provisioned: {_REMEDY}", str(startup / name))
    return files


def _issuer_key(startup: Path) -> ec.EllipticCurvePublicKey:
    """Return the key of who made the kit, once one of the roots says that it may."""
    roots, (issuer, *_rest) = _certificates(startup / _ROOTS), _certificates(startup / _ISSUER)
    try:
        return authority_key(issuer, roots)
    except HandshakeError:
        message = f"was not issued by the authority in {_ROOTS}: {_REMEDY}"
        raise ConfigurationError(message, str(startup / _ISSUER)) from None


def _certificates(path: Path) -> list[x509.Certificate]:
    content = _read(path)
    try:
        return x509.load_pem_x509_certificates(content)
    except Exception as error:  # the library has many words for a damaged certificate, and no common one
        raise ConfigurationError(f"is no certificate ({error}): {_REMEDY}", str(path)) from None


def _check_names(startup: Path, expected: set[str]) -> None:
    try:
        found = {entry.name for entry in startup.iterdir()}
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(startup)) from None
    for name in sorted(expected - found):
        raise ConfigurationError(f"the file is missing: {_REMEDY}", str(startup / name))
    for name in sorted(found - expected):
        coming = _COMING.fullmatch(name)
        if coming is not None and coming[1] in expected:
            continue  # in a moment it takes that one's place, or else whoever wrote it was ended: nobody reads it
        message = "is no part of the kit: move it away (local/ and transfer/ are free to use)"
        raise ConfigurationError(message, str(startup / name))


def _check_owner(startup: Path) -> None:
    mode = _stat(startup).st_mode
    if mode & 0o022:
        message = f"others may write here (mode {mode & 0o777:04o}): run chmod 700, and check what is in it"
        raise ConfigurationError(message, str(startup))


def _check_private(path: Path) -> None:
    found = _stat(path)
    if found.st_mode & 0o077:
        message = f"is readable by others (mode {found.st_mode & 0o777:04o}): the key may be known; run chmod 600"
        raise ConfigurationError(message, str(path))
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError("belongs to somebody else, who may know the key: run chown", str(path))


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise ConfigurationError(f"the file is missing: {_REMEDY}", str(path)) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None


def _load_roster(
    startup: Path, config: KitFile, files: Mapping[str, bytes], roots: Sequence[x509.Certificate]
) -> tuple[Member, ...]:
    path = startup / _ROSTER
    try:
        roster = Roster.verify(_take(path, files), roots)
    except HandshakeError as error:
        raise ConfigurationError(f"{error}: {_REMEDY}", str(path)) from None
    if roster.project != config.project:
        raise ConfigurationError(f"is the roster of project {roster.project}: {_REMEDY}", str(path))
    return roster.members


def _take_denied(path: Path, project: str, credentials: Credentials, roots: Sequence[x509.Certificate]) -> None:
    if not path.exists():
        return
    try:
        credentials.denied.take(_read(path), project, roots)
    except HandshakeError as error:
        message = (
            f"{error}: remove it, the parent has another" if path.parent.name == "local" else f"{error}: {_REMEDY}"
        )
        raise ConfigurationError(message, str(path)) from None


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
        if path.is_symlink():
            raise ConfigurationError(f"is a link, and no file: {_REMEDY}", str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"the file is missing: {_REMEDY}", str(path)) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
