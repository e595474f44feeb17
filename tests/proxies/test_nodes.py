"""Nodes from kits, as an operator starts them: behind an ingress that ends TLS, out through a proxy with a password."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.conftest import free_ports, provisioned
from tests.proxies.conftest import nginx, running, tinyproxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.proxies.conftest import Certified

PROJECT = """
api_version: 3
name: mobile
scheme: {scheme}
connection_security: clear
participants:
  - {{name: server, type: server, org: a, fed_learn_port: {port}, default_host: 127.0.0.1}}
  - {{name: C1, type: client, org: a, connect_to: {{host: localhost, port: {front}, connection_security: tls}}}}
"""
SECONDS = 20.0


@contextmanager
def started(kit: Path, line: str) -> Iterator[psutil.Process]:
    """Start a node, wait until it says *line*, and end it after the block."""
    log = kit / "transfer" / "log"
    command = [sys.executable, "-P", "-m", "cellnet", "start", str(kit)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + SECONDS
        while line not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_site_says_how_to_get_out_and_whom_its_ingress_is_certified_by(
    certified: Certified, tmp_path: Path, scheme: str
) -> None:
    ports = free_ports(1)
    front, out = tmp_path / "front", tmp_path / "out"
    front.mkdir()
    out.mkdir()
    ingress, at = nginx(front, certified, scheme, ports[0])
    proxy, way = tinyproxy(out, at, password="pw")
    with provisioned(PROJECT.format(scheme=scheme, port=ports[0], front=at)) as folder:
        kits = folder / "kits"
        said = kits / "C1" / "local" / "network.yml"
        said.write_text(f"proxy: http://user:pw@127.0.0.1:{way}\ningress_ca: {certified.roots}\n")
        said.chmod(0o600)
        with (
            started(kits / "server", "server listens at"),
            running(ingress, front, at),
            running(proxy, out, way),
            started(kits / "C1", f"C1 joined server over {scheme}, tls") as client,
        ):
            listening = [one for one in client.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            assert listening == []
    assert f"CONNECT localhost:{at}" in (out / "tinyproxy.log").read_text()
