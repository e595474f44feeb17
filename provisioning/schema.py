"""What may stand in a project.yml: each kind of mapping with its keys.

Rules for single values are in ``rules``, those that join several participants in ``plan``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from cellnet.placement import MAX_PARENTS
from provisioning.problems import Code, Wrong
from provisioning.rules import (
    AdminName,
    ApiVersion,
    CellName,
    FoldedScheme,
    FoldedSecurity,
    Host,
    Hosts,
    Org,
    Port,
    ProjectName,
    ServerName,
    Text,
)

__all__ = [
    "LEGACY_KEYS",
    "MODELS",
    "SYNONYMS",
    "Admin",
    "Builder",
    "Client",
    "ConnectTo",
    "Listening",
    "Participant",
    "Relay",
    "Server",
    "Top",
    "json_schema",
]

LEGACY_KEYS = frozenset(
    {
        "allow_log_streaming",
        "auth_identity",
        "capacity",
        "cc_config",
        "components",
        "edge_service_port",
        "enable_byoc",
        "gen_scripts",
        "overseer_agent",
        "packager",
        "require_signed_jobs",
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


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Listening(_Keys):
    """Where a relay listens."""

    scheme: FoldedScheme | None = None
    """The project's by default."""
    host_names: Hosts = ()
    """Further names and addresses of the same place."""
    default_host: Host
    """Whereto others connect."""
    port: Port
    connection_security: FoldedSecurity | None = None
    """The project's by default, else mtls."""


class SiteHost(_Keys):
    """Where other programs of a client's site listen, with a certificate that is in its kit."""

    host_names: Hosts = ()
    default_host: Host
    port: Port | None = None
    scheme: FoldedScheme | None = None
    connection_security: FoldedSecurity | None = None


class ConnectTo(_Keys):
    """Whereto a node connects; a plain text stands for its host."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["host"]}]})

    name: Text | None = None
    """The server or a relay; its default host is taken."""
    host: Host | None = None
    """One of the hosts of the server or a relay, or an ingress in front of one."""
    port: Port | None = None
    connection_security: FoldedSecurity | None = None

    @model_validator(mode="after")
    def _names_one_end(self) -> ConnectTo:
        if self.name is None and self.host is None:
            raise Wrong(Code.NAME_OR_HOST, "either 'name' (of the server or a relay) or 'host' must be given")
        if self.name is not None and self.host is not None:
            message = "'name' and 'host' exclude each other: name a node, or an ingress in front of one"
            raise Wrong(Code.NAME_OR_HOST, message)
        return self


def _parents(value: Any) -> Any:
    """Return a list of whom a node may join, the best first: what is no list is the only one."""
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if not 1 <= len(listed) <= MAX_PARENTS:
        raise Wrong(Code.PARENTS, f"1 to {MAX_PARENTS} parents may be listed, not {len(listed)}")
    return tuple({"host": one} if isinstance(one, str) else one for one in listed)


def _site_host(value: Any) -> Any:
    return {"default_host": value} if isinstance(value, str) else value


class Server(_Keys):
    """The root of both hierarchies."""

    name: ServerName
    type: Literal["server"]
    org: Org
    fed_learn_port: Port = 8002
    """Where nodes join."""
    admin_port: Port | None = None
    """Where users reach the Control API; 9093 by default."""
    host_names: Hosts = ()
    default_host: Host | None = None
    """Its name by default."""
    connection_security: FoldedSecurity | None = None


class _Connecting(_Keys):
    org: Org
    connect_to: Annotated[
        tuple[ConnectTo, ...],
        BeforeValidator(_parents, json_schema_input_type=str | ConnectTo | list[str | ConnectTo] | None),
    ] = ()
    """The server, if it is left out. Of several, the first is the parent, and the others are while it stays away."""
    custom_ca_cert: Text | None = None
    """A file with the authorities of an ingress's certificate."""


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
    """The client whose child it is in the client hierarchy."""
    listening_host: Annotated[
        SiteHost | None, BeforeValidator(_site_host, json_schema_input_type=str | SiteHost | None)
    ] = None


class Admin(_Connecting):
    """A person who steers the project."""

    name: AdminName
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

    api_version: ApiVersion
    name: ProjectName
    description: Text | None = None
    scheme: FoldedScheme | None = None
    connection_security: FoldedSecurity | None = None
    custom_ca_cert: Text | None = None
    """For all participants that do not say it themselves."""
    allow_error_sending: StrictBool = False
    """Whether sites may send their error logs to the server."""
    studies: dict[str, dict[str, Any]] | None = None
    """Of version 4 of the format; they are accepted, and mean nothing to the network."""
    participants: list[Any]
    builders: list[Any] | None = None


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a project.yml, for editors: what they allow may still not fit together."""
    schema = _Document.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        definition.setdefault("patternProperties", {f"^({'|'.join(sorted(LEGACY_KEYS))})$": {}})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _Document(Top):
    """A cellnet project: its participants, and how they reach each other."""

    participants: list[Annotated[Participant, Field(discriminator="type")]] = Field(min_length=1)
    builders: list[Builder] | None = None
