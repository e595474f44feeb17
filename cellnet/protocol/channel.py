"""One end of a session: its number, its seal, and the counters of what goes out and comes in.

Both ends have one. A frame's header is ``[session, counter]``; every transmission takes a new counter, a repetition
too. Between cells with credentials the body is sealed, and what does not open is dropped: anybody on the way can make
such a thing. Between cells without, it travels as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.protocol.envelope import Entry
from cellnet.protocol.frames import Kind, pack, unpack
from cellnet.protocol.sealing import Window, open_content

if TYPE_CHECKING:
    from cellnet.fqcn import FQCN
    from cellnet.protocol.sealing import Seal

__all__ = ["Channel"]


class Channel:
    """What is said in one session, outward and inward.

    :param number: given by the answerer; not 0
    :param seal: None between cells without credentials
    """

    __slots__ = ("_seal", "_window", "number", "sent")

    def __init__(self, number: int, seal: Seal | None) -> None:
        self.number = number
        self.sent = 0
        """The counter of the last frame that went out."""
        self._seal = seal
        self._window = Window()

    @property
    def is_sealed(self) -> bool:
        """Whether nobody in between can read, change or make what is said."""
        return self._seal is not None

    def wrap(self, kind: Kind, body: bytes) -> tuple[bytes, bytes]:
        """Return header and body of one more frame."""
        self.sent += 1
        if self._seal is not None:
            body = self._seal.seal(kind, self.number, self.sent, body)
        return pack(self.number, self.sent), body

    def wrap_entry(self, destination: FQCN, order: bytes, key: bytes, digest: bytes) -> Entry:
        """Return one destination of a broadcast.

        :param key: of the broadcast's sealed content, and ``digest`` the content's; empty where nothing is sealed
        """
        self.sent += 1
        if self._seal is not None:
            order = self._seal.seal(Kind.BROADCAST, self.number, self.sent, pack(order, key, digest))
        return Entry(destination, self.number, self.sent, order)

    def unwrap(self, kind: Kind, counter: int, body: bytes) -> bytes | None:
        """Return what the other end said; None if it came before.

        :raises BrokenSeal: if the other end never said that
        """
        if self._seal is not None:
            body = self._seal.open(kind, self.number, counter, body)
        return body if self._window.accept(counter) else None

    def unwrap_entry(self, counter: int, sealed: bytes, content: bytes) -> tuple[bytes, bytes] | None:
        """Return this cell's order and the content of a broadcast; None if it came before.

        :raises BrokenSeal: if the other end never said that
        :raises RemoteProtocolError: if it said it wrongly
        """
        opened = self.unwrap(Kind.BROADCAST, counter, sealed)
        if opened is None or self._seal is None:
            return None if opened is None else (opened, content)
        order, key, digest = unpack(opened, bytes, bytes, bytes)
        return order, open_content(content, key, digest)
