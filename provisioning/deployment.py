"""The files with which an operator runs a node's kit: a systemd unit, a compose file, Kubernetes manifests, an image.

Pure: they follow from the plan alone, and nothing in them is secret. Their place is in the kit's folder, beside
``startup/``: the compose file names its folders from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioning.compose import DOCKERFILE, as_compose
from provisioning.kubernetes import as_manifests
from provisioning.systemd import as_unit, unit_name

if TYPE_CHECKING:
    from provisioning.plan import Node, Plan

__all__ = ["deployment_files"]


def deployment_files(plan: Plan, node: Node) -> dict[str, bytes]:
    """Return the files to run *node* with, by their names; none for an admin, who is a person."""
    if node.role == "admin":
        return {}
    files = {
        f"{unit_name(node)}.service": as_unit(plan, node),
        "compose.yaml": as_compose(plan, node),
        "kubernetes.yaml": as_manifests(plan, node),
        "Dockerfile": DOCKERFILE,
    }
    return {name: text.encode() for name, text in files.items()}
