"""What can be provisioned, and is hardly meant: a warning each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cellnet.fqcn import ROOT
from provisioning.problems import Code
from provisioning.schema import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioning.endpoints import Link, Listener
    from provisioning.project import Project
    from provisioning.source import Source

__all__ = ["CROWD", "look_again"]

CROWD = 100
"""From so many children on, the guide recommends another relay."""


def look_again(
    project: Project,
    links: Mapping[str, tuple[Link, ...]],
    listeners: Mapping[str, Listener],
    control_port: int,
    source: Source,
) -> None:
    """Note in *source* what is worth a second look in a project without errors."""
    _crowds(project, links, source)
    _listeners(listeners, control_port, source)
    _links(project, links, listeners, source)


def _crowds(project: Project, links: Mapping[str, tuple[Link, ...]], source: Source) -> None:
    cells = Counter(
        first.parent_name
        for name, (first, *_others) in links.items()
        if first.parent_name and project.roles[name] != "admin"
    )
    for name, count in cells.items():
        if count >= CROWD:
            message = f"{count} nodes connect here: relays between them would help"
            source.warning(project.path(name, "name"), Code.CROWD, message)
    sites = Counter(p.parent for p in project.participants if isinstance(p, Client) and p.parent)
    for parent, count in sites.items():
        if count >= CROWD and project.roles.get(parent) == "client":
            source.warning(project.path(parent, "name"), Code.CROWD, f"{count} clients have this parent")


def _listeners(listeners: Mapping[str, Listener], control_port: int, source: Source) -> None:
    taken = {
        (listener.host.lower(), control_port): f"{name}'s Control API"
        for name, listener in listeners.items()
        if listener.base_name == ROOT
    }
    for name, listener in listeners.items():
        first = taken.setdefault((listener.host.lower(), listener.port), name)
        if first != name:
            message = f"listens at {listener.host}:{listener.port}, as {first} does"
            source.warning(listener.place, Code.SHARED_ADDRESS, message)
        if listener.security == "clear" and not listener.is_local:
            message = f"listens at {listener.host} without TLS: links are authenticated, but others can read along"
            source.warning(listener.place, Code.CLEAR_LISTENER, message)


def _links(
    project: Project, links: Mapping[str, tuple[Link, ...]], listeners: Mapping[str, Listener], source: Source
) -> None:
    for name, several in links.items():
        for index, link in enumerate(several):
            place = project.path(name, "connect_to", index)
            if link.parent_name is None:
                message = f"{link.url} is no listener of this project: taken for an ingress in front of one"
                source.warning(place, Code.INGRESS, message)
                continue
            parent = listeners.get(link.parent_name)
            if parent and link.named and parent.security != link.security:
                message = f"connects with {link.security!r}, but {link.parent_name!r} listens with {parent.security!r}"
                source.warning((*place, "connection_security"), Code.SECURITY_DIFFERS, message)
