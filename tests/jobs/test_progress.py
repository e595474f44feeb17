"""Large values of a job: they travel whole, and whoever submitted it sees them come to each site."""

from __future__ import annotations

import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from cellnet.arrival import Progress
from cellnet.errors import JobError, Unreachable
from cellnet.fqcn import FQCN, FQSN
from cellnet.jobs import process, progress
from cellnet.jobs.assignment import Placed
from cellnet.jobs.collective import Results, reduce_up
from cellnet.jobs.coordinator import Coordinator
from cellnet.jobs.opaque import packed
from cellnet.jobs.progress import MIN_TOLD_BYTES, SiteProgress, Teller
from cellnet.jobs.record import Record
from cellnet.jobs.reduction import Partial, weighted_mean
from cellnet.jobs.submission import submitted
from cellnet.message import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cellnet.cell import Cell
    from tests.jobs.conftest import Federation

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SJ = FQCN("server.job-1")
CJ = FQCN("R1.C1.job-1")

SENT = """
import numpy as np
from cellnet.jobs import Weighted

async def server(job):
    model = np.random.default_rng(1).random(job.config["bytes"] // 8)
    for _ in range(job.config["rounds"]):
        mean = (await job.map_reduce("same", model)).mean["model"]
        assert np.allclose(mean, model)
    return mean.tobytes()

def same(job, model):
    return Weighted({"model": model}, 1)

tasks = {"same": same}
"""


async def told_of(federation: Federation, size: int, **options: Any) -> tuple[list[SiteProgress], bytes]:
    told: list[SiteProgress] = []
    config = {"bytes": size, "rounds": 2}
    with anyio.fail_after(120):
        async with submitted(
            federation.server, federation.bundle(SENT), config=config, progress=told.append, **options
        ) as run:
            return told, (await run.wait()).value


@pytest.mark.parametrize("flat", [False, True])
async def test_a_large_model_comes_back_whole_and_is_seen_to_come_to_every_site(
    federation: Federation, anyio_backend_name: str, flat: bool
) -> None:
    async with federation.running(anyio_backend_name):
        told, value = await told_of(federation, 3 * MIB, flat=flat)
    assert len(value) == 3 * MIB
    last = {each.site: each for each in told}
    assert sorted(last) == ["C1", "C1.C11", "C2"]
    assert all(each.received == each.size > 3 * MIB for each in last.values())


async def test_nothing_is_told_of_an_ordinary_model(federation: Federation, anyio_backend_name: str) -> None:
    async with federation.running(anyio_backend_name):
        told, value = await told_of(federation, MIB // 2)
    assert (told, len(value)) == ([], MIB // 2)


async def test_a_bundle_may_be_larger_than_a_message(federation: Federation, anyio_backend_name: str) -> None:
    bundle = federation.bundle(SENT)
    (bundle / "table.bin").write_bytes(random.Random(1).randbytes(MIB - 64 * 1024))
    async with federation.running(anyio_backend_name):
        with anyio.fail_after(60):
            async with submitted(federation.server, bundle, config={"bytes": 8, "rounds": 1}) as run:
                assert len((await run.wait()).value) == 8


async def test_a_result_that_the_server_would_not_hold_is_said_to_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def server(_job: object) -> bytes:
        return bytes(100)

    monkeypatch.setattr(process, "MAX_RESULT_BYTES", 100)
    outcome = await process._outcome(server, cast("Any", None))
    assert outcome == {"site": "server", "reason": "server(job) returned 101 bytes: 100 are allowed"}


class Asked:
    """Notes what children are asked, in the place of a cell."""

    def __init__(self) -> None:
        self.payloads: list[object] = []
        self.shared = 0

    @asynccontextmanager
    async def share(self, payload: object) -> AsyncIterator[object]:
        self.shared += 1
        yield "shared", payload
        self.shared -= 1

    async def request(self, _destination: str, _topic: str, payload: object) -> bytes:
        self.payloads.append(payload)
        return packed(Partial({}, 1.0, 1).to_value())


@pytest.mark.parametrize(("children", "payloads"), [(1, [b"order"]), (3, [("shared", b"order")] * 3)])
async def test_an_order_is_prepared_once_for_all_children(children: int, payloads: list[object]) -> None:
    cell = Asked()
    placed = [Placed(FQSN(f"C{number}"), FQCN(f"C{number}.job-1")) for number in range(children)]
    total = await reduce_up(cast("Cell", cell), b"order", weighted_mean, placed, Results())
    assert (total.count, cell.payloads, cell.shared) == (children, payloads, 0)


# What a job process tells.


class Sent:
    """Notes what is sent, in the place of a cell."""

    def __init__(self, error: Exception | None = None) -> None:
        self.words: list[object] = []
        self._error = error

    async def send(self, destination: str, topic: str, payload: object, *, key: str) -> None:
        assert (destination, topic, key) == ("server", "jobs.progress", "jobs.progress")
        self.words.append(payload)
        if self._error is not None:
            raise self._error


async def words(*batches: list[Progress], error: Exception | None = None, pause: float = 0.0) -> list[object]:
    """Return what is sent if these come, a batch at a time."""
    teller, sent = Teller(SJ), Sent(error)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(teller.tell, cast("Cell", sent))
        for batch in batches:
            for one in batch:
                teller.take(one)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(pause)
        tasks.cancel_scope.cancel()
    return sent.words


async def test_what_comes_is_told_now_and_then_and_its_end_at_once() -> None:
    steps = [Progress(1, SJ, MIN_TOLD_BYTES * step // 10, MIN_TOLD_BYTES) for step in range(11)]
    assert await words(*([step] for step in steps)) == [[0, MIN_TOLD_BYTES], [MIN_TOLD_BYTES, MIN_TOLD_BYTES]]


async def test_the_latest_is_told_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0.01)
    size = MIN_TOLD_BYTES
    first, *others = [[Progress(1, SJ, received, size)] for received in (1, 2, 3)]
    assert await words(first, [*others[0], *others[1]], pause=0.1) == [[1, size], [3, size]]


async def test_neither_small_values_nor_those_of_others_are_told() -> None:
    small, result = Progress(1, SJ, 1, MIN_TOLD_BYTES - 1), Progress(2, CJ, 1, MIN_TOLD_BYTES)
    assert await words([small], [result]) == []


async def test_a_word_that_cannot_be_sent_is_lost_and_the_next_one_is_tried() -> None:
    size = MIN_TOLD_BYTES
    batches = [[Progress(number, SJ, size, size)] for number in (1, 2)]
    assert await words(*batches, error=Unreachable("no way")) == [[size, size]] * 2


# What the server takes.


def coordinator_with_record() -> tuple[Coordinator, Record]:
    coordinator = Coordinator([], cast("Any", None))
    placed = {"C1": Placed(FQSN("C1"), CJ), "C2": Placed(FQSN("C2"), FQCN("C2.job-1"))}
    record = Record("job-1", FQCN("server.command"), cast("Any", None), cast("Any", None), placed)
    coordinator._records["job-1"] = record
    return coordinator, record


async def tell(coordinator: Coordinator, origin: FQCN | str, payload: object) -> None:
    await coordinator.handlers[progress.TOPIC](Request(FQCN(origin), progress.TOPIC, payload, math.inf))


async def test_of_each_site_the_latest_word_waits_for_the_submitter_and_is_told_once() -> None:
    coordinator, record = coordinator_with_record()
    for origin, received in ((CJ, 1), ("C2.job-1", 5), ("R2.C1.job-1", 2)):  # C1 has moved
        await tell(coordinator, origin, [received, 9])
    assert (await record.follow(0, 0.01))["progress"] == {"C1": [2, 9], "C2": [5, 9]}
    assert (await record.follow(0, 0.01))["progress"] == {}


@pytest.mark.parametrize("origin", ["R1.C9.job-1", "server.job-1", "C9.job-1", "R1.C1.deep.job-1"])
async def test_a_word_of_somebody_who_takes_no_part_is_refused(origin: str) -> None:
    coordinator, record = coordinator_with_record()
    with pytest.raises(JobError, match="takes no part in job-1"):
        await tell(coordinator, origin, [1, 2])
    assert (await record.follow(0, 0.01))["progress"] == {}


@pytest.mark.parametrize("payload", [None, 7, [], [1], [1, 2, 3], [-1, 2], [3, 2], ["1", 2], [1.0, 2], {"received": 1}])
async def test_a_malformed_word_is_refused(payload: object) -> None:
    coordinator, record = coordinator_with_record()
    with pytest.raises(JobError, match="malformed"):
        await tell(coordinator, CJ, payload)
    assert (await record.follow(0, 0.01))["progress"] == {}


async def test_a_word_on_a_job_that_has_ended_changes_nothing() -> None:
    coordinator, _ = coordinator_with_record()
    await tell(coordinator, "R1.C1.job-2", [1, 2])
