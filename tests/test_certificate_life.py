"""A federation whose certificates hold for seconds: an issuer, a process of its own, renews them, and nothing fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = """
api_version: 3
name: lives
scheme: {scheme}
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: R1}}}}
"""
SECONDS = 20.0
LIFE = 20.0


class Nodes:
    """Processes that a test started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            command = [sys.executable, "-P", "-m", "cellnet", *words]
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env={**os.environ}
            )

    def said(self, name: str) -> str:
        return "".join((self.folder / f"{name}.{end}").read_bytes().decode() for end in ("out", "err"))

    def wait(self, name: str, pattern: str, *, times: int = 1, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while len(re.findall(pattern, self.said(name))) < times:
            assert self.running[name].poll() is None, self.said(name)
            assert time.monotonic() < deadline, f"{name}: {self.said(name)}"
            time.sleep(0.05)


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    with provisioned(PROJECT.format(*free_ports(2), scheme=request.param), seconds=LIFE) as folder:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            for process in nodes.running.values():
                process.kill()
                process.wait()


@pytest.mark.parametrize("nodes", ["tcp"], indirect=True)
def test_every_node_is_renewed_by_an_issuer_of_its_own_process(nodes: Nodes) -> None:
    (nodes.folder / "kits" / "server" / "local" / "network.yml").write_text(f"issuer: {nodes.folder}/issuer.sock\n")
    days = str(LIFE / 86400)
    nodes.start("issuer", "issuer", "--out", "kits", "--socket", "issuer.sock", "--key-file", "lock", "--days", days)
    nodes.wait("issuer", "the issuer of project lives listens at")
    for name in ("server", "R1", "C1"):
        nodes.start(name, "start", f"kits/{name}")
        nodes.wait(name, "joined|listens at")
    for name in ("server", "R1", "C1"):
        nodes.wait(name, "certificates renewed, until", seconds=LIFE * 2)
    time.sleep(0)
    log = (nodes.folder / "kits" / "authority" / "issued.jsonl").read_text()
    assert log.count('"why": "renewed"') >= 4
    assert (nodes.folder / "kits" / "C1" / "local" / "renewed" / "client.crt").exists()
    for name in ("server", "R1", "C1"):
        assert "Traceback" not in nodes.said(name)
        assert "expired" not in nodes.said(name)
