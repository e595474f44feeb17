"""Cells as processes: they come back at the same port, what they noted survives, and nothing is left of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from cellnet import Cell
from cellnet.simulation.history import Outcome
from tests.faults.bench import Bench, Size
from tests.faults.load import Load
from tests.faults.processes import LOW_PRIORITY, ROOT, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def processes(anyio_backend_name: str) -> Iterator[Processes]:
    with (
        tempfile.TemporaryDirectory(prefix="cellnet-faults-") as folder,
        Processes(Path(folder), backend=anyio_backend_name) as running,
    ):
        yield running
        pids = [process.pid for process in running.started]
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


@pytest.mark.anyio
async def test_a_killed_cell_is_back_at_its_port_and_what_it_noted_is_still_there(processes: Processes) -> None:
    bench = Bench(processes, random.Random(0), size=Size.QUICK, with_credentials=False)
    server = await bench.start("server", listens=True, expect=1)
    async with bench.cell("A", server.url) as (cell, _url):
        load = Load(cell, random.Random(0))
        assert (await server.line(10))["present"] == 1
        assert await load.ask("server", within=10, handling=0.01) is Outcome.OK
        server.pause()
        assert await load.ask("server", within=0.2) is Outcome.INDETERMINATE
        server.resume()
        server.kill()
        await server.start()
        assert (await server.line(10))["present"] == 1
        assert await load.ask("server", within=10) is Outcome.OK
    assert await server.terminate() == 0
    assert load.close(processes.runs()) == []
    assert [number for _now, number, _where, _origin in processes.runs() if number in ("1", "3")] == ["1", "3"]


@pytest.mark.anyio
async def test_light_cells_share_a_process_and_run_each_under_its_name(processes: Processes) -> None:
    bench = Bench(processes, random.Random(0), size=Size.QUICK, with_credentials=False)
    async with bench.cell("server") as (server, url):
        await processes.start("swarm", connect=url, names=["C1", "C2"])
        load = Load(server, random.Random(0))
        assert [await load.ask(name, within=10) for name in ("C1", "C2")] == [Outcome.OK] * 2
        assert load.close(processes.runs()) == []
        assert [where for _now, _number, where, _origin in processes.runs()] == ["C1", "C2"]


@pytest.mark.anyio
async def test_all_threads_of_a_process_give_way_also_those_that_it_starts_later(processes: Processes) -> None:
    processes.scheme = "grpc"
    bench = Bench(processes, random.Random(0), size=Size.QUICK, with_credentials=False)
    async with bench.cell("server") as (server, url):
        child = await bench.start("C1", connect=url)
        child.give_way()
        assert await Load(server, random.Random(0)).ask("C1", within=10) is Outcome.OK
        threads = child.threads()
        assert len(threads) > 1
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {LOW_PRIORITY}


@pytest.mark.anyio
async def test_cells_can_have_credentials_on_links_that_stay_clear(processes: Processes) -> None:
    bench = Bench(processes, random.Random(0), size=Size.QUICK, with_credentials=True)
    bench.provision({"R1": "server", "C1": "R1"})
    async with bench.cell("server") as (server, url):
        await bench.start_tree({"R1": "server", "C1": "R1"}, url)
        await bench.settle(server, ["R1.C1"])
        assert (await server.request("R1.C1", "figures"))["links"] == 1
        assert {link.security for link in server.statistics().links} == {"clear"}


@pytest.mark.anyio
async def test_a_cell_that_cannot_start_says_why(processes: Processes) -> None:
    async with Cell("server") as server:
        taken = await server.listen("tcp://127.0.0.1:0")
        with pytest.raises(RuntimeError, match=f"server ended: .*cannot listen at {taken}"):
            await processes.start("server", listen=taken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_the_program_leaves_no_process_and_no_folder(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults", "--quick", "--only", "F4", "--json", str(tmp_path / "faults.json")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    program = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(children) < 2:
        assert time.monotonic() < deadline
        children = psutil.Process(program.pid).children()
        time.sleep(0.02)
    program.send_signal(number)
    assert program.wait(30) == (-number if number == signal.SIGKILL else 130)
    _gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []
