"""The files of a kit of FLARE's: which keys of their JSON files mean something here, and what its certificates name.

Schemes and securities are translated into ours on the way. Keys that are not read may be anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from cellnet.errors import ConfigurationError
from cellnet.fqcn import FQCN
from cellnet.kit import Security
from provisioning.problems import Code, Wrong
from provisioning.rules import AdminName, CellName, Host, Org, Port, ProjectName, Scheme, ServerName

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AdminFile",
    "ClientFile",
    "CommFile",
    "RelayFile",
    "RelayedFile",
    "ServerFile",
    "Subject",
    "Uplink",
    "is_there",
    "read_certificate",
    "read_hosts",
    "read_json",
    "read_subject",
]

_SCHEMES: dict[str, Scheme] = {
    **dict.fromkeys(("tcp", "stcp", "atcp", "satcp"), "tcp"),
    **dict.fromkeys(("grpc", "grpcs", "agrpc", "agrpcs", "ngrpc", "ngrpcs"), "grpc"),
    **dict.fromkeys(("http", "https"), "http"),
}
_SECURITIES: dict[str, Security] = {"clear": "clear", "tls": "tls", "mtls": "mtls"}
_MAX_BYTES = 1024 * 1024
_MAX_MESSAGE = 300


def _scheme(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in _SCHEMES:
        return _SCHEMES[value.lower()]
    raise Wrong(Code.NOT_AN_OPTION, f"{value!r} is no scheme of ours, nor like one: {', '.join(_SCHEMES)} are")


def _security(value: Any) -> Any:
    if value in (None, "", "None"):  # the last is what their relays say where their project says nothing
        return "mtls"
    if isinstance(value, str) and value.lower() in _SECURITIES:
        return value.lower()
    raise Wrong(Code.NOT_AN_OPTION, f"{value!r} is no connection security: {', '.join(_SECURITIES)} are")


def _address(value: Any) -> Any:
    found = re.fullmatch(r"\[?(.+?)\]?:([0-9]{1,5})", value) if isinstance(value, str) else None
    if found is None or found[1] == "None":  # which clients say that name the server, and no host of it
        raise Wrong(Code.HOST, f"{value!r} is no address: <host>:<port> is wanted")
    try:
        return _HOST.validate_python(found[1]), _PORT.validate_python(int(found[2]))
    except ValidationError as error:
        raise Wrong(Code.HOST, _said(error)) from None


def _user(value: Any) -> Any:
    return value or None


def _full_name(value: Any) -> Any:
    return str(FQCN(value))


_HOST: TypeAdapter[str] = TypeAdapter(Host)
_PORT: TypeAdapter[int] = TypeAdapter(Port)
_ORG: TypeAdapter[str] = TypeAdapter(Org)
_TheirScheme = Annotated[Scheme, BeforeValidator(_scheme)]
_TheirSecurity = Annotated[Security, BeforeValidator(_security)]
_TheirAddress = Annotated[tuple[str, int], BeforeValidator(_address)]
_FullName = Annotated[str, BeforeValidator(_full_name)]


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Uplink(_Keys):
    """The node to join."""

    scheme: _TheirScheme
    address: _TheirAddress
    fqcn: _FullName
    connection_security: _TheirSecurity = "mtls"


class RelayFile(_Keys):
    """What ``startup/fed_relay.json`` says."""

    project_name: ProjectName
    identity: CellName
    connect_to: Uplink


class Resources(_Keys):
    """Where a relay listens."""

    host: Host
    port: Port
    connection_security: _TheirSecurity = "mtls"


class Internal(_Keys):
    """How a relay listens."""

    scheme: _TheirScheme
    resources: Resources


class CommFile(_Keys):
    """What a relay's ``local/comm_config.json`` says."""

    internal: Internal


class RelayedFile(_Keys):
    """What ``local/relay__resources.json`` of a client behind a relay says."""

    relay_config: Uplink


class Service(_Keys):
    """Where the server listens, for whoever has the file."""

    target: _TheirAddress
    scheme: _TheirScheme


class Root(_Keys):
    """The server, as a client knows it."""

    name: ProjectName
    """The project's."""
    service: Service


class OwnRoot(Root):
    """The server, as it knows itself."""

    admin_server: ServerName
    admin_port: Port
    connection_security: _TheirSecurity = "mtls"


class ServerFile(_Keys):
    """What ``startup/fed_server.json`` says."""

    servers: Annotated[list[OwnRoot], Field(min_length=1)]


class Site(_Keys):
    """What a client says of itself."""

    fqsn: _FullName | None = None
    """Older versions did not give it."""
    connection_security: _TheirSecurity = "mtls"


class ClientFile(_Keys):
    """What ``startup/fed_client.json`` says."""

    servers: Annotated[list[Root], Field(min_length=1)]
    client: Site


class Person(_Keys):
    """An admin, and the server, as the admin's kit knows it."""

    project_name: ProjectName
    username: Annotated[AdminName | None, BeforeValidator(_user)]
    """None, if it is only in the certificate."""
    scheme: _TheirScheme
    host: Host
    port: Port
    connection_security: _TheirSecurity = "mtls"


class AdminFile(_Keys):
    """What ``startup/fed_admin.json`` says."""

    admin: Person


class Subject(NamedTuple):
    """Whose a certificate is."""

    name: str
    org: str
    """Empty, if there is none."""
    role: str
    """An admin's; else empty."""


_File = TypeVar("_File", bound=_Keys)


def read_json(model: type[_File], file: Path) -> _File:
    """Read what a JSON file says.

    :raises ConfigurationError: naming the file, and the key in it, that is missing or malformed
    """
    data = _read(file)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise ConfigurationError(_said(error), str(file)) from None


def read_certificate(file: Path) -> x509.Certificate:
    """Read the first certificate in a file.

    :raises ConfigurationError: naming the file, if there is none
    """
    data = _read(file)
    try:
        return x509.load_pem_x509_certificate(data)
    except Exception as error:  # the library has many words for a damaged certificate, and no common one
        raise ConfigurationError(_shortened(f"is no certificate: {error}"), str(file)) from None


def read_subject(file: Path) -> Subject:
    """Read whose the certificate in a file is.

    :raises ConfigurationError: naming the file, if it does not say that
    """
    certificate = read_certificate(file)
    try:
        names, orgs, roles = (
            [str(one.value) for one in certificate.subject.get_attributes_for_oid(oid)]
            for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.UNSTRUCTURED_NAME)
        )
    except Exception as error:  # as in read_certificate
        raise ConfigurationError(_shortened(f"has a subject that cannot be read: {error}"), str(file)) from None
    if len(names) != 1:
        raise ConfigurationError("has not exactly one common name, which would be the node's", str(file))
    try:
        org = _ORG.validate_python(orgs[0]) if orgs else ""
    except ValidationError as error:
        raise ConfigurationError(f"organization: {_said(error)}", str(file)) from None
    return Subject(names[0], org, "".join(roles[:1]))


def read_hosts(file: Path) -> tuple[str, ...]:
    """Read for which hosts a certificate is, in its order; without those that nobody can dial, such as wildcards.

    :raises ConfigurationError: naming the file, if it cannot be read
    """
    certificate = read_certificate(file)
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()
    except Exception as error:  # as in read_certificate
        raise ConfigurationError(_shortened(f"has names that cannot be read: {error}"), str(file)) from None
    values = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    return tuple(dict.fromkeys(value for value in values if _is_host(value)))


def is_there(file: Path) -> bool:
    """Whether there is something of that name, which may still not be readable."""
    try:
        return file.is_symlink() or file.exists()
    except OSError:
        return True


def _is_host(value: str) -> bool:
    try:
        return bool(_HOST.validate_python(value))
    except ValidationError:
        return False


def _said(error: ValidationError) -> str:
    """Return the first thing that is wrong, with the key that it is about."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    text = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    return _shortened(f"{key}: {text}" if key else text)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def _read(file: Path) -> bytes:
    try:
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise ConfigurationError("is a link, or no file at all", str(file))
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError("the file is missing", str(file)) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(file)) from None
    if len(data) > _MAX_BYTES:
        raise ConfigurationError(f"is larger than {_MAX_BYTES // 2**20} MiB", str(file))
    return data
