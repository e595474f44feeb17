"""What the operator's command makes of what the server tells of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from cellnet.errors import CellError, JobError
from cellnet.jobs.opaque import packed
from cellnet.jobs.submission import Run

if TYPE_CHECKING:
    from cellnet.cell import Cell

pytestmark = pytest.mark.anyio

END = {"value": packed(7), "messages": 1, "bytes": 2, "sites": ["C1"]}


class Server:
    """Tells the same whatever it is asked, in the place of a cell that would ask it."""

    def __init__(self, news: object) -> None:
        self._news = news

    async def request(self, *_what: object, **_how: Any) -> object:
        return self._news


async def test_reports_and_the_result_are_read() -> None:
    run = Run("job-1", cast("Cell", Server({"reports": [], "next": 1, "outcome": END})))
    assert (await run.wait()).value == 7


@pytest.mark.parametrize(
    "news",
    [
        None,
        {},
        {"reports": [], "next": 0},
        {"reports": 1, "next": 0, "outcome": None},
        {"reports": ["text"], "next": 0, "outcome": None},
        {"reports": [b"\x02\xc1"], "next": 0, "outcome": None},
        {"reports": [], "next": 0, "outcome": "error"},
        {"reports": [], "next": 0, "outcome": {"error": 7}},
        {"reports": [], "next": 0, "outcome": {**END, "sites": None}},
        {"reports": [], "next": 0, "outcome": {**END, "sites": [["C1"]]}},
        {"reports": [], "next": 0, "outcome": {**END, "value": b""}},
    ],
)
async def test_what_is_no_news_of_a_job_is_an_error_of_ours(news: object) -> None:
    with pytest.raises(CellError, match="malformed"):
        await Run("job-1", cast("Cell", Server(news))).wait()


async def test_the_end_of_a_job_that_failed_says_why() -> None:
    with pytest.raises(JobError, match="it failed"):
        await Run("job-1", cast("Cell", Server({"reports": [], "next": 0, "outcome": {"error": "it failed"}}))).wait()
