"""The roster: everybody in a project but the server, as its authority signed it. Only the server has one.

It is a document of its own, not part of the kit's manifest, so that a participant who joins later changes this one
file of the server's kit and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cellnet.document import open_document, sign_document
from cellnet.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Member", "Roster"]

Role = Literal["server", "relay", "client", "admin"]

_CONTEXT = b"cellnet roster 1"


class Member(BaseModel):
    """Describe a participant to the server."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    role: Role
    fqcn: str
    """As provisioned; a cell's real one follows from its link. Empty for an admin, who is no cell."""
    fqsn: str
    """Empty unless the member is a client."""
    parent: str
    """The base name of the node that it connects to; empty behind an ingress."""


class Roster(BaseModel):
    """Hold all members of the project but the server."""

    # JSON has no tuples: strict for the members, lax for the list around them
    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    version: int
    """Grows with every change: an older one is never taken for a newer."""
    members: tuple[Member, ...]

    def issue(self, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
        """Return this roster with the issuer's signature."""
        return sign_document(_CONTEXT, self.model_dump_json().encode(), issuer, key)

    @classmethod
    def verify(cls, signed: bytes, roots: Iterable[x509.Certificate]) -> Roster:
        """Read a signed roster.

        :raises HandshakeError: if it is malformed, or was not signed by the project's issuer
        """
        body = open_document(_CONTEXT, signed, roots, what="roster")
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise HandshakeError(f"the roster is malformed: {error.errors()[0]['msg']}", "bad-roster") from None
