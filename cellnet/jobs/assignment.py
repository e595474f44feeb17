"""What a job process is told when it starts: over an inherited descriptor, never by argv or environment.

The same descriptor is the process's lifeline: the node holds the other end for as long as the process may live, so
its end of file says that the node is gone, whatever killed it, and whatever the process is doing.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from cellnet.errors import InvalidName, JobError, RemoteProtocolError
from cellnet.fqcn import FQCN, FQSN, check_segment
from cellnet.payload import Encoding, decode

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["GRACE_SECONDS", "MAX_ASSIGNMENT_BYTES", "Assignment", "Placed", "end_with", "is_same", "receive"]

MAX_ASSIGNMENT_BYTES = 64 * 1024
GRACE_SECONDS = 3.0
"""How long a job process that must end may take to end by itself."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """Name a site, and the cell of its job process."""

    site: FQSN
    cell: FQCN

    @property
    def node(self) -> str:
        """The base name of the node that runs the process: a site that moves keeps it."""
        return _site(self.cell)


def is_same(cell: FQCN, placed: FQCN) -> bool:
    """Whether a cell is the job cell that was placed there: its site may have another full name by now.

    Base names belong to one site of a project each, and certificates prove them.
    """
    return cell.base_name == placed.base_name and _site(cell) == _site(placed)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Tell one job process who it is and who its neighbours are; it is never told the rest of the tree."""

    job: str
    site: FQSN
    """The root for the SJ."""
    parent: FQCN | None
    """The cell of the job process above; None for the SJ."""
    children: tuple[Placed, ...]
    config: bytes
    """The submitter's configuration as it travelled; no node reads it."""
    sites: tuple[FQSN, ...] = ()
    """All chosen sites; only the SJ is told."""

    def to_value(self) -> dict[str, Any]:
        """Return it as a payload."""
        return {
            "job": self.job,
            "site": str(self.site),
            "parent": None if self.parent is None else str(self.parent),
            "children": [[str(child.site), str(child.cell)] for child in self.children],
            "config": self.config,
            "sites": [str(site) for site in self.sites],
        }

    @classmethod
    def from_value(cls, value: Any) -> Assignment:
        """Read what :meth:`to_value` made.

        :raises JobError: if it is malformed
        """
        try:
            match value:
                case {
                    "job": str(job),
                    "site": str(site),
                    "parent": str() | None as parent,
                    "children": list(children),
                    "config": bytes(config),
                    "sites": list(sites),
                }:
                    return cls(
                        check_segment(job),
                        FQSN(site),
                        None if parent is None else FQCN(parent),
                        tuple(sorted(Placed(FQSN(child), FQCN(cell)) for child, cell in children)),
                        config,
                        tuple(map(FQSN, sites)),
                    )
        except (InvalidName, TypeError, ValueError) as error:
            raise JobError(f"the assignment of a job is malformed: {error}") from None
        raise JobError("the assignment of a job is malformed")


@dataclass(frozen=True, slots=True)
class Start:
    """Hold all that travels over the descriptor."""

    assignment: Assignment
    socket: str
    """The URL of the node's local socket."""
    bundle: Path
    backend: str
    """The node's own: a job runs on the same event loop."""
    credential: bytes = field(repr=False)

    def pack(self) -> bytes:
        """Return it as bytes, which hold a private key.

        :raises JobError: if they are too many
        """
        fields = [self.assignment.to_value(), self.socket, str(self.bundle), self.backend, self.credential]
        packed: bytes = msgpack.packb(fields)
        if len(packed) > MAX_ASSIGNMENT_BYTES:
            raise JobError(f"the job's configuration is too large: {MAX_ASSIGNMENT_BYTES} bytes are allowed")
        return len(packed).to_bytes(_LENGTH_BYTES, "big") + packed


def receive(descriptor: int) -> Start:
    """Read what the node has to say on *descriptor*, which no process started from here inherits.

    :raises JobError: if it is malformed, or ends too soon
    """
    os.set_inheritable(descriptor, False)
    length = int.from_bytes(_exactly(descriptor, _LENGTH_BYTES), "big")
    if length > MAX_ASSIGNMENT_BYTES:
        raise JobError("the start of a job process is malformed: the node and the process differ in version")
    try:
        fields = decode(Encoding.VALUE, _exactly(descriptor, length))
    except RemoteProtocolError as error:
        raise JobError(f"the start of a job process is malformed: {error}") from None
    match fields:
        case [value, str(socket), str(bundle), str(backend), bytes(credential)]:
            return Start(Assignment.from_value(value), socket, Path(bundle), backend, credential)
    raise JobError("the start of a job process is malformed")


def end_with(descriptor: int) -> None:
    """End this process when *descriptor* does, at the latest :data:`GRACE_SECONDS` later.

    A thread waits for it, as the event loop may be stuck in a job's code at that time.
    """
    threading.Thread(target=_wait_and_exit, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait_and_exit(descriptor: int) -> NoReturn:
    while os.read(descriptor, 1):
        pass
    time.sleep(GRACE_SECONDS)
    os._exit(os.EX_UNAVAILABLE)


def _exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            raise JobError("the node ended before it had said what the job process is to do")
        data += more
    return data


def _site(cell: FQCN) -> str:
    return cell.parent.base_name if cell.parent else ""
