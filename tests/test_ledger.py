"""The table of answers in its file: what is kept, for how long, how much, and whose file it is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cellnet import FQCN, ConfigurationError, ledger
from cellnet.ledger import Ledger
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELL = FQCN("C1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def message(sequence: int = 1, *, origin: str = "server", epoch: int = 1, doubt: bool = False) -> Message:
    return Message(1, FQCN(origin), epoch, sequence, doubt, "", "note", 0, b"", 0.0)


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """Open a ledger that was open before: what a first start would have saved, is not known."""
    if not path.exists():
        first = Ledger(path)
        first.open(["note"])
        first.close()
    found = Ledger(path)
    found.open(["note"])
    try:
        yield found
    finally:
        found.close()


def save(found: Ledger, one: Message, seconds: float = 60.0, payload: bytes = b"") -> None:
    assert found.begin(CELL, one) is None
    found.finish(CELL, one, (Status.OK, 0, payload), seconds)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 1000.0
    monkeypatch.setattr(ledger.time, "monotonic", lambda: now)

    def to(value: float) -> None:
        nonlocal now
        now = value

    return to


def test_an_answer_is_kept_until_the_margin_after_its_deadline(path: Path, monotonic: Callable[[float], None]) -> None:
    with opened(path) as found:
        save(found, message(1), 10)
        monotonic(1000 + 10 + ledger.MARGIN_SECONDS - 0.1)
        save(found, message(2))
        assert found.answers == 2
        monotonic(1000 + 10 + ledger.MARGIN_SECONDS + 0.1)
        save(found, message(3))
        assert found.answers == 2
        assert found.begin(CELL, message(1, doubt=True)) == (Status.UNKNOWN, 0, b"")
        assert found.begin(CELL, message(2, doubt=True)) == (Status.OK, 0, b"")
        assert found.replayed == 1


def test_no_deadline_keeps_an_answer_for_more_than_a_day(path: Path, monotonic: Callable[[float], None]) -> None:
    with opened(path) as found:
        save(found, message(1), 49 * 86400.0)
        monotonic(1000 + ledger.MAX_KEPT_SECONDS + ledger.MARGIN_SECONDS + 1)
        save(found, message(2))
        assert found.answers == 1


def test_the_time_that_a_cell_is_down_or_a_clock_that_starts_again_removes_no_answer(
    path: Path, monotonic: Callable[[float], None]
) -> None:
    with opened(path) as found:
        save(found, message(1), 10)
    for now in (1.0, 10**9):  # the machine was started again; the cell was down for long
        monotonic(now)
        with opened(path) as found:
            save(found, message(2 + int(now)), 10)
            assert found.begin(CELL, message(1)) == (Status.OK, 0, b"")
    monotonic(10**9 + 10 + ledger.MARGIN_SECONDS + 1)
    with opened(path) as found:
        assert found.begin(CELL, message(1)) == (Status.OK, 0, b"")


def test_answers_are_removed_a_few_at_a_time(
    path: Path, monotonic: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "REMOVED_AT_ONCE", 3)
    with opened(path) as found:
        for sequence in range(1, 11):
            save(found, message(sequence))
        monotonic(10**6)
        left = []
        for sequence in range(11, 15):
            save(found, message(sequence))
            left.append(found.answers)
        assert left == [8, 6, 4, 4]


def test_the_asker_that_was_silent_longest_is_forgotten_first(
    path: Path, monotonic: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_ASKERS", 2)
    with opened(path) as found:
        for day, origin in enumerate(["R1", "R2", "R1", "R3", "R4"]):
            monotonic(10**6 * (day + 1))
            save(found, message(day + 1, origin=origin))
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT origin FROM cellnet_removed ORDER BY noted").fetchall()
    assert found == [("R1",), ("R3",)]


def test_an_earlier_start_of_an_asker_never_hides_that_a_later_ones_answer_was_removed(
    path: Path, monotonic: Callable[[float], None]
) -> None:
    with opened(path) as found:
        save(found, message(5, epoch=2), 10)
        save(found, message(7, epoch=1), 20)
        monotonic(10**6)
        save(found, message(6, epoch=2))
        for one in (message(7, epoch=1), message(5, epoch=2)):
            assert found.begin(CELL, one._replace(doubt=True)) == (Status.UNKNOWN, 0, b"")
        assert found.begin(CELL, message(8, epoch=2, doubt=True)) is None


def test_a_cell_that_was_given_another_name_does_not_give_answers_of_the_old_one(path: Path) -> None:
    # Who asks counts by the name that it asks: the first request to each name has the same number.
    with opened(path) as found:
        save(found, message(1), payload=b"as C1")
        assert found.begin(FQCN("R1.C1"), message(1)) is None


def test_numbers_of_the_protocol_that_are_larger_than_the_databases_are_no_matter(path: Path) -> None:
    most = 2**64 - 1
    with opened(path) as found:
        save(found, message(most, epoch=most))
        assert found.begin(CELL, message(most, epoch=most)) == (Status.OK, 0, b"")


def test_the_log_beside_the_file_is_cut_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "WAL_BYTES", 100_000)
    with opened(path) as found:
        sizes = []
        for sequence in range(1, 200):
            save(found, message(sequence), payload=bytes(60_000))
            sizes.append(path.with_name(path.name + "-wal").stat().st_size)
        assert max(sizes) > 1_000_000
        assert min(sizes[100:]) < 200_000
        assert found.answer_bytes == 199 * (60_000 + ledger.ROW_BYTES)
    with opened(path) as found:
        assert (found.answers, found.answer_bytes) == (199, 199 * (60_000 + ledger.ROW_BYTES))


# The file.


def test_the_journal_and_what_lies_beside_it_are_the_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path) as found:
            save(found, message())
            assert {file.name for file in path.parent.iterdir()} == {
                "journal.db",
                "journal.db-lock",
                "journal.db-shm",
                "journal.db-wal",
            }
            assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    finally:
        os.umask(before)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def later(path: Path) -> None:
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def damaged(path: Path) -> None:
    with opened(path) as found:
        for sequence in range(1, 100):
            save(found, message(sequence), payload=bytes(1000))
    data = bytearray(path.read_bytes())
    data[8192 : len(data) // 2] = b"x" * (len(data) // 2 - 8192)
    path.write_bytes(data)


def unreadable(path: Path) -> None:
    with opened(path):
        pass
    path.write_bytes(
        path.read_bytes().replace(b"CREATE TABLE cellnet_topics", b"CREATE TABLE \xc1\xc1\xc1\xc1net_topics")
    )


def cut(path: Path) -> None:
    damaged(path)
    path.write_bytes(path.read_bytes()[:5000])


def unlinked(path: Path) -> None:
    """Break the chain of pages of one answer: nobody would see it before the answer is asked for."""
    with opened(path) as found:
        save(found, message(), payload=b"\xaa" * 60_000)
    data = bytearray(path.read_bytes())
    page = data.index(b"\xaa" * 4000) // 4096 * 4096
    data[page : page + 4] = b"\xff" * 4
    path.write_bytes(data)


def text(path: Path) -> None:
    path.write_text("no database at all\n" * 100)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (text, "is no SQLite database: move it away, or name another file"),
        (foreign, "is the database of another program: move it away, or name another file"),
        (later, "is a journal of version 2, this cellnet knows 1: install a later cellnet"),
        (damaged, "the journal is damaged .*: move it away"),
        (unreadable, "the journal is damaged .*: move it away"),
        (unlinked, "the journal is damaged .*: move it away"),
        (cut, "the journal is damaged .*: move it away"),
        (Path.mkdir, "is no file"),
    ],
)
def test_a_file_that_is_no_journal_of_ours_is_refused_by_name_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(path)
    path.chmod(0o700 if path.is_dir() else 0o600)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(ConfigurationError, match=f"^{path}: {said}"):
        Ledger(path).open(["note"])
    if before is not None:
        assert path.read_bytes() == before
        path.unlink()
        with opened(path):
            pass


def test_a_journal_that_others_may_read_is_refused(path: Path) -> None:
    path.touch(0o640)
    with pytest.raises(ConfigurationError, match="readable by its owner only: run chmod 600"):
        Ledger(path).open([])


def test_a_journal_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere/journal\.db: the journal cannot be opened: No such file"):
        Ledger(tmp_path / "nowhere" / "journal.db").open([])
