"""Rules for single values of a project.yml: names, hosts, ports, and the words that a key allows.

Each is a type for the models in ``schema``: what it refuses it says itself, and editors get the same as a JSON schema.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from cellnet.errors import InvalidName
from cellnet.fqcn import check_segment
from cellnet.kit import Security
from provisioning.problems import Code, Wrong

__all__ = [
    "AdminName",
    "ApiVersion",
    "CellName",
    "FoldedScheme",
    "FoldedSecurity",
    "Host",
    "Hosts",
    "Org",
    "Port",
    "ProjectName",
    "Scheme",
    "ServerName",
    "Text",
]

Scheme = Literal["grpc", "tcp", "http"]

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PROJECT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_ORG = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_EMAIL = r"[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9][A-Za-z0-9.-]*"
_CELL = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise Wrong(Code.WRONG_KIND, f"a text is wanted, not {_shown(value)}")


def _project_name(value: Any) -> str:
    if re.fullmatch(_PROJECT, _text(value)) is None:
        wanted = "a letter or digit, then at most 62 letters, digits, '_', '-', '.'"
        raise Wrong(Code.NAME, f"{value!r} is no project name: {wanted}")
    return str(value)


def _org(value: Any) -> str:
    if re.fullmatch(_ORG, _text(value)) is None:
        wanted = "a letter or digit, then at most 63 letters, digits, '_', '-', '.'"
        raise Wrong(Code.NAME, f"{value!r} is no org: {wanted}")
    return str(value)


def _cell_name(value: Any) -> str:
    if "." in _text(value):
        reason = "'.' separates the levels of a full name, so no base name has one"
        raise Wrong(Code.NAME, f"{value!r} is no name: {reason}")
    try:
        return check_segment(value)
    except InvalidName as error:
        raise Wrong(Code.NAME, error.message) from None


def _server_name(value: Any) -> str:
    labels = _text(value).split(".")
    if len(value) > 64 or any(re.fullmatch(_LABEL, label.replace("_", "-")) is None for label in labels):
        wanted = "a name or a full domain name of at most 64 characters"
        raise Wrong(Code.NAME, f"{value!r} is no name of a server: {wanted}")
    return str(value)


def _admin_name(value: Any) -> str:
    if re.fullmatch(_EMAIL, _text(value)) is None or len(value) > 64:
        wanted = "an e-mail address of at most 64 characters is wanted"
        raise Wrong(Code.NAME, f"{value!r} is no name of an admin: {wanted}")
    return str(value)


def _host(value: Any) -> str:
    if re.fullmatch(r"\[.*\]", _text(value)):
        raise Wrong(Code.HOST, f"{value!r} is no host: write an IPv6 address without brackets")
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
    if len(value) > 253 or any(re.fullmatch(_LABEL, label) is None for label in labels):
        return _no_host(value)
    return str(value)


def _no_host(value: str) -> str:
    hint = "the port has a key of its own" if re.fullmatch(r"[^:]*:\d+", value) else ""
    raise Wrong(Code.HOST, f"{value!r} is neither a host name nor an IP address", hint)


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise Wrong(Code.PORT, f"{_shown(value)} is no port: an integer from 1 to 65535 is wanted")
    return value


def _version(value: Any) -> int:
    if type(value) is not int or value not in (3, 4):
        raise Wrong(Code.API_VERSION, f"{_shown(value)} is not supported: 3 is, and 4")
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


def _pattern(pattern: str, most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "maxLength": most})


_A_PORT = WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535})

AdminName = Annotated[str, BeforeValidator(_admin_name), _pattern(_EMAIL, 64)]
ApiVersion = Annotated[int, BeforeValidator(_version), WithJsonSchema({"enum": [3, 4]})]
CellName = Annotated[str, BeforeValidator(_cell_name), _pattern(_CELL, 63)]
Host = Annotated[str, BeforeValidator(_host), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 253})]
Hosts = Annotated[tuple[Host, ...], Field(strict=False)]
Org = Annotated[str, BeforeValidator(_org), _pattern(_ORG, 64)]
Port = Annotated[int, BeforeValidator(_port), _A_PORT]
ProjectName = Annotated[str, BeforeValidator(_project_name), _pattern(_PROJECT, 63)]
ServerName = Annotated[str, BeforeValidator(_server_name), WithJsonSchema({"type": "string", "maxLength": 64})]
Text = Annotated[str, BeforeValidator(_text)]
FoldedScheme = Annotated[Scheme, BeforeValidator(_folded)]
FoldedSecurity = Annotated[Security, BeforeValidator(_folded)]
