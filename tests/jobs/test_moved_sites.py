"""A site that moved to another parent is still itself: base names say who is who in a job, and not where it is."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from cellnet.errors import JobError
from cellnet.fqcn import FQCN, FQSN
from cellnet.jobs.assignment import Assignment, Placed, is_same
from cellnet.jobs.collective import TOPIC
from cellnet.jobs.coordinator import Coordinator
from cellnet.jobs.job import Worker
from cellnet.jobs.opaque import packed, unpacked
from cellnet.jobs.record import Record
from cellnet.message import Request

PARENT = FQCN("R1.C1.job-1")


@pytest.mark.parametrize("cell", ["R1.C1.job-1", "R2.C1.job-1", "C1.job-1", "R1.R11.C1.job-1"])
def test_a_job_cell_is_the_same_wherever_its_site_has_moved(cell: str) -> None:
    assert is_same(FQCN(cell), PARENT)


@pytest.mark.parametrize("cell", ["R1.C2.job-1", "R1.C1.job-2", "R1.C1", "C1.C2.job-1", "R1.job-1", "server.job-1"])
def test_another_sites_cell_or_another_jobs_is_not_the_one_that_was_placed(cell: str) -> None:
    assert not is_same(FQCN(cell), PARENT)


async def ordered_by(origin: str) -> dict[str, Any]:
    """Give a job process below R1.C1's an order that says nothing; return what it answers."""
    worker = Worker(Assignment("job-1", FQSN("C1.C11"), PARENT, (), packed({})), {})
    worker.cell = cast("Any", object())
    return cast("dict[str, Any]", unpacked(await worker.handlers[TOPIC](Request(FQCN(origin), TOPIC, b"", math.inf))))


@pytest.mark.anyio
async def test_a_job_process_takes_orders_of_the_one_above_it_after_that_ones_site_moved() -> None:
    for origin in (str(PARENT), "R2.C1.job-1"):
        assert (await ordered_by(origin))["site"] == "C1.C11", "it looked at the order, and says what is wrong with it"


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["R1.C2.job-1", "server.job-1", "R1.C1"])
async def test_a_job_process_takes_no_orders_of_another(origin: str) -> None:
    with pytest.raises(JobError, match="is not the parent"):
        await ordered_by(origin)


async def gone_at(origin: str) -> Record:
    """Let a node say that its process of job-1 is gone; return what the server knows then."""
    coordinator = Coordinator([], cast("Any", None))
    placed = {"C1": Placed(FQSN("C1"), PARENT)}
    record = Record("job-1", FQCN("server.command"), cast("Any", None), cast("Any", None), placed)
    coordinator._records["job-1"] = record
    await coordinator.handlers["jobs.gone"](Request(FQCN(origin), "", "job-1", math.inf))
    return record


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["R1.C1", "R2.C1", "C1"])
async def test_a_job_ends_when_its_process_is_gone_at_a_site_wherever_that_is_by_now(origin: str) -> None:
    record = await gone_at(origin)
    assert record.closing.is_set()
    assert record.answer == {"site": "C1", "reason": "its job process ended"}


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["R1.C2", "R1", "R1.C1.C2"])
async def test_a_job_does_not_end_by_the_word_of_a_site_that_takes_no_part(origin: str) -> None:
    with pytest.raises(JobError, match="takes no part"):
        await gone_at(origin)
