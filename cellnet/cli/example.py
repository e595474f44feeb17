"""The example project that is shipped, and a copy of any project whose ports are free on this machine."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["example_project", "with_free_ports", "with_settings"]

EXAMPLE = "project.yml.example"


def example_project() -> Path:
    """Return where ``project.yml.example`` lies: at the top of the repository, or in the package once installed.

    :raises ConfigurationError: if it is in neither place
    """
    package = Path(str(resources.files("cellnet")))
    for path in (package / "cli" / EXAMPLE, package.parent / EXAMPLE):
        if path.is_file():
            return path
    raise ConfigurationError(f"{EXAMPLE} is missing from this installation: give a project file by --project")


def with_free_ports(project: bytes) -> bytes:
    """Return a project file with every port replaced by a free one; all else, comments too, stays as it is.

    What is no YAML is returned as it is: provisioning explains what is wrong with it, and where.
    """
    try:
        text = project.decode()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return project
    listeners = list(_ports(root, "fed_learn_port", "listening_host"))
    free = _free_ports(len(listeners))
    changes = dict(zip(map(_place, listeners), free, strict=True))
    moved = dict(zip((node.value for node in listeners), free, strict=True))
    changes |= {_place(node): moved[node.value] for node in _ports(root, "connect_to") if node.value in moved}
    for (start, end), port in sorted(changes.items(), reverse=True):
        text = text[:start] + str(port) + text[end:]
    return text.encode()


def with_settings(project: bytes, settings: Mapping[str, str]) -> bytes:
    """Return a project file in which each of *settings* has its value wherever it stands, or else at the end.

    :param settings: such as ``{"connection_security": "tls"}``
    """
    try:
        text = project.decode()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return project
    found = {key: list(_scalars(root, key)) for key in settings}
    places = sorted(((_place(node), key) for key, nodes in found.items() for node in nodes), reverse=True)
    for (start, end), key in places:
        text = text[:start] + settings[key] + text[end:]
    if isinstance(root, yaml.MappingNode):
        missing = [key for key in settings if not found[key]]
        text += "".join(f"\n{key}: {settings[key]}" for key in missing)
    return text.encode()


def _scalars(node: yaml.Node | None, key: str) -> Iterator[yaml.ScalarNode]:
    """Find the values of *key* at any depth."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item, key)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key and isinstance(value, yaml.ScalarNode):
                yield value
            yield from _scalars(value, key)


def _ports(root: yaml.Node | None, *keys: str) -> Iterator[yaml.ScalarNode]:
    """Find the ports of all participants under *keys*: each is a port itself, or a mapping that has one."""
    participants = _value(root, "participants")
    for entry in participants.value if isinstance(participants, yaml.SequenceNode) else ():
        for value in (_value(entry, key) for key in keys):
            node = _value(value, "port") if isinstance(value, yaml.MappingNode) else value
            if isinstance(node, yaml.ScalarNode) and node.value.isdigit():
                yield node


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.index, node.end_mark.index


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _free_ports(count: int) -> list[int]:
    """Ask the system for ports; all are held until the last is known, so that no two are the same."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
