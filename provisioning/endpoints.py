"""Where nodes listen, and which of those places each node connects to."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellnet.fqcn import ROOT
from provisioning.problems import Code, did_you_mean
from provisioning.schema import Admin, Client, ConnectTo, Participant, Relay, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cellnet.kit import Security
    from provisioning.project import Project
    from provisioning.rules import Scheme
    from provisioning.source import Source, YamlPath

__all__ = ["Link", "Listener", "draw_links", "listeners_of"]


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a node listens, and by which names others know that place."""

    name: str
    base_name: str
    scheme: Scheme
    host: str
    """Its default host: whereto others connect."""
    hosts: tuple[str, ...]
    port: int
    security: Security
    place: YamlPath

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it by any of its names."""
        return all(map(is_loopback, self.hosts))

    @property
    def bind_url(self) -> str:
        """The address to bind: a public name is often not one of the machine's own, so then it is any address."""
        if self.is_local:
            return url(self.scheme, self.host, self.port)
        return url(self.scheme, "::" if ":" in self.host else "0.0.0.0", self.port)  # noqa: S104 - meant: any address


@dataclass(frozen=True, slots=True)
class Link:
    """Whereto a node connects."""

    url: str
    security: Security
    parent_name: str | None
    """The participant at the other end; None behind an ingress."""
    parent: str | None
    """Its base name."""
    named: bool
    """Whether the other end was given by name, so its listener's security should be ours."""


def url(scheme: str, host: str, port: int) -> str:
    """Return an address; IPv6 in brackets."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether *host* can only mean the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def listeners_of(project: Project) -> dict[str, Listener]:
    """Return the place of each node that listens, by the node's name."""
    listeners = {}
    for participant in project.participants:
        name = participant.name
        if isinstance(participant, Server):
            host = participant.default_host or name
            security = participant.connection_security or project.security or "mtls"
            hosts = _unique(host, *participant.host_names)
            place = project.path(name, "default_host")
            port = participant.fed_learn_port
            listeners[name] = Listener(name, ROOT, project.scheme, host, hosts, port, security, place)
        elif isinstance(participant, Relay):
            at = participant.listening_host
            security = at.connection_security or project.security or "mtls"
            hosts = _unique(at.default_host, *at.host_names)
            place = project.path(name, "listening_host")
            scheme = at.scheme or project.scheme
            listeners[name] = Listener(name, name, scheme, at.default_host, hosts, at.port, security, place)
    return listeners


def draw_links(project: Project, listeners: Mapping[str, Listener], source: Source) -> dict[str, tuple[Link, ...]]:
    """Return whereto each node connects, by its name, the best first; what leads nowhere is noted in *source*."""
    links = {}
    server = next((listener for listener in listeners.values() if listener.base_name == ROOT), None)
    at_host: dict[str, list[Listener]] = defaultdict(list)
    for listener in listeners.values():
        for host in listener.hosts:
            at_host[host.lower()].append(listener)
    for participant in project.participants:
        if isinstance(participant, Server):
            continue
        wanted = participant.connect_to or (ConnectTo(name=ROOT),)
        found = [_link(project, participant, index, listeners, at_host, server, source) for index in range(len(wanted))]
        drawn = tuple(link for link in found if link is not None)
        if drawn:
            links[participant.name] = drawn
        if len(drawn) == len(wanted):
            _check_several(project, participant, drawn, source)
    return links


def _check_several(
    project: Project, participant: Relay | Client | Admin, links: Sequence[Link], source: Source
) -> None:
    """Refuse one parent twice, and several for an admin, who is no node that could move."""
    if isinstance(participant, Admin) and len(links) > 1:
        place = project.path(participant.name, "connect_to", 1)
        source.error(place, Code.PARENTS, "an admin connects to the server, and to nobody else")
        return
    ends = [link.parent_name or link.url for link in links]
    for index, end in enumerate(ends):
        if end in ends[:index]:
            place = project.path(participant.name, "connect_to", index)
            source.error(place, Code.PARENTS, f"{end} is listed twice")


def _link(
    project: Project,
    participant: Relay | Client | Admin,
    index: int,
    listeners: Mapping[str, Listener],
    at_host: Mapping[str, Sequence[Listener]],
    server: Listener | None,
    source: Source,
) -> Link | None:
    if not participant.connect_to:
        return _to_listener(server, ConnectTo(name=ROOT)) if server else None
    to, place = participant.connect_to[index], project.path(participant.name, "connect_to", index)
    if to.name is not None:
        problem = _refuse_name(project, participant, to.name)
        if problem:
            source.error((*place, "name"), *problem)
            return None
        found = listeners.get(to.name) or (server if to.name == ROOT else None)
        return _to_listener(found, to) if found else None
    there = at_host.get(str(to.host).lower(), ())
    return _to_host(project, participant, to, there, server, (*place, "host"), source)


def _to_host(
    project: Project,
    participant: Relay | Client | Admin,
    to: ConnectTo,
    there: Sequence[Listener],
    server: Listener | None,
    place: YamlPath,
    source: Source,
) -> Link | None:
    """Find the one who listens there; an admin only ever means the server.

    :param there: all who listen at the host
    """
    matches = [
        listener
        for listener in there
        if to.port in (None, listener.port)
        and listener.name != participant.name
        and (listener is server or not isinstance(participant, Admin))
    ]
    if len(matches) > 1:
        names = ", ".join(match.name for match in matches)
        hint = f"write 'connect_to: {{name: {matches[0].name}}}', or give the port"
        source.error(place, Code.AMBIGUOUS_HOST, f"{to.host!r} is the host of several nodes ({names})", hint)
        return None
    if matches:
        return _to_listener(matches[0], to)
    if project.roles.get(str(to.host)) == "relay":
        hint = f"write 'connect_to: {{name: {to.host}}}'"
        source.error(place, Code.HOST_IS_A_NODE, f"{to.host!r} stands for a host here, and is a relay", hint)
        return None
    if server is None:
        return None
    security = to.connection_security or project.security or "mtls"
    return Link(url(project.scheme, str(to.host), to.port or server.port), security, None, None, named=False)


def _to_listener(listener: Listener, to: ConnectTo) -> Link:
    address = url(listener.scheme, to.host or listener.host, to.port or listener.port)
    security = to.connection_security or listener.security
    return Link(address, security, listener.name, listener.base_name, named=to.name is not None)


def _refuse_name(project: Project, participant: Participant, name: str) -> tuple[Code, str, str] | None:
    """Say why a node cannot connect to the node of that name, if it cannot."""
    role = project.roles.get(name)
    if name == participant.name:
        return Code.CONNECTS_TO_ITSELF, "a node cannot connect to itself", ""
    if role in ("client", "admin"):
        article = "an" if role == "admin" else "a"
        hint = "'parent' gives a client its place among the clients" if role == "client" else ""
        message = f"{name!r} is {article} {role}, which no node can join: connect to the server or a relay"
        return Code.UNKNOWN_NODE, message, hint
    if role is not None or name == ROOT:
        return None
    options = [
        other for other, kind in project.roles.items() if kind in ("server", "relay") and other != participant.name
    ]
    return Code.UNKNOWN_NODE, f"there is no server or relay {name!r}", did_you_mean(name, options)


def _unique(*hosts: str) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for host in hosts:
        first.setdefault(host.lower(), host)
    return tuple(first.values())
