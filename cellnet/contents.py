"""Payloads that are too large for a message: the message names a content, and whoever gets it fetches that."""

from __future__ import annotations

import io
import math
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import anyio.lowlevel

from cellnet.errors import CellError, ContentLost, PayloadTooLarge, RemoteProtocolError
from cellnet.payload import Encoding, Packed, encode
from cellnet.protocol.chunks import DIGEST_BYTES, MAX_OBJECT_BYTES, Listing, Verifier
from cellnet.protocol.fetch import Altered
from cellnet.protocol.frames import INLINE_LIMIT, pack, unpack
from cellnet.protocol.offer import HOLD_SECONDS, Held
from cellnet.protocol.plane import CONTENT_BYTES
from cellnet.protocol.records import Opener, SealedSource
from cellnet.protocol.sealing import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from cellnet.fqcn import FQCN
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.offer import Offer

__all__ = ["Contents", "Reference", "Whole"]


class Reference(NamedTuple):
    """What a message says of a payload that is elsewhere, at the cell that sent it."""

    encoding: int
    size: int
    content: bytes
    key: bytes
    """What its records are sealed with; empty if it travels as it is."""

    @classmethod
    def unpack(cls, data: bytes) -> Reference:
        """Read one.

        :raises RemoteProtocolError: if it is malformed
        """
        reference = cls(*unpack(data, int, int, bytes, bytes))
        if len(reference.content) not in (CONTENT_BYTES, DIGEST_BYTES) or len(reference.key) not in (0, KEY_BYTES):
            raise RemoteProtocolError("a message names a payload that cannot be")
        return reference


class Contents:
    """The large payloads of one cell, both ways."""

    def __init__(self, endpoint: Endpoint, changed: Callable[[], None], *, max_bytes: int) -> None:
        """Begin with none.

        :param changed: called when the endpoint may have something to send
        :param max_bytes: the largest payload that is fetched
        """
        self.owed = 0
        """Answers and events whose payload has not all been fetched."""
        self._endpoint = endpoint
        self._changed = changed
        self._max_bytes = max_bytes

    @contextmanager
    def held(self, payload: object) -> Iterator[tuple[int, bytes]]:
        """Return what a message says of a payload, which any number of cells may fetch until the block ends.

        :raises LocalProtocolError: if it is something that cannot be sent
        :raises Busy: if too many large ones are under way
        """
        packed = encode(payload)
        encoding, data, offer = self._hold(packed, math.inf, is_for_one=False)
        try:
            yield encoding, data
        finally:
            if offer is not None:
                offer.withdraw("gone", "it is wanted no more")

    @asynccontextmanager
    async def share(self, payload: object) -> AsyncIterator[Packed]:
        """Return a payload that may be sent many times, until the block ends."""
        async with self.shared(encode(payload)) as (encoding, data):
            yield Packed(encoding, (data,))

    @asynccontextmanager
    async def shared(self, packed: Packed) -> AsyncIterator[tuple[int, bytes]]:
        """Return what a message says of a payload that many cells may fetch until the block ends.

        A large one is an object: it leaves this cell once for each child, and relays give it to all who want it.

        :raises Busy: if too many large ones are under way
        """
        source, key = self._source(packed)
        if packed.size <= INLINE_LIMIT or source.length > MAX_OBJECT_BYTES:
            with self.held(packed) as said:
                yield said
            return
        listing = Listing(source, source.length)
        while not listing.is_whole:
            listing.go_on()
            await anyio.lowlevel.checkpoint()
        offer = self._endpoint.plane.offer_object(listing.finish())
        try:
            yield Encoding.REFERENCE, pack(packed.encoding, packed.size, offer.content, key)
        finally:
            offer.release()
            self._changed()

    @contextmanager
    def handed_over(self, packed: Packed) -> Iterator[tuple[int, bytes]]:
        """Return what a message says of a payload that is for one cell, to be sent in the block.

        It is held until that cell has it, or nobody wants it any more, or the block raises.

        :raises Busy: if too many large ones are under way
        """
        encoding, data, offer = self._hold(packed, HOLD_SECONDS, is_for_one=True)
        try:
            yield encoding, data
        except BaseException:
            if offer is not None:
                offer.withdraw("gone", "it was not sent")
            raise

    async def bring(self, holder: FQCN, encoding: int, data: bytes) -> tuple[int, bytes]:
        """Return a payload's encoding and bytes, once they are here.

        :raises ContentLost: if they cannot be had
        :raises PayloadTooLarge: if there are more than this cell takes
        :raises RemoteProtocolError: if what is said of them is malformed
        """
        if encoding != Encoding.REFERENCE:
            return encoding, data
        arrived = anyio.Event()
        result: list[tuple[int, bytes] | CellError] = []

        def done(outcome: tuple[int, bytes] | CellError) -> None:
            result.append(outcome)
            arrived.set()

        fetch = self.fetch(holder, data, done)
        try:
            await arrived.wait()
        finally:
            fetch.cancel()
            self._changed()
        if isinstance(result[0], CellError):
            raise result[0]
        return result[0]

    def fetch(self, holder: FQCN, data: bytes, done: Callable[[tuple[int, bytes] | CellError], None]) -> Fetch:
        """Begin to fetch what a message named; *done* is told once how that ended, unless it is cancelled.

        :raises RemoteProtocolError: if what is said is malformed
        :raises PayloadTooLarge: if it is larger than this cell takes
        :raises Busy: if too many are awaited
        """
        reference = Reference.unpack(data)
        if reference.size > self._max_bytes:
            size, limit = reference.size, self._max_bytes
            raise PayloadTooLarge(f"a payload of {size} bytes is too large here: {limit} are allowed")
        sink = Whole(holder, reference, done)
        fetch = self._endpoint.plane.fetch(holder, reference.content, sink, anyio.current_time())
        self._changed()
        return fetch

    def _source(self, packed: Packed) -> tuple[Held | SealedSource, bytes]:
        held = Held(packed.buffers)
        if not self._endpoint.is_sealing:
            return held, b""
        key = os.urandom(KEY_BYTES)
        return SealedSource(held, key), key

    def _hold(self, packed: Packed, seconds: float, *, is_for_one: bool) -> tuple[int, bytes, Offer | None]:
        if packed.size <= INLINE_LIMIT:
            return packed.encoding, packed.joined(), None
        source, key = self._source(packed)
        self.owed += is_for_one

        def withdrawn(_code: str) -> None:
            self.owed -= is_for_one
            self._changed()

        now = anyio.current_time()
        offer = self._endpoint.plane.offer(source, now=now, seconds=seconds, is_for_one=is_for_one, withdrawn=withdrawn)
        return Encoding.REFERENCE, pack(packed.encoding, packed.size, offer.content, key), offer


class Whole:
    """A payload that comes as a content, until all of it is there."""

    is_patient = False

    def __init__(
        self, holder: FQCN, reference: Reference, done: Callable[[tuple[int, bytes] | CellError], None]
    ) -> None:
        self._holder = holder
        self._reference = reference
        self._done = done
        # Grows as bytes come, whatever was announced; its value is then had without a copy.
        self._bytes = io.BytesIO()
        self._opener = Opener(reference.key, self._take) if reference.key else None
        is_object = len(reference.content) == DIGEST_BYTES
        self._verifier = Verifier(reference.content, None, 0, self._piece) if is_object else None

    @property
    def position(self) -> int:
        """Return how many bytes of it, as they travel, are here for good."""
        if self._verifier is not None:
            return self._verifier.position
        return self._bytes.tell() if self._opener is None else self._opener.position

    @property
    def upto(self) -> int:
        """Return to where there is room: for all of it."""
        return 1 << 62

    def write(self, data: Buffer) -> None:
        """Take the next bytes.

        :raises Altered: if they are not what was sealed, or more than was announced
        """
        if self._verifier is not None:
            self._verifier.write(data)
        else:
            self._open(data)

    def rewind(self) -> None:
        """Forget a chunk or a record that has not all come."""
        if self._verifier is not None:
            self._verifier.rewind()
        elif self._opener is not None:
            self._opener.rewind()

    def end(self) -> None:
        """Take the news that this was all.

        :raises Altered: if it was not
        """
        if self._bytes.tell() != self._reference.size or (self._opener is not None and not self._opener.is_whole):
            raise Altered("a payload ended before all of it came")
        self._done((self._reference.encoding, self._bytes.getvalue()))

    def fail(self, code: str, reason: str) -> None:
        """Take the news that it cannot be had."""
        self._done(ContentLost(f"a payload of {self._holder} could not be fetched ({code}): {reason}"))

    def _piece(self, index: int, piece: Buffer) -> None:
        if index:
            self._open(piece)

    def _open(self, data: Buffer) -> None:
        if self._opener is None:
            self._take(data)
        else:
            self._opener.write(data)

    def _take(self, data: Buffer) -> None:
        if self._bytes.tell() + len(data) > self._reference.size:
            raise Altered("more came of a payload than was announced")
        self._bytes.write(data)
