"""A payload that comes as a content, until all of it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from cellnet.errors import ContentLost
from cellnet.protocol.chunks import DIGEST_BYTES, Verifier
from cellnet.protocol.fetch import Altered
from cellnet.protocol.records import Opener

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.contents import Reference
    from cellnet.errors import CellError
    from cellnet.fqcn import FQCN
    from cellnet.protocol.fetch import Fetch
    from cellnet.protocol.frames import Buffer

__all__ = ["Arrival", "Progress", "Target"]

STEPS = 100
"""How often progress is told, at most, and once at the end."""


class Progress(NamedTuple):
    """How much of a large payload has come."""

    number: int
    """Of the payload, in this cell: several may come at a time."""
    source: FQCN
    """The cell that it comes from."""
    received: int
    """Bytes of it."""
    size: int
    """Bytes of the whole."""


class Target(Protocol):
    """Where the bytes go."""

    size: int
    """How many were written."""

    def write(self, data: Buffer) -> None:
        """Take the next ones, copied.

        :raises OSError: if they cannot be kept
        """
        ...

    def finish(self) -> bytes:
        """Return what stands for all of them; of arrays, what can be used like ``bytes``."""
        ...

    def discard(self) -> None:
        """Forget them, unless all is finished."""
        ...


class Arrival:
    """One payload on its way to one target; the sink of its content."""

    is_patient = False

    def __init__(
        self,
        holder: FQCN,
        reference: Reference,
        target: Target,
        done: Callable[[tuple[int, bytes] | CellError], None],
        progressed: Callable[[int], None] | None = None,
    ) -> None:
        """Begin with nothing.

        :param done: told once how it ended, unless it is cancelled
        :param progressed: told now and then how much has come
        """
        self.fetch: Fetch | None = None
        """What brings it; to be set at once."""
        self._holder = holder
        self._reference = reference
        self._target = target
        self._done = done
        self._progressed = progressed
        self._next_step = 0
        self._is_over = False
        self._opener = Opener(reference.key, self._take) if reference.key else None
        is_object = len(reference.content) == DIGEST_BYTES
        self._verifier = Verifier(reference.content, None, 0, self._piece) if is_object else None

    def cancel(self) -> None:
        """Want it no more. Safe to repeat, and once it is over."""
        if self.fetch is not None:
            self.fetch.cancel()
        self._target.discard()
        self._leave()

    # As the sink of a content.

    @property
    def position(self) -> int:
        """Return how many bytes of it, as they travel, are here for good."""
        if self._verifier is not None:
            return self._verifier.position
        return self._target.size if self._opener is None else self._opener.position

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
        is_whole = self._opener is None or self._opener.is_whole
        if self._target.size != self._reference.size or not is_whole:
            raise Altered("a payload ended before all of it came")
        done, data = self._done, self._target.finish()
        self._leave()
        done((self._reference.encoding, data))

    def fail(self, code: str, reason: str) -> None:
        """Take the news that it cannot be had."""
        self._give_up(f"could not be fetched ({code}): {reason}")

    def _give_up(self, why: str) -> None:
        done = self._done
        self.cancel()
        done(ContentLost(f"a payload of {self._holder} {why}"))

    def _leave(self) -> None:
        """Let go of all that refers to this in turn: its memory would wait for the garbage collector."""
        self._is_over = True
        self.fetch = self._verifier = self._opener = None
        self._done = _untold

    def _piece(self, index: int, piece: Buffer) -> None:
        if index:
            self._open(piece)

    def _open(self, data: Buffer) -> None:
        if self._opener is None:
            self._take(data)
        else:
            self._opener.write(data)

    def _take(self, data: Buffer) -> None:
        if self._is_over:  # since a moment ago, when the disk was full
            return
        if self._target.size + len(data) > self._reference.size:
            raise Altered("more came of a payload than was announced")
        try:
            self._target.write(data)
        except OSError as error:
            self._give_up(f"could not be kept: {error.strerror}")
            return
        if self._progressed is not None and self._target.size >= self._next_step:
            self._progressed(self._target.size)
            size = self._reference.size
            self._next_step = min(size, self._target.size + max(1, size // STEPS))


def _untold(_outcome: tuple[int, bytes] | CellError) -> None:
    """Take the news of what is over."""
