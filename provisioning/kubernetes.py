"""Kubernetes manifests that run one node's startup kit: a Deployment, what it keeps, and a Service if it listens."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from provisioning.compose import IMAGE, USER_ID, is_local, port_of, with_header
from provisioning.systemd import STOP_SECONDS

if TYPE_CHECKING:
    from provisioning.plan import Node, Plan

__all__ = ["as_manifests", "dns_label"]

_LONGEST_STEM = 42
"""With ``cellnet-`` before it and ``-transfer`` behind, there is room for what is added to the names of pods."""
_DIGITS = 10

# The files in a mounted secret are links, which a kit refuses, and the volume for the copies can be written by all.
_COPY = "umask 077; rm -rf /memory/startup; mkdir /memory/startup; install -m 0600 /secret/* /memory/startup/"


def as_manifests(plan: Plan, node: Node) -> str:
    """Return the manifests of *node*. No key is in them: they name a Secret that the operator makes of ``startup/``."""
    name = dns_label(node.name)
    documents = [_claim(name, node, "local", "1Gi"), _claim(name, node, "transfer", "10Gi")]
    documents.append(_deployment(plan, name, node))
    if node.listen and not is_local(node.listen):
        documents.append(_service(name, node, port_of(node.listen)))
    return with_header(_header(plan, name, node), *documents)


def dns_label(name: str) -> str:
    """Return what objects of the participant *name* are called in a cluster: never the same for two participants.

    Names that are no labels, or too long, end in digits of their digest; and so do those that look as if they did.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if stem == name.lower() and len(stem) <= _LONGEST_STEM and not re.search(rf"-[0-9a-f]{{{_DIGITS}}}$", stem):
        return f"cellnet-{stem}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"cellnet-{stem[: _LONGEST_STEM - _DIGITS - 1].rstrip('-')}-{digest}"


def _header(plan: Plan, name: str, node: Node) -> list[str]:
    lines = [
        f"Runs the {node.role} {node.name} of project {plan.project} in a cluster: one namespace for one project.",
        "In the folder of its kit:",
        "",
        f"    kubectl create secret generic {name}-startup --from-file=startup/",
        "    kubectl apply -f kubernetes.yaml",
        "",
        f"The image {IMAGE} is made from the Dockerfile; name yours, with its registry. For a kit of which anything",
        f"changed, make the Secret anew, then: kubectl rollout restart deployment {name}",
        "Give the container the resources that its jobs need, and the claims a storageClassName, if need be.",
    ]
    if node.listen and not is_local(node.listen):
        hosts = ", ".join(node.hosts)
        lines += [
            f"Others reach it as {hosts}: let that lead to the Service, inside by DNS and from outside by a",
            "load balancer (type: LoadBalancer) or an ingress that hands TLS on as it is.",
        ]
    if is_local(node.listen):
        lines.append("It listens at localhost, where only its own pod reaches it: give it another host in project.yml.")
    if is_local(node.connect):
        lines.append("It connects to localhost, which is its own pod: give its parent another host in project.yml.")
    return lines


def _labels(name: str, node: Node) -> dict[str, str]:
    return {**_selector(name), "app.kubernetes.io/component": node.role}


def _selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "cellnet", "app.kubernetes.io/instance": name}


def _claim(name: str, node: Node, folder: str, size: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{name}-{folder}", "labels": _labels(name, node)},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def _service(name: str, node: Node, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": _labels(name, node)},
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(name),
            "ports": [{"name": "links", "port": port, "targetPort": "links"}],
        },
    }


def _deployment(plan: Plan, name: str, node: Node) -> dict[str, Any]:
    # annotations, as a project's name may be no value of a label
    said = {"cellnet/project": plan.project, "cellnet/participant": node.name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": _labels(name, node), "annotations": said},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _selector(name)},
            "template": {"metadata": {"labels": _labels(name, node)}, "spec": _pod(name, node)},
        },
    }


def _pod(name: str, node: Node) -> dict[str, Any]:
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if node.listen and port_of(node.listen) < 1024:
        security["sysctls"] = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "securityContext": security,
        "initContainers": [
            {
                "name": "kit",
                **_container(["/bin/sh", "-ec", _COPY]),
                "volumeMounts": [_mount("secret", "/secret", readOnly=True), _mount("memory", "/memory")],
            }
        ],
        "containers": [_node_container(node)],
        "volumes": [
            {"name": "secret", "secret": {"secretName": f"{name}-startup", "defaultMode": 0o440}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "local", "persistentVolumeClaim": {"claimName": f"{name}-local"}},
            {"name": "transfer", "persistentVolumeClaim": {"claimName": f"{name}-transfer"}},
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _node_container(node: Node) -> dict[str, Any]:
    # the folder for --run is made by the node in a volume, as the volume itself is not private
    container = {"name": "node", **_container(["cellnet", "start", "/kit", "--run", "/run/cellnet/node"])}
    if node.listen and not is_local(node.listen):
        container["ports"] = [{"name": "links", "containerPort": port_of(node.listen)}]
        container["readinessProbe"] = {"tcpSocket": {"port": "links"}, "periodSeconds": 30}
    container["volumeMounts"] = [
        _mount("memory", "/kit/startup", subPath="startup", readOnly=True),
        _mount("local", "/kit/local"),
        _mount("transfer", "/kit/transfer"),
        _mount("run", "/run/cellnet"),
        _mount("tmp", "/tmp"),  # noqa: S108 - the pod's own
    ]
    return container


def _container(command: list[str]) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {"image": IMAGE, "command": command, "securityContext": security}


def _mount(volume: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **more}
