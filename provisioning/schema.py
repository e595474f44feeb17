"""What may stand in a project.yml: each kind of mapping with its keys, and the rules for single values.

Rules that join several participants are in ``plan``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from cellnet.errors import InvalidName
from cellnet.fqcn import check_segment
from cellnet.kit import Security

__all__ = [
    "LEGACY_KEYS",
    "MODELS",
    "SCHEMES",
    "SYNONYMS",
    "Admin",
    "Builder",
    "Client",
    "ConnectTo",
    "Listening",
    "Participant",
    "Relay",
    "Scheme",
    "Server",
    "Top",
]

SCHEMES = ("grpc", "tcp", "http")
Scheme = Literal["grpc", "tcp", "http"]

LEGACY_KEYS = frozenset(
    {
        "admin_port",
        "allow_log_streaming",
        "capacity",
        "cc_config",
        "components",
        "edge_service_port",
        "enable_byoc",
        "overseer_agent",
        "resource",
        "use_aio",
    }
)
"""Keys of other tools' project files that mean nothing here, and harm nobody."""

SYNONYMS = {
    "address": ("default_host", "host"),
    "cn": ("default_host",),
    "fqdn": ("default_host", "host"),
    "host": ("default_host",),
    "hostname": ("default_host", "host"),
    "hosts": ("host_names",),
    "organization": ("org",),
    "port": ("fed_learn_port",),
    "relay": ("connect_to",),
    "security": ("connection_security",),
}
"""What people write, and what they may have meant."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9][A-Za-z0-9.-]*")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"a text is wanted, not {_shown(value)}")


def _project_name(value: Any) -> str:
    if _PROJECT.fullmatch(_text(value)) is None:
        raise ValueError(
            f"{value!r} is no project name: a letter or digit, then at most 62 letters, digits, '_', '-', '.'"
        )
    return str(value)


def _org(value: Any) -> str:
    if _ORG.fullmatch(_text(value)) is None:
        raise ValueError(f"{value!r} is no org: a letter or digit, then at most 63 letters, digits, '_', '-', '.'")
    return str(value)


def _cell_name(value: Any) -> str:
    if "." in _text(value):
        raise ValueError(f"{value!r} is no name: '.' separates the levels of a full name, so no base name has one")
    try:
        return check_segment(value)
    except InvalidName as error:
        raise ValueError(error.message) from None


def _server_name(value: Any) -> str:
    labels = _text(value).split(".")
    if len(value) > 64 or any(_LABEL.fullmatch(label.replace("_", "-")) is None for label in labels):
        raise ValueError(f"{value!r} is no name of a server: a name or a full domain name of at most 64 characters")
    return str(value)


def _admin_name(value: Any) -> str:
    if _EMAIL.fullmatch(_text(value)) is None or len(value) > 64:
        raise ValueError(f"{value!r} is no name of an admin: an e-mail address of at most 64 characters is wanted")
    return str(value)


def _host(value: Any) -> str:
    if re.fullmatch(r"\[.*\]", _text(value)):
        raise ValueError(f"{value!r} is no host: write an IPv6 address without brackets")
    if ":" in value:
        try:
            return str(ipaddress.IPv6Address(value)) if "%" not in value else _no_host(value)
        except ValueError:
            return _no_host(value)
    labels = value.split(".")
    if labels[-1].isdigit():  # a domain's last label is never a number, so this can only be an IPv4 address
        try:
            return str(ipaddress.IPv4Address(value))
        except ValueError:
            return _no_host(value)
    if len(value) > 253 or any(_LABEL.fullmatch(label) is None for label in labels):
        return _no_host(value)
    return str(value)


def _no_host(value: str) -> str:
    hint = ": the port has a key of its own" if re.fullmatch(r"[^:]*:\d+", value) else ""
    raise ValueError(f"{value!r} is neither a host name nor an IP address{hint}")


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"{_shown(value)} is no port: an integer from 1 to 65535 is wanted")
    return value


def _version(value: Any) -> int:
    if type(value) is not int or value not in (3, 4):
        raise ValueError(f"{_shown(value)} is not supported: 3 is, and 4")
    return value


def _folded(value: Any) -> str:
    return _text(value).lower()


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()} (yes, no, on and off are such; write a text in quotes)"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else repr(value)


CellName = Annotated[str, BeforeValidator(_cell_name)]
Host = Annotated[str, BeforeValidator(_host)]
Port = Annotated[int, BeforeValidator(_port)]
Text = Annotated[str, BeforeValidator(_text)]
Hosts = Annotated[tuple[Host, ...], Field(strict=False)]
FoldedScheme = Annotated[Scheme, BeforeValidator(_folded)]
FoldedSecurity = Annotated[Security, BeforeValidator(_folded)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Listening(_Keys):
    """Where a relay listens."""

    scheme: FoldedScheme | None = None
    host_names: Hosts = ()
    default_host: Host
    port: Port
    connection_security: FoldedSecurity | None = None


class ConnectTo(_Keys):
    """Whereto a node connects; a plain text stands for its host."""

    name: Text | None = None
    host: Host | None = None
    port: Port | None = None
    connection_security: FoldedSecurity | None = None

    @model_validator(mode="after")
    def _names_one_end(self) -> ConnectTo:
        if self.name is None and self.host is None:
            raise ValueError("either 'name' (of the server or a relay) or 'host' must be given")
        if self.name is not None and self.host is not None:
            raise ValueError("'name' and 'host' exclude each other: name a node, or an ingress in front of one")
        return self


def _connect_to(value: Any) -> Any:
    return {"host": value} if isinstance(value, str) else value


Connecting = Annotated[ConnectTo | None, BeforeValidator(_connect_to)]


class Server(_Keys):
    """The root of both hierarchies."""

    name: Annotated[str, BeforeValidator(_server_name)]
    type: Literal["server"]
    org: Annotated[str, BeforeValidator(_org)]
    fed_learn_port: Port = 8002
    host_names: Hosts = ()
    default_host: Host | None = None
    connection_security: FoldedSecurity | None = None


class _Connecting(_Keys):
    org: Annotated[str, BeforeValidator(_org)]
    connect_to: Connecting = None


class Relay(_Connecting):
    """A node that listens and connects."""

    name: CellName
    type: Literal["relay"]
    listening_host: Listening


class Client(_Connecting):
    """A site."""

    name: CellName
    type: Literal["client"]
    parent: Text | None = None


class Admin(_Connecting):
    """A person who steers the project."""

    name: Annotated[str, BeforeValidator(_admin_name)]
    type: Literal["admin"]
    role: Text


Participant = Server | Relay | Client | Admin

MODELS: dict[str, type[Server] | type[Relay] | type[Client] | type[Admin]] = {
    "server": Server,
    "relay": Relay,
    "client": Client,
    "admin": Admin,
}


class Builder(_Keys):
    """A step of another tool's provisioning: only its name and its settings are read, nothing is imported."""

    path: Text
    args: dict[str, Any] | None = None


class Top(_Keys):
    """The top of the file; participants and builders are read one by one."""

    api_version: Annotated[int, BeforeValidator(_version)]
    name: Annotated[str, BeforeValidator(_project_name)]
    description: Text | None = None
    scheme: FoldedScheme | None = None
    connection_security: FoldedSecurity | None = None
    allow_error_sending: StrictBool = False
    """Whether sites may send their error logs to the server."""
    participants: list[Any]
    builders: list[Any] | None = None
