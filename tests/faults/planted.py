"""Bugs to be planted into a cell's process: what the row that looks for such a bug must find.

A process is planted before its cell is made, and ends with its bug: nothing is ever put back.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from cellnet import Cell
from cellnet.drivers.sock import SockLink
from cellnet.files import FileTarget
from cellnet.fqcn import FQCN
from cellnet.inbox import Inbox
from cellnet.incoming import Incoming
from cellnet.link import Backoff
from cellnet.neighbours import Neighbours
from cellnet.protocol import connection as connection_module
from cellnet.protocol import records, sealing
from cellnet.protocol.answering import Answering
from cellnet.protocol.chunks import ChunkList
from cellnet.protocol.claim import Claim
from cellnet.protocol.envelope import Order
from cellnet.protocol.frames import unpack
from cellnet.protocol.passage import Passage, Transit
from cellnet.protocol.routing import Router
from cellnet.protocol.sealing import Window
from cellnet.protocol.switch import Switch

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.link import RunningLink
    from cellnet.protocol.connection import Connection

__all__ = ["PLANTS"]

SAVING_SECONDS = 1.0
KEPT_BYTES = 4 << 20
AWAITED_SECONDS = 0.05


def dedup_off() -> None:
    """A request that comes again runs again."""
    take = Answering._take

    def planted(self: Answering, session: Any, counter: int, first: bytes, *more: Any) -> None:
        session.asker.records.pop(Order.unpack(first).sequence, None)
        take(self, session, counter, first, *more)

    _set(Answering, "_take", planted)


def acknowledge_before_save() -> None:
    """A durable handler's answer leaves before it is on the disk."""
    _set(sqlite3, "connect", partial(sqlite3.connect, factory=_SavesLater))


def content_not_kept() -> None:
    """A relay uses a buffer again in which bytes lie that have not left."""
    _set(Transit, "keep", lambda self, **_how: self._volatile.clear())


def dead_never_found() -> None:
    """A neighbour may be silent for ever."""
    _set(connection_module, "DEAD_SECONDS", math.inf)


def queue_unbounded() -> None:
    """What waits for one neighbour has no limit, so nobody is told ``BUSY``."""
    _set(connection_module, "BUDGET_BYTES", 1 << 40)


def slow_child_awaited() -> None:
    """A cell reads nothing while a neighbour is slow to take what is sent to it, or not for long."""
    fill, send, sending = SockLink.fill, SockLink.send, Counter[str]()

    async def planted_send(self: SockLink, buffers: Any) -> None:
        sending["now"] += 1
        try:
            await send(self, buffers)
        finally:
            sending["now"] -= 1

    async def planted_fill(self: SockLink, buffer: memoryview) -> int:
        with anyio.move_on_after(AWAITED_SECONDS):
            while sending["now"]:
                await anyio.sleep(0.001)
        return await fill(self, buffer)

    _set(SockLink, "send", planted_send)
    _set(SockLink, "fill", planted_fill)


def unread_unbounded() -> None:
    """Whoever gets a stream has room for all of it, whether it is read or not."""
    _set(Incoming, "upto", property(lambda _self: 1 << 62))


def passed_kept() -> None:
    """A relay keeps what passed."""
    pour, kept = Passage.pour, []

    def planted(self: Passage, offset: int, limit: int, buffers: Any) -> int:
        before = len(buffers)
        count = pour(self, offset, limit, buffers)
        kept.extend(map(bytes, buffers[before:]))
        return count

    _set(Passage, "pour", planted)


def file_kept() -> None:
    """Who takes a file keeps its bytes in memory."""
    write, kept = FileTarget.write, []

    def planted(self: FileTarget, data: Any) -> None:
        kept.append(bytes(data))
        write(self, data)

    _set(FileTarget, "write", planted)


def closed_link_kept() -> None:
    """A link that ended leaves a task, and in it what the link used."""
    run = Neighbours._run

    async def stay(_used: bytes) -> None:
        await anyio.sleep_forever()

    async def planted(self: Neighbours, running: RunningLink) -> None:
        try:
            await run(self, running)
        finally:
            self._tasks.start_soon(stay, b"\1" * KEPT_BYTES)

    _set(Neighbours, "_run", planted)


def jitter_off() -> None:
    """Those who lost a parent at the same moment dial it again at the same moments."""
    failed = Backoff.failed

    def planted(self: Backoff, now: float) -> float:
        failed(self, now)
        return min(self.early_cap, self.base * 2.0 ** (self._failures - 1))

    _set(Backoff, "failed", planted)


def drain_off() -> None:
    """A cell that is to end answers nothing any more."""

    async def planted(_self: Cell) -> None: ...

    _set(Cell, "drain", planted)


def seal_check_off() -> None:
    """What was changed on its way opens all the same."""
    _set(sealing, "AESGCM", _Unchecked)


def record_check_off() -> None:
    """What was changed of a content opens all the same."""
    _set(records, "AESGCM", _Unchecked)


def chunk_check_off() -> None:
    """A relay keeps whatever comes as a piece of an object, for all who want that."""
    _set(ChunkList, "digest", lambda _self, _index: _Anything())


def replay_window_off() -> None:
    """What came before is taken as new."""
    _set(Window, "accept", lambda _self, _counter: True)


def ingress_filter_off() -> None:
    """A neighbour may speak for cells that are not behind it."""

    def planted(_self: Switch, connection: Connection, frame: Any) -> None:
        origin, destination = unpack(frame.header, str, (str, type(None)))
        connection.bind(frame.label, FQCN(origin), None if destination is None else FQCN(destination))

    _set(Switch, "bind", planted)


def former_names_forgotten() -> None:
    """A cell that joins another parent says what it was called before."""
    _set(Router, "names", ())


def introduction_check_off() -> None:
    """Who opens a session is whom he says he is."""
    _set(Claim, "verify", lambda *_args: None)


def deadline_ignored() -> None:
    """The receiver runs what nobody waits for any more."""
    begin = Answering._begin

    def planted(self: Answering, asker: Any, order: Any, content: Any, _expires: float) -> int:
        return begin(self, asker, order, content, math.inf)

    _set(Answering, "_begin", planted)
    for told in ("_settle", "_stop"):
        _set(Answering, told, lambda *_args: None)


def cancelled_kept() -> None:
    """A handler that was ended by its deadline, or cancelled, stays in the table of those that run."""
    run = Inbox._run

    async def planted(self: Inbox, handler: Any, message: Any, scope: anyio.CancelScope) -> None:
        await run(self, handler, message, scope)
        if scope.cancel_called:
            self._running[message.number] = scope

    _set(Inbox, "_run", planted)


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        dedup_off,
        former_names_forgotten,
        acknowledge_before_save,
        content_not_kept,
        dead_never_found,
        queue_unbounded,
        slow_child_awaited,
        unread_unbounded,
        passed_kept,
        file_kept,
        closed_link_kept,
        jitter_off,
        drain_off,
        seal_check_off,
        record_check_off,
        chunk_check_off,
        replay_window_off,
        ingress_filter_off,
        introduction_check_off,
        deadline_ignored,
        cancelled_kept,
    )
}


class _SavesLater(sqlite3.Connection):
    """Says that a transaction is saved, and saves it later, with all that follow until then."""

    _saving: threading.Timer | None = None

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql == "COMMIT" and self._saving is None:
            self._saving = threading.Timer(SAVING_SECONDS, self._save)
            self._saving.daemon = True
            self._saving.start()
        if sql in ("COMMIT", "ROLLBACK") or (sql == "BEGIN IMMEDIATE" and self.in_transaction):
            sql = "SELECT 1"
        return super().execute(sql, parameters)

    def _save(self) -> None:
        self._saving = None
        self.commit()


class _Anything:
    """Equals whatever it is compared with."""

    def __eq__(self, _other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class _Unchecked:
    """AES-GCM that decrypts whatever it is given: its cipher without its check."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.encrypt = AESGCM(key).encrypt

    def decrypt(self, nonce: bytes, sealed: bytes, _place: bytes | None) -> bytes:
        # The first block of GCM's counter, 1, hides the tag; the text begins with 2.
        stream = Cipher(AES(self._key), CTR(nonce + (2).to_bytes(4, "big"))).decryptor()
        return stream.update(sealed[: -sealing.OVERHEAD]) + stream.finalize()


def _set(owner: object, name: str, value: object) -> None:
    assert hasattr(owner, name), f"there is no {name} any more: plant the bug somewhere else"
    setattr(owner, name, value)
