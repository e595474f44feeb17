"""The kits of a contest: certificates for its three roles, as provisioning issues them for anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioning import Lock, provision

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write"]

PROJECT = """\
api_version: 3
name: contest
scheme: tcp
participants:
  - {name: server, type: server, org: bench, fed_learn_port: 8002, default_host: 127.0.0.1}
  - {name: R1, type: relay, org: bench, listening_host: {default_host: 127.0.0.1, port: 8003}}
  - {name: C1, type: client, org: bench, connect_to: {name: PARENT}}
"""


def write(folder: Path, *, with_relay: bool) -> Path:
    """Write the kits of ``server``, ``R1`` and ``C1`` somewhere in *folder*, and return where.

    :param with_relay: whether the client is placed below the relay
    """
    (folder / "project.yml").write_text(PROJECT.replace("PARENT", "R1" if with_relay else "server"))
    provision(folder / "project.yml", folder / "kits", Lock.of_file(folder / "lock", create=True))
    return folder / "kits"
