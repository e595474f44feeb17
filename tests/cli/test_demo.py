"""``cellnet demo``, as a person runs it: real processes, real signals, a real model."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner

from cellnet.cli import main
from cellnet.cli.example import example_project, with_free_ports, with_settings
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-P", "-m", "cellnet", "demo"]
CELLS = [
    ("server", "server"),
    ("R1", None),
    ("R1.C1", "C1"),
    ("R1.C11", "C1.C11"),
    ("R1.C12", "C1.C12"),
    ("R2", None),
    ("R2.C2", "C2"),
    ("R2.C21", "C2.C21"),
    ("R2.C22", "C2.C22"),
]
ROUNDS = 25
SETTINGS = {"connection_security": "tls", "scheme": "http"}
END_SECONDS = 60.0


@dataclass
class Demo:
    """A running demo, and every process that it was seen to have."""

    process: subprocess.Popen[str]
    told: IO[str]
    """What it tells people."""
    temporary: Path
    lines: list[str] = field(default_factory=list)
    descendants: dict[int, psutil.Process] = field(default_factory=dict)
    commands: dict[int, list[str]] = field(default_factory=dict)

    def read_until(self, wanted: str) -> str:
        """Read lines up to the one that contains *wanted*, looking at the processes at each."""
        for line in self.told:
            self.lines.append(line.rstrip("\n"))
            self.look()
            if wanted in line:
                return line
        pytest.fail(f"{wanted!r} did not come:\n" + "\n".join(self.lines))

    def look(self) -> None:
        """Note the processes that there are now below the demo."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if command:  # it has none while it ends
                self.commands[process.pid] = command
            self.descendants[process.pid] = process

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and what was printed on stdout."""
        stdout, stderr = self.process.communicate(timeout=END_SECONDS)
        self.lines += stderr.splitlines()
        return self.process.returncode, stdout

    def leftovers(self) -> list[object]:
        """Return processes that survived it, and files that it left."""
        # is_running() compares creation times: a process that took over a number is another one
        alive = [self.commands.get(pid) for pid, process in self.descendants.items() if process.is_running()]
        return [*alive, *self.temporary.rglob("*")]


@contextmanager
def running_demo(*arguments: str, as_json: bool = True) -> Iterator[Demo]:
    # not pytest's tmp_path: the paths of sockets below it would be too long
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        environment = {**os.environ, "TMPDIR": folder, "COLUMNS": "200"}
        command = [*COMMAND, *(["--json"] if as_json else []), *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            told = process.stderr if as_json else process.stdout
            assert told is not None
            try:
                yield Demo(process, told, Path(folder))
            finally:
                process.kill()


@dataclass(frozen=True)
class Finished:
    """A demo that ran to its end."""

    figures: dict[str, Any]
    demo: Demo
    keep: Path
    leftovers: list[object]
    wall_seconds: float
    cpu_seconds: float
    """Of all its processes, as each waits for those that it started."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    keep = tmp_path_factory.mktemp("demo") / "kept"
    wall, cpu = time.monotonic(), _cpu_seconds()
    with running_demo("--keep", str(keep)) as demo:
        demo.read_until("Flat")
        demo.read_until(f"round  {ROUNDS}")
        status, stdout = demo.end()
        leftovers = demo.leftovers()
    assert status == 0, "\n".join(demo.lines)
    wall, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
    return Finished(json.loads(stdout.splitlines()[-1]), demo, keep, leftovers, wall, cpu)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_last_line_of_stdout_is_one_json_object_with_the_documented_keys(finished: Finished) -> None:
    assert list(finished.figures) == [
        "cells",
        "rounds",
        "accuracy",
        "accuracy_flat",
        "weights_difference",
        "server_messages",
        "seconds",
    ]
    assert all(list(cell) == ["fqcn", "fqsn", "driver", "security"] for cell in finished.figures["cells"])


def test_the_nine_cells_stand_where_the_example_puts_them(finished: Finished) -> None:
    assert [(cell["fqcn"], cell["fqsn"]) for cell in finished.figures["cells"]] == CELLS


def test_every_link_between_nodes_is_grpc_with_mutual_tls(finished: Finished) -> None:
    assert {(cell["driver"], cell["security"]) for cell in finished.figures["cells"]} == {("grpc", "mtls")}


def test_the_model_reads_the_digits(finished: Finished) -> None:
    assert finished.figures["rounds"] == ROUNDS
    assert finished.figures["accuracy"] >= 0.95
    assert finished.figures["accuracy_flat"] >= 0.95


def test_the_hierarchical_model_is_the_flat_one(finished: Finished) -> None:
    assert finished.figures["weights_difference"] <= 1e-6


def test_two_results_a_round_reach_the_server_hierarchically_and_six_flat(finished: Finished) -> None:
    assert finished.figures["server_messages"] == {"hierarchical": 2 * ROUNDS, "flat": 6 * ROUNDS}


def test_it_is_quick(finished: Finished) -> None:
    # 45 s are allowed on two cores; processor time does not depend on who else uses them
    assert finished.cpu_seconds < 60
    assert 0 < finished.figures["seconds"] < finished.wall_seconds


def test_nodes_and_jobs_are_processes_of_their_own(finished: Finished) -> None:
    commands = list(finished.demo.commands.values())
    assert sum("start" in command and "cellnet" in command for command in commands) == 9
    assert sum("cellnet.jobs.process" in command for command in commands) == 2 * 7


def test_people_see_every_round_and_two_tables(finished: Finished) -> None:
    text = "\n".join(finished.demo.lines)
    assert sum(" accuracy 0." in line and "round" in line for line in finished.demo.lines) == 2 * ROUNDS
    for expected in ("R1.C11", "C1.C11", "mtls", "hierarchical", "messages", "bytes", "differ by"):
        assert expected in text


def test_nothing_is_left_behind_but_what_was_to_be_kept(finished: Finished) -> None:
    assert finished.leftovers == []
    assert {path.name for path in (finished.keep / "kits").iterdir()} >= {"server", "R1", "C11"}
    assert {path.stem for path in (finished.keep / "logs").iterdir()} == {fqcn.rpartition(".")[2] for fqcn, _ in CELLS}


def test_a_model_of_megabytes_travels_the_same_way_and_lines_stay_plain() -> None:
    with running_demo("--model-mib", "2", "--rounds", "1") as demo:
        demo.read_until("Flat")
        status, stdout = demo.end()
        assert status == 0, "\n".join(demo.lines)
        assert demo.leftovers() == []
    figures = json.loads(stdout)
    assert figures["rounds"] == 1
    assert figures["accuracy"] > 0.5
    assert figures["weights_difference"] <= 1e-6
    assert figures["server_messages"] == {"hierarchical": 2, "flat": 6}
    assert sum("round   1" in line for line in demo.lines) == 2
    assert not any("\x1b" in line or "MiB" in line for line in demo.lines)


@pytest.mark.long
def test_a_signal_while_a_large_model_is_on_its_way_leaves_nothing_behind() -> None:
    with running_demo("--model-mib", "16") as demo:
        demo.read_until("round   1")
        demo.process.send_signal(signal.SIGINT)
        status, stdout = demo.end()
        assert (status, stdout) == (130, "")
        assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "training"),
    [
        ([], {"rounds": 25, "ballast_mib": 0}),
        (["--model-mib", "64"], {"rounds": 2, "ballast_mib": 64}),
        (["--model-mib", "1", "--rounds", "7"], {"rounds": 7, "ballast_mib": 1}),
    ],
)
def test_a_large_model_is_trained_for_two_rounds_unless_others_are_wanted(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], training: dict[str, int]
) -> None:
    given: list[object] = []

    async def show(_console: object, _folder: Path, training: object, **_more: object) -> None:
        given.append(training)
        raise ConfigurationError("enough")

    monkeypatch.setattr("cellnet.cli.showcase.show", show)
    CliRunner().invoke(main, ["demo", *arguments])
    assert given == [training]


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "number"),
    [("kits", signal.SIGINT), ("present", signal.SIGTERM), ("round   1", signal.SIGINT), ("Flat", signal.SIGTERM)],
)
def test_a_signal_at_any_moment_leaves_nothing_behind(moment: str, number: signal.Signals) -> None:
    with running_demo("--rounds", "4") as demo:
        demo.read_until(moment)
        demo.process.send_signal(number)
        status, stdout = demo.end()
        assert (status, stdout) == (130, "")
        assert demo.lines[-1] == "Interrupted: every process has ended, nothing is left behind."
        assert demo.leftovers() == []


def test_impatience_changes_nothing() -> None:
    with running_demo("--rounds", "50") as demo:
        demo.read_until("round   2")
        for _ in range(5):
            demo.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        status, _ = demo.end()
        assert status == 130
        assert demo.leftovers() == []


def test_a_reader_that_goes_away_ends_it_in_silence() -> None:
    with running_demo("--rounds", "50", as_json=False) as demo:
        demo.read_until("present")
        demo.told.close()
        _, stderr = demo.process.communicate(timeout=END_SECONDS)
        assert demo.process.returncode != 0
        assert stderr == ""
        assert demo.leftovers() == []


@pytest.mark.long
@pytest.mark.parametrize("victim", ["R1", "server"])
def test_a_node_that_dies_is_named_and_all_else_ends(victim: str) -> None:
    with running_demo("--rounds", "200") as demo:
        demo.read_until("round   2")
        (pid,) = (pid for pid, command in demo.commands.items() if command[-1].endswith(f"/{victim}"))
        demo.descendants[pid].kill()
        status, stdout = demo.end()
        assert (status, stdout) == (1, "")
        assert any(f"node {victim} ended (by SIGKILL)" in line for line in demo.lines), "\n".join(demo.lines)
        assert not any("Traceback" in line for line in demo.lines)
        assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ": cannot be read: No such file or directory"),
        ("participants: [}\n", ":1:16: PRJ001: this is no YAML"),
        ("api_version: 3\nname: x\nparticpants: []\n", ":3:1: "),
    ],
)
def test_a_wrong_project_file_is_told_with_its_place(tmp_path: Path, content: str | None, expected: str) -> None:
    project = tmp_path / "project.yml"
    if content is not None:
        project.write_text(content, encoding="utf-8")
    with running_demo("--project", str(project)) as demo:
        status, stdout = demo.end()
        assert (status, stdout) == (1, "")
        assert f"{project}{expected}" in "\n".join(demo.lines)
        assert not any("Traceback" in line for line in demo.lines)
        assert demo.leftovers() == []


def test_without_numpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert "pip install 'cellnet-fl[demo]'" in result.output
    assert len(result.output.splitlines()) == 1


def test_a_folder_to_keep_must_be_new(tmp_path: Path) -> None:
    with running_demo("--keep", str(tmp_path)) as demo:
        status, _ = demo.end()
    assert status == 1
    assert len(demo.lines) == 1
    assert f"{tmp_path}: exists already: name a new folder for kits and logs" in demo.lines[0]


def test_free_ports_replace_those_of_the_project_and_nothing_else() -> None:
    before = example_project().read_bytes()
    lines = list(zip(before.splitlines(), with_free_ports(before).splitlines(), strict=True))
    changed = [(old, new) for old, new in lines if old != new]
    assert len(changed) == 3
    assert all(b"port: " in old and b"port: " in new for old, new in changed)
    assert len({new.split()[-1] for _, new in changed}) == 3


def test_a_port_to_connect_to_follows_the_listener() -> None:
    project = b"participants:\n- {name: s, fed_learn_port: 8002}\n- {name: c, connect_to: {host: h, port: 8002}}\n"
    _, listening, connecting = with_free_ports(project).decode().splitlines()
    port = listening.removesuffix("}").split()[-1]
    assert port != "8002"
    assert connecting.endswith(f"port: {port}}}}}")


def test_settings_replace_those_of_the_project_wherever_they_stand() -> None:
    before = example_project().read_bytes()
    lines = list(zip(before.splitlines(), with_settings(before, SETTINGS).splitlines(), strict=True))
    assert [new.split()[:2] for old, new in lines if old != new] == [
        [b"connection_security:", b"tls"],
        [b"scheme:", b"http"],
    ]


def test_settings_that_a_project_does_not_have_are_added_at_its_end() -> None:
    changed = with_settings(b"name: p\nparticipants: [{scheme: tcp}]\n", SETTINGS)
    assert changed == b"name: p\nparticipants: [{scheme: http}]\n\nconnection_security: tls"


@pytest.mark.parametrize("project", [b"\xff", b"a: [", b"[]"])
def test_settings_leave_what_is_no_project_as_it_is(project: bytes) -> None:
    assert with_settings(project, SETTINGS) == project
