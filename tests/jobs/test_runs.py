"""Runs of jobs: real kits, real job processes, real sockets; only the nodes share the test's process."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from cellnet.cell import Cell
from cellnet.errors import ConfigurationError, ConnectError, JobError, RemoteError
from cellnet.fqcn import FQCN, FQSN
from cellnet.jobs import deployment
from cellnet.jobs.assignment import Assignment, Placed
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.coordinator import BACK_SECONDS, Coordinator
from cellnet.jobs.host import JobHost
from cellnet.jobs.opaque import packed
from cellnet.jobs.operator import operator_cell, present_cells
from cellnet.jobs.record import MAX_REPORTS, Record
from cellnet.jobs.submission import submitted
from cellnet.kit import Kit
from cellnet.message import Request
from tests.conftest import ASYNCIO, TRIO_LONG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.jobs.conftest import Federation

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[ASYNCIO, TRIO_LONG])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


AVERAGE = """
import numpy as np
from cellnet.jobs import Weighted, weighted_mean

async def server(job):
    model = {"w": np.zeros(3)}
    for number in range(job.config.get("rounds", 2)):
        update = await job.map_reduce("train", model, combine=weighted_mean)
        model = update.mean
        await job.report(round=number, count=update.count, weight=update.weight, job=job.id)
    return {"model": model, "sites": job.sites}

def train(job, model):
    return Weighted({"w": model["w"] + {"C1": 1.0, "C11": 2.0, "C2": 4.0}[job.site]}, len(job.fqsn))

tasks = {"train": train}
"""

ONE_ROUND = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from cellnet.jobs import Weighted

async def server(job):
    return (await job.map_reduce("train", job.config)).mean

def train(job, config):
    exec(config.get(job.site, ""), {**globals(), "job": job})
    return Weighted({"x": np.zeros(1)}, 1)

tasks = {"train": train}
"""


async def run(federation: Federation, code: str, **options: Any) -> Any:
    """Run a job to its end; return its result."""
    with anyio.fail_after(60):
        async with submitted(federation.server, federation.bundle(code), **options) as under_way:
            return await under_way.wait()


async def failure(federation: Federation, code: str, **options: Any) -> str:
    """Run a job that must fail; return what is said."""
    with pytest.raises(JobError) as caught:
        await run(federation, code, **options)
    await federation.wait_no_job_process()
    return str(caught.value)


async def test_a_job_is_combined_on_the_way_up_and_one_result_arrives_for_each_top_client(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name):
        async with submitted(federation.server, federation.bundle(AVERAGE)) as under_way:
            with anyio.fail_after(60):
                reports = [report async for report in under_way]
        tree = under_way.result
        await federation.wait_no_job_process()
        flat = await run(federation, AVERAGE, flat=True)
    assert reports == [{"round": n, "count": 3, "weight": 10.0, "job": under_way.job} for n in range(2)]
    mean = (2 * 1.0 + 6 * 2.0 + 2 * 4.0) / 10
    assert tree.value["model"]["w"] == pytest.approx([2 * mean] * 3)
    assert np.allclose(tree.value["model"]["w"], flat.value["model"]["w"], rtol=1e-14)
    assert tree.value["sites"] == ["C1", "C1.C11", "C2"] == list(tree.sites)
    assert (tree.messages, flat.messages) == (4, 6)
    assert tree.bytes / tree.messages == pytest.approx(flat.bytes / flat.messages, rel=0.1)


async def test_a_site_whose_parent_does_not_take_part_reports_to_the_server(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name):
        result = await run(federation, AVERAGE, sites=["C11", "C2"], config={"rounds": 1})
    assert (result.sites, result.messages) == (("C1.C11", "C2"), 2)


async def test_a_job_process_is_told_its_neighbours_and_nothing_else(
    federation: Federation, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Assignment] = {}
    begin = JobHost.begin

    def recorded(self: JobHost, assignment: Assignment, *rest: Any) -> None:
        told[str(assignment.site)] = assignment
        begin(self, assignment, *rest)

    monkeypatch.setattr(JobHost, "begin", recorded)
    code = """if Path("/proc/self/fd").exists():
        folder = Path("/proc/self/fd")
        open_files = [os.readlink(folder / fd) for fd in os.listdir(folder) if (folder / fd).exists()]
        seen = f"{open_files} {sys.argv} {dict(os.environ)}"
        assert "PRIVATE" not in seen and ".key" not in seen, seen
        assert Path.cwd() == Path(os.environ["TMPDIR"]), Path.cwd()
        """
    async with federation.running(anyio_backend_name):
        result = await run(federation, ONE_ROUND, config={"C1": code, "C11": code})
    job = result.job
    assert {name: str(one.parent) for name, one in told.items()} == {
        "server": "None",
        "C1": f"server.{job}",
        "C1.C11": f"R1.C1.{job}",
        "C2": f"server.{job}",
    }
    assert {name: [str(child.cell) for child in one.children] for name, one in told.items()} == {
        "server": [f"R1.C1.{job}", f"C2.{job}"],
        "C1": [f"R1.C11.{job}"],
        "C1.C11": [],
        "C2": [],
    }
    assert not any(one.sites for name, one in told.items() if name != "server")


async def test_a_task_that_raises_is_reported_with_its_site_and_its_log(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name):
        said = await failure(
            federation, ONE_ROUND, config={"C11": "raise ValueError('no data here')"}, sites=["C1", "C11"]
        )
        assert "failed: C1.C11: train: ValueError: no data here\nthe end of its log at C1.C11:\n" in said
        assert "task train failed\nTraceback (most recent call last):\n" in said
        assert "/cellnet/jobs/job.py" not in said, "the traceback begins in the job's own code"
        said = await failure(federation, ONE_ROUND, config={"C2": "job.nonsense"}, sites=["C2"])
        assert "failed: C2: train: AttributeError" in said


async def test_a_job_process_that_crashes_is_reported_with_its_site_and_its_log(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name):
        said = await failure(
            federation, ONE_ROUND, config={"C11": "print('last words'); os._exit(9)"}, sites=["C1", "C11"]
        )
        assert "at C1.C11 the job process ended by itself, with code 9" in said
        assert said.endswith("the end of its log at C1.C11:\nlast words")
        said = await failure(federation, ONE_ROUND, config={"C2": "os.kill(os.getpid(), signal.SIGKILL)"}, sites=["C2"])
        assert "at C2 the job process ended by itself, with code -9" in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import missing_module", "ModuleNotFoundError: No module named 'missing_module'"),
        ("x = (", "SyntaxError"),
        ("x = 1", "job.py has no mapping of tasks"),
        ("tasks = {}", "job.py has no server function"),
        ("tasks = {}\ndef server(job): pass", "job.py has no server function: write async def"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
async def test_code_that_cannot_be_loaded_is_reported(
    federation: Federation, anyio_backend_name: str, code: str, said: str
) -> None:
    async with federation.running(anyio_backend_name):
        assert said in await failure(federation, code, sites=["C2"])


async def test_a_server_function_that_fails_is_reported(federation: Federation, anyio_backend_name: str) -> None:
    tail = "\ntasks = {}"
    async with federation.running(anyio_backend_name):
        said = await failure(federation, "async def server(job): 1 / 0" + tail, sites=["C2"])
        assert "failed: server: server(job): ZeroDivisionError" in said
        assert "the end of its log at server:" in said
        said = await failure(federation, "async def server(job): await job.map_reduce('x')" + tail, sites=["C2"])
        assert "failed: C2: the job has no task 'x': it has none" in said
        # its report is answered, so it has joined before it ends
        code = "import os\nasync def server(job):\n    await job.report(x=1)\n    os._exit(4)"
        said = await failure(federation, code + tail, sites=["C2"])
        assert "its job process ended without a result" in said
        assert "at server the job process ended by itself, with code 4" in said


async def test_what_the_server_cannot_start_is_refused(federation: Federation, anyio_backend_name: str) -> None:
    async with federation.running(anyio_backend_name, without="C11"):
        assert "there is no site C9: the project has C1, C1.C11, C2" in await failure(federation, AVERAGE, sites=["C9"])
        begun = anyio.current_time()
        assert "not present: C1.C11; start these sites" in await failure(federation, AVERAGE)
        assert BACK_SECONDS <= anyio.current_time() - begun < BACK_SECONDS + 5
        assert "configuration has" in await failure(federation, AVERAGE, config={"x": "y" * 9000})


async def test_a_site_that_is_away_for_a_moment_is_waited_for(federation: Federation, anyio_backend_name: str) -> None:
    async with federation.running(anyio_backend_name, without="C11") as nodes, anyio.create_task_group() as tasks:

        async def back() -> None:
            await anyio.sleep(1)
            await nodes.start("C11")

        tasks.start_soon(back)
        assert (await run(federation, AVERAGE)).sites == ("C1", "C1.C11", "C2")


async def test_reports_arrive_in_order_and_those_that_nobody_fetches_are_dropped(
    federation: Federation, anyio_backend_name: str
) -> None:
    count = MAX_REPORTS + 200
    code = f"tasks = {{}}\nasync def server(job):\n    for n in range({count}): await job.report(n=n)"
    async with federation.running(anyio_backend_name):
        async with submitted(federation.server, federation.bundle(code), sites=["C2"]) as under_way:
            with anyio.fail_after(60):
                first = await anext(under_way)
                await federation.wait_no_job_process(30)
                rest = [report["n"] async for report in under_way]
        assert first == {"n": 0}
        assert rest == sorted(rest)
        assert rest[-1] == count - 1
        assert MAX_REPORTS <= len(rest) < count


async def test_leaving_early_ends_the_job_everywhere(federation: Federation, anyio_backend_name: str) -> None:
    config = {"C1": "time.sleep(600)", "C11": "while True: pass"}
    async with federation.running(anyio_backend_name):
        with anyio.fail_after(60):
            async with submitted(federation.server, federation.bundle(ONE_ROUND), config=config):
                await federation.wait_job_processes(4)
        assert not federation.job_processes(), "when the block is left, all have ended"
        assert (await run(federation, AVERAGE, sites=["C2"])).messages == 2, "and the nodes are well"


async def test_a_submitter_that_is_killed_takes_its_job_along(federation: Federation, anyio_backend_name: str) -> None:
    bundle = federation.bundle(ONE_ROUND)
    command = [sys.executable, "-P", "-m", "cellnet", "submit", str(federation.server), str(bundle)]
    async with federation.running(anyio_backend_name):
        process = await anyio.open_process(
            [*command, "--config", '{"C2": "time.sleep(600)"}'], stdout=subprocess.DEVNULL
        )
        await federation.wait_job_processes(4)
        process.kill()
        await process.wait()
        await federation.wait_no_job_process(15)


async def test_nodes_that_stop_end_their_job_processes_first(federation: Federation, anyio_backend_name: str) -> None:
    said: list[str] = []

    async def submit() -> None:
        with pytest.raises(JobError) as caught:
            await run(federation, ONE_ROUND, config={"C1": "time.sleep(600)"})
        said.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        async with federation.running(anyio_backend_name):
            tasks.start_soon(submit)
            await federation.wait_job_processes(4)
        assert not federation.job_processes()
    assert "the server ended while job-" in said[0]


async def test_a_site_that_is_away_when_a_job_ends_is_asked_once_it_is_back(
    federation: Federation, anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with federation.running(anyio_backend_name) as nodes:
        async with submitted(
            federation.server, federation.bundle(ONE_ROUND), config={"C1": "time.sleep(600)"}, sites=["C1"]
        ):
            await federation.wait_job_processes(2)
            await nodes.stop("R1")
            while "R1.C1" in [str(cell.fqcn) for cell in await present_cells(federation.server)]:
                await anyio.sleep(0.05)
            left = anyio.current_time()
        assert anyio.current_time() - left < 2, "who ended it does not wait"
        assert len(federation.job_processes()) == 1
        await nodes.start("R1")
        await federation.wait_no_job_process(10)
    assert "could not" not in caplog.text


@asynccontextmanager
async def task_under_way(federation: Federation, site: str) -> AsyncIterator[Path]:
    """Run a job at one site, whose task goes on once the file is there that this gives."""
    begun, go = federation.folder / "begun", federation.folder / "go"
    code = f"Path({str(begun)!r}).touch()\nwhile not Path({str(go)!r}).exists(): time.sleep(0.01)"
    try:
        with anyio.fail_after(60):
            async with submitted(
                federation.server, federation.bundle(ONE_ROUND), config={site: code}, sites=[site]
            ) as under_way:
                while not begun.exists():
                    await anyio.sleep(0.01)
                yield go
                await under_way.wait()
    finally:
        begun.unlink(missing_ok=True)
        go.unlink(missing_ok=True)


async def test_a_job_goes_on_when_a_relay_was_restarted_under_it(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name) as nodes, task_under_way(federation, "C11") as go:
        await nodes.stop("R1")
        go.touch()
        await nodes.start("R1")


async def test_a_job_goes_on_when_a_site_of_it_moved_to_another_parent(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name) as nodes, task_under_way(federation, "C11") as go:
        await nodes.stop("R1")
        while "C11" not in [cell.fqcn for cell in await present_cells(federation.server)]:
            await anyio.sleep(0.05)
        go.touch()


async def test_a_job_fails_when_a_site_of_it_was_restarted(federation: Federation, anyio_backend_name: str) -> None:
    async with federation.running(anyio_backend_name) as nodes:
        with pytest.raises(JobError, match="failed: C2: it was restarted, which ended its job process"):
            async with task_under_way(federation, "C2"):
                await nodes.stop("C2")
                await nodes.start("C2")
        await federation.wait_no_job_process()


@pytest.mark.parametrize("step", ["_deploy", "_start"])
async def test_a_site_that_was_restarted_before_it_started_a_job_starts_it(
    federation: Federation, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    take_step, places = getattr(Coordinator, step), []

    async def restart_first(self: Coordinator, record: Record, placed: Placed) -> None:
        if str(placed.site) == "C2":
            places.append(step)
            await nodes.stop("C2")
            await nodes.start("C2")
        await take_step(self, record, placed)

    monkeypatch.setattr(Coordinator, step, restart_first)
    async with federation.running(anyio_backend_name) as nodes:
        result = await run(federation, AVERAGE)
    assert (result.messages, places) == (4, [step])


@pytest.mark.parametrize("step", ["keep", "take"])
async def test_a_job_is_deployed_and_started_once_by_a_site_that_is_killed_while_it_does_so(
    federation: Federation, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    done, begun = getattr(deployment, step), []
    reached = anyio.Event()

    async def stay_the_first_time(*what: Any) -> Any:
        value = await done(*what)
        if not reached.is_set():
            reached.set()
            await anyio.sleep_forever()
        return value

    begin = JobHost.begin

    def recorded(self: JobHost, assignment: Assignment, *rest: Any) -> None:
        begun.append(str(assignment.site))
        begin(self, assignment, *rest)

    async def kill_once() -> None:
        await reached.wait()
        await nodes.stop("C2")
        await nodes.start("C2")

    monkeypatch.setattr(deployment, step, stay_the_first_time)
    monkeypatch.setattr(JobHost, "begin", recorded)
    async with federation.running(anyio_backend_name) as nodes, anyio.create_task_group() as tasks:
        tasks.start_soon(kill_once)
        assert (await run(federation, AVERAGE, sites=["C2"])).messages == 2
    assert begun == ["C2", "server"]


async def test_a_job_fails_when_a_site_of_it_stays_away(
    federation: Federation, anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.jobs.coordinator.AWAY_SECONDS", 0.5)
    async with federation.running(anyio_backend_name) as nodes:
        with pytest.raises(JobError, match=r"failed: C1\.C11: it was away for 0\.5 s: it ended, or the way"):
            async with task_under_way(federation, "C11"):
                await nodes.stop("C11")
        await federation.wait_no_job_process()


async def test_only_the_operator_submits_only_the_submitter_follows_and_only_the_server_deploys(
    federation: Federation, anyio_backend_name: str
) -> None:
    code = """if True:
        import anyio.from_thread, gc
        from cellnet.cell import Cell
        cell = next(one for one in gc.get_objects() if isinstance(one, Cell))
        asked = {"jobs.follow": {"job": job.id, "next": 0}, "jobs.cancel": job.id, "jobs.cancel ": {"no": "text"}}
        for destination, topic in (("server", "jobs.submit"), ("server", "cells.present"), ("R1.C1", "jobs.deploy"),
                                   ("R1.C1", "jobs.start"), ("R1.C1", "jobs.joined"),
                                   ("R1.C1", "jobs.stop"), ("server", "jobs.ended"), ("server", "jobs.follow"),
                                   ("server", "jobs.cancel"), ("server", "jobs.cancel ")):
            try:
                anyio.from_thread.run(cell.request, destination, topic.strip(), asked.get(topic, ""))
            except Exception as error:
                print(topic, error)
            else:
                raise AssertionError(topic)
        raise ValueError("all refused")
        """
    async with federation.running(anyio_backend_name):
        said = await failure(federation, ONE_ROUND, config={"C2": code}, sites=["C2"])
        assert "ValueError: all refused" in said
        for topic in ("jobs.submit", "cells.present"):
            assert f"{topic} server: JobError: {topic} is for the server's operator, C2.job-" in said
        for topic in ("jobs.deploy", "jobs.start", "jobs.joined", "jobs.stop"):
            assert f"{topic} R1.C1: JobError: only the server deploys jobs, C2.job-" in said
        assert "is no job process of this server" in said
        for topic in ("jobs.follow", "jobs.cancel"):
            assert f"{topic} server: JobError: there is no job 'job-" in said
        assert "jobs.cancel  server: JobError: a job's name is wanted" in said
        async with operator_cell(federation.server) as cell:
            with pytest.raises(RemoteError, match=r"only the server deploys jobs, server\.command-"):
                await cell.request("R1.C1", "jobs.stop", "job-1")


async def test_the_operator_sees_who_is_present_and_how_they_are_linked(
    federation: Federation, anyio_backend_name: str
) -> None:
    async with federation.running(anyio_backend_name):
        cells = await present_cells(federation.server)
    assert [(cell.fqcn, cell.role, cell.fqsn, cell.driver, cell.security) for cell in cells] == [
        ("C2", "client", "C2", "tcp", "mtls"),
        ("R1", "relay", "", "tcp", "mtls"),
        ("R1.C1", "client", "C1", "tcp", "mtls"),
        ("R1.C11", "client", "C1.C11", "tcp", "mtls"),
    ]


async def test_a_server_that_does_not_run_is_said_with_how_to_start_it(federation: Federation) -> None:
    with pytest.raises(ConnectError, match=r"the server does not run: there is no .*start it with: cellnet start"):
        await run(federation, AVERAGE)
    with pytest.raises(ConfigurationError, match="is the kit of a client: give the server's"):
        async with submitted(federation.folder / "kits" / "C1", federation.bundle(AVERAGE)):
            pass


async def test_a_job_process_ends_when_nobody_renews_its_lease(federation: Federation, anyio_backend_name: str) -> None:
    kit = Kit.load(federation.server)
    url = f"unix://{federation.folder / 'lease.sock'}"
    folder = federation.folder / "leased"
    host = JobHost(FQSN("server"), kit.credentials, folder, url, backend=anyio_backend_name, lease_seconds=1)
    bundle = Bundle({"job.py": b"import anyio\nasync def server(job): await anyio.sleep(600)"})
    async with Cell("server") as cell, host.serving(cell):
        await cell.listen(url, kit.credentials)
        await host.start(Assignment("job-1", FQSN("server"), None, (), packed({})), bundle)
        for _ in range(4):
            await host.handlers["jobs.lease"](Request(FQCN("server"), "jobs.lease", "job-1", math.inf))
            await anyio.sleep(0.5)
        assert federation.job_processes(), "it was renewed"
        await federation.wait_no_job_process()
        with anyio.fail_after(5):  # the folder goes once the host has seen the process end
            while list(folder.iterdir()):
                await anyio.sleep(0.01)
    folder.rmdir()
