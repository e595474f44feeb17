"""Job processes as children: what they are told, that they end, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest

from cellnet.errors import JobError
from cellnet.fqcn import FQCN, FQSN
from cellnet.jobs import assignment as told
from cellnet.jobs import launcher
from cellnet.jobs.assignment import Assignment, Placed, Start
from cellnet.jobs.launcher import launched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ASSIGNMENT = Assignment(
    "job-1", FQSN("C1"), FQCN("server.job-1"), (Placed(FQSN("C1.C11"), FQCN("R1.C11.job-1")),), b"\0"
)


@contextmanager
def program(monkeypatch: pytest.MonkeyPatch, code: str) -> Iterator[None]:
    """Start *code* in place of the job process's main program."""
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_COMMAND", [sys.executable, "-P", "-c", code])
        yield


async def until_logged(process: launcher.JobProcess, text: str) -> str:
    with anyio.fail_after(20):
        while text not in process.tail():
            await anyio.sleep(0.02)
    return process.tail()


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until_gone(pid: int) -> None:
    with anyio.fail_after(10):
        while not is_gone(pid):
            await anyio.sleep(0.02)


def test_an_assignment_survives_the_journey() -> None:
    assert Assignment.from_value(ASSIGNMENT.to_value()) == ASSIGNMENT


@pytest.mark.parametrize(
    "change",
    [{"job": "a.b"}, {"site": ".."}, {"parent": 1}, {"children": [["C1"]]}, {"children": [[1, 2]]}, {"config": "x"}],
)
def test_a_malformed_assignment_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(JobError, match="malformed"):
        Assignment.from_value({**ASSIGNMENT.to_value(), **change})


@pytest.mark.parametrize("start", [b"", b"\xc1", b"\x90", b"\x95\xc0\xc0\xc0\xc0\xc0", b"\x01", b"\x91" * 2000])
def test_a_malformed_start_is_refused(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "start").write_bytes(len(start).to_bytes(4, "big") + start)
    with (tmp_path / "start").open("rb", buffering=0) as said, pytest.raises(JobError, match="malformed"):
        told.receive(said.fileno())


def test_a_start_does_not_show_its_credential(tmp_path: Path) -> None:
    assert "secret" not in repr(Start(ASSIGNMENT, "unix:///x", tmp_path, "asyncio", b"secret"))


def test_an_assignment_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="too large"):
        Start(ASSIGNMENT, "unix:///x", tmp_path, "asyncio", bytes(told.MAX_ASSIGNMENT_BYTES)).pack()


async def test_a_process_reads_what_it_is_told_from_the_descriptor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, anyio\nfrom cellnet.jobs.assignment import receive\n"
        "start = receive(int(sys.argv[1]))\n"
        "print(start.assignment.site, start.assignment.children[0].cell, start.credential)\n"
        "print(os.get_inheritable(int(sys.argv[1])))\n"
        "print('secret' in str(sys.argv) + str(os.environ), os.environ['TMPDIR'] == os.getcwd(), flush=True)"
    )
    message = Start(ASSIGNMENT, "unix:///x", tmp_path, "asyncio", b"secret").pack()
    with program(monkeypatch, code):
        async with launched(message, tmp_path) as process:
            assert await process.wait() == 0, process.tail()
            assert process.tail().splitlines() == ["C1 R1.C11.job-1 b'secret'", "False", "False True"]


async def test_leaving_the_block_ends_the_process_and_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid, flush=True); time.sleep(600)"
    )
    with program(monkeypatch, code):
        async with launched(b"", tmp_path) as process:
            child = int((await until_logged(process, "child")).split()[1])
            assert os.getpgid(child) == process.pid
    await until_gone(process.pid)
    await until_gone(child)


async def test_a_process_that_does_not_listen_to_reason_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.3)
    code = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    with program(monkeypatch, code):
        async with launched(b"", tmp_path) as process:
            await until_logged(process, "deaf")
    assert process.exit_code == -signal.SIGKILL


async def test_a_process_ends_when_the_node_does_even_if_its_code_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys\nfrom cellnet.jobs import assignment\nassignment.GRACE_SECONDS = 0.1\n"
        "assignment.end_with(int(sys.argv[1]))\nprint('stuck', flush=True)\nwhile True: pass"
    )
    sockets = []
    pair = launcher.socket.socketpair
    monkeypatch.setattr(launcher.socket, "socketpair", lambda: sockets.append(pair()) or sockets[-1])
    with program(monkeypatch, code):
        async with launched(b"", tmp_path) as process:
            await until_logged(process, "stuck")
            sockets[0][0].close()  # what happens to a node that is killed
            with anyio.fail_after(10):
                assert await process.wait() == os.EX_UNAVAILABLE


async def test_a_process_that_is_gone_before_it_was_told_anything_is_no_error_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with program(monkeypatch, "print('cannot'); raise SystemExit(7)"):
        async with launched(bytes(4 * 1024 * 1024), tmp_path) as process:
            assert await process.wait() == 7
            assert process.tail() == "cannot"


async def test_the_tail_of_a_long_log_is_short_and_begins_with_a_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 17 bytes a line: no whole number of them is as long as the tail
    with program(monkeypatch, "for n in range(10000): print('line number', n)"):
        async with launched(b"", tmp_path) as process:
            await process.wait()
            lines = process.tail().splitlines()
    assert lines[-1] == "line number 9999"
    assert lines[0].startswith("line number ")
    assert sum(map(len, lines)) < launcher.TAIL_BYTES


async def test_a_cancelled_node_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = 0
    with program(monkeypatch, "import time; time.sleep(600)"), anyio.move_on_after(0.5):
        async with launched(b"", tmp_path) as process:
            pid = process.pid
            await anyio.sleep_forever()
    assert pid
    await until_gone(pid)
