"""Seeds give the same run everywhere, networks keep the rules under faults, and what breaks the rules is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from cellnet.errors import Unreachable
from cellnet.protocol import connection as connection_module
from cellnet.protocol.connection import Connection
from cellnet.protocol.events import Event, Failed, Message, Replied
from cellnet.protocol.exchange import Exchange
from cellnet.protocol.presence import Presence
from cellnet.protocol.switch import Switch
from cellnet.simulation import Fault, Run, simulate
from cellnet.simulation.__main__ import main
from cellnet.simulation.faults import HOSTILE
from cellnet.simulation.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEEDS, BLOCK = 48, 8


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
    assert counts["ok"] > 200
    assert counts["not executed"] == counts["indeterminate"] == 0


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_under_faults_the_rules_hold_and_all_comes_to_rest(first: int) -> None:
    for seed in range(first, first + BLOCK):
        run = simulate(seed)
        check(run)
        assert sum(run.faults.values()) >= 20, run.command


@pytest.mark.parametrize("first", range(1000, 1000 + SEEDS // 3, BLOCK))
def test_a_small_network_under_many_faults_keeps_the_rules(first: int) -> None:
    for seed in range(first, first + BLOCK):
        check(simulate(seed, cells=9, faults=100, errands=600))


def test_in_doubt_is_only_what_asked_the_dead_or_ran_out_of_time() -> None:
    for seed in range(BLOCK):
        check(simulate(seed, strict=True))


def test_what_somebody_in_between_does_to_frames_runs_nothing_twice_or_elsewhere() -> None:
    for seed in range(BLOCK):
        violations = simulate(seed, hostile=True).history.violations()
        assert not violations


def test_somebody_in_between_crashes_no_cell() -> None:
    for seed in range(BLOCK):
        assert simulate(seed, hostile=True).history.counts()["ok"] > 50


def test_every_kind_of_fault_is_done() -> None:
    done: Counter[Fault] = Counter()
    for seed in range(50):
        run = simulate(seed, cells=8, seconds=30, errands=10, hostile=True)
        assert sum(run.faults.values()) == 20, run.command
        done += run.faults
    assert set(done) == set(Fault)
    assert min(done.values()) > 20
    assert not set(simulate(1).faults) & set(HOSTILE)


def test_floods_reach_the_limits_of_links() -> None:
    lines = [line for seed in range(4) for line in simulate(seed, cells=12).lines]
    assert any(line.endswith(" Busy") for line in lines)


# What is broken is seen. Each bug is planted in the core, and found in a few seeds.


def answers_twice(original: Callable[..., Iterator[Event]]) -> Callable[..., Iterator[Event]]:
    def planted(*args: Any) -> Iterator[Event]:
        for event in list(original(*args)):
            yield event
            yield event

    return planted


def answers_with_anothers(original: Callable[..., Iterator[Event]]) -> Callable[..., Iterator[Event]]:
    last = [b"nothing"]

    def planted(*args: Any) -> Iterator[Event]:
        for event in original(*args):
            if isinstance(event, Replied):
                last.append(event.payload)
                yield event._replace(payload=last.pop(0))
            else:
                yield event

    return planted


def runs_twice(original: Callable[..., None]) -> Callable[..., None]:
    def planted(switch: Switch, *args: Any) -> None:
        original(switch, *args)
        if switch._events and isinstance(switch._events[-1], Message):
            switch._events.append(switch._events[-1])

    return planted


def promises_that_it_did_not_run(original: Callable[..., Iterator[Event]]) -> Callable[..., Iterator[Event]]:
    def planted(*args: Any) -> Iterator[Event]:
        for event in original(*args):
            yield event._replace(error=Unreachable("surely")) if isinstance(event, Failed) else event

    return planted


def settles_and_tells_nobody(original: Callable[..., Iterator[Event]]) -> Callable[..., Iterator[Event]]:
    def planted(*args: Any) -> Iterator[Event]:
        return iter(list(original(*args))[:0])

    return planted


def does_nothing(_original: Callable[..., None]) -> Callable[..., None]:
    return lambda *_args: None


def keeps_what_it_should_forget(_original: Callable[..., object]) -> Callable[..., object]:
    return lambda _self, sequence: sorted(_self._pending.get(sequence, ()))


@pytest.mark.parametrize(
    ("owner", "method", "bug", "said"),
    [
        (Exchange, "reply_received", answers_twice, "ended twice: ok, then ok"),
        (Exchange, "reply_received", answers_with_anothers, "it was given another's answer"),
        (Switch, "_deliver", runs_twice, "it ran 2 times"),
        (Exchange, "lost", promises_that_it_did_not_run, "it was told not executed, and ran"),
        (Exchange, "lost", settles_and_tells_nobody, "the endpoint awaits"),
        (Exchange, "fail", settles_and_tells_nobody, "the endpoint awaits"),
        (Exchange, "forget", keeps_what_it_should_forget, "answers awaited"),
        (Exchange, "expire", does_nothing, "requests worked on"),
        (Connection, "release", does_nothing, "over dead links"),
        (Presence, "announce", does_nothing, "missing among the cells known below"),
    ],
)
def test_a_planted_bug_is_seen(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, bug: Callable[[Any], Any], said: str
) -> None:
    monkeypatch.setattr(owner, method, bug(getattr(owner, method)))
    runs = (simulate(seed, cells=12, faults=60) for seed in range(20))
    assert any(said in violation for run in runs for violation in run.violations())


def test_a_dead_link_that_nobody_finds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "DEAD_SECONDS", 1e9)
    found = (violation for seed in range(4) for violation in simulate(seed).violations())
    assert any("it asked after the repair, and was not answered" in violation for violation in found)


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
    monkeypatch.setattr(Switch, "_deliver", runs_twice(Switch._deliver))
    bad = CliRunner().invoke(main, ["--seed", "1", "--seconds", "30"])
    assert bad.exit_code == 1
    assert "violation: 1 (" in bad.output


@pytest.mark.measured
def test_two_minutes_of_twenty_cells_cost_less_than_a_second_of_cpu() -> None:
    code = (
        "import time; from cellnet.simulation import simulate; simulate(0); t = time.process_time(); "
        "[simulate(seed, cells=20) for seed in range(10)]; print((time.process_time() - t) / 10)"
    )
    spent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert float(spent) < 1.0, f"{spent} s per run"
