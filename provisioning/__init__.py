"""Provisioning: from a project.yml to a startup kit for every participant.

::

    project.yml -> source (YAML with lines) -> project (schema) -> plan (names, addresses) -> kits (folders)

The kit on disk is the only thing that a node and this package share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioning.authority import Authority
from provisioning.kits import open_authority, write_kits
from provisioning.plan import Node, Plan, draw
from provisioning.problems import Code, Problem, ProjectError
from provisioning.source import Source

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority", "Code", "Node", "Plan", "Problem", "ProjectError", "Provisioned", "provision", "read_plan"]


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What :func:`provision` did."""

    plan: Plan
    obsolete: tuple[str, ...]
    """Kits in the folder whose participants are no longer in the project."""


def read_plan(project_file: Path) -> Plan:
    """Plan the project that a file describes; nothing is written.

    :raises ProjectError: naming every error in the file, each with its line
    :raises ConfigurationError: if the file cannot be read
    """
    return draw(Source.read(project_file))


def provision(project_file: Path, out: Path) -> Provisioned:
    """Write a startup kit for every participant into the folder *out*; nothing, if anything is wrong.

    :raises ProjectError: naming every error in the file, each with its line
    :raises ConfigurationError: if a file or folder cannot be read or written
    """
    plan = read_plan(project_file)
    authority = open_authority(plan.project, out)
    return Provisioned(plan, write_kits(plan, authority, out))
