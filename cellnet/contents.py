"""Payloads that are too large for a message: the message names a content, and whoever gets it fetches that."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Self

import anyio.lowlevel

from cellnet.arrival import Arrival, Progress
from cellnet.departure import Departure
from cellnet.errors import Busy, CellError, ConfigurationError, PayloadTooLarge, RemoteProtocolError
from cellnet.memory import memory_for
from cellnet.payload import Encoding, Packed, encode
from cellnet.protocol.chunks import DIGEST_BYTES, MAX_OBJECT_BYTES, Listing
from cellnet.protocol.frames import INLINE_LIMIT, unpack
from cellnet.protocol.offer import HOLD_SECONDS
from cellnet.protocol.plane import CONTENT_BYTES
from cellnet.protocol.sealing import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from cellnet.arrival import Target
    from cellnet.files import Folder
    from cellnet.fqcn import FQCN
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.offer import Offer

__all__ = ["Contents", "Reference"]

MAX_SHARED_BYTES = MAX_OBJECT_BYTES - MAX_OBJECT_BYTES // 1024
"""The largest payload that is an object: sealed, it is longer by less than a thousandth."""


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

    def __init__(
        self,
        endpoint: Endpoint,
        changed: Callable[[], None],
        *,
        max_bytes: int,
        folder: Folder | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        """Begin with none.

        :param changed: called when the endpoint may have something to send
        :param max_bytes: the largest payload that is fetched into memory
        :param folder: where files go
        :param progress: told how much of each payload has come
        """
        self.owed = 0
        """Answers and events whose payload has not all been fetched."""
        self._endpoint = endpoint
        self._changed = changed
        self._max_bytes = max_bytes
        self._folder = folder
        self._progress = progress
        self._numbers = count(1)
        self._files = ExitStack()

    def __enter__(self) -> Self:
        if self._folder is not None:
            self._files.enter_context(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for offer in list(self._endpoint.plane.offers.values()):
            offer.withdraw("gone", "its cell ended")
        self._files.close()

    @staticmethod
    def is_inline(packed: Packed) -> bool:
        """Whether a payload travels in the message itself."""
        return packed.size <= INLINE_LIMIT and packed.encoding != Encoding.FILE

    @contextmanager
    def held(self, packed: Packed) -> Iterator[tuple[Encoding, bytes]]:
        """Return what a message says of a payload, which any number of cells may fetch until the block ends.

        :raises Busy: if too many large ones are under way
        """
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
    async def shared(self, packed: Packed) -> AsyncIterator[tuple[Encoding, bytes]]:
        """Return what a message says of a payload that many cells may fetch until the block ends.

        A large one is an object: it leaves this cell once for each child, and relays give it to all who want it.

        :raises Busy: if too many large ones are under way
        """
        if not INLINE_LIMIT < packed.size <= MAX_SHARED_BYTES:
            with self.held(packed) as said:
                yield said
            return
        departure = self._departure(packed)
        try:
            listing = Listing(departure.source, departure.source.length)
            while not listing.is_whole:
                listing.go_on()
                await anyio.lowlevel.checkpoint()
            departure.offer = self._endpoint.plane.offer_object(listing.finish())
            yield Encoding.REFERENCE, departure.reference()
        finally:
            if departure.offer is not None:
                departure.offer.release()
            departure.close()
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
        """Return a payload's encoding and bytes, once they are here; of a file, its path.

        :raises ContentLost: if they cannot be had
        :raises PayloadTooLarge: if there are more than this cell takes
        :raises ConfigurationError: if it is a file, and this cell has no folder for files
        :raises RemoteProtocolError: if what is said of them is malformed
        """
        if encoding != Encoding.REFERENCE:
            return encoding, data
        arrived = anyio.Event()
        result: list[tuple[int, bytes] | CellError] = []

        def done(outcome: tuple[int, bytes] | CellError) -> None:
            result.append(outcome)
            arrived.set()

        arrival = self.fetch(holder, data, done)
        try:
            await arrived.wait()
        finally:
            arrival.cancel()
            self._changed()
        if isinstance(result[0], CellError):
            raise result[0]
        return result[0]

    def fetch(self, holder: FQCN, data: bytes, done: Callable[[tuple[int, bytes] | CellError], None]) -> Arrival:
        """Begin to fetch what a message named; *done* is told once how that ended, unless it is cancelled.

        :raises RemoteProtocolError: if what is said is malformed
        :raises PayloadTooLarge: if it is larger than this cell takes
        :raises ConfigurationError: if it is a file, and this cell has no folder for files
        :raises Busy: if too many are awaited
        """
        reference = Reference.unpack(data)
        arrival = Arrival(holder, reference, self._target(reference), done, self._progressed(holder, reference.size))
        try:
            arrival.fetch = self._endpoint.plane.fetch(holder, reference.content, arrival, anyio.current_time())
        except Busy:
            arrival.cancel()
            raise
        self._changed()
        return arrival

    def _target(self, reference: Reference) -> Target:
        if reference.encoding == Encoding.FILE:
            if self._folder is None:
                raise ConfigurationError("this cell takes no files: it was made without a folder for them")
            return self._folder.target(reference.size)
        if reference.size > self._max_bytes:
            size, limit = reference.size, self._max_bytes
            raise PayloadTooLarge(f"a payload of {size} bytes is too large here: {limit} are allowed")
        return memory_for(reference.size, is_arrays=reference.encoding == Encoding.ARRAYS)

    def _progressed(self, holder: FQCN, size: int) -> Callable[[int], None] | None:
        if self._progress is None:
            return None
        progress, number = self._progress, next(self._numbers)
        return lambda received: progress(Progress(number, holder, received, size))

    def _departure(self, packed: Packed) -> Departure:
        return Departure(packed, os.urandom(KEY_BYTES) if self._endpoint.credentials is not None else b"")

    def _hold(self, packed: Packed, seconds: float, *, is_for_one: bool) -> tuple[Encoding, bytes, Offer | None]:
        if self.is_inline(packed):
            return packed.encoding, packed.joined(), None
        departure = self._departure(packed)

        def withdrawn(_code: str) -> None:
            departure.close()
            self.owed -= is_for_one
            self._changed()

        now, plane = anyio.current_time(), self._endpoint.plane
        try:
            departure.offer = plane.offer(
                departure.source, now=now, seconds=seconds, is_for_one=is_for_one, withdrawn=withdrawn
            )
        except Busy:
            departure.close()
            raise
        self.owed += is_for_one
        return Encoding.REFERENCE, departure.reference(), departure.offer
