"""A kit that NVIDIA FLARE's own provisioning made: what it says of its node, in our terms, and what it lacks here.

::

    <kit>/startup/  fed_relay.json, fed_client.json, fed_server.json or fed_admin.json; certificates, rootCA.pem
    <kit>/local/    comm_config.json (where a relay listens), relay__resources.json (the relay that a client joins)

Only these files are read, and what they name is never imported or run. Private keys are not looked at.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cellnet.credentials import LISTEN, Identity
from cellnet.enrolment import STEMS
from cellnet.errors import ConfigurationError, InvalidName
from cellnet.fqcn import FQCN, FQSN, ROOT
from cellnet.inspection import verify_kit
from cellnet.kit import ENDPOINTS, Endpoint, Kit, Role, Security
from provisioning.endpoints import url
from provisioning.foreign_files import (
    AdminFile,
    ClientFile,
    CommFile,
    RelayedFile,
    RelayFile,
    ServerFile,
    Uplink,
    is_there,
    read_certificate,
    read_hosts,
    read_json,
    read_subject,
)

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Iterator

    from provisioning.rules import Scheme

__all__ = ["ForeignKit", "is_foreign", "missing", "read_foreign"]

_FILES: dict[str, Role] = {
    "fed_relay.json": "relay",
    "fed_client.json": "client",
    "fed_server.json": "server",
    "fed_admin.json": "admin",
}


@dataclass(frozen=True, slots=True)
class ForeignKit:
    """What a kit of FLARE's says, as far as it says it."""

    path: Path
    project: str
    name: str
    """As their project file has it, also the server's."""
    role: Role
    org: str
    """Empty, if the certificate names none."""
    fqcn: str
    """Empty for an admin, who is no cell."""
    fqsn: str
    """Empty for a relay and an admin, who are no sites."""
    listen: Endpoint | None
    """Where others find it, at the first host of its certificate; of a server and a relay only."""
    connect: Endpoint | None
    hosts: tuple[str, ...]
    """The names and addresses in its server certificate, if it has one, the default host first."""
    root: x509.Certificate = field(repr=False)
    control_port: int | None = None
    """Where the server takes admins, which may be the port of all others."""
    admin_role: str = ""
    ingress_ca: Path | None = None
    """Who certifies the ingress in front of the parent, if the kit says so."""

    @property
    def base_name(self) -> str:
        """What its cell is called here: ``server`` for the server."""
        return ROOT if self.role == "server" else self.name

    @property
    def parent(self) -> str | None:
        """The base name of the node that it connects to."""
        return self.connect.parent if self.connect else None

    @property
    def identity(self) -> Identity:
        """What its certificates would have to say here."""
        return Identity(self.project, self.role, self.base_name)


def is_foreign(path: Path | str) -> bool:
    """Whether a folder looks like a kit of FLARE's."""
    try:
        return any((Path(path) / "startup" / name).is_file() for name in _FILES)
    except OSError:  # such as a folder that is not ours to look into
        return False


def read_foreign(path: Path | str) -> ForeignKit:
    """Read the kit in the folder *path*.

    :raises ConfigurationError: naming the file, and the key in it, that is missing or malformed
    """
    path = Path(path).absolute()
    startup = path / "startup"
    found = [name for name in _FILES if is_there(startup / name)] if is_foreign(path) else []
    if len(found) != 1:
        what = f"has {' and '.join(found)}, and only one may be" if found else f"has none of {', '.join(_FILES)}"
        raise ConfigurationError(f"is no kit of FLARE's: it {what}", str(startup))
    role, file = _FILES[found[0]], startup / found[0]
    own = startup / ("server.crt" if role == "server" else "client.crt")
    subject = read_subject(own)
    try:
        told = _TELLERS[role](path, file, subject.name)
    except InvalidName as error:
        raise ConfigurationError(error.message, str(file)) from None
    if subject.name != told.name:
        raise ConfigurationError(f"is the certificate of {subject.name!r}, and the kit that of {told.name!r}", str(own))
    listener, ingress = startup / "server.crt", startup / "customRootCA.pem"
    hosts = read_hosts(listener) if role in ("server", "relay") or is_there(listener) else ()
    return ForeignKit(
        path,
        told.project,
        told.name,
        role,
        subject.org,
        told.fqcn,
        told.fqsn,
        told.listen._replace(host=hosts[0] if hosts else told.listen.host).endpoint if told.listen else None,
        told.connect.endpoint if told.connect else None,
        hosts,
        read_certificate(startup / "rootCA.pem"),
        told.control_port,
        subject.role if role == "admin" else "",
        ingress if role != "server" and is_there(ingress) else None,
    )


def missing(kit: ForeignKit, now: datetime.datetime) -> list[str]:
    """Say why no node can run from *kit* here: a sentence for each thing, with its file, and at last what to do.

    The list is empty only if a node could.
    """
    startup = kit.path / "startup"
    found = [
        fault
        for (stem, usage), needed in zip(STEMS.items(), ENDPOINTS[kit.role], strict=True)
        if needed
        for fault in _faults(startup / f"{stem}.crt", now, kit.identity, usage)
    ]
    found += _faults(startup / "rootCA.pem", now)
    not_its = "placement.bin" if kit.role == "server" else "roster.bin"
    for name, message in _DOCUMENTS.items():
        if name != not_its and not is_there(startup / name):
            found.append(f"{startup / name}: {message}.")
    found = found or _refusals(kit.path, now)
    return [*found, _remedy(kit)] if found else []


class _Place(NamedTuple):
    scheme: Scheme
    host: str
    port: int
    security: Security
    parent: str | None = None

    @classmethod
    def of(cls, uplink: Uplink) -> _Place:
        return cls(uplink.scheme, *uplink.address, uplink.connection_security, FQCN(uplink.fqcn).base_name)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(url=url(self.scheme, self.host, self.port), security=self.security, parent=self.parent)


class _Told(NamedTuple):
    """What the JSON files say."""

    project: str
    name: str
    fqcn: str = ""
    fqsn: str = ""
    listen: _Place | None = None
    connect: _Place | None = None
    control_port: int | None = None


def _tell_server(_path: Path, file: Path, _subject: str) -> _Told:
    own = read_json(ServerFile, file).servers[0]
    listen = _Place(own.service.scheme, *own.service.target, own.connection_security)
    return _Told(own.name, own.admin_server, ROOT, ROOT, listen, control_port=own.admin_port)


def _tell_relay(path: Path, file: Path, _subject: str) -> _Told:
    told = read_json(RelayFile, file)
    internal = read_json(CommFile, path / "local" / "comm_config.json").internal
    at = internal.resources
    listen = _Place(internal.scheme, at.host, at.port, at.connection_security)
    fqcn = FQCN(told.connect_to.fqcn).child(told.identity)
    return _Told(told.project_name, told.identity, str(fqcn), "", listen, _Place.of(told.connect_to))


def _tell_client(path: Path, file: Path, subject: str) -> _Told:
    told = read_json(ClientFile, file)
    root, relayed = told.servers[0], path / "local" / "relay__resources.json"
    fqsn = FQSN(told.client.fqsn or subject)
    connect = _Place(root.service.scheme, *root.service.target, told.client.connection_security, ROOT)
    above = FQCN(ROOT)
    if is_there(relayed):
        uplink = read_json(RelayedFile, relayed).relay_config
        connect, above = _Place.of(uplink), FQCN(uplink.fqcn)
    return _Told(root.name, fqsn.base_name, str(above.child(fqsn.base_name)), str(fqsn), None, connect)


def _tell_admin(_path: Path, file: Path, subject: str) -> _Told:
    own = read_json(AdminFile, file).admin
    connect = _Place(own.scheme, own.host, own.port, own.connection_security, ROOT)
    return _Told(own.project_name, own.username or subject, connect=connect)


_TELLERS: dict[Role, Callable[[Path, Path, str], _Told]] = {
    "server": _tell_server,
    "relay": _tell_relay,
    "client": _tell_client,
    "admin": _tell_admin,
}

_DOCUMENTS = {
    "kit.json": "there is none, and a node here reads nothing else",
    "placement.bin": "there is no signed placement, which says below whom the node may join",
    "roster.bin": "there is no signed roster, which says who may join",
    "issuer.crt": "there is no certificate of whoever signs for the project",
    "manifest.json": "there is no manifest, which says that nothing in the kit was altered",
}


def _faults(
    file: Path, now: datetime.datetime, identity: Identity | None = None, usage: x509.ObjectIdentifier | None = None
) -> list[str]:
    """Say what keeps a certificate from being one here.

    :param identity: of the node whose it is; None for an authority's
    :param usage: what it is to be for
    """
    try:
        certificate = read_certificate(file)
    except ConfigurationError as error:
        return [f"{error}."]
    rules = [_key_faults(certificate), _time_faults(certificate, now)]
    if identity and usage:
        rules += [_name_faults(certificate, identity), _extension_faults(certificate, usage)]
    faults: list[str] = []
    for rule in rules:
        try:
            faults += rule
        except Exception as error:  # keys and extensions are parsed only now, and may be malformed in many ways
            faults.append(f"has a part that cannot be read: {error}")
    return [f"{file}: {fault}." for fault in faults]


def _key_faults(certificate: x509.Certificate) -> Iterator[str]:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return
    kind = "a key of another kind"
    if isinstance(key, rsa.RSAPublicKey):
        kind = f"an RSA key of {key.key_size} bits"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = f"a key on the curve {key.curve.name}"
    yield f"holds {kind}, and not one on the curve P-256"


def _time_faults(certificate: x509.Certificate, now: datetime.datetime) -> Iterator[str]:
    if now > certificate.not_valid_after_utc:
        yield f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_valid_before_utc:
        yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"


def _name_faults(certificate: x509.Certificate, identity: Identity) -> Iterator[str]:
    try:
        named = Identity.of(certificate)
    except ConfigurationError as error:
        yield f"has not the one URI name {identity.uri}: {error}"
    else:
        if named != identity:
            yield f"has the URI name {named.uri}, and not {identity.uri}"


def _extension_faults(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> Iterator[str]:
    found: dict[x509.ObjectIdentifier, Any] = {one.oid: one for one in certificate.extensions}
    constraints, key_usage, extended = (
        found.get(kind.oid) for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    )
    if extended is None or usage not in extended.value:
        yield f"has no extended key usage {usage._name}, to {'listen' if usage == LISTEN else 'connect'} with"
    if key_usage is None or not key_usage.critical:
        yield "has no critical key usage"
    if constraints is None or not constraints.critical:
        yield "has no critical basic constraints"
    elif constraints.value.ca:
        yield "is an authority's, and no node's"


def _refusals(path: Path, now: datetime.datetime) -> list[str]:
    """Say what a node would that started with the kit: only this can tell that nothing is missing."""
    try:
        verify_kit(Kit.load(path), now)
    except ConfigurationError as error:
        return [f"{error}."]
    return []


def _remedy(kit: ForeignKit) -> str:
    name, project = shlex.quote(kit.base_name), shlex.quote(kit.project)
    asked = f"cellnet request {name} --project {project} --type {kit.role} --out DIR"
    signed = f"cellnet sign PROJECT.YML DIR/{name}.request --out KITS"
    return f"{kit.path}: run `{asked}` at the site, and `{signed}` at the project."
