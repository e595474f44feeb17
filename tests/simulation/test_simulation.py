"""Seeds give the same run everywhere, networks keep the rules under faults, and what breaks the rules is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner

from cellnet.protocol import passage
from cellnet.protocol.connection import BUDGET_BYTES
from cellnet.protocol.frames import FRAME_BYTES
from cellnet.protocol.presence import Presence
from cellnet.protocol.switch import Switch
from cellnet.simulation import Fault, Run, simulate
from cellnet.simulation.__main__ import main
from cellnet.simulation.faults import HOSTILE
from cellnet.simulation.timeline import Timeline

SEEDS, SMALL_SEEDS, HOSTILE_SEEDS, BLOCK = 500, 20, 30, 5
SOON = 0.3
"""Seconds in which those who work in vain hear so: twice the longest way in a tree, and some load."""


def check(run: Run) -> None:
    """Fail with what is wrong, and with the command that shows it again."""
    violations = run.violations()
    assert not violations, "\n".join([run.command, *violations[:10]])


# The same everywhere.


def test_a_seed_gives_the_same_run_twice_and_another_seed_another() -> None:
    first, again, other = simulate(1), simulate(1), simulate(2)
    assert first.lines == again.lines
    assert first.trace == again.trace
    assert first.history.counts() == again.history.counts()
    assert other.trace != first.trace


@pytest.mark.parametrize("flags", [[], ["--hostile", "--cells", "12"]])
def test_a_run_is_the_same_in_other_processes_with_other_hashes(flags: list[str]) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-m", "cellnet.simulation", "--seed", "7", "--seconds", "60", *flags, "--trace"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    first, second = ([line for line in text.splitlines() if not line.startswith("cells ")] for text in told)
    assert len(first) > 500
    assert first == second


# What holds.


@pytest.mark.parametrize("seed", range(8))
def test_without_faults_every_request_is_answered_or_was_cancelled(seed: int) -> None:
    run = simulate(seed, faults=0)
    check(run)
    counts = run.history.counts()
    assert counts["ok"] > 130
    assert counts["not executed"] == 0
    assert run.history.in_doubt(with_key=False) == []


@pytest.mark.parametrize("seed", range(4))
def test_without_faults_a_handler_stops_soon_after_its_caller_gave_up(seed: int) -> None:
    assert 0 < simulate(seed, faults=0).history.longest_in_vain() < SOON


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_under_faults_the_rules_hold_and_all_comes_to_rest(first: int) -> None:
    for seed in range(first, first + BLOCK):
        run = simulate(seed)
        check(run)
        assert sum(run.faults.values()) >= 20, run.command


@pytest.mark.parametrize("first", range(1000, 1000 + SMALL_SEEDS, BLOCK))
def test_a_small_network_under_many_faults_keeps_the_rules(first: int) -> None:
    for seed in range(first, first + BLOCK):
        check(simulate(seed, cells=9, faults=100, errands=600))


def test_the_last_word_of_a_killed_start_may_come_late() -> None:
    check(simulate(11257, cells=9))  # it is refused after the next start has joined


@pytest.mark.parametrize("first", range(0, HOSTILE_SEEDS, BLOCK))
def test_with_somebody_in_between_the_rules_hold_and_most_is_answered(first: int) -> None:
    for seed in range(first, first + BLOCK):
        run = simulate(seed, hostile=True)
        check(run)
        assert run.history.counts()["ok"] > 50


@pytest.mark.parametrize("first", [2045])
def test_a_small_network_under_many_faults_with_somebody_in_between_keeps_the_rules(first: int) -> None:
    for seed in range(first, first + BLOCK):
        check(simulate(seed, cells=10, faults=100, errands=600, hostile=True))


def test_without_faults_every_content_comes() -> None:
    counts: Counter[str] = Counter()
    for seed in range(8):
        counts += simulate(seed, faults=0).history.deliveries.counts
    assert counts["payloads"] > 15
    assert counts["streams"] > 10
    assert not set(counts) - {"payloads", "streams", "reset", "gone"}, counts


def test_contents_that_pass_keep_the_rules_where_there_is_little_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage, "TRANSIT_BYTES", 4 * FRAME_BYTES)
    for seed in range(1000, 1000 + BLOCK):
        run = simulate(seed, cells=9, faults=50, errands=600)
        check(run)
        assert run.history.deliveries.counts["payloads"] > 5


def test_every_kind_of_fault_is_done() -> None:
    done: Counter[Fault] = Counter()
    for seed in range(50):
        run = simulate(seed, cells=8, seconds=30, errands=10, hostile=True)
        assert sum(run.faults.values()) == 20, run.command
        done += run.faults
    assert set(done) == set(Fault) - {Fault.MOVE}
    assert min(done.values()) > 20
    assert not set(simulate(1).faults) & set(HOSTILE)
    assert all(simulate(seed, cells=8, errands=10).faults[Fault.MOVE] for seed in (0, 1, 2))


def test_floods_reach_the_limits_of_links() -> None:
    assert max(simulate(seed, cells=12).most_queued for seed in range(4)) > BUDGET_BYTES


# What goes wrong in a run itself.


def test_an_exception_in_the_core_names_the_moment_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_args: Any) -> None:
        raise KeyError("a table")

    monkeypatch.setattr(Switch, "lost_received", planted)
    with pytest.raises(KeyError) as caught:
        for seed in range(4):
            simulate(seed)
    (note,) = caught.value.__notes__
    assert " s of: python -m cellnet.simulation --seed " in note


def test_time_that_does_not_pass_is_an_error() -> None:
    timeline = Timeline()

    def again() -> None:
        timeline.after(0, again)

    timeline.after(1, again)
    with pytest.raises(RuntimeError, match="time does not pass: 100000 actions at 1"):
        timeline.run(2)


# The command.


def test_the_command_of_a_run_shows_it_again() -> None:
    run = simulate(5, seconds=40, errands=50, hostile=True)
    assert run.command.startswith("python -m cellnet.simulation ")
    shown = CliRunner().invoke(main, run.command.split()[3:])
    assert f"trace {run.trace}\n" in shown.output
    assert " s of CPU, " in shown.output


def test_the_command_prints_violations_and_fails_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    good = CliRunner().invoke(main, ["--seed", "1", "--seconds", "30", "--trace"])
    assert good.exit_code == 0, good.output
    assert "0.000000 server starts\n" in good.output
    monkeypatch.setattr(Presence, "announce", lambda *_args: None)
    bad = CliRunner().invoke(main, ["--seed", "1", "--seconds", "30"])
    assert bad.exit_code == 1
    assert "violation: server: missing among the cells known below: " in bad.output


@pytest.mark.measured
def test_two_minutes_of_twenty_cells_cost_less_than_a_second_of_cpu() -> None:
    code = (
        "from cellnet.simulation import simulate; from tests.pace import Stopwatch; simulate(0); watch = Stopwatch(); "
        "[(simulate(seed, cells=20), watch.lap()) for seed in range(10)]; print(watch.spent / 10)"
    )
    spent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert float(spent) < 1.0, f"{spent} s per run"
