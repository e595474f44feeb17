"""The program of a cell with a durable handler, which is killed at a chosen moment. Run by ``test_journal.py``.

::

    python -m tests.killed_cell MOMENT URL JOURNAL BACKEND

The moments: ``handler``, in the middle of it; ``reply``, when the answer is saved and has not left; ``never``, by
itself; and ``early`` has a bug, it answers before it saves.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import anyio

from cellnet import Cell, DurableRequest, durable
from cellnet.ledger import Ledger


async def note(request: DurableRequest) -> int:
    await request.transaction.execute("CREATE TABLE IF NOT EXISTS effects (payload TEXT NOT NULL)")
    await request.transaction.execute("INSERT INTO effects VALUES (?)", (request.payload,))
    if MOMENT == "handler":
        _kill()
    ((count,),) = await request.transaction.execute("SELECT count(*) FROM effects")
    return count


async def main() -> None:
    cell = Cell("C1", handlers={"note": durable(note)}, journal=JOURNAL)
    if MOMENT == "reply":
        cell._ended = lambda *_answer: _kill()  # type: ignore[method-assign]
    if MOMENT == "early":
        _answer_before_saving()
    async with cell:
        await cell.connect(URL)
        await anyio.sleep_forever()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _answer_before_saving() -> None:
    finish = Ledger.finish

    def planted(ledger: Ledger, *arguments: object) -> object:
        threading.Timer(1.0, finish, (ledger, *arguments)).start()
        return arguments[2]

    Ledger.finish = planted  # type: ignore[method-assign,assignment]
    Ledger.roll_back = lambda _ledger: None  # type: ignore[method-assign]


if __name__ == "__main__":
    _program, MOMENT, URL, JOURNAL, backend = sys.argv
    anyio.run(main, backend=backend)
