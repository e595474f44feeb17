"""A compose file that runs one node's startup kit in a container, and the image for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from provisioning.endpoints import is_loopback
from provisioning.systemd import STOP_SECONDS

if TYPE_CHECKING:
    from cellnet.kit import Endpoint
    from provisioning.plan import Node, Plan

__all__ = ["DOCKERFILE", "IMAGE", "USER_ID", "as_compose", "is_local", "port_of", "with_header"]

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the C one is ten times as fast, but not built everywhere
_VERSION = "0.1.0"
IMAGE = f"cellnet:{_VERSION}"
"""The image's name and tag, unless an operator has another."""
USER_ID = 10001
"""The user and the group that a node has in a container."""

DOCKERFILE = f"""\
# The image {IMAGE} for nodes in containers. It reads no folder, so that no key can get into it:
#
#     docker build --tag {IMAGE} - < Dockerfile
#
# Install here, too, what the code of your jobs imports.
FROM python:3.13-slim
RUN pip install --no-cache-dir "cellnet-fl[grpc,uvloop,tensors]=={_VERSION}" \\
    && groupadd --gid {USER_ID} cellnet \\
    && useradd --uid {USER_ID} --gid cellnet --no-create-home --home-dir /nonexistent --shell /bin/false cellnet \\
    && mkdir -p /kit/startup /kit/local /kit/transfer
USER {USER_ID}:{USER_ID}
CMD ["cellnet", "--help"]
"""


def as_compose(plan: Plan, node: Node) -> str:
    """Return the compose file of *node*, whose place is in the kit's folder."""
    return with_header(_header(plan, node), {"services": {node.name: _service(node)}})


def with_header(lines: list[str], *documents: dict[str, Any]) -> str:
    """Return YAML *documents* below a comment."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return comment + "---\n".join(
        yaml.dump(document, Dumper=_DUMPER, sort_keys=False, width=120) for document in documents
    )


def is_local(endpoint: Endpoint | None) -> bool:
    """Whether a node listens at, or connects to, an address that means its own machine only."""
    return endpoint is not None and is_loopback(urlsplit(endpoint.url).hostname or "")


def port_of(endpoint: Endpoint) -> int:
    """Return the port of an address."""
    return urlsplit(endpoint.url).port or 0


def _header(plan: Plan, node: Node) -> list[str]:
    lines = [
        f"Runs the {node.role} {node.name} of project {plan.project} in a container. In the folder of its kit:",
        "",
        f"    docker build --tag {IMAGE} - < Dockerfile",
        f"    sudo chown -R {USER_ID}:{USER_ID} startup local transfer",
        "    docker compose up -d",
        "",
        "The keys must be those of the container's user. To leave them yours: CELLNET_USER=$(id -u):$(id -g) docker",
        "compose up -d, or with a rootless engine CELLNET_USER=0:0. CELLNET_IMAGE names another image.",
        "For a node that is to come back when the machine starts: restart: unless-stopped.",
    ]
    if _on_host_network(node):
        lines.append("It uses the machine's own network, as its addresses say localhost.")
    if node.role != "relay":
        lines.append(
            "Jobs have their temporary files in /run, which is memory: for large ones, give --run another folder."
        )
    return lines


def _service(node: Node) -> dict[str, Any]:
    service = {
        "image": f"${{CELLNET_IMAGE:-{IMAGE}}}",
        "command": ["cellnet", "start", "/kit", "--run", "/run/cellnet"],
        "user": f"${{CELLNET_USER:-{USER_ID}:{USER_ID}}}",
        "init": True,
        "restart": "on-failure",
        "stop_grace_period": f"{STOP_SECONDS}s",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/run", "/tmp"],  # noqa: S108 - both are the container's own
        "volumes": [_mount("startup", read_only=True), _mount("local"), _mount("transfer")],
    }
    if _on_host_network(node):
        return {**service, "network_mode": "host"}
    if node.listen:
        port = port_of(node.listen)
        service["ports"] = [f"{port}:{port}"]
        if port < 1024:
            service["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": 0}
    return service


def _mount(name: str, *, read_only: bool = False) -> dict[str, Any]:
    # a folder that is missing is told, and not made: it would be root's
    mount: dict[str, Any] = {"type": "bind", "source": f"./{name}", "target": f"/kit/{name}"}
    return {**mount, **({"read_only": True} if read_only else {}), "bind": {"create_host_path": False}}


def _on_host_network(node: Node) -> bool:
    """Whether a node's addresses mean nothing in a network of its own."""
    return is_local(node.listen) or is_local(node.connect)
