"""Named cells that reach each other over a hierarchy of relays."""

from cellnet.arrival import Progress
from cellnet.calls import Replies
from cellnet.cell import Cell
from cellnet.credentials import Credentials
from cellnet.drivers.base import Ingress
from cellnet.errors import (
    Busy,
    CellError,
    ConfigurationError,
    ConnectDeadline,
    ConnectError,
    ContentLost,
    DeadlineBeforeExecution,
    DeadlineExceeded,
    DeliveryError,
    HandshakeError,
    Indeterminate,
    InvalidName,
    JobError,
    JournalError,
    LocalProtocolError,
    NotExecuted,
    PayloadTooLarge,
    ProtocolError,
    RefusedByPeer,
    RemoteError,
    RemoteProtocolError,
    StillBusy,
    StillUnreachable,
    Unreachable,
)
from cellnet.files import Folder
from cellnet.fqcn import FQCN, FQSN, Pattern
from cellnet.journal import Transaction
from cellnet.message import Durable, DurableRequest, Handler, Reply, Request, durable
from cellnet.protocol.routing import Member
from cellnet.statistics import CellStatistics, LinkStatistics
from cellnet.stream import Stream
from cellnet.streams import StreamHandler
from cellnet.uplink import Parent

__all__ = [
    "FQCN",
    "FQSN",
    "Busy",
    "Cell",
    "CellError",
    "CellStatistics",
    "ConfigurationError",
    "ConnectDeadline",
    "ConnectError",
    "ContentLost",
    "Credentials",
    "DeadlineBeforeExecution",
    "DeadlineExceeded",
    "DeliveryError",
    "Durable",
    "DurableRequest",
    "Folder",
    "Handler",
    "HandshakeError",
    "Indeterminate",
    "Ingress",
    "InvalidName",
    "JobError",
    "JournalError",
    "LinkStatistics",
    "LocalProtocolError",
    "Member",
    "NotExecuted",
    "Parent",
    "Pattern",
    "PayloadTooLarge",
    "Progress",
    "ProtocolError",
    "RefusedByPeer",
    "RemoteError",
    "RemoteProtocolError",
    "Replies",
    "Reply",
    "Request",
    "StillBusy",
    "StillUnreachable",
    "Stream",
    "StreamHandler",
    "Transaction",
    "Unreachable",
    "durable",
]
