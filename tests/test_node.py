"""Nodes as real processes: they come up, say so, end in order and leave nothing; what goes wrong is said plainly."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

from cellnet.jobs.submission import submitted
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = """
api_version: 3
name: nodes
scheme: tcp
connection_security: mtls
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: R1}}}}
  - {{name: admin@x.org, type: admin, org: x, role: project_admin}}
"""
CELLNET = [sys.executable, "-P", "-m", "cellnet"]
SECONDS = 20.0


@pytest.fixture(scope="module")
def project() -> str:
    return PROJECT.format(*free_ports(2))


@pytest.fixture(scope="module")
def kits(project: str) -> Iterator[Path]:
    with provisioned(project) as folder:
        yield folder / "kits"


class Node:
    """One process that a test started."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.out, self.err = (Path(tempfile.mkstemp(dir=folder)[1]) for _ in range(2))
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def wait_line(self, pattern: str) -> str:
        deadline = time.monotonic() + SECONDS
        while not re.fullmatch(pattern + r"\n", self.out.read_text()):
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.out.read_text() + self.err.read_text()
            time.sleep(0.02)
        return self.out.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def begin(*command: str | Path, program: list[str] = CELLNET) -> Node:
        nodes.append(Node([*program, *map(str, command)], tmp_path))
        return nodes[-1]

    yield begin
    for node in reversed(nodes):
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait(SECONDS)


def refused(*command: str | Path, seconds: float = SECONDS) -> str:
    """Run a command that must end with an error; return the error."""
    result = subprocess.run([*CELLNET, *map(str, command)], capture_output=True, text=True, timeout=seconds)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    said = result.stderr.splitlines()
    return "\n".join(said[next(n for n, line in enumerate(said) if line.startswith("cellnet: error: ")) :])


@pytest.mark.parametrize(("backend", "number"), [("asyncio", signal.SIGTERM), ("trio", signal.SIGINT)])
def test_nodes_say_one_line_when_they_are_there_and_leave_nothing_when_they_end(
    kits: Path, start: Callable[..., Node], backend: str, number: signal.Signals
) -> None:
    server, relay, client = (start("start", kits / name, "--backend", backend) for name in ("server", "R1", "C1"))
    server.wait_line(r"server listens at tcp://\S+:\d+, mtls")
    relay.wait_line(r"R1 joined server over tcp, mtls; listens at tcp://\S+:\d+, mtls")
    client.wait_line("R1.C1 joined R1 over tcp, mtls")
    for name in ("server", "C1"):
        assert (kits / name / "run").stat().st_mode & 0o777 == 0o700
        assert (kits / name / "run" / "cell.sock").is_socket()
    assert not (kits / "R1" / "run").exists(), "a relay has no jobs"
    for node in (client, relay, server):
        assert node.end(number) == 0, node.err.read_text()
        assert "Traceback" not in node.err.read_text()
    assert not list(kits.glob("*/run"))
    for name in ("server", "R1", "C1"):
        assert int((kits / name / "local" / "epoch").read_text()) > 0


def test_a_node_that_waits_for_its_parent_ends_in_order_too(kits: Path, start: Callable[..., Node]) -> None:
    node = start("start", kits / "C1")
    deadline = time.monotonic() + SECONDS
    while "nobody answers at localhost" not in node.err.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert node.end() == 0
    assert node.out.read_text() == ""
    assert not (kits / "C1" / "run").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_signal_ends_a_node_at_once(start: Callable[..., Node], backend: str) -> None:
    code = f"""if True:
        import anyio
        from cellnet.node import run_until_signalled
        async def slow(*, stop, task_status):
            task_status.started("up")
            await stop.wait()
            print("ending", flush=True)
            await anyio.sleep(600)
        run_until_signalled(slow, backend={backend!r})
        """
    node = start("-c", code, program=[sys.executable, "-P"])
    node.wait_line("up")
    node.process.terminate()
    node.wait_line("up\nending")
    assert node.end(signal.SIGINT) == 128 + signal.SIGINT


def test_what_a_killed_node_left_is_no_obstacle(kits: Path, start: Callable[..., Node]) -> None:
    first = start("start", kits / "server")
    first.wait_line("server listens at .*")
    first.end(signal.SIGKILL)
    (kits / "server" / "run" / "jobs" / "job-1").mkdir(parents=True)
    second = start("start", kits / "server")
    second.wait_line("server listens at .*")
    assert not (kits / "server" / "run" / "jobs").exists()
    assert "another node runs there already: stop it first" in refused("start", kits / "server")
    assert second.process.poll() is None
    assert second.end() == 0


def test_the_local_socket_can_be_elsewhere(kits: Path, start: Callable[..., Node]) -> None:
    run = kits / "elsewhere"
    node = start("start", kits / "server", "--run", run)
    node.wait_line("server listens at .*")
    assert (run / "cell.sock").is_socket()
    said = refused("submit", kits / "server", kits / "nowhere", "--run", run)
    assert "nowhere: there is no such folder" in said
    assert node.end() == 0
    assert not run.exists()


def test_a_folder_for_the_socket_that_cannot_be_used_is_said(kits: Path, tmp_path: Path) -> None:
    assert "may have 100: name a shorter folder with --run" in refused("start", kits / "server", "--run", "x" * 120)
    tmp_path.chmod(0o755)
    assert "nobody else can read: run chmod 700" in refused("start", kits / "server", "--run", tmp_path)
    assert "cannot be made, or used" in refused("start", kits / "server", "--run", kits / "no" / "where")
    (tmp_path / "file").touch()
    assert "cannot be made, or used" in refused("start", kits / "server", "--run", tmp_path / "file")


def test_a_kit_that_cannot_be_started_is_said(kits: Path, tmp_path: Path) -> None:
    assert f"{tmp_path / 'no'}: there is no such folder" in refused("start", tmp_path / "no")
    assert "is the kit of an admin, who is no node" in refused("start", kits / "admin@x.org")


def test_a_port_that_is_taken_is_said(kits: Path, start: Callable[..., Node]) -> None:
    first = start("start", kits / "server")
    first.wait_line("server listens at .*")
    said = refused("start", kits / "server", "--run", kits / "other")
    assert re.search(r"cannot listen at tcp://localhost:\d+", said)
    assert not (kits / "other").exists()
    assert first.end() == 0


def test_a_node_of_another_authority_is_refused_and_says_so(
    kits: Path, start: Callable[..., Node], project: str
) -> None:
    start("start", kits / "server").wait_line("server listens at .*")
    with provisioned(project) as others:
        began = time.monotonic()
        said = refused("start", others / "kits" / "R1")
        assert time.monotonic() - began < 5
        assert "certificate" in said or "authority" in said
        assert not list(others.glob("kits/*/run"))


@pytest.mark.anyio
async def test_job_processes_end_when_their_node_is_killed_even_if_their_code_is_stuck(
    kits: Path, start: Callable[..., Node], tmp_path: Path, anyio_backend_name: str
) -> None:
    (tmp_path / "job.py").write_text(
        "async def server(job): await job.map_reduce('spin')\n"
        "async def spin(job, value):\n    while True: pass\n"
        "tasks = {'spin': spin}\n"
    )
    nodes = [start("start", kits / name, "--backend", anyio_backend_name) for name in ("server", "R1", "C1")]
    nodes[2].wait_line("R1.C1 joined .*")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (tmp_path / "job.py").rename(bundle / "job.py")
    with anyio.fail_after(60):
        async with submitted(kits / "server", bundle):
            while not (processes := psutil.Process(nodes[2].process.pid).children()):
                await anyio.sleep(0.1)
            nodes[2].process.kill()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert [node.end() for node in nodes[:2]] == [0, 0]


def test_a_relay_can_be_started_without_the_command(kits: Path, start: Callable[..., Node]) -> None:
    relays = [sys.executable, "-P", "-m", "relays"]
    start("start", kits / "server").wait_line("server listens at .*")
    relay = start(kits / "R1", program=relays)
    relay.wait_line("R1 joined server over tcp, mtls; listens at .*")
    assert relay.end() == 0
    result = subprocess.run([*relays, str(kits / "C1")], capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 1
    assert result.stderr.startswith("relays: error: ")
    assert "is the kit of a client, not of a relay" in result.stderr


def test_the_command_says_what_it_can_do() -> None:
    said = subprocess.run([*CELLNET, "--help"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    commands = "add ca check demo expiry inspect issuer migrate pack plan provision request revoke schema sign start"
    commands += " submit tree unpack validate verify"
    assert re.findall(r"^  (\w+)  ", said, re.MULTILINE) == commands.split()
    said = subprocess.run([*CELLNET, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    assert re.fullmatch(r"cellnet \d+\.\d+\.\d+\n", said)


def test_a_configuration_that_is_no_json_object_is_said(kits: Path) -> None:
    assert "--config is no JSON" in refused("submit", kits / "server", kits, "--config", "{")
    assert "--config must be a JSON object" in refused("submit", kits / "server", kits, "--config", "[]")


def test_a_job_can_be_submitted_by_the_command_and_ended_by_ctrl_c(
    kits: Path, start: Callable[..., Node], tmp_path: Path
) -> None:
    code = """if True:
        import anyio
        async def server(job):
            await job.report(answer=job.config["answer"], half=0.5)
            await anyio.sleep(job.config["seconds"])
        tasks = {}
        """
    (tmp_path / "job.py").write_text(code)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (tmp_path / "job.py").rename(bundle / "job.py")
    nodes = [start("start", kits / name) for name in ("server", "R1", "C1")]
    nodes[2].wait_line("R1.C1 joined .*")
    submit = start("submit", kits / "server", bundle, "--config", '{"answer": 42, "seconds": 0}')
    submit.wait_line(
        r"job-(\w+) runs\nanswer 42  half 0.5\n"
        r"job-\1 ended: 1 sites took part, 0 results of together 0 bytes reached the server"
    )
    assert submit.process.wait(SECONDS) == 0
    submit = start("submit", kits / "server", bundle, "--config", '{"answer": 42, "seconds": 600}', "--json")
    submit.wait_line(r'\{"job": "job-\w+"\}\n\{"answer": 42, "half": 0.5\}')
    assert submit.end(signal.SIGINT) == 130
    assert "interrupted: the job was ended at all sites" in submit.err.read_text()
    left = [child for node in nodes for child in psutil.Process(node.process.pid).children()]
    assert left == [], [node.err.read_text() for node in nodes]
    assert [node.end() for node in reversed(nodes)] == [0, 0, 0]
