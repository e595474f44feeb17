"""The demo over each driver in each mode of security, and over a tree that mixes them. `make long` runs this."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long
END_SECONDS = 100
MIXED = """
api_version: 3
name: mixed
scheme: grpc
participants:
  - {name: server, type: server, org: a, fed_learn_port: 8002, default_host: localhost}
  - {name: R1, type: relay, org: a, listening_host: {default_host: localhost, port: 18001, scheme: http}}
  - name: R11
    type: relay
    org: a
    connect_to: {name: R1}
    listening_host: {default_host: localhost, port: 18002, scheme: tcp, connection_security: tls}
  - {name: C1, type: client, org: a}
  - {name: C2, type: client, org: a, connect_to: {name: R1}}
  - {name: C3, type: client, org: a, parent: C2, connect_to: {name: R11}}
  - {name: C4, type: client, org: a, parent: C2, connect_to: {name: R11}}
"""


def demo(*options: str) -> dict[str, object]:
    """Run the demo; return its figures."""
    command = [sys.executable, "-P", "-m", "cellnet", "demo", "--rounds", "2", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("security", ["mtls", "tls", "clear"])
@pytest.mark.parametrize("scheme", ["grpc", "tcp", "http"])
def test_nine_nodes_train_over_each_driver_in_each_mode(scheme: str, security: str) -> None:
    figures = demo("--scheme", scheme, "--security", security)
    assert {(cell["driver"], cell["security"]) for cell in figures["cells"]} == {(scheme, security)}
    assert figures["server_messages"] == {"hierarchical": 4, "flat": 12}
    assert figures["weights_difference"] <= 1e-6


def test_a_tree_that_mixes_drivers_trains_like_any_other(tmp_path: Path) -> None:
    project = tmp_path / "project.yml"
    project.write_text(MIXED)
    figures = demo("--project", str(project))
    assert {cell["fqcn"]: (cell["driver"], cell["security"]) for cell in figures["cells"]} == {
        "server": ("grpc", "mtls"),
        "C1": ("grpc", "mtls"),
        "R1": ("grpc", "mtls"),
        "R1.C2": ("http", "mtls"),
        "R1.R11": ("http", "mtls"),
        "R1.R11.C3": ("tcp", "tls"),
        "R1.R11.C4": ("tcp", "tls"),
    }
    assert figures["weights_difference"] <= 1e-6
