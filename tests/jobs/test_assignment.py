"""What a job process is told of the others: who they are, wherever their sites may be by now."""

from __future__ import annotations

import pytest

from cellnet.fqcn import FQCN
from cellnet.jobs.assignment import is_same


@pytest.mark.parametrize("cell", ["R1.C1.job-1", "R2.C1.job-1", "C1.job-1", "R1.R11.C1.job-1"])
def test_a_job_cell_is_the_same_wherever_its_site_has_moved(cell: str) -> None:
    assert is_same(FQCN(cell), FQCN("R1.C1.job-1"))


@pytest.mark.parametrize("cell", ["R1.C2.job-1", "R1.C1.job-2", "R1.C1", "C1.C2.job-1", "R1.job-1", "server.job-1"])
def test_another_sites_cell_or_another_jobs_is_not_the_one_that_was_placed(cell: str) -> None:
    assert not is_same(FQCN(cell), FQCN("R1.C1.job-1"))
