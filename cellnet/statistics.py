"""A cell's figures, and those of its links, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellnet.protocol.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.fqcn import FQCN
    from cellnet.ledger import Ledger
    from cellnet.protocol.connection import Connection
    from cellnet.protocol.endpoint import Endpoint

__all__ = ["CellStatistics", "LinkStatistics"]


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What went over one link since it was made."""

    neighbour: FQCN
    driver: str
    security: str
    bytes_sent: int
    bytes_received: int
    frames_sent: dict[str, int]
    """By the kind's name, in lower case; kinds that never occurred are left out."""
    frames_received: dict[str, int]
    dropped: int
    """Frames that came too late, or for which there was no room."""

    @classmethod
    def of(cls, connection: Connection) -> LinkStatistics:
        """Read the figures of a link whose handshake is done."""
        assert connection.neighbour is not None  # noqa: S101  # the caller chose such links
        transport, counted = connection.handshake.transport, connection.statistics
        return cls(
            connection.neighbour.fqcn,
            transport.driver,
            transport.security,
            counted.bytes_sent,
            counted.bytes_received,
            _by_name(counted.frames_sent),
            _by_name(counted.frames_received),
            counted.dropped,
        )


@dataclass(frozen=True, slots=True)
class CellStatistics:
    """A cell's figures at one moment."""

    links: tuple[LinkStatistics, ...]
    members: int
    """Cells present below."""
    pending: int
    """Answers that are awaited."""
    handling: int
    """Handlers that run."""
    refused: int
    """Frames that could be neither delivered nor forwarded."""
    turned_away: int
    """Arrivals for which there was no room, and those that gave way to others."""
    moves: int
    """How often another parent was dialled than before."""
    contents_held: int
    """Large payloads and streams that others may fetch from this cell."""
    contents_wanted: int
    """Those that it fetches itself."""
    contents_passing: int
    """Those that pass through it."""
    passing_bytes: int
    """What may be here of the latter, at the most."""
    kept_bytes: int
    """What is kept of shared payloads that passed, for others who want them."""
    contents_refused: int
    """Frames of contents that were not wanted, came twice, or were altered."""
    journaled: int
    """Answers of durable handlers that the journal keeps."""
    journaled_bytes: int
    replayed: int
    """Requests that were answered from the journal, without running again."""

    @classmethod
    def of(
        cls, endpoint: Endpoint, ledger: Ledger | None, *, handling: int, turned_away: int, moves: int
    ) -> CellStatistics:
        """Read the figures of a cell."""
        return cls(
            tuple(LinkStatistics.of(link) for link in endpoint.connections if link.neighbour is not None),
            len(endpoint.router),
            endpoint.exchange.pending,
            handling,
            endpoint.switch.refused + endpoint.exchange.refused,
            turned_away,
            moves,
            len(endpoint.plane.offers),
            len(endpoint.plane.fetches),
            len(endpoint.plane.transit.passages) + len(endpoint.plane.transit.objects),
            endpoint.plane.transit.promised,
            endpoint.plane.transit.shelf.size,
            endpoint.plane.refused,
            *((0, 0, 0) if ledger is None else (ledger.answers, ledger.answer_bytes, ledger.replayed)),
        )


def _by_name(counts: Sequence[int]) -> dict[str, int]:
    return {kind.name.lower(): counts[kind] for kind in Kind if counts[kind]}
