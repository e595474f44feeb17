"""A table of answers in an SQLite file, in which the handlers that give them keep tables of their own.

It knows of no event loop: every call may wait for the disk, so :class:`cellnet.journal.Journal` makes it in a thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cellnet.errors import ConfigurationError, JournalError, LocalProtocolError
from cellnet.protocol.envelope import Status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cellnet.fqcn import FQCN
    from cellnet.protocol.events import Message

__all__ = ["Answer", "Ledger"]

MAX_ANSWERS = 65536
"""Answers that a journal keeps at a time; beyond it, a request is told ``BUSY`` and does not run."""
MAX_ANSWER_BYTES = 64 << 20
"""Of all answers that are kept, each counted with :data:`ROW_BYTES`; only exceeded by the last one."""
ROW_BYTES = 200
MARGIN_SECONDS = 60.0
"""How long after its deadline an answer is kept: clocks differ in speed, and a repetition may be on its way.

Who asks later than that is told ``UNKNOWN``, not run a second time: see ``cellnet_removed``.
"""
MAX_KEPT_SECONDS = 86400.0
"""How long an answer is kept at most, so that nobody fills the journal for weeks by a deadline far away."""
REMOVED_AT_ONCE = 1000
"""Answers that are over, removed when a new one comes: more than come, and few enough for nobody to wait."""
MAX_ASKERS = 65536
"""Cells of which it is known up to where their answers were removed; the one that was silent longest gives way."""
LOCKED_SECONDS = 1.0
"""How long a program that writes into the file may keep a request waiting, before that is told ``BUSY``."""
WAL_BYTES = 16 << 20
"""To which SQLite's log beside the file is cut back."""

APPLICATION_ID = 0x63656C6C
SCHEMA_VERSION = 1
_OWN = "cellnet_"
_STRICT = "STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
_SCHEMA = f"""
CREATE TABLE cellnet_answers (
    cell TEXT NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, sequence TEXT NOT NULL,
    saved REAL NOT NULL, expires REAL NOT NULL,
    status INTEGER NOT NULL, encoding INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (cell, origin, epoch, sequence)
) {_STRICT};
CREATE INDEX cellnet_answers_expires ON cellnet_answers (expires);
CREATE TABLE cellnet_removed (
    cell TEXT NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL, sequence TEXT NOT NULL, noted REAL NOT NULL,
    PRIMARY KEY (cell, origin)
) {_STRICT};
CREATE TABLE cellnet_topics (topic TEXT PRIMARY KEY NOT NULL) {_STRICT};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_FORBIDDEN = {
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_ATTACH,
    sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
}

logger = logging.getLogger("cellnet.cell")

Answer = tuple[Status, int, bytes]
"""Status, encoding and payload."""


class Ledger:
    """The answers that one cell gave, by cell, origin, origin's epoch and sequence number: one transaction at a time.

    Its clock is a running time: it stands still while the cell is down. So no change of the system's clock removes an
    answer too early, or keeps one for ever.
    """

    def __init__(self, path: Path) -> None:
        """Name the file, which is made if there is none."""
        self.path = path
        self.answers = 0
        """Answers that are kept."""
        self.answer_bytes = 0
        self.replayed = 0
        """Requests that were answered from here since the start."""
        self._connection: sqlite3.Connection
        self._lock = -1
        self._began = 0.0
        self._known_topics: frozenset[str] = frozenset()
        self._change = (0, 0)
        self._is_handlers = False
        self._has_failed = False

    def open(self, topics: Iterable[str]) -> None:
        """Open the file.

        :param topics: those whose answers are saved from now on
        :raises ConfigurationError: if it cannot be used
        """
        where = str(self.path)
        try:
            self._lock = _locked(self.path)
        except OSError as error:
            raise ConfigurationError(f"the journal cannot be opened: {error.strerror}", where) from None
        try:
            # No cache of statements: each is looked at by _authorize when it is prepared.
            self._connection = sqlite3.connect(
                self.path,
                timeout=LOCKED_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=0,
            )
            try:
                self._prepare(topics)
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: what SQLite says quotes the damaged file
            os.close(self._lock)
            raise ConfigurationError(_complaint(error), where) from None
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the file."""
        with closing(self._connection):
            self.roll_back()
        os.close(self._lock)

    @property
    def is_open(self) -> bool:
        """Whether a transaction is."""
        return self._connection.in_transaction

    def begin(self, cell: FQCN, message: Message) -> Answer | None:
        """Begin a transaction, and return None; or return the answer, if there is one without the handler.

        :param cell: what the cell was called when it was asked: under another name it is another one for those who ask
        :raises JournalError: if the file cannot be read
        """
        self._change = (0, 0)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if not message.wants_reply:
                return None
            found = self._connection.execute(
                "SELECT status, encoding, payload FROM cellnet_answers"
                " WHERE cell = ? AND origin = ? AND epoch = ? AND sequence = ?",
                _key(cell, message),
            ).fetchone()
            if found is not None:
                self.roll_back()
                self.replayed += 1
                return Status(found[0]), *found[1:]
            if message.doubt and not self._would_be_known(cell, message):
                self.roll_back()
                return Status.UNKNOWN, 0, b""
            self._remove()
            if self.answers + self._change[0] >= MAX_ANSWERS or self.answer_bytes + self._change[1] >= MAX_ANSWER_BYTES:
                self._commit()
                return Status.BUSY, 0, b""
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_BUSY:  # another program writes
                return Status.BUSY, 0, b""
            raise self._failed("be read", error) from None
        return None

    def execute(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        """Execute a handler's statement, and return its rows.

        :raises sqlite3.Error: if it is wrong, or cannot be carried out
        :raises LocalProtocolError: if it would end the transaction, or use the ledger's own tables
        :raises JournalError: if the whole transaction was undone before
        """
        if not self.is_open:
            # Some errors, such as a full disk, undo the whole transaction; what follows must not begin another one.
            raise JournalError("the transaction was undone by an error before")
        self._is_handlers = True
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            if _code(error) == sqlite3.SQLITE_AUTH:
                raise LocalProtocolError(
                    "a durable handler can neither begin nor end transactions, nor attach databases, nor change "
                    f"pragmas, nor use tables whose names begin with {_OWN}"
                ) from None
            raise
        finally:
            self._is_handlers = False

    def finish(self, cell: FQCN, message: Message, answer: Answer, seconds: float) -> Answer:
        """Save an answer and what was done, or the answer alone if the handler raised; return what is to be told.

        :param seconds: how long it may be asked for
        :raises JournalError: if it cannot be saved; nothing took effect
        """
        now, is_saving = self._now(), False
        expires = now + min(seconds, MAX_KEPT_SECONDS) + MARGIN_SECONDS
        try:
            if answer[0] == Status.RAISED:
                self.roll_back()
                self._connection.execute("BEGIN IMMEDIATE")
            elif not self.is_open:
                raise JournalError("the transaction was undone by an error; nothing took effect")
            if message.wants_reply:
                self._connection.execute(
                    "INSERT INTO cellnet_answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*_key(cell, message), now, expires, *map(int, answer[:2]), answer[2]),
                )
                self._count(1, ROW_BYTES + len(answer[2]))
            is_saving = True
            self._commit()
        except sqlite3.Error as error:
            failed = self._failed("be written", error)
            if is_saving and not self.is_open and _code(error) != sqlite3.SQLITE_FULL:
                return Status.UNKNOWN, 0, b""  # after a failed sync, only the next start can tell what is on the disk
            raise failed from None
        return answer

    def roll_back(self) -> None:
        """Undo what was not saved. Safe to repeat."""
        self._change = (0, 0)
        if self.is_open:
            with suppress(sqlite3.Error):  # the transaction is gone all the same
                self._connection.execute("ROLLBACK")

    def _would_be_known(self, cell: FQCN, message: Message) -> bool:
        """Whether an answer that an earlier start gave would still be here."""
        return (
            message.topic in self._known_topics
            and not self._connection.execute(
                "SELECT 1 FROM cellnet_removed WHERE cell = ? AND origin = ? AND (epoch, sequence) >= (?, ?)",
                _key(cell, message),
            ).fetchone()
        )

    def _remove(self) -> None:
        """Remove answers that are over, and remember up to where."""
        now = self._now()
        over = self._connection.execute(
            "SELECT rowid, length(payload), cell, origin, epoch, sequence FROM cellnet_answers"
            " WHERE expires < ? ORDER BY expires LIMIT ?",
            (now, REMOVED_AT_ONCE),
        ).fetchall()
        if not over:
            return
        self._connection.executemany("DELETE FROM cellnet_answers WHERE rowid = ?", [row[:1] for row in over])
        self._connection.executemany(
            "INSERT INTO cellnet_removed VALUES (?, ?, ?, ?, ?) ON CONFLICT (cell, origin)"
            " DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence, noted = excluded.noted"
            " WHERE (excluded.epoch, excluded.sequence) > (epoch, sequence)",
            [(*row[2:], now) for row in over],
        )
        (askers,) = self._connection.execute("SELECT count(*) FROM cellnet_removed").fetchone()
        if askers > MAX_ASKERS:
            self._connection.execute(
                "DELETE FROM cellnet_removed WHERE rowid IN"
                " (SELECT rowid FROM cellnet_removed ORDER BY noted, rowid LIMIT ?)",
                (askers - MAX_ASKERS,),
            )
        self._count(-len(over), -sum(ROW_BYTES + row[1] for row in over))

    def _count(self, answers: int, answer_bytes: int) -> None:
        self._change = self._change[0] + answers, self._change[1] + answer_bytes

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
        self._has_failed = False
        (answers, answer_bytes), self._change = self._change, (0, 0)
        self.answers += answers
        self.answer_bytes += answer_bytes

    def _failed(self, what: str, error: sqlite3.Error) -> JournalError:
        if not self._has_failed:  # one line, not one for each request: the log may be on the same disk
            logger.error("the journal %s cannot %s: %s", self.path, what, error)
        self._has_failed = True
        return JournalError(f"the journal cannot {what}: {error}; nothing took effect")

    def _now(self) -> float:
        return self._began + time.monotonic()

    def _authorize(self, action: int, first: str | None, second: str | None, *_more: object) -> int:
        is_own = any(name is not None and name.lower().startswith(_OWN) for name in (first, second))
        if self._is_handlers and (action in _FORBIDDEN or is_own):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def _prepare(self, topics: Iterable[str]) -> None:
        """Check whose file it is, make the tables, and read what is known.

        :raises ConfigurationError: if it is somebody else's, or of a later version
        """
        connection, where = self._connection, str(self.path)
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise ConfigurationError(
                "is the database of another program: move it away, or name another file for the journal", where
            )
        if version > SCHEMA_VERSION:
            raise ConfigurationError(
                f"is a journal of version {version}, this cellnet knows {SCHEMA_VERSION}: install a later cellnet, or "
                "name another file",
                where,
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if not tables:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        (said,) = connection.execute("PRAGMA quick_check(cellnet_answers)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said.splitlines()[-1])
        connection.execute("BEGIN IMMEDIATE")
        self._known_topics = frozenset(row[0] for row in connection.execute("SELECT topic FROM cellnet_topics"))
        connection.execute("DELETE FROM cellnet_topics")
        connection.executemany("INSERT INTO cellnet_topics VALUES (?)", [(topic,) for topic in topics])
        connection.execute("COMMIT")
        self.answers, size, saved = connection.execute(
            "SELECT count(*), total(length(payload)), coalesce(max(saved), 0) FROM cellnet_answers"
        ).fetchone()
        (noted,) = connection.execute("SELECT coalesce(max(noted), 0) FROM cellnet_removed").fetchone()
        self.answer_bytes = int(size) + ROW_BYTES * self.answers
        self._began = max(saved, noted) - time.monotonic()
        connection.set_authorizer(self._authorize)


def _key(cell: FQCN, message: Message) -> tuple[str, str, str, str]:
    # As texts of one length: the protocol's integers are larger than SQLite's, and these have the same order.
    return str(cell), str(message.origin), f"{message.epoch:020}", f"{message.sequence:020}"


def _code(error: Exception) -> int:
    """Return SQLite's primary code of an error; 0 if it has none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _locked(path: Path) -> int:
    """Make the file if there is none, check that it is private, and lock it; return what holds the lock.

    :raises ConfigurationError: if others can read it, or use it
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError("is no file: name another for the journal", str(path))
    if found.st_mode & 0o077:
        raise ConfigurationError("the journal must be readable by its owner only: run chmod 600", str(path))
    # A file beside it: to close another descriptor of SQLite's own file would give up SQLite's locks.
    lock = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigurationError("another cell uses this journal: stop it, or name another file", str(path)) from None
    return lock


def _complaint(error: sqlite3.Error | UnicodeDecodeError) -> str:
    code = _code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return "is no SQLite database: move it away, or name another file for the journal"
    if code in (sqlite3.SQLITE_CORRUPT, 0):
        return (
            f"the journal is damaged ({error}): move it away, with all files whose names begin with its name; what an "
            "earlier start was asked, and may have done, is then not done again"
        )
    return f"the journal cannot be opened: {error}"
