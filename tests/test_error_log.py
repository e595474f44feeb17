"""Errors of a site reach the server's file, late if need be; both ends are bounded, and nothing comes back."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from cellnet import Cell, RemoteError
from cellnet.error_log import ERRORS_TOPIC, MAX_CHARACTERS, MAX_WAITING, ErrorFile, SentErrors, errors_sent

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
SECONDS = 10
logger = logging.getLogger("a.job")


async def lines(path: Path, count: int) -> list[dict[str, Any]]:
    with anyio.fail_after(SECONDS):
        while not path.exists() or path.read_text().count("\n") < count:
            await anyio.sleep(0.02)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.error_log.SEND_SECONDS", 0.05)


async def test_what_a_site_logs_as_an_error_is_in_the_servers_file(tmp_path: Path) -> None:
    path = tmp_path / "site-errors.jsonl"
    handlers = {ERRORS_TOPIC: ErrorFile(path).answer}
    async with Cell("server", handlers=handlers) as server, Cell("C1") as site, errors_sent(site):
        url = await server.listen("tcp://localhost:0", security="clear")
        logger.error("before the %s", "link")
        await site.connect(url, security="clear")
        logger.warning("this is none")
        logger.error("after it\nin two lines")
        found = await lines(path, 2)
    assert [(one["site"], one["logger"], one["message"]) for one in found] == [
        ("C1", "a.job", "before the link"),
        ("C1", "a.job", "after it\nin two lines"),
    ]
    logger.error("nobody takes this any more")


async def test_a_site_keeps_the_newest_that_could_not_be_sent(tmp_path: Path) -> None:
    path = tmp_path / "site-errors.jsonl"
    handlers = {ERRORS_TOPIC: ErrorFile(path).answer}
    site = Cell("C1", request_seconds=0.2)
    async with Cell("server", handlers=handlers) as server, site, errors_sent(site) as errors:
        for number in range(MAX_WAITING + 5):
            logger.error("%d %s", number, "x" * MAX_CHARACTERS)
        assert errors.dropped == 5
        await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
        found = await lines(path, MAX_WAITING)
    assert [int(one["message"].split()[0]) for one in found] == list(range(5, MAX_WAITING + 5))
    assert {len(one["message"]) for one in found} == {MAX_CHARACTERS}


async def test_what_was_not_sent_comes_before_what_came_since(tmp_path: Path) -> None:
    path = tmp_path / "site-errors.jsonl"
    handlers = {ERRORS_TOPIC: ErrorFile(path).answer}
    async with Cell("C1", request_seconds=0.2) as site, errors_sent(site) as errors:
        async with Cell("server") as away:
            await site.connect(
                await away.listen("tcp://localhost:0", security="clear"), security="clear", reconnect=False
            )
        logger.error("first")
        while errors._waiting:  # until it is on its way, in vain
            await anyio.sleep(0.01)
        logger.error("second")
        await anyio.sleep(0.5)
        async with Cell("server", handlers=handlers) as server:
            await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
            found = await lines(path, 2)
    assert [one["message"] for one in found] == ["first", "second"]
    assert errors.dropped == 0


async def test_a_server_that_takes_no_errors_is_not_asked_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async with Cell("server") as server, Cell("C1") as site, errors_sent(site):
        await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
        for _ in range(5):
            logger.error("again")
            await anyio.sleep(0.1)
    assert caplog.text.count("the server takes no errors, so none are sent") == 1


async def test_the_servers_file_is_begun_anew_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.error_log.MAX_FILE_BYTES", 1000)
    path = tmp_path / "site-errors.jsonl"
    handlers = {ERRORS_TOPIC: ErrorFile(path).answer}
    async with Cell("server", handlers=handlers) as server, Cell("C1") as site:
        await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
        for number in range(30):
            await site.request("server", ERRORS_TOPIC, [[1.0, "x", f"{number} " + "y" * 100]])
    assert {file.name for file in tmp_path.iterdir()} == {"site-errors.jsonl", "site-errors.jsonl.1"}
    assert all(file.stat().st_size < 1200 for file in tmp_path.iterdir())
    assert "29 y" in path.read_text()


@pytest.mark.parametrize("payload", [None, "x", [1], [[1.0, "x"]], [[1, "x", "y"]], [["x"]] * 101, [[1.0, "x", b"y"]]])
async def test_what_is_no_record_is_refused_and_not_written(payload: object, tmp_path: Path) -> None:
    path = tmp_path / "site-errors.jsonl"
    handlers = {ERRORS_TOPIC: ErrorFile(path).answer}
    async with Cell("server", handlers=handlers) as server, Cell("C1") as site:
        await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
        with pytest.raises(RemoteError):
            await site.request("server", ERRORS_TOPIC, payload)
    assert not path.exists()


async def test_a_disk_that_is_full_is_no_error_of_the_site(tmp_path: Path) -> None:
    handlers = {ERRORS_TOPIC: ErrorFile(tmp_path / "none" / "x").answer}
    async with Cell("server", handlers=handlers) as server, Cell("C1") as site:
        await site.connect(await server.listen("tcp://localhost:0", security="clear"), security="clear")
        await site.request("server", ERRORS_TOPIC, [[1.0, "x", "y"]])


def test_a_record_may_come_from_any_thread_and_is_formatted_at_once() -> None:
    errors, said = SentErrors(), ["first"]
    errors.handle(logging.LogRecord("x", logging.ERROR, "f", 1, "%s", (said,), None))
    said[0] = "changed"
    assert errors._waiting[0][2] == "['first']"
