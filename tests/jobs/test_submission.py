"""What the operator's command makes of what the server tells of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from cellnet.errors import CellError, JobError
from cellnet.jobs.opaque import packed
from cellnet.jobs.submission import Run

if TYPE_CHECKING:
    from cellnet.cell import Cell
    from cellnet.jobs.progress import SiteProgress

pytestmark = pytest.mark.anyio

END = {"value": packed(7), "messages": 1, "bytes": 2, "sites": ["C1"]}
NEWS: dict[str, object] = {"reports": [], "next": 0, "outcome": None, "progress": {}}


class Server:
    """Tells the same whatever it is asked, in the place of a cell that would ask it."""

    def __init__(self, news: object) -> None:
        self._news = news

    async def request(self, *_what: object, **_how: Any) -> object:
        return self._news


async def test_reports_and_the_result_are_read() -> None:
    run = Run("job-1", cast("Cell", Server({"reports": [], "next": 1, "outcome": END, "progress": {}})))
    assert (await run.wait()).value == 7


@pytest.mark.parametrize(
    "news",
    [
        None,
        {},
        {"reports": [], "next": 0},
        {"reports": [], "next": 0, "outcome": END},
        {**NEWS, "reports": 1},
        {**NEWS, "reports": ["text"]},
        {**NEWS, "reports": [b"\x02\xc1"]},
        {**NEWS, "outcome": "error"},
        {**NEWS, "outcome": {"error": 7}},
        {**NEWS, "outcome": {**END, "sites": None}},
        {**NEWS, "outcome": {**END, "sites": [["C1"]]}},
        {**NEWS, "outcome": {**END, "value": b""}},
        {**NEWS, "progress": [1, 2]},
        {**NEWS, "progress": {7: [1, 2]}},
        {**NEWS, "progress": {"C1": 1}},
        {**NEWS, "progress": {"C1": [3, 2]}},
        {**NEWS, "progress": {"C1": [-1, 2]}},
        {**NEWS, "progress": {"C1": [1.0, 2]}},
    ],
)
async def test_what_is_no_news_of_a_job_is_an_error_of_ours(news: object) -> None:
    with pytest.raises(CellError, match="malformed"):
        await Run("job-1", cast("Cell", Server(news))).wait()


async def test_the_end_of_a_job_that_failed_says_why() -> None:
    with pytest.raises(JobError, match="it failed"):
        await Run("job-1", cast("Cell", Server({**NEWS, "outcome": {"error": "it failed"}}))).wait()


async def test_progress_is_told_as_it_comes_whoever_wants_it() -> None:
    news = {**NEWS, "progress": {"C1": [1, 2], "C2": [2, 2]}, "outcome": END}
    told: list[SiteProgress] = []
    await Run("job-1", cast("Cell", Server(news)), told.append).wait()
    assert told == [("C1", 1, 2), ("C2", 2, 2)]
    assert (await Run("job-1", cast("Cell", Server(news))).wait()).value == 7
