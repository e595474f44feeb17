"""Every error that cellnet raises on purpose, as one tree that says whose fault it was.

::

    CellError
    ├── ConfigurationError        the operator's: a file, a name or a setting is wrong; says where
    │   └── InvalidName           a text that is no name of a cell or site
    ├── ConnectError              the network's: a neighbour could not be reached
    │   ├── ConnectDeadline       there was no time left to try again (also TimeoutError)
    │   └── HandshakeError        a neighbour was reached, and one side refused the other
    │       └── RefusedByPeer     it was the other side: ask its operator, or see its log
    ├── DeliveryError             a message to another cell came to no reply
    │   ├── NotExecuted           the handler provably did not run: sending it again is safe
    │   │   ├── Unreachable       no cell of that name is present
    │   │   │   └── StillUnreachable       until the deadline (also TimeoutError)
    │   │   ├── Busy              a cell on the way, or the receiver, had no room: try later
    │   │   │   └── StillBusy              until the deadline (also TimeoutError)
    │   │   └── DeadlineBeforeExecution    (also TimeoutError)
    │   ├── ContentLost           a large payload was announced, and could not be fetched
    │   ├── Indeterminate         the handler may have run
    │   │   └── DeadlineExceeded  (also TimeoutError)
    │   └── RemoteError           the handler ran and raised, or the receiver refused the message
    ├── ProtocolError             bytes, or a call, that the protocol does not allow
    │   ├── LocalProtocolError    ours: the caller asked for something that cannot be sent
    │   │   └── PayloadTooLarge
    │   └── RemoteProtocolError   the peer's: what arrived is malformed
    ├── JournalError              a cell's journal could not be read or written: the disk is full, or broken
    └── JobError                  a job ended without a result

Cancellation and closed streams are anyio's, not ours.
"""

from __future__ import annotations

__all__ = [
    "Busy",
    "CellError",
    "ConfigurationError",
    "ConnectDeadline",
    "ConnectError",
    "ContentLost",
    "DeadlineBeforeExecution",
    "DeadlineExceeded",
    "DeliveryError",
    "HandshakeError",
    "Indeterminate",
    "InvalidName",
    "JobError",
    "JournalError",
    "LocalProtocolError",
    "NotExecuted",
    "PayloadTooLarge",
    "ProtocolError",
    "RefusedByPeer",
    "RemoteError",
    "RemoteProtocolError",
    "StillBusy",
    "StillUnreachable",
    "Unreachable",
]


class CellError(Exception):
    """Be the root of the tree: whatever cellnet raises on purpose is one of these."""


class ConfigurationError(CellError):
    """Say that a file or a setting is wrong, and where.

    :param message: what is wrong and what to do about it
    :param where: the place as ``file``, ``file:line`` or ``file:line:col``, if there is one
    """

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where


class InvalidName(ConfigurationError, ValueError):
    """Say that a text is no cell name, site name or pattern."""


class ConnectError(CellError):
    """Say that a neighbour could not be reached at its address."""


class ConnectDeadline(ConnectError, TimeoutError):
    """Say that a neighbour could not be joined before the caller's deadline, and what the last attempt met."""


class HandshakeError(ConnectError):
    """Say that a neighbour was reached, and that one side refused the other.

    :param code: a short constant, such as ``wrong-project`` or ``name-taken``
    :param temporary: whether the same attempt may succeed later
    """

    def __init__(self, message: str, code: str = "refused", *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.temporary = temporary


class RefusedByPeer(HandshakeError):
    """Say that the other side of a link refused us, with its words."""


class DeliveryError(CellError):
    """Say that a message to another cell came to no reply."""


class NotExecuted(DeliveryError):
    """Say that the far handler provably did not run, so sending again is safe."""


class Unreachable(NotExecuted):
    """Say that no cell of that name is present in the network."""


class Busy(NotExecuted):
    """Say that a cell on the way, or the receiver, had no room for the message."""


class DeadlineBeforeExecution(NotExecuted, TimeoutError):
    """Say that the deadline passed, and that the message was not executed until then."""


class StillUnreachable(Unreachable, DeadlineBeforeExecution):
    """Say that the deadline passed, and that no cell of that name was present when last tried."""


class StillBusy(Busy, DeadlineBeforeExecution):
    """Say that the deadline passed, and that there was no room for the message when last tried."""


class ContentLost(DeliveryError):
    """Say that a message came whose large payload could not be fetched from the cell that has it."""


class Indeterminate(DeliveryError):
    """Say that the far handler may have run: only its effects can tell."""


class DeadlineExceeded(Indeterminate, TimeoutError):
    """Say that the deadline passed while the message was on its way or being handled."""


class RemoteError(DeliveryError):
    """Say that the far cell answered with an error instead of a result.

    :param source: the FQCN of the cell that answered
    :param code: the name of the exception's type there, or a constant of the protocol such as ``no-handler``
    """

    def __init__(self, source: str, code: str, message: str) -> None:
        super().__init__(f"{source}: {code}: {message}")
        self.source = source
        self.code = code
        self.message = message


class ProtocolError(CellError):
    """Say that bytes, or a call, break the protocol."""


class LocalProtocolError(ProtocolError):
    """Say that the caller asked for something that the protocol cannot carry."""


class PayloadTooLarge(LocalProtocolError, ValueError):
    """Say that a payload is larger than a message may be."""


class RemoteProtocolError(ProtocolError):
    """Say that a peer sent what the protocol does not allow; its link is closed."""


class JournalError(CellError):
    """Say that the answer of a durable handler could not be saved, and that therefore nothing took effect."""


class JobError(CellError):
    """Say that a job could not be started, or ended without a result."""
