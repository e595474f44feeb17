"""60,000 mutated inputs, shared by all decoders: a smaller run of what ``make fuzz`` does with a million."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.__main__ import explained
from tests.fuzz.campaign import run
from tests.fuzz.plan import PLAN

SEED = int(os.environ.get("CELLNET_FUZZ_SEED", "20261122"))
MUTATIONS = 60_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_decoder_answers_a_mutated_input_with_anything_but_its_documented_errors_and_soon_and_in_little_memory() -> (
    None
):
    rows = run(PLAN, MUTATIONS, SEED)
    wrong = [explained(one, SEED) for row in rows for one in row.wrong]
    assert not wrong, "\n".join(wrong)
    assert sum(row.inputs for row in rows) == MUTATIONS
    assert sum(row.inputs for row in rows if row.is_signed) >= 2000
    for row in rows:
        # Or nothing is changed, or all inputs die at the first check.
        few = row.inputs // 200
        assert few <= row.refused <= row.inputs - few, row.name
