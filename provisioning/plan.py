"""Plan a project: what every participant is called in both hierarchies, where it listens and whereto it connects.

Pure: a Project goes in, a Plan comes out, and what does not fit together is noted in the Source with its place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellnet.credentials import Identity
from cellnet.errors import InvalidName
from cellnet.fqcn import FQCN, FQSN, MAX_SEGMENTS, ROOT
from cellnet.kit import Endpoint, Member, Role
from provisioning.endpoints import Link, Listener, draw_links, listeners_of
from provisioning.project import read_project
from provisioning.schema import Admin, Client, Participant, Server
from provisioning.source import did_you_mean
from provisioning.tree import walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioning.project import Project
    from provisioning.source import Source

__all__ = ["Node", "Plan", "draw"]

CROWD = 100
"""From so many children on, the guide recommends another relay."""


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
    hosts: tuple[str, ...]
    """Names and addresses by which others reach it: for its server certificate."""

    @property
    def base_name(self) -> str:
        """What its cell is called: ``server`` for the server."""
        return ROOT if self.role == "server" else self.name

    @property
    def parents(self) -> tuple[str, ...]:
        """Base names of the nodes below which it may join; empty: below any."""
        return (self.connect.parent,) if self.connect and self.connect.parent else ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A project whose parts fit together."""

    project: str
    nodes: tuple[Node, ...]
    """In the order of the file."""
    warnings: tuple[str, ...]
    """What is worth a second look, each with its place."""

    def identity(self, node: Node) -> Identity:
        """Return what the certificates of *node* say."""
        return Identity(self.project, node.role, node.base_name)

    @property
    def roster(self) -> tuple[Member, ...]:
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
    fqcns = _place_cells(project, links, source)
    fqsns = _place_sites(project, source)
    source.stop_if_wrong()
    _warn(project, links, listeners, source)
    nodes = tuple(_node(project, p, links, listeners, fqcns, fqsns) for p in project.participants)
    return Plan(project.name, nodes, tuple(map(str, sorted(source.warnings))))


def _node(
    project: Project,
    participant: Participant,
    links: Mapping[str, Link],
    listeners: Mapping[str, Listener],
    fqcns: Mapping[str, FQCN],
    fqsns: Mapping[str, FQSN],
) -> Node:
    name = participant.name
    link, listener = links.get(name), listeners.get(name)
    listen = Endpoint(url=listener.bind_url, security=listener.security) if listener else None
    connect = Endpoint(url=link.url, security=link.security, parent=link.parent) if link else None
    fqcn = None if isinstance(participant, Admin) else fqcns[name]
    hosts = listener.hosts if listener else ()
    return Node(name, participant.type, participant.org, fqcn, fqsns.get(name), listen, connect, hosts)


def _place_cells(project: Project, links: Mapping[str, Link], source: Source) -> dict[str, FQCN]:
    """Name every cell by its path from the server; note cycles, and names that are too long."""
    server = next((p.name for p in project.participants if isinstance(p, Server)), "")
    above = {name: link.parent_name or server for name, link in links.items()}
    order, cycles = walk(above)
    for cycle in cycles:
        _note_cycle(project, cycle, "connect_to", source)
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
            source.error(project.path(name, "name"), f"too far from the server: {error.message}")
    return fqcns


def _place_sites(project: Project, source: Source) -> dict[str, FQSN]:
    """Name every site by its path in the client hierarchy."""
    above = {}
    for participant in project.participants:
        if not isinstance(participant, Client):
            continue
        above[participant.name] = participant.parent or ""
        problem = _refuse_parent(project, participant) if participant.parent is not None else None
        if problem:
            source.error(project.path(participant.name, "parent"), problem)
            del above[participant.name]
    order, cycles = walk(above)
    for cycle in cycles:
        _note_cycle(project, cycle, "parent", source)
    fqsns = {p.name: FQSN(ROOT) for p in project.participants if isinstance(p, Server)}
    for name in order:
        parent = above[name]
        if parent and parent not in fqsns:
            continue
        try:
            fqsns[name] = fqsns[parent].child(name) if parent else FQSN(ROOT).child(name)
        except InvalidName as error:
            source.error(project.path(name, "parent"), f"too far from the server: {error.message}")
    return fqsns


def _refuse_parent(project: Project, client: Client) -> str | None:
    """Say what is wrong with a client's parent, if something is."""
    parent = str(client.parent)
    role = project.roles.get(parent)
    if parent == client.name:
        return "a client cannot be its own parent"
    if role == "server" or parent == ROOT:
        return "leave 'parent' out: a client without one stands directly below the server"
    if role in ("relay", "admin"):
        hint = ": 'connect_to' says where a client connects" if role == "relay" else ""
        return (
            f"{parent!r} is a {role}, and no client{hint}"
            if role == "relay"
            else f"{parent!r} is an admin, and no client"
        )
    if role is not None:
        return None
    last = parent.rpartition(".")[2]
    if "." in parent and project.roles.get(last) == "client":
        return f"{parent!r} is a full name: write the base name {last!r}"
    clients = [name for name, kind in project.roles.items() if kind == "client" and name != client.name]
    return f"there is no client {parent!r}{did_you_mean(parent, clients)}"


def _note_cycle(project: Project, cycle: list[str], key: str, source: Source) -> None:
    steps = [f"{name} (line {source.place(project.path(name, key))[0]})" for name in cycle]
    source.error(project.path(cycle[0], key), f"{key!r} goes round in a circle: {' -> '.join([*steps, cycle[0]])}")


def _warn(project: Project, links: Mapping[str, Link], listeners: Mapping[str, Listener], source: Source) -> None:
    """Note what can be provisioned, and will hardly be meant."""
    cells = Counter(
        link.parent_name for name, link in links.items() if link.parent_name and project.roles[name] != "admin"
    )
    for name, count in cells.items():
        if count >= CROWD:
            source.warning(project.path(name, "name"), f"{count} nodes connect here: relays between them would help")
    sites = Counter(p.parent for p in project.participants if isinstance(p, Client) and p.parent)
    for name, count in sites.items():
        if count >= CROWD:
            source.warning(project.path(name, "name"), f"{count} clients have this parent")
    taken: dict[tuple[str, int], str] = {}
    for name, listener in listeners.items():
        first = taken.setdefault((listener.host.lower(), listener.port), name)
        if first != name:
            source.warning(listener.place, f"listens at {listener.host}:{listener.port}, as {first!r} does")
        if listener.security == "clear" and not listener.is_local:
            message = f"listens at {listener.host} without TLS: links are authenticated, but others can read along"
            source.warning(listener.place, message)
    for name, link in links.items():
        if link.parent_name is None:
            source.warning(
                project.path(name, "connect_to"),
                f"{link.url} is no listener of this project: taken for an ingress in front of one",
            )
            continue
        parent = listeners.get(link.parent_name)
        if parent and link.named and parent.security != link.security:
            message = f"connects with {link.security!r}, but {link.parent_name!r} listens with {parent.security!r}"
            source.warning(project.path(name, "connect_to", "connection_security"), message)
