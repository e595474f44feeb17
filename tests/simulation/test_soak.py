"""Many seeds at a time: what breaks a rule is named, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from cellnet.protocol.presence import Presence
from cellnet.protocol.switch import Switch
from cellnet.simulation.__main__ import main
from cellnet.simulation.soak import Soak, _one, soak, varied

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT = {"cells": 8, "seconds": 20.0, "faults": 2, "errands": 10}


def test_many_seeds_run_in_several_processes_and_end_with_a_summary() -> None:
    args = ["--seeds", "0-9", "--jobs", "2", *(f"--{name}={value}" for name, value in SHORT.items())]
    shown = CliRunner().invoke(main, args)
    assert shown.exit_code == 0, shown.output
    (line,) = shown.output.splitlines()
    assert line.startswith("10 seeds, 0 with violations, ")


def test_a_seed_that_breaks_a_rule_gives_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Presence, "announce", lambda *_args: None)
    _seconds, command, violations = _one((0, {"seconds": 30.0}))
    assert command.startswith("python -m cellnet.simulation --seed 0 --cells ")
    assert any("missing among the cells known below" in violation for violation in violations)


def test_a_seed_that_ends_in_an_error_gives_its_command_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_args: Any) -> None:
        raise KeyError("a table")

    monkeypatch.setattr(Switch, "bind", planted)
    _seconds, command, violations = _one((0, SHORT))
    assert "python -m cellnet.simulation --seed 0 --cells 8 " in command
    assert any("KeyError: 'a table'" in line for line in violations)


def test_of_ten_seeds_one_has_many_faults_and_one_is_hostile() -> None:
    special = [varied(seed) for seed in range(10)]
    assert special[8]["faults"] == 100
    assert special[9] == {"hostile": True}
    assert special[:8] == [{}] * 8


@pytest.mark.parametrize(
    "args", [[], ["--seed", "1", "--seeds", "1-2"], ["--seeds", "2-1"], ["--seeds", "2"], ["--seeds", "a-b"]]
)
def test_seeds_that_are_none_are_refused(args: list[str]) -> None:
    assert CliRunner().invoke(main, args).exit_code == 2


def test_a_long_soak_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.simulation.soak.TELL_SECONDS", 0.0)
    told: list[str] = []
    soak(range(2), jobs=1, tell=told.append, **SHORT)
    assert [line.partition(",")[0] for line in told] == ["so far 1 seeds", "so far 2 seeds"]


@pytest.mark.parametrize(("kill", "end"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_an_interrupt_ends_with_a_summary_of_what_was_done(
    kill: Callable[[int, int], None], end: signal.Signals
) -> None:
    command = [sys.executable, "-u", "-m", "cellnet.simulation", "--seeds", "0-99999", "--jobs", "1", "--seconds", "10"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)
    kill(process.pid, end)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert told.startswith("interrupted\n")
    assert " seeds, 0 with violations, " in told


def test_a_soak_of_nothing_has_a_summary() -> None:
    assert Soak().summary == "0 seeds, 0 with violations, 0 s of CPU, 0.00 s each"
