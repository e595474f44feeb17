"""A project file made from the kits that FLARE's provisioning made of it: for whoever has only those.

What a kit says is what stood in the file, or what FLARE made of nothing; where the two cannot be told apart, a comment
in the text says so.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from cellnet.errors import ConfigurationError
from cellnet.fqcn import ROOT
from provisioning.builders import BUILDERS
from provisioning.plan import CONTROL_PORT
from provisioning.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cellnet.kit import Endpoint, Role, Security
    from provisioning.foreign import ForeignKit

__all__ = ["project_text"]

_ORDER: tuple[Role, ...] = ("server", "relay", "client", "admin")


def project_text(kits: Sequence[ForeignKit]) -> str:
    """Return the text of a project.yml from all kits of one project of FLARE's.

    Cells and sites have the names that they have there, but for those behind an ingress, which a comment says.

    :raises ConfigurationError: naming the kit that is of another project, not like the others, or not there
    """
    server = _check(kits)
    security = _common_security(kits, server)
    nodes = {kit.base_name: kit for kit in kits if kit.listen}
    kept = {kit.base_name: _keeps_security(kit, kits, security) for kit in nodes.values()}
    ordered = sorted(kits, key=lambda kit: (_ORDER.index(kit.role), kit.fqcn.count("."), kit.fqsn.count("."), kit.name))
    top = {"api_version": 3, "name": server.project, "connection_security": security}
    lines = [f"# Made from {counted(len(kits), 'kit')} of NVIDIA FLARE: see that it says what you mean.", _yaml(top)]
    lines.append("\nparticipants:")
    for kit in ordered:
        entry, notes = _entry(kit, nodes, security, kept)
        lines += [f"  # {note}" for note in notes]
        lines.append("\n".join("  " + line for line in _yaml([entry]).splitlines()))
    lines.append(BUILDERS.format(scheme=_parts(server.listen)[0]))
    return "\n".join(lines)


def _check(kits: Sequence[ForeignKit]) -> ForeignKit:
    """Return the server's kit, once all fit together."""
    servers = [kit for kit in kits if kit.role == "server"]
    if not servers:
        raise ConfigurationError("the server's kit is not among those given: nothing else tells all about it")
    server = servers[0]
    seen: dict[str, ForeignKit] = {}
    for kit in kits:
        if kit.base_name in seen:
            message = f"is a second kit of {kit.name}, as {seen[kit.base_name].path} is: give one of them"
            raise ConfigurationError(message, str(kit.path))
        seen[kit.base_name] = kit
        if (kit.project, kit.root) != (server.project, server.root):
            message = f"is not of the project of {server.path}: its name, or its root certificate, is another one"
            raise ConfigurationError(message, str(kit.path))
    for kit in kits:
        _check_above(kit, seen)
    return server


def _check_above(kit: ForeignKit, seen: Mapping[str, ForeignKit]) -> None:
    """See that the nodes above *kit* in both hierarchies are there, and as it says."""
    fqcn, fqsn = kit.fqcn.rpartition(".")[0], kit.fqsn.rpartition(".")[0]
    for path, role, above in ((fqcn, "relay", "fqcn"), (fqsn, "client", "fqsn")):
        if not path:
            continue
        other = seen.get(path.rpartition(".")[2])
        if other is None or other.role != role:
            message = f"is below the {role} {path!r}, whose kit is not among those given"
            raise ConfigurationError(message, str(kit.path))
        if getattr(other, above) != path:
            message = f"is below {path!r}, but the kit of {other.name} says {getattr(other, above)!r}: one is outdated"
            raise ConfigurationError(message, str(kit.path))


def _common_security(kits: Sequence[ForeignKit], server: ForeignKit) -> Security:
    """Return how most nodes connect to the server, which may be behind an ingress and listen in another way."""
    used = Counter(kit.connect.security for kit in kits if kit.connect and kit.parent == ROOT)
    return used.most_common(1)[0][0] if used else _security(server.listen)


def _keeps_security(kit: ForeignKit, kits: Sequence[ForeignKit], common: Security) -> bool:
    """Whether a listener's security was meant.

    FLARE lets a relay listen without TLS where the project says nothing. It was meant if all do so, and where nodes
    connect with TLS all the same, as there is an ingress in front of it then.
    """
    own = _security(kit.listen)
    if kit.role == "server" or own != "clear" or common == "clear":
        return True
    return any(other.connect.security != own for other in kits if other.connect and other.parent == kit.base_name)


def _entry(
    kit: ForeignKit, nodes: Mapping[str, ForeignKit], security: Security, kept: Mapping[str, bool]
) -> tuple[dict[str, Any], list[str]]:
    """Return a participant as it stands in a project.yml, and what a person should know about it."""
    entry: dict[str, Any] = {"name": kit.name, "type": kit.role, "org": kit.org or "unknown"}
    notes = [] if kit.org else ["Nothing says whose it is."]
    if kit.role == "server":
        entry |= _server_keys(kit, security)
        return entry, notes
    if kit.role == "admin":
        entry["role"] = kit.admin_role or "member"
        notes += [] if kit.admin_role else ["Nothing says the role."]
    if kit.role == "relay":
        entry["listening_host"] = _listening(kit, nodes[ROOT], security if kept[kit.name] else None)
        notes += [] if kept[kit.name] else _UNSURE
    elif kit.role == "client" and kit.hosts:
        entry["listening_host"] = _hosts(kit.hosts)
    if "." in kit.fqsn:
        entry["parent"] = kit.fqsn.split(".")[-2]
    above = nodes[str(kit.parent)]
    connect_to = _connect_to(kit, above)
    if connect_to:
        entry["connect_to"] = connect_to
    if "host" in connect_to and not _is_found(connect_to, kit, above):
        notes.append(f"Its address is none of those of {above.name}: taken for an ingress in front of it.")
    if kit.ingress_ca:
        entry["custom_ca_cert"] = str(kit.ingress_ca)
    return entry, notes


def _server_keys(kit: ForeignKit, common: Security) -> dict[str, Any]:
    _scheme, host, port = _parts(kit.listen)
    keys: dict[str, Any] = {**_hosts(kit.hosts or (host,)), "fed_learn_port": port}
    if kit.control_port not in (None, port):
        keys["admin_port"] = kit.control_port
    elif port == CONTROL_PORT:  # links and the Control API cannot share it, as they do with FLARE
        keys["admin_port"] = port + 1
    if _security(kit.listen) != common:
        keys["connection_security"] = _security(kit.listen)
    return keys


def _listening(kit: ForeignKit, server: ForeignKit, common: Security | None) -> dict[str, Any]:
    scheme, host, port = _parts(kit.listen)
    keys: dict[str, Any] = {**_hosts(kit.hosts or (host,)), "port": port}
    if scheme != _parts(server.listen)[0]:
        keys["scheme"] = scheme
    if common not in (None, _security(kit.listen)):
        keys["connection_security"] = _security(kit.listen)
    return keys


def _hosts(hosts: Sequence[str]) -> dict[str, Any]:
    first, *others = hosts
    return {"default_host": first, **({"host_names": others} if others else {})}


def _connect_to(kit: ForeignKit, above: ForeignKit) -> dict[str, Any]:
    """Return whereto *kit* connects; nothing, if that goes without saying."""
    _scheme, host, port = _parts(kit.connect)
    _, default, listens = _parts(above.listen)
    if kit.role == "admin" and port == above.control_port:
        port = listens  # whereto admins connect here
    keys: dict[str, Any] = {}
    if _security(kit.connect) != _security(above.listen):
        keys["connection_security"] = _security(kit.connect)
    if port != listens:
        keys["port"] = port
    if host.lower() != default.lower() or "connection_security" in keys:
        return {"host": host, "port": port, **keys}
    return {"name": above.name, **keys} if keys or above.role != "server" else {}


def _is_found(connect_to: Mapping[str, Any], kit: ForeignKit, above: ForeignKit) -> bool:
    hosts = {host.lower() for host in (*above.hosts, _parts(above.listen)[1])}
    return connect_to["host"].lower() in hosts and connect_to["port"] == _parts(above.listen)[2]


def _parts(endpoint: Endpoint | None) -> tuple[str, str, int]:
    parts = urlsplit(endpoint.url if endpoint else "")
    # not hostname, which folds case
    return parts.scheme, parts.netloc.rpartition(":")[0].strip("[]"), parts.port or 0


def _security(endpoint: Endpoint | None) -> Security:
    return endpoint.security if endpoint else "mtls"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=False, width=1000)).rstrip("\n")


_UNSURE = [
    "The kit listens without TLS, as FLARE's do where a project says nothing. Here the project's security holds,",
    "unless you write `connection_security: clear` into its listening_host.",
]
