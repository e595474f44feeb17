"""Durable handlers: once, whatever happens to their cell. A journal works in a thread, so time is real here."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from cellnet import (
    Busy,
    Cell,
    ConfigurationError,
    DeadlineExceeded,
    DurableRequest,
    Indeterminate,
    LocalProtocolError,
    RemoteError,
    Request,
    durable,
    ledger,
)
from cellnet.drivers.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[1]
SECONDS = 20.0


class Site:
    """A server, and a cell C1 with a journal below it, which can be ended and started again."""

    def __init__(self, path: Path, url: str = "memory://server") -> None:
        self.path = path
        self.ran = 0
        self.began = anyio.Event()
        self.answered = anyio.Event()
        self._url = url
        self._drivers = {"memory": MemoryDriver(lambda _name: 0.0)} if url.startswith("memory") else {}

    @asynccontextmanager
    async def server(self) -> AsyncGenerator[Cell]:
        async with Cell("server", drivers=self._drivers) as server:
            self._url = await server.listen(self._url)
            yield server

    @asynccontextmanager
    async def running(self, *, is_mute: bool = False, **handlers: Any) -> AsyncGenerator[Cell]:
        """Run C1; a mute one says nothing that it was asked for."""
        made = {"note": durable(self.note), **handlers}
        cell = Cell("C1", handlers=made, journal=self.path, drivers=self._drivers)
        if is_mute:
            cell._ended = lambda *_answer: self.answered.set()  # type: ignore[method-assign]
        async with cell:
            await cell.connect(self._url)
            yield cell

    async def note(self, request: DurableRequest) -> int:
        """Note the payload; raise if it is ``wrong``, and never end the first time that it is ``slow``."""
        self.ran += 1
        await request.transaction.execute("CREATE TABLE IF NOT EXISTS effects (payload TEXT NOT NULL)")
        await request.transaction.execute("INSERT INTO effects VALUES (?)", (request.payload,))
        self.began.set()
        if request.payload == "wrong":
            raise ValueError("it is wrong")
        if request.payload == "slow" and self.ran == 1:
            await anyio.sleep_forever()
        return self.ran

    async def end_after(self, event: anyio.Event, server: Cell, **options: Any) -> None:
        """Run C1 for the first time, until *event*; return when the server knows that it is gone."""
        async with self.running(**options):
            await event.wait()

    def effects(self) -> list[str]:
        return read(self.path, "SELECT payload FROM effects")

    def answers(self) -> int:
        return read(self.path, "SELECT count(*) FROM cellnet_answers")[0]


def read(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(sql)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def site(path: Path) -> Site:
    return Site(path)


async def ask(server: Cell, payload: str, found: list[Any], seconds: float = SECONDS, *, once: bool = True) -> None:
    try:
        with anyio.fail_after(seconds):
            found.append(await server.request("C1", "note", payload, once=once))
    except Exception as error:
        found.append(error)


async def across_a_restart(site: Site, payload: str, event: anyio.Event, *, is_mute: bool) -> Any:
    """Ask C1, end it when *event* is set, start it again; return what the caller was told."""
    found: list[Any] = []
    async with site.server() as server, anyio.create_task_group() as tasks:
        async with site.running(is_mute=is_mute):
            tasks.start_soon(ask, server, payload, found)
            await event.wait()
        assert not found
        async with site.running() as cell:
            while not found:
                await anyio.sleep(0.01)
            assert cell.statistics().replayed == (1 if is_mute else 0)
            assert cell.statistics().handling == 0
    return found[0]


# What a restart does.


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["memory://server", "tcp://127.0.0.1:0"])
async def test_an_answer_that_did_not_leave_before_a_restart_is_given_after_it_without_running_again(
    path: Path, url: str
) -> None:
    site = Site(path, url)
    assert await across_a_restart(site, "one", site.answered, is_mute=True) == 1
    assert (site.ran, site.effects(), site.answers()) == (1, ["one"], 1)


@pytest.mark.anyio
async def test_a_handler_that_was_ended_with_its_cell_runs_again_and_has_one_effect(site: Site) -> None:
    assert await across_a_restart(site, "slow", site.began, is_mute=False) == 2
    assert (site.ran, site.effects(), site.answers()) == (2, ["slow"], 1)


@pytest.mark.anyio
async def test_what_a_handler_raised_is_its_answer_after_a_restart_too_and_its_effect_is_undone(site: Site) -> None:
    async with site.server() as server, site.running():
        assert await server.request("C1", "note", "first") == 1
    told = await across_a_restart(site, "wrong", site.answered, is_mute=True)
    assert isinstance(told, RemoteError)
    assert (told.code, told.message) == ("ValueError", "it is wrong")
    assert (site.ran, site.effects(), site.answers()) == (2, ["first"], 2)


@pytest.mark.anyio
async def test_a_handler_whose_deadline_passed_has_no_effect_and_no_answer(site: Site) -> None:
    async with site.server() as server, site.running() as cell:
        with anyio.fail_after(0.5), pytest.raises(DeadlineExceeded):
            await server.request("C1", "note", "slow")
        assert await server.request("C1", "note", "next") == 2
        assert cell.statistics().journaled == 1
    assert (site.effects(), site.answers()) == (["next"], 1)


@pytest.mark.anyio
async def test_a_handler_whose_caller_left_has_no_effect_and_no_answer(site: Site) -> None:
    async with site.server() as server, site.running():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.request, "C1", "note", "slow")
            await site.began.wait()
            tasks.cancel_scope.cancel()
        assert await server.request("C1", "note", "next") == 2
    assert (site.effects(), site.answers()) == (["next"], 1)


@pytest.mark.anyio
async def test_handlers_that_are_not_durable_stay_in_doubt(site: Site) -> None:
    async def plain(_request: Request) -> None:
        site.began.set()
        await anyio.sleep_forever()

    found: list[Any] = []
    async with site.server() as server, anyio.create_task_group() as tasks:
        async with site.running(note=plain):
            tasks.start_soon(ask, server, "one", found)
            await site.began.wait()
        async with site.running(note=plain):
            while not found:
                await anyio.sleep(0.01)
    assert type(found[0]) is Indeterminate  # and no deadline


@pytest.mark.anyio
@pytest.mark.parametrize("other", [True, False], ids=["new topic", "new file"])
async def test_what_ran_before_its_handler_was_durable_is_not_run_again(site: Site, other: bool) -> None:
    async def plain(_request: Request) -> None:
        site.began.set()
        await anyio.sleep_forever()

    found: list[Any] = []
    async with site.server() as server, anyio.create_task_group() as tasks:
        async with site.running(note=plain, other=durable(plain)):
            tasks.start_soon(ask, server, "one", found)
            await site.began.wait()
        if not other:
            site.path.unlink()
        async with site.running():
            while not found:
                await anyio.sleep(0.01)
    assert type(found[0]) is Indeterminate  # and no deadline
    assert site.ran == 0


@pytest.mark.anyio
async def test_what_is_asked_after_its_answer_was_removed_is_not_run_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(ledger, "MARGIN_SECONDS", 0.0)
    found: list[Any] = []
    async with site.server() as server, anyio.create_task_group() as tasks:
        async with site.running(is_mute=True) as cell:
            tasks.start_soon(ask, server, "one", found)
            await site.answered.wait()
            with anyio.fail_after(0.5), pytest.raises(DeadlineExceeded):
                await cell.request("C1", "note", "two")
        assert read(site.path, "SELECT origin FROM cellnet_answers") == ["C1"]
        async with site.running():
            while not found:
                await anyio.sleep(0.01)
    assert type(found[0]) is Indeterminate  # and no deadline
    assert site.effects() == ["one", "two"]


# What a kill does.


@contextmanager
def process(moment: str, url: str, path: Path, backend: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.killed_cell", moment, url, str(path), backend]
    with subprocess.Popen(command, cwd=ROOT) as running:
        try:
            yield running
        finally:
            running.kill()


async def killed(moment: str, path: Path, backend: str) -> int:
    """Ask a cell that kills itself at this moment, start it again; return what the caller was told."""
    found: list[Any] = []
    async with Cell("server") as server, anyio.create_task_group() as tasks:
        url = await server.listen("tcp://127.0.0.1:0")
        with process(moment, url, path, backend) as first, anyio.fail_after(30):
            await server.wait_present(["C1"])
            tasks.start_soon(ask, server, "one", found, 30)
            while first.poll() is None:
                await anyio.sleep(0.01)
            assert first.returncode == -signal.SIGKILL
        with process("never", url, path, backend), anyio.fail_after(30):
            while not found:
                await anyio.sleep(0.01)
    told: int = found[0]
    return told


@pytest.mark.anyio
async def test_a_cell_killed_before_its_answer_left_gives_it_when_it_is_back(
    path: Path, anyio_backend_name: str
) -> None:
    assert await killed("reply", path, anyio_backend_name) == 1
    assert read(path, "SELECT payload FROM effects") == ["one"]


@pytest.mark.anyio
async def test_a_cell_killed_in_its_handler_runs_it_when_it_is_back_and_the_effect_is_there_once(
    path: Path, anyio_backend_name: str
) -> None:
    assert await killed("handler", path, anyio_backend_name) == 1
    assert read(path, "SELECT payload FROM effects") == ["one"]


async def check_that_answers_are_saved(path: Path, backend: str, moment: str = "never") -> None:
    async with Cell("server") as server:
        url = await server.listen("tcp://127.0.0.1:0")
        with process(moment, url, path, backend) as running, anyio.fail_after(30):
            await server.wait_present(["C1"])
            assert await server.request("C1", "note", "one") == 1
            running.kill()
    assert read(path, "SELECT count(*) FROM cellnet_answers") == [1]
    assert read(path, "SELECT payload FROM effects") == ["one"]


@pytest.mark.anyio
async def test_what_was_answered_is_saved_whenever_the_cell_is_killed(path: Path, anyio_backend_name: str) -> None:
    await check_that_answers_are_saved(path, anyio_backend_name)


@pytest.mark.anyio
async def test_a_cell_that_answers_before_it_saves_is_seen(path: Path, anyio_backend_name: str) -> None:
    with pytest.raises(AssertionError):
        await check_that_answers_are_saved(path, anyio_backend_name, "early")


# What handlers may do.


@pytest.mark.anyio
async def test_durable_handlers_run_one_after_the_other(site: Site) -> None:
    running = most = 0

    async def count(request: DurableRequest) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await request.transaction.execute("SELECT 1")
        await anyio.sleep(0.01)
        running -= 1

    async with (
        site.server() as server,
        site.running(one=durable(count), two=durable(count)),
        anyio.create_task_group() as tasks,
    ):
        for topic in ("one", "two") * 5:
            tasks.start_soon(server.request, "C1", topic)
    assert most == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "PRAGMA synchronous = OFF",
        "ATTACH ':memory:' AS other",
        "DELETE FROM cellnet_answers",
        "SELECT * FROM CELLNET_ANSWERS",
        "DROP TABLE cellnet_answers",
        "CREATE TABLE cellnet_mine (x)",
        "CREATE TRIGGER mine AFTER INSERT ON cellnet_answers BEGIN SELECT 1; END",
    ],
)
async def test_a_handler_cannot_break_its_transaction_or_the_journal(site: Site, sql: str) -> None:
    async def reach(request: DurableRequest) -> str:
        await request.transaction.execute("CREATE TABLE mine (x)")
        with pytest.raises(LocalProtocolError, match="can neither begin nor end transactions"):
            await request.transaction.execute(sql)
        raise ValueError("undo it")

    async with site.server() as server, site.running(reach=durable(reach)):
        for _time in range(2):
            with pytest.raises(RemoteError, match="undo it"):
                await server.request("C1", "reach")
    assert read(site.path, "SELECT count(*) FROM sqlite_master WHERE name = 'mine'") == [0]
    assert site.answers() == 2


@pytest.mark.anyio
@pytest.mark.parametrize("goes_on", [True, False])
async def test_an_error_that_undoes_the_transaction_cannot_be_overlooked(site: Site, goes_on: bool) -> None:
    async def overlook(request: DurableRequest) -> str:
        await request.transaction.execute("CREATE TABLE mine (x UNIQUE)")
        await request.transaction.execute("INSERT INTO mine VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError):
            await request.transaction.execute("INSERT OR ROLLBACK INTO mine VALUES (1)")
        if goes_on:
            await request.transaction.execute("CREATE TABLE mine (x)")
        return "well"

    async with site.server() as server, site.running(overlook=durable(overlook)):
        with pytest.raises(RemoteError, match="the transaction was undone") as caught:
            await server.request("C1", "overlook")
        assert caught.value.code == "JournalError"
        assert await server.request("C1", "note", "next") == 1
    assert read(site.path, "SELECT count(*) FROM sqlite_master WHERE name = 'mine'") == [0]


@pytest.mark.anyio
async def test_a_transaction_is_of_no_use_after_its_handler(site: Site) -> None:
    kept = []

    async def keep(request: DurableRequest) -> None:
        kept.append(request.transaction)

    async with site.server() as server, site.running(keep=durable(keep)):
        await server.request("C1", "keep")
        with pytest.raises(LocalProtocolError, match="the handler is over"):
            await kept[0].execute("SELECT 1")


@pytest.mark.anyio
async def test_a_durable_handler_takes_events_and_nothing_is_kept_of_them(site: Site) -> None:
    async with site.server() as server, site.running() as cell:
        for payload in ("one", "wrong", "two"):
            await server.send("C1", "note", payload)
        while site.ran < 3 or cell.statistics().handling:
            await anyio.sleep(0.01)
    assert (sorted(site.effects()), site.answers()) == (["one", "two"], 0)


def test_a_durable_handler_needs_a_journal() -> None:
    async def handler(_request: DurableRequest) -> None: ...

    with pytest.raises(ConfigurationError, match="the handler of deploy is durable: name a file"):
        Cell("C1", handlers={"deploy": durable(handler)})


# Limits.


@pytest.mark.anyio
@pytest.mark.parametrize(("limit", "value"), [("MAX_ANSWERS", 2), ("MAX_ANSWER_BYTES", 2 * ledger.ROW_BYTES)])
async def test_a_full_journal_takes_no_request_until_answers_are_over(
    site: Site, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(ledger, limit, value)
    monkeypatch.setattr(ledger, "MARGIN_SECONDS", 0.0)
    async with site.server() as server, site.running() as cell:
        for payload in ("one", "two"):
            with anyio.fail_after(3):
                await server.request("C1", "note", payload)
        assert cell.statistics().journaled == 2
        told = []
        while not told or isinstance(told[-1], Busy):
            await ask(server, "three", told, once=False)
            await anyio.sleep(0.05)
        assert isinstance(told[0], Busy)
        assert told[-1] == site.ran == 3
        figures = cell.statistics()
        assert figures.journaled in (1, 2)  # as the second may be over, too
        assert ledger.ROW_BYTES <= figures.journaled_bytes / figures.journaled <= ledger.ROW_BYTES + 1
    assert (site.effects(), site.answers()) == (["one", "two", "three"], figures.journaled)


@pytest.mark.anyio
async def test_another_program_that_writes_into_the_file_makes_the_cell_busy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCKED_SECONDS", 0.1)
    async with site.server() as server, site.running():
        with closing(sqlite3.connect(site.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Busy):
                await server.request("C1", "note", "one", once=False)
            other.execute("ROLLBACK")
        assert await server.request("C1", "note", "two") == 1


# A disk that is full, or broken.


@pytest.mark.anyio
async def test_a_full_disk_is_told_and_nothing_unsaved_is_answered(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def large(_request: DurableRequest) -> bytes:
        site.ran += 1
        return bytes(60_000)

    async with site.server() as server, site.running(large=durable(large)) as cell:
        assert await server.request("C1", "note", "one") == 1
        connection = cell._journal.ledger._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        for _time in range(3):
            with pytest.raises(RemoteError, match=r"cannot be written: database or disk is full; nothing") as caught:
                await server.request("C1", "large")
            assert caught.value.code == "JournalError"
        assert len([said for said in caplog.messages if "is full" in said]) == 1
        assert await server.request("C1", "note", "two") == 5
        connection.execute("PRAGMA max_page_count = 100000")
        assert await server.request("C1", "large") == bytes(60_000)
    assert (site.effects(), site.answers()) == (["one", "two"], 3)


class Broken:
    """A connection that fails at COMMIT, as one does whose disk does."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection = connection
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql != "COMMIT":
            return self._connection.execute(sql, *parameters)
        self._connection.execute("ROLLBACK")
        error = sqlite3.OperationalError("the disk is broken")
        error.sqlite_errorcode = self._code
        raise error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "told"), [(sqlite3.SQLITE_FULL, RemoteError), (sqlite3.SQLITE_IOERR_FSYNC, Indeterminate)]
)
async def test_a_commit_that_fails_is_told_as_what_is_known_of_it(site: Site, code: int, told: type[Exception]) -> None:
    async with site.server() as server, site.running() as cell:
        kept = cell._journal.ledger
        whole, kept._connection = kept._connection, Broken(kept._connection, code)
        with pytest.raises(told):
            await server.request("C1", "note", "one")
        assert cell.statistics().journaled == 0
        kept._connection = whole
        assert await server.request("C1", "note", "two") == 2
    assert (site.effects(), site.answers()) == (["two"], 1)


@pytest.mark.anyio
async def test_two_cells_cannot_share_a_journal(path: Path) -> None:
    async with Cell("C1", journal=path):
        with pytest.raises(ConfigurationError, match="another cell uses this journal"):
            async with Cell("C2", journal=path):
                pass
    async with Cell("C2", journal=path):
        pass
