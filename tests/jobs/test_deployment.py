"""What was deployed is kept until it is started, once, over restarts of its cell, and no more than so much of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.cell import Cell
from cellnet.errors import RemoteError
from cellnet.jobs import deployment
from cellnet.message import DurableRequest, durable

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def keep(request: DurableRequest) -> None:
    await deployment.keep(request.transaction, *request.payload)


async def take(request: DurableRequest) -> bytes:
    return await deployment.take(request.transaction, request.payload)


def site(folder: Path) -> Cell:
    return Cell("server", handlers={"keep": durable(keep), "take": durable(take)}, journal=folder / "journal.db")


async def test_what_was_deployed_is_there_after_a_restart_and_taken_once(tmp_path: Path) -> None:
    async with site(tmp_path) as cell:
        for content in (b"earlier", b"later"):
            await cell.request("server", "keep", ["job-1", content])
    async with site(tmp_path) as cell:
        assert await cell.request("server", "take", "job-1") == b"later"
        for job in ("job-1", "job-2"):
            with pytest.raises(RemoteError, match=f"JobError: {job} was not deployed here, or was started before"):
                await cell.request("server", "take", job)


async def test_the_oldest_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "MAX_DEPLOYMENTS", 2)
    async with site(tmp_path) as cell:
        for job in ("job-1", "job-2", "job-1", "job-3"):
            await cell.request("server", "keep", [job, b""])
        with pytest.raises(RemoteError):
            await cell.request("server", "take", "job-2")
        for job in ("job-1", "job-3"):
            assert await cell.request("server", "take", job) == b""
