"""Provisioning: from a project.yml to a startup kit for every participant.

::

    project.yml -> source (YAML with lines) -> project (schema) -> plan (names, addresses) -> kits (folders)
                                                     records (what kits were made from) -> changes -^

The kit on disk is the only thing that a node and this package share.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cellnet.errors import ConfigurationError
from provisioning.authority import LEAF_LIFE, Authority
from provisioning.kits import write_kits
from provisioning.lock import Lock
from provisioning.plan import Node, Plan, draw
from provisioning.problems import Code, Problem, ProjectError
from provisioning.records import Change, compare
from provisioning.registry import FOLDER, Registry, held
from provisioning.source import Source

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence
    from pathlib import Path

    from cellnet.enrolment import Enrolment

__all__ = [
    "Authority",
    "Change",
    "Code",
    "Lock",
    "Node",
    "Plan",
    "Problem",
    "ProjectError",
    "Provisioned",
    "compare",
    "provision",
    "read_plan",
    "update",
]


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What :func:`provision` did."""

    plan: Plan
    changes: tuple[Change, ...]
    """What became of every participant's kit, and of those that are no longer in the project."""


def read_plan(project_file: Path) -> Plan:
    """Plan the project that a file describes; nothing is written.

    :raises ProjectError: naming every error in the file, each with its line
    """
    return draw(Source.read(project_file))


def provision(project_file: Path, out: Path, lock: Lock) -> Provisioned:
    """Bring the startup kits in the folder *out* up to date; nothing is written, if anything is wrong.

    A kit whose participant did not change stays as it is, byte for byte.

    :param lock: what opens the authority's keys, or encrypts those of a new one
    :raises ProjectError: naming every error in the file, each with its line
    :raises ConfigurationError: if a file or folder cannot be read or written, or *lock* is not the right one
    """
    plan = read_plan(project_file)
    return Provisioned(plan, update(plan, out, lock))


def update(
    plan: Plan,
    out: Path,
    lock: Lock,
    requests: Sequence[Enrolment] = (),
    *,
    life: datetime.timedelta = LEAF_LIFE,
) -> tuple[Change, ...]:
    """Do what :func:`provision` does with a plan, and say what became of every kit.

    :param requests: of sites that made their keys themselves: then only their kits are made
    :param life: of new certificates
    :raises ConfigurationError: if a file or folder cannot be read or written, or *lock* is not the right one
    """
    folder = out / FOLDER
    with held(folder) if folder.is_dir() else nullcontext():
        registry = _open_registry(plan, folder, lock)
        registry.life = life
        changes = compare(plan, registry.records, out, registry.now)
        if requests:
            changes = _requested(plan, changes, requests)
        write_kits(plan, changes, registry, out, {request.identity.name: request.keys for request in requests})
    return changes


def _requested(plan: Plan, changes: Sequence[Change], requests: Sequence[Enrolment]) -> tuple[Change, ...]:
    """Return what is to be done for sites that ask; all of them must be in the plan, as what they say they are."""
    nodes = {plan.identity(node): node.name for node in plan.nodes}
    kinds = {change.name: change.kind for change in changes}
    found = []
    for request in requests:
        name = nodes.get(request.identity)
        if name is None:
            raise ConfigurationError(f"{request.identity.uri} asks for a kit, and is no participant of this project")
        kind: Literal["added", "changed"] = "added" if kinds[name] == "added" else "changed"
        found.append(Change(name, kind, ("its site asked for it, with keys of its own",), renewed=True))
    return tuple(found)


def _open_registry(plan: Plan, folder: Path, lock: Lock) -> Registry:
    if not folder.exists():
        return Registry.create(plan.project, lock)
    registry = Registry.load(folder, lock)
    if registry.project != plan.project:
        message = f"is the authority of project {registry.project!r}, not {plan.project!r}: give another folder"
        raise ConfigurationError(message, str(folder))
    return registry
