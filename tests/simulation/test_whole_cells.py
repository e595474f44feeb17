"""Networks of whole cells keep the rules under faults, come to rest, and do the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from cellnet.inbox import Inbox
from cellnet.protocol.answering import Answering
from cellnet.protocol.envelope import Order
from tests.simulation.whole import Fault, WholeRun

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = 20


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], WholeRun]:
    """Run a seed on trio's virtual clock; its tasks run in the same order each time, as trio would shuffle them."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    def simulate(seed: int) -> WholeRun:
        monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
        run = WholeRun(seed)
        trio.run(run.run, clock=trio.testing.MockClock(autojump_threshold=0))
        return run

    return simulate


@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed:02}")
def test_whole_cells_keep_the_rules_under_faults_and_come_to_rest(
    simulate: Callable[[int], WholeRun], seed: int
) -> None:
    run = simulate(seed)
    if violations := run.violations():
        done = [line for line in run.lines if "fault:" in line or "runs again" in line]
        again = f"to see it again: pytest tests/simulation/test_whole_cells.py -k seed-{seed:02}"
        pytest.fail("\n".join([again, *violations[:20], *done]), pytrace=False)
    assert run.done.total() >= 20
    assert run.history.counts()["ok"] > 200


def test_a_seed_gives_the_same_run_twice_and_another_seed_another(simulate: Callable[[int], WholeRun]) -> None:
    first, again, other = simulate(1), simulate(1), simulate(2)
    assert first.lines == again.lines
    assert first.lines != other.lines


def test_twenty_seeds_draw_each_kind_of_fault_many_times() -> None:
    drawn: Counter[Fault] = Counter()
    for seed in range(SEEDS):
        drawn.update(kind for _time, kind in WholeRun(seed).faults)
    assert set(drawn) == set(Fault)
    assert min(drawn.values()) >= 50


def runs_twice(receive: Callable[..., bool]) -> Callable[..., bool]:
    def twice(inbox: Inbox, message: Any) -> bool:
        receive(inbox, message)
        return receive(inbox, message)

    return twice


def forgets_what_it_took(take: Callable[..., None]) -> Callable[..., None]:
    def forget(answering: Answering, session: Any, counter: int, order: bytes, *rest: Any) -> None:
        session.asker.records.pop(Order.unpack(order).sequence, None)
        take(answering, session, counter, order, *rest)

    return forget


def does_nothing(_original: object) -> Callable[..., None]:
    return lambda *_arguments: None


@pytest.mark.parametrize(
    ("owner", "name", "bug", "said"),
    [
        (Inbox, "receive", runs_twice, "it ran 2 times"),
        (Answering, "_take", forgets_what_it_took, "it ran 2 times"),
        (Answering, "expire", does_nothing, "records"),
    ],
)
def test_a_planted_bug_is_seen(
    simulate: Callable[[int], WholeRun], monkeypatch: pytest.MonkeyPatch, owner: type, name: str, bug: Any, said: str
) -> None:
    monkeypatch.setattr(owner, name, bug(getattr(owner, name)))
    assert any(said in line for line in simulate(0).violations())
