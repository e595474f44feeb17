"""A federation whose certificates hold for seconds: an issuer, a process of its own, renews them, and nothing fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.cli.example import example_project, with_free_ports, with_settings
from cellnet.jobs.submission import submitted
from cellnet.kit import Kit
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
LONG_LIFE = 90.0
THREE = ("server", "R1", "C1")
NINE = ("server", "R1", "R2", "C1", "C11", "C12", "C2", "C21", "C22")
JOB = """
import numpy as np
from cellnet.jobs import Weighted, weighted_mean

async def server(job):
    total = 0.0
    for number in range(20):
        total += float((await job.map_reduce("work", number, combine=weighted_mean)).mean["x"].sum())
    return total

def work(job, number):
    return Weighted({"x": np.full(10_000, number, "f4")}, 1)

tasks = {"work": work}
"""


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

    def start_all(self, names: Iterable[str], life: float) -> None:
        """Start the issuer, which the server's node is told of, and these nodes.

        :param life: in seconds, of the certificates that it issues
        """
        socket = self.folder / "issuer.sock"
        (self.folder / "kits" / "server" / "local" / "network.yml").write_text(f"issuer: {socket}\n")
        options = {"--out": "kits", "--socket": str(socket), "--key-file": "lock", "--days": str(life / 86400)}
        self.start("issuer", "issuer", *(word for option in options.items() for word in option))
        self.wait("issuer", "the issuer of project [a-z]+ listens at")
        for name in names:
            self.start(name, "start", f"kits/{name}")
            self.wait(name, "joined|listens at")

    def stop(self, name: str) -> None:
        self.running[name].terminate()
        self.running[name].wait(SECONDS)

    def said(self, name: str) -> str:
        return "".join((self.folder / f"{name}.{end}").read_bytes().decode() for end in ("out", "err"))

    def wait(self, name: str, pattern: str, *, times: int = 1, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while len(re.findall(pattern, self.said(name))) < times:
            assert self.running[name].poll() is None, self.said(name)
            assert time.monotonic() < deadline, f"{name}: {self.said(name)}"
            time.sleep(0.05)


@contextmanager
def processes(project: str, seconds: float) -> Iterator[Nodes]:
    """Provision a project, whose certificates hold for so long, and end in the end what was started of it."""
    with provisioned(project, seconds=seconds) as folder:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            for process in nodes.running.values():
                process.kill()
                process.wait()


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    with processes(PROJECT.format(*free_ports(2), scheme=request.param), LIFE) as nodes:
        yield nodes


@pytest.fixture
def nine(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """The guide's federation, over mutual TLS."""
    settings = {"scheme": request.param, "connection_security": "mtls"}
    project = with_settings(with_free_ports(example_project().read_bytes()), settings).decode()
    with processes(project, LONG_LIFE) as nodes:
        yield nodes


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("nine", ["tcp", "grpc"], indirect=True)
def test_nine_nodes_are_renewed_while_jobs_run_and_no_request_of_theirs_fails(nine: Nodes) -> None:
    nine.start_all(NINE, LONG_LIFE)
    ended = anyio.Event()

    async def run() -> list[float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set_after, ended, 1.5 * LONG_LIFE)  # all are renewed at two thirds of it, some again
            return await _jobs_until(nine, ended)

    results = anyio.run(run)
    assert set(results) == {10_000.0 * sum(range(20))}
    assert len(results) >= 3
    for name in NINE:
        nine.wait(name, "certificates renewed, until", seconds=1)
        assert not re.search("Traceback|expired|could not", nine.said(name)), nine.said(name)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", ["tcp", "grpc"], indirect=True)
def test_the_root_is_changed_while_jobs_run_and_no_request_of_theirs_fails(nodes: Nodes) -> None:
    nodes.start_all(THREE, LIFE)
    ended = anyio.Event()

    async def change() -> None:
        for wanted in ("issue below the new root, once", "trust the new root alone, once", "trusted   root 2"):
            while wanted not in (said := await _rotated(nodes)):
                assert "too early" in said
                await anyio.sleep(1)
        await anyio.sleep(LIFE)  # and each is renewed once more
        ended.set()

    async def run() -> list[float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            return await _jobs_until(nodes, ended)

    results = anyio.run(run)
    assert set(results) == {10_000.0 * sum(range(20))}
    assert len(results) >= 3
    for name in THREE:
        assert not re.search("Traceback|expired|could not|cannot be", nodes.said(name)), nodes.said(name)
    # a kit of the first day, whose own root nobody trusts any longer
    for name in reversed(THREE):
        nodes.stop(name)
    for name in THREE:
        nodes.start(name, "start", f"kits/{name}")
        nodes.wait(name, "joined|listens at")
        assert len(Kit.load(nodes.folder / "kits" / name).credentials.roots) == 1


async def _rotated(nodes: Nodes) -> str:
    command = [sys.executable, "-P", "-m", "cellnet", "ca", "rotate", "--out", "kits", "--key-file", "lock"]
    done = await anyio.run_process(command, cwd=nodes.folder, check=False, stderr=subprocess.STDOUT)
    return done.stdout.decode()


async def _set_after(event: anyio.Event, seconds: float) -> None:
    await anyio.sleep(seconds)
    event.set()


async def _jobs_until(nodes: Nodes, ended: anyio.Event) -> list[float]:
    bundle, results = nodes.folder / "bundle", []
    bundle.mkdir()
    (bundle / "job.py").write_text(JOB)
    while not ended.is_set():
        with anyio.fail_after(60):
            async with submitted(nodes.folder / "kits" / "server", bundle) as under_way:
                results.append((await under_way.wait()).value)
    return results


@pytest.mark.parametrize("nodes", ["tcp"], indirect=True)
def test_every_node_is_renewed_by_an_issuer_of_its_own_process(nodes: Nodes) -> None:
    nodes.start_all(THREE, LIFE)
    for name in THREE:
        nodes.wait(name, "certificates renewed, until", seconds=LIFE * 2)
    log = (nodes.folder / "kits" / "authority" / "issued.jsonl").read_text()
    assert log.count('"why": "renewed"') >= 4
    assert (nodes.folder / "kits" / "C1" / "local" / "renewed" / "client.crt").exists()
    for name in THREE:
        assert "Traceback" not in nodes.said(name)
        assert "expired" not in nodes.said(name)
