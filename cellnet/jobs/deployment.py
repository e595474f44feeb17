"""The jobs that were deployed at a site, and are not started: they outlive a restart of its node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.errors import JobError

if TYPE_CHECKING:
    from cellnet.journal import Transaction

__all__ = ["MAX_DEPLOYMENTS", "keep", "take"]

MAX_DEPLOYMENTS = 64
"""At one site; the oldest, whose server has surely forgotten it, makes room for another."""

_TABLE = "CREATE TABLE IF NOT EXISTS deployments (job TEXT PRIMARY KEY, packed BLOB NOT NULL)"


async def keep(transaction: Transaction, job: str, packed: bytes) -> None:
    """Note that a job was deployed."""
    await transaction.execute(_TABLE)
    await transaction.execute("INSERT OR REPLACE INTO deployments VALUES (?, ?)", (job, packed))
    await transaction.execute(
        "DELETE FROM deployments WHERE rowid <= (SELECT rowid FROM deployments ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
        (MAX_DEPLOYMENTS,),
    )


async def take(transaction: Transaction, job: str) -> bytes:
    """Return what was deployed, which is done once.

    :raises JobError: if it was not deployed, or was taken
    """
    await transaction.execute(_TABLE)
    rows = await transaction.execute("DELETE FROM deployments WHERE job = ? RETURNING packed", (job,))
    if not rows:
        raise JobError(f"{job} was not deployed here, or was started before")
    ((packed,),) = rows
    if not isinstance(packed, bytes):
        raise JobError(f"the deployment of {job} is damaged")
    return packed
