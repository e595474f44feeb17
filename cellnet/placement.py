"""What somebody decided about a cell and signed: the project about its place, a site about its job cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgpack

from cellnet.errors import HandshakeError
from cellnet.signing import sign, unpack_signed, verify

if TYPE_CHECKING:
    import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["MAX_PARENTS", "Delegation", "Placement"]

MAX_PARENTS = 4
"""Below how many parents a cell may have a place: the first is its own, the others are while that stays away."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A cell's signed place in both hierarchies, as the project's authority decided it."""

    project: str
    role: str
    name: str
    parents: tuple[str, ...]
    """Base names of the cells below which it may join; empty: below any, as behind an ingress."""
    fqsn: str
    """The site's place in the client hierarchy; empty for a relay."""
    signed: bytes = field(default=b"", repr=False, compare=False)
    """The signed form, as :meth:`issue` made it."""

    _CONTEXT = b"cellnet placement 1"

    def issue(self, authority: ec.EllipticCurvePrivateKey) -> Placement:
        """Return this placement with the authority's signature in :attr:`signed`."""
        body = msgpack.packb([self.project, self.role, self.name, list(self.parents), self.fqsn])
        return Placement(
            self.project,
            self.role,
            self.name,
            self.parents,
            self.fqsn,
            msgpack.packb([body, sign(authority, self._CONTEXT, body)]),
        )

    @classmethod
    def verify(cls, signed: bytes, authority: ec.EllipticCurvePublicKey) -> Placement:
        """Read a signed placement.

        :raises HandshakeError: if it is malformed, or was not signed by *authority*
        """
        body, signature = unpack_signed(signed, bytes, bytes, what="placement")
        verify(authority, signature, cls._CONTEXT, body, what="placement")
        project, role, name, parents, fqsn = unpack_signed(body, str, str, str, list, str, what="placement")
        if not all(isinstance(parent, str) for parent in parents):
            raise HandshakeError("the placement is malformed", "bad-placement")
        return cls(project, role, name, tuple(parents), fqsn, signed)


@dataclass(frozen=True, slots=True)
class Delegation:
    """A site's signed word that the holder of a key is one of its job cells, and until when."""

    site: str
    job: str
    role: str
    """``job``, or ``operator`` for a command that the site's operator runs beside the node."""
    public_key: bytes
    not_after: int
    """Seconds since 1970."""
    signed: bytes = field(default=b"", repr=False, compare=False)

    _CONTEXT = b"cellnet delegation 1"

    def issue(self, site_key: ec.EllipticCurvePrivateKey) -> Delegation:
        """Return this delegation with the site's signature in :attr:`signed`."""
        body = msgpack.packb([self.site, self.job, self.role, self.public_key, self.not_after])
        signed = msgpack.packb([body, sign(site_key, self._CONTEXT, body)])
        return Delegation(self.site, self.job, self.role, self.public_key, self.not_after, signed)

    @classmethod
    def verify(cls, signed: bytes, site_key: ec.EllipticCurvePublicKey, now: datetime.datetime) -> Delegation:
        """Read a signed delegation.

        :raises HandshakeError: if it is malformed, expired, or was not signed by the site
        """
        body, signature = unpack_signed(signed, bytes, bytes, what="delegation")
        verify(site_key, signature, cls._CONTEXT, body, what="delegation")
        site, job, role, public_key, not_after = unpack_signed(body, str, str, str, bytes, int, what="delegation")
        delegation = cls(site, job, role, public_key, not_after, signed)
        if delegation.role not in ("job", "operator"):
            raise HandshakeError("the delegation is malformed", "bad-delegation")
        if now.timestamp() > delegation.not_after:
            raise HandshakeError(f"the credential of job {delegation.job} has expired", "expired")
        return delegation
