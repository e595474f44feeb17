"""Each row is worth what it finds: a bug that is planted into its cells' processes turns it red, for that reason."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from tests.faults import altered, bulk, hostile, kills, memory, moves, silences, slow, storms, unread
from tests.faults.bench import Size
from tests.faults.planted import PLANTS
from tests.faults.rows import NEED_SEALING, ROWS, Options, run_part

if TYPE_CHECKING:
    from tests.faults.bench import Row

pytestmark = pytest.mark.long
SEED = 1
CASES: list[tuple[str, Row, str, str]] = [
    ("F7", silences.silent_neighbours, "dead_never_found", "C1_found_its_parent_gone after None s, not 15"),
    ("F7", silences.stopped_receiver, "queue_unbounded", "the relay of a stopped client grew by .* MiB"),
    ("F1", kills.relays_killed, "dedup_off", r"it ran [2-9] times"),
    ("F1b", bulk.relays_killed_below_transfers, "content_not_kept", "transfers did not come as they were sent"),
    ("F2", moves.parent_killed_for_good, "former_names_forgotten", "requests did not end well"),
    ("F4", kills.receiver_killed, "acknowledge_before_save", "20 durable requests have .* effects"),
    ("F9", slow.slow_child, "slow_child_awaited", "beside a slow child, the others had .*% of their rate"),
    ("F10", unread.readers_that_never_read, "unread_unbounded", "streams_unread grew by .* MiB"),
    ("F15", storms.reconnect_storm, "jitter_off", "of all dial within 100 ms"),
    ("F16", silences.flapping_link, "closed_link_kept", "R1 holds .*'tasks'(.|\\n)*R1 grew by .* MiB"),
    ("F18", kills.rolling_restart, "drain_off", "requests did not end well"),
    ("F19", hostile.hostile_hop, "seal_check_off", "altered messages were accepted"),
    ("F19", hostile.hostile_hop, "replay_window_off", r"it ran [2-9] times"),
    ("F19", hostile.forged_beside, "ingress_filter_off", "in the name of a cell beside the relay"),
    ("F19", hostile.forged_below, "introduction_check_off", "in the name of a cell below the relay"),
    ("F19b", altered.contents_altered, "record_check_off", "transfers came altered"),
    ("F19b", altered.contents_altered, "chunk_check_off", "transfers failed, such as: .'broadcast"),
    ("F22", storms.deadline_storm, "deadline_ignored", "handlers began over 50 ms after their deadlines"),
    ("F22", storms.deadline_storm, "cancelled_kept", "R1.R2.C1 has .* handling"),
    ("F_MEM", memory.array_over_two_relays, "passed_kept", "R11 grew by .* MiB"),
    ("F_MEM", memory.file_over_two_relays, "file_kept", "server grew by .* MiB"),
]


@pytest.mark.parametrize(("row", "part", "plant", "said"), CASES, ids=[f"{row}-{plant}" for row, _, plant, _ in CASES])
def test_a_planted_bug_turns_its_row_red(row: str, part: Row, plant: str, said: str) -> None:
    assert part in ROWS[row]
    options = Options(Size.LEAST, SEED, plant=plant)
    verdict = run_part(part, options, random.Random(SEED), with_credentials=row in NEED_SEALING)
    assert not verdict.passed
    assert re.search(said, "\n".join(verdict.wrong)), verdict.wrong


def test_every_row_has_a_planted_bug_and_every_bug_a_row() -> None:
    assert {row for row, *_ in CASES} == set(ROWS)
    assert [plant for _, _, plant, _ in CASES] == list(dict.fromkeys(plant for _, _, plant, _ in CASES))
    assert {plant for _, _, plant, _ in CASES} == set(PLANTS)
