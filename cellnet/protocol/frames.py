"""The wire format of a frame: a fixed prefix, a MessagePack header, a body.

::

    0        4        6     7     8            12           16
    | length | header | kind| hop | label      | remaining  | header ... | body ...

``length`` counts what follows the prefix, ``header`` the header's share of it. ``hop`` is how many links the frame
may still cross, ``label`` names a bound route on this link, ``remaining`` is the deadline in milliseconds from now
(0: it has passed). All integers are unsigned and big-endian. Every limit is checked before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgpack

from cellnet.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cellnet.protocol.runs import Runs

__all__ = [
    "FRAME_BYTES",
    "INLINE_LIMIT",
    "MAX_BODY",
    "MAX_DATA",
    "MAX_HEADER",
    "MAX_LIST",
    "OFFSET",
    "PREFIX",
    "Buffer",
    "Frame",
    "FrameDecoder",
    "Kind",
    "TakeData",
    "pack",
    "prefix",
    "unpack",
]

PREFIX = struct.Struct(">IHBBII")
INLINE_LIMIT = 65536
"""The largest payload, in bytes, that travels inside a message."""
FRAME_BYTES = 65536
"""What a frame carries of a content, at most, where several share a link: others wait for so much at the longest."""
MAX_DATA = 1048576
"""What it carries at most where there is only one."""
OFFSET = struct.Struct(">Q")
"""The header of DATA: where in the content its body begins."""
MAX_HEADER = 65535
MAX_BODY = INLINE_LIMIT + 4096
"""A payload, and what a broadcast or a seal puts around it."""
MAX_LIST = 128
"""Elements of a list in a header. It takes its memory when its length is read: of lists in lists that announce more
than follows, 64 KiB would take half a gigabyte."""
MAX_REMAINING_MS = 0xFFFFFFFF


Buffer = bytes | memoryview
TakeData = Callable[[int, int, memoryview], None]
"""Takes a part of a content: the label, where in the content it begins, and what is there."""


class Kind(IntEnum):
    """What a frame is. Kinds below 32 concern one link; from 32 on they follow a route, and relays forward them."""

    HELLO = 1  # listener: [version, project, name, role, epoch, nonce, chain, driver, security]
    JOIN = 2  # connector: [... as HELLO, placement, delegation] + signature
    WELCOME = 3  # listener: [fqcn] + signature
    REFUSED = 4  # either: [code, message, temporary, the epoch of the last start that is known, or 0]
    PING = 5  # either: []
    PRESENCE = 6  # child: [] + [[1, fqcn, role, fqsn, epoch, driver, security] | [0, fqcn], ...]
    BIND = 7  # either: [origin, destination | nil]; label = what the sender will call this route
    LOST = 8  # back along a route: [name, whether what is lost is name and all below it, or all the rest]
    NACK = 9  # back along a route: [code, message, [[destination, session, counter], ...]]
    GOAWAY = 10  # either: [reason]
    PROBE = 11  # listener: []; another one wants the name of this child
    ALIVE = 12  # connector: []; the answer to PROBE

    # Contents. Their label is the one that the WANT gave, on this link and in its direction.
    WANT = 13  # [holder, content, from where on, what is acknowledged, up to where]
    DATA = 14  # header: 8 bytes, where in the content it begins; body: what is there
    END = 15  # [length]
    ABORT = 16  # [whether it is the holder's side that says so, code, reason]

    # The header of those below is [session, counter], their body as in cellnet/protocol/envelope.py.
    REQUEST = 32  # order + content
    REPLY = 33  # answer
    EVENT = 34  # order + content
    SETTLED = 35  # [[start, stop], ...]: sequence numbers that need no answer any more
    BROADCAST = 36  # header: [[destination, session, counter, order], ...]; body: content; both sealed
    OPEN = 37  # header: [0, attempt]; body: introduction + a REQUEST's body, or nothing
    OPENED = 38  # header: [attempt, milliseconds since the answerer was started]; body: introduction
    CLOSED = 39  # header: [session or 0, counter or attempt]; body: [reason]
    DRAINED = 40  # [[start, stop], ...]: sequence numbers that may have run; no other did, or will in this session


FIRST_ROUTED = Kind.REQUEST
_KINDS = {int(kind): kind for kind in Kind}
_DATA, _ROUTED = int(Kind.DATA), int(FIRST_ROUTED)
_PREFIX_BYTES = PREFIX.size
_read_prefix = PREFIX.unpack_from
_read_offset = OFFSET.unpack_from
_packer = msgpack.Packer()
"""One for all headers, as making it takes longer than packing. It keeps nothing between two calls."""


class Frame(NamedTuple):
    """One frame as it arrived."""

    kind: Kind
    hop: int
    label: int
    remaining_ms: int
    header: bytes
    body: bytes
    """Of DATA, it may be a view of the bytes that arrived."""


class FrameDecoder:
    """Cuts the bytes of one link into frames. Holds at most one incomplete frame.

    DATA is not held until it is complete: what came of its body is a frame of its own, and what follows another.
    """

    __slots__ = ("_data", "_tail", "_wanted")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._wanted = _PREFIX_BYTES
        self._data: tuple[int, int, int] | None = None
        """Of DATA whose body has not all come: its label, where the rest begins, how long that is."""

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._tail)

    def feed(
        self, data: bytes | memoryview, room: int = 0, runs: Runs | None = None, contents: TakeData | None = None
    ) -> Iterator[Frame]:
        """Take bytes and yield the frames that are complete with them. Must be exhausted before the next call.

        :param room: how many bytes at the front of *data* are not new, but room for :attr:`held_bytes`, which then
            need not be joined with the rest elsewhere
        :param runs: takes what only passes, if *data* can be written into; the rest is yielded
        :param contents: takes what came of DATA, as views of *data*; else it is yielded as well
        :raises RemoteProtocolError: at the first prefix that breaks a limit; the link is then unusable
        """
        view = memoryview(data)
        if tail := self._tail:
            if len(tail) + len(view) - room < self._wanted:
                tail += view[room:]  # and nothing is copied twice: a neighbour may send byte by byte
                return
            view = _joined(tail, view, room)
            self._tail = bytearray()
        try:
            yield from self._frames(view, runs, contents)
        finally:
            if runs is not None:
                runs.close()

    def _frames(self, view: memoryview, runs: Runs | None, contents: TakeData | None) -> Iterator[Frame]:
        start, end = 0, len(view)
        if self._data is not None:
            start = min(self._data[2], end)
            if contents is None:
                yield self._data_frame(view[:start])
            else:
                contents(*self._part(view[:start]))
        self._wanted = _PREFIX_BYTES
        while end - start >= _PREFIX_BYTES:
            length, header, kind, hop, label, remaining = _read_prefix(view, start)
            # Most frames are as they must be, and to see that here takes a third of the call that says what is wrong.
            if header > length or length - header > MAX_BODY or kind not in _KINDS or kind == _DATA:
                _check_prefix(length, header, kind)
            first = start + _PREFIX_BYTES
            stop = first + length
            if kind == _DATA and first + header <= end:
                body = first + header
                self._data = label, _read_offset(view, first)[0], stop - body
                start = body
                if body < end or body == stop:
                    start = min(stop, end)
                    if contents is None:
                        yield self._data_frame(view[body:start])
                    else:
                        contents(*self._part(view[body:start]))
            elif stop > end:
                self._wanted = _PREFIX_BYTES + (header if kind == _DATA else length)
                break
            else:
                if runs is not None:
                    if kind >= _ROUTED and runs.take(view, start, stop, kind, hop, label, remaining):
                        start = stop
                        continue
                    runs.close()
                body = first + header
                yield Frame(_KINDS[kind], hop, label, remaining, bytes(view[first:body]), bytes(view[body:stop]))
                start = stop
        self._tail += view[start:]

    def _part(self, part: memoryview) -> tuple[int, int, memoryview]:
        """Return what came of DATA, its label and where it begins, and note what is still to come."""
        assert self._data is not None  # noqa: S101  # set by both who call this
        label, offset, length = self._data
        size = len(part)
        self._data = (label, offset + size, length - size) if size < length else None
        return label, offset, part

    def _data_frame(self, part: memoryview) -> Frame:
        label, offset, body = self._part(part)
        return Frame(Kind.DATA, 0, label, 0, OFFSET.pack(offset), cast("bytes", body))


def _check_prefix(length: int, header: int, kind: int) -> None:
    if header > length or length - header > (MAX_DATA if kind == Kind.DATA else MAX_BODY):
        raise RemoteProtocolError(f"a frame of {length} bytes with a header of {header} is not allowed")
    if kind not in _KINDS:
        raise RemoteProtocolError(f"frames of kind {kind} do not exist")
    if kind == Kind.DATA and header != OFFSET.size:
        raise RemoteProtocolError("DATA does not say where it begins")


def _joined(tail: bytearray, view: memoryview, room: int) -> memoryview:
    """Return the bytes that are held and those that came as one piece."""
    if room != len(tail):
        return memoryview(tail + view[room:])
    view[:room] = tail
    return view


def prefix(kind: int, hop: int, label: int, remaining_ms: int, header: bytes, body: Buffer) -> bytes:
    """Return the 16 bytes that go before *header* and *body*."""
    return PREFIX.pack(len(header) + len(body), len(header), kind, hop, label, remaining_ms)


def pack(*fields: Any) -> bytes:
    """Return a header's bytes."""
    packed: bytes = _packer.pack(fields)
    return packed


def unpack(data: bytes, *types: type | tuple[type, ...]) -> list[Any]:
    """Read a header with exactly these types of fields; a bool is no int, and integers are not negative.

    :raises RemoteProtocolError: if it is anything else
    """
    try:
        fields = msgpack.unpackb(data, ext_hook=_refuse_extension, strict_map_key=True, max_array_len=MAX_LIST)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"a header is no MessagePack: {type(error).__name__}") from None
    if not isinstance(fields, list) or len(fields) != len(types):
        raise RemoteProtocolError("a header has the wrong number of fields")
    for index, wanted in enumerate(types):
        value = fields[index]
        kind = type(value)
        if kind is not wanted and not (type(wanted) is tuple and kind in wanted):
            raise RemoteProtocolError("a header has a field of the wrong type")
        if kind is int and value < 0:
            raise RemoteProtocolError("a header has a negative number")
    return fields


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code}")
