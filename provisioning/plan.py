"""Plan a project: what every participant is called in both hierarchies, where it listens and whereto it connects.

Pure: a Project goes in, a Plan comes out, and what does not fit together is noted in the Source with its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellnet.credentials import Identity
from cellnet.errors import InvalidName
from cellnet.fqcn import FQCN, FQSN, MAX_SEGMENTS, ROOT
from cellnet.kit import Endpoint, Role
from cellnet.roster import Member
from provisioning.endpoints import Link, Listener, draw_links, listeners_of
from provisioning.problems import Code, Problem, did_you_mean, in_order
from provisioning.project import read_project
from provisioning.schema import Admin, Client, Participant, Server
from provisioning.second_look import look_again
from provisioning.tree import circle, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioning.project import Project
    from provisioning.source import Source

__all__ = ["CONTROL_PORT", "Node", "Plan", "draw"]

CONTROL_PORT = 9093
"""Where the Control API is, unless the file says otherwise."""


@dataclass(frozen=True, slots=True)
class Node:
    """A participant's place, addresses and names."""

    name: str
    """As the project file says; also its kit's folder."""
    role: Role
    org: str
    fqcn: FQCN | None
    """None for an admin, who is no cell."""
    fqsn: FQSN | None
    """None for a relay or admin, which are no sites."""
    listen: Endpoint | None
    connect: Endpoint | None
    others: tuple[Endpoint, ...]
    """Whereto it connects while that cannot be reached, the best first."""
    hosts: tuple[str, ...]
    """Names and addresses by which others reach it: for its server certificate."""
    ingress_ca: bytes = b""
    """Who certifies the ingress that it goes through, in PEM; empty: somebody whom its machine trusts."""
    control_port: int | None = None
    """Where users reach the Control API; None unless it is the server."""

    @property
    def base_name(self) -> str:
        """What its cell is called: ``server`` for the server."""
        return ROOT if self.role == "server" else self.name

    @property
    def parent(self) -> str | None:
        """The base name of its parent in the client hierarchy; None for a relay or admin, and for the server."""
        above = self.fqsn.parent if self.fqsn else None
        return above.base_name if above else None

    @property
    def parents(self) -> tuple[str, ...]:
        """Base names of the nodes below which it may join; empty: below any."""
        ends = [end.parent for end in (self.connect, *self.others) if end]
        return () if None in ends else tuple(end for end in ends if end)

    def as_json(self) -> dict[str, Any]:
        """Return what programs read."""
        listen = {"url": self.listen.url, "security": self.listen.security} if self.listen else None
        connect, *others = [
            {"name": end.parent, "url": end.url, "security": end.security} if end else None
            for end in (self.connect, *self.others)
        ]
        security = self.listen or self.connect
        return {
            "name": self.name,
            "type": self.role,
            "org": self.org,
            "fqcn": str(self.fqcn) if self.fqcn else None,
            "fqsn": str(self.fqsn) if self.fqsn else None,
            "parent": self.parent,
            "connect_to": connect,
            "others": others,
            "listen": listen,
            "security": security.security if security else None,
            "hosts": list(self.hosts),
            "control_port": self.control_port,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A project whose parts fit together."""

    project: str
    nodes: tuple[Node, ...]
    """In the order of the file."""
    warnings: tuple[Problem, ...]
    """What is worth a second look, in the order of the file."""
    allow_error_sending: bool = False
    """Whether sites may send what their nodes log as errors to the server."""

    def as_json(self) -> dict[str, Any]:
        """Return what programs read: everything that follows from the file, without keys and certificates."""
        return {"project": self.project, "participants": [node.as_json() for node in self.nodes]}

    def identity(self, node: Node) -> Identity:
        """Return what the certificates of *node* say."""
        return Identity(self.project, node.role, node.base_name)

    @property
    def members(self) -> tuple[Member, ...]:
        """All members but the server, as the server's kit lists them."""
        return tuple(
            Member(
                name=node.base_name,
                role=node.role,
                fqcn=str(node.fqcn or ""),
                fqsn=str(node.fqsn or ""),
                parent=node.parents[0] if node.parents else "",
            )
            for node in self.nodes
            if node.role != "server"
        )


def draw(source: Source) -> Plan:
    """Plan the project that *source* describes.

    :raises ProjectError: naming every error in the file, each with its place
    """
    project = read_project(source)
    listeners = listeners_of(project)
    links = draw_links(project, listeners, source)
    control_port = _control_port(project, source)
    fqcns = _place_cells(project, links, source)
    fqsns = _place_sites(project, source)
    source.stop_if_wrong()
    look_again(project, links, listeners, control_port, source)
    nodes = tuple(_node(project, p, links, listeners, fqcns, fqsns, control_port) for p in project.participants)
    return Plan(project.name, nodes, in_order(source.warnings), project.allow_error_sending)


def _node(
    project: Project,
    participant: Participant,
    links: Mapping[str, tuple[Link, ...]],
    listeners: Mapping[str, Listener],
    fqcns: Mapping[str, FQCN],
    fqsns: Mapping[str, FQSN],
    control_port: int,
) -> Node:
    name = participant.name
    listener = listeners.get(name)
    listen = Endpoint(url=listener.bind_url, security=listener.security) if listener else None
    ends = [Endpoint(url=link.url, security=link.security, parent=link.parent) for link in links.get(name, ())]
    fqcn = None if isinstance(participant, Admin) else fqcns[name]
    return Node(
        name,
        participant.type,
        participant.org,
        fqcn,
        fqsns.get(name),
        listen,
        ends[0] if ends else None,
        tuple(ends[1:]),
        _hosts(participant, listener),
        project.ingress_ca.get(name, b""),
        control_port if isinstance(participant, Server) else None,
    )


def _hosts(participant: Participant, listener: Listener | None) -> tuple[str, ...]:
    """Return the names for a node's certificate to listen with; a client may have one and not listen."""
    if listener:
        return listener.hosts
    if isinstance(participant, Client) and (at := participant.listening_host):
        return tuple(dict.fromkeys((at.default_host, *at.host_names)))
    return ()


def _control_port(project: Project, source: Source) -> int:
    """Return where the Control API listens; a port that links have already cannot be shared with it."""
    server = next((p for p in project.participants if isinstance(p, Server)), None)
    if server is None:
        return CONTROL_PORT
    wanted, taken = server.admin_port or CONTROL_PORT, server.fed_learn_port
    if wanted != taken:
        return wanted
    if taken == CONTROL_PORT:
        place = project.path(server.name, "admin_port" if server.admin_port else "fed_learn_port")
        message = f"{CONTROL_PORT} cannot be the port of links and of the Control API"
        source.error(place, Code.ADMIN_PORT, message, "give 'admin_port' another one")
    else:
        message = f"{wanted} is the port of links already: the Control API takes {CONTROL_PORT}"
        source.warning(project.path(server.name, "admin_port"), Code.ADMIN_PORT, message)
    return CONTROL_PORT


def _place_cells(project: Project, links: Mapping[str, tuple[Link, ...]], source: Source) -> dict[str, FQCN]:
    """Name every cell by its path from the server; note cycles, and names that are too long."""
    server = next((p.name for p in project.participants if isinstance(p, Server)), "")
    above = {name: first.parent_name or server for name, (first, *_others) in links.items()}
    order, cycles = walk(above)
    for cycle in cycles:
        _note_circle(project, cycle, "connect_to", Code.CONNECTION_CIRCLE, source)
    # While the server cannot be reached, two relays that may be below each other would be.
    possible = {name: [link.parent_name or server for link in several] for name, several in links.items()}
    if not cycles and (found := circle(possible)):
        _note_circle(project, found, "connect_to", Code.CONNECTION_CIRCLE, source)
    fqcns = {server: FQCN(ROOT)}
    clients = {p.name for p in project.participants if isinstance(p, Client)}
    admins = {p.name for p in project.participants if isinstance(p, Admin)}
    for name in order:
        if name in admins or above[name] not in fqcns:
            continue
        try:
            fqcns[name] = fqcns[above[name]].child(name)
            if name in clients and len(fqcns[name].path) == MAX_SEGMENTS:
                raise InvalidName(
                    f"{str(fqcns[name])!r} leaves no room for job cells: {MAX_SEGMENTS} segments are allowed"
                )
        except InvalidName as error:
            source.error(project.path(name, "name"), Code.TOO_DEEP, f"too far from the server: {error.message}")
    return fqcns


def _place_sites(project: Project, source: Source) -> dict[str, FQSN]:
    """Name every site by its path in the client hierarchy."""
    above = {}
    for participant in project.participants:
        if not isinstance(participant, Client):
            continue
        parent = participant.parent
        if parent is None or parent == ROOT or project.roles.get(parent) == "server":
            above[participant.name] = ""
        elif problem := _refuse_parent(project, participant, parent):
            source.error(project.path(participant.name, "parent"), *problem)
        else:
            above[participant.name] = parent
    order, cycles = walk(above)
    for cycle in cycles:
        _note_circle(project, cycle, "parent", Code.PARENT_CIRCLE, source)
    fqsns = {p.name: FQSN(ROOT) for p in project.participants if isinstance(p, Server)}
    for name in order:
        parent = above[name]
        if parent and parent not in fqsns:
            continue
        try:
            fqsns[name] = fqsns[parent].child(name) if parent else FQSN(ROOT).child(name)
        except InvalidName as error:
            source.error(project.path(name, "parent"), Code.TOO_DEEP, f"too far from the server: {error.message}")
    return fqsns


def _refuse_parent(project: Project, client: Client, parent: str) -> tuple[Code, str, str] | None:
    """Say what is wrong with a client's parent, if something is."""
    role = project.roles.get(parent)
    if parent == client.name:
        return Code.OWN_PARENT, "a client cannot be its own parent", ""
    if role == "relay":
        return Code.UNKNOWN_PARENT, f"{parent!r} is a relay, and no client", "'connect_to' says where a client connects"
    if role == "admin":
        return Code.UNKNOWN_PARENT, f"{parent!r} is an admin, and no client", ""
    if role is not None:
        return None
    last = parent.rpartition(".")[2]
    if "." in parent and project.roles.get(last) == "client":
        return Code.UNKNOWN_PARENT, f"{parent!r} is a full name", f"write the base name {last!r}"
    clients = [name for name, kind in project.roles.items() if kind == "client" and name != client.name]
    return Code.UNKNOWN_PARENT, f"there is no client {parent!r}", did_you_mean(parent, clients)


def _note_circle(project: Project, circle: list[str], key: str, code: Code, source: Source) -> None:
    steps = [f"{name} (line {source.place(project.path(name, key))[0]})" for name in circle]
    message = f"{key!r} goes round in a circle: {' -> '.join([*steps, circle[0]])}"
    source.error(project.path(circle[0], key), code, message)
