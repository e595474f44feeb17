"""What one side of an introduction says, as the other reads and believes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellnet.credentials import CONNECT, LISTEN
from cellnet.errors import HandshakeError, RemoteProtocolError
from cellnet.placement import Delegation
from cellnet.protocol.envelope import read_name
from cellnet.protocol.frames import unpack
from cellnet.protocol.sealing import KEY_BYTES
from cellnet.signing import load_public_key, verify

if TYPE_CHECKING:
    import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

    from cellnet.credentials import Credentials, Identity
    from cellnet.fqcn import FQCN

__all__ = ["ANSWER", "MAX_INTRODUCTION", "NONCE_BYTES", "VERSION", "Claim", "Party", "names", "read_claim"]

VERSION = 1
NONCE_BYTES = 32
MAX_INTRODUCTION = 16384
"""Bytes of the body of OPEN or OPENED."""
MAX_CHAIN = 4
"""Certificates, the leaf included."""
MAX_TEXT = 255
"""Characters of a text, and so of a name."""
MAX_DELEGATION = 1024
MAX_SIGNATURE = 80
ANSWER = (int, bytes)
"""What OPENED's statement has more than OPEN's."""

_STATEMENT = (int, str, str, str, int, bytes, bytes, list, bytes)


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a session, as it knows itself."""

    fqcn: FQCN
    epoch: int
    credentials: Credentials | None = None
    """The pair that it connects with, if it has two."""
    former: tuple[FQCN, ...] = ()
    """What it was called before it moved."""

    @property
    def project(self) -> str:
        """The project of the certificate; empty without one."""
        return self.credentials.identity.project if self.credentials else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement that has the form of one, and comes from whom and goes to whom it should, as far as it says."""

    statement: bytes
    signature: bytes
    source: FQCN
    destination: FQCN
    epoch: int
    share: bytes
    chain: list[bytes]
    delegation: bytes
    more: list[Any]

    def misrouted(self, me: Party, origin: FQCN) -> HandshakeError:
        """Return what is wrong with one that is not from *origin*, or not for us."""
        message = f"an introduction from {self.source} to {self.destination} came to {me.fqcn} as one from {origin}"
        return HandshakeError(message, "misrouted")

    def verify(self, me: Party, origin: FQCN, wall: datetime.datetime, context: bytes, *before: bytes) -> None:
        """Check that its source signed it, if we can, and that *origin* is the same cell.

        :raises HandshakeError: if it did not, or is not
        """
        if self.source.base_name != origin.base_name:
            raise self.misrouted(me, origin)
        if me.credentials is not None:
            key = _proven_key(me.credentials, (self.source, origin), self.chain, self.delegation, wall)
            verify(key, self.signature, context, *before, self.statement, what="introduction")


def names(body: bytes, *, is_reply: bool = False) -> tuple[FQCN, FQCN]:
    """Return from whom to whom an introduction is, as it says itself.

    :raises RemoteProtocolError: if it is malformed
    """
    source, destination = _fields(body, *(ANSWER if is_reply else ()))[2:4]
    return read_name(source), read_name(destination)


def read_claim(me: Party, other: FQCN, body: bytes, *more: type) -> Claim:
    """Read an introduction, whose form and project are right; nothing in it is proven yet.

    :param other: what to call who is said to have sent it
    :param more: the kinds of further fields
    :raises HandshakeError: if it is of another version or project
    :raises RemoteProtocolError: if it is malformed
    """
    fields = _fields(body, *more)
    version, project, source, destination, epoch, nonce, share, chain, delegation, *rest, statement, signature = fields
    if version != VERSION:
        raise HandshakeError(f"{other} speaks version {version}, this cell {VERSION}: upgrade the older", "version")
    if project != me.project:
        theirs, ours = project or "no project (it has no credentials)", me.project or "no project"
        raise HandshakeError(f"{other} belongs to {theirs}, this cell to {ours}", "wrong-project")
    proof = (share, chain, delegation, signature)
    has_proof = len(share) == KEY_BYTES and chain and signature if me.credentials else not any(proof)
    if len(nonce) != NONCE_BYTES or not has_proof or not all(type(one) is bytes for one in chain):
        raise RemoteProtocolError("an introduction has a field that cannot be")
    names = read_name(source), read_name(destination)
    return Claim(statement, signature, *names, epoch, share, chain, delegation, rest)


def _fields(body: bytes, *more: type) -> list[Any]:
    """Return the fields of a statement, and then the statement itself and its signature."""
    if len(body) > MAX_INTRODUCTION:
        raise RemoteProtocolError(f"an introduction of {len(body)} bytes is too long: {MAX_INTRODUCTION} are allowed")
    statement, signature = unpack(body, bytes, bytes)
    fields = unpack(statement, *_STATEMENT, *more)
    _version, project, source, destination, _epoch, _nonce, _share, chain, delegation = fields[: len(_STATEMENT)]
    if (
        max(map(len, (project, source, destination))) > MAX_TEXT
        or len(chain) > MAX_CHAIN
        or len(delegation) > MAX_DELEGATION
        or len(signature) > MAX_SIGNATURE
    ):
        raise RemoteProtocolError("an introduction has a field that is too long")
    return [*fields, statement, signature]


def _proven_key(
    mine: Credentials, claims: tuple[FQCN, FQCN], chain: list[bytes], signed: bytes, wall: datetime.datetime
) -> ec.EllipticCurvePublicKey:
    """Return the key with which a cell signs, once authority and site say that it is this cell's.

    :param claims: what it says it is called, and what the route says
    """
    certified = _certified(claims[0], signed)
    # The server only listens, and has no certificate for anything else. Any other cell got its name by connecting, a
    # relay too, so it has one for that; a certificate for listening need not be accepted as well. Jobs show their
    # site's.
    peer = mine.verify_chain(chain, LISTEN if certified.is_root else CONNECT, wall)
    identity = peer.identity
    if identity.project != mine.identity.project:
        raise HandshakeError(f"the certificate is for project {identity.project}", "wrong-project")
    for claimed in dict.fromkeys(claims):
        _check_certified(identity, claimed, signed)
    if not signed:
        return peer.key
    delegation = Delegation.verify(signed, peer.key, wall)
    if (delegation.site, delegation.job) != (identity.name, claims[0].base_name):
        raise HandshakeError(
            f"the delegation shown for {claims[0]} is for {delegation.job} of {delegation.site}", "bad-delegation"
        )
    return load_public_key(delegation.public_key)


def _certified(claimed: FQCN, signed: bytes) -> FQCN:
    """Return whose certificate proves that a cell is *claimed*: its own, or a job's site's."""
    if not signed:
        return claimed
    # server.j is a job of the server, and R1.j one of R1, but j is none: the server's jobs could be called like any
    # cell below it.
    site = claimed.parent
    if site is None or site.job(claimed.base_name) != claimed:
        raise HandshakeError(f"{claimed} shows a delegation, but is no name of a job", "bad-delegation")
    return site


def _check_certified(identity: Identity, claimed: FQCN, signed: bytes) -> None:
    certified = _certified(claimed, signed)
    if certified.is_root:
        is_certified = identity.role == "server"  # whose participant may have any name in the project
    else:
        # A relay has no jobs: what it delegates could be called like any cell below it. Of server.j, the last step
        # of the path is no base name: a certificate is none for a job.
        roles = ("client",) if signed else ("relay", "client")
        is_certified = identity.role in roles and certified.path[-1] == certified.base_name == identity.name
    if not is_certified:
        raise HandshakeError(
            f"the certificate shown for {claimed} is for {identity.role} {identity.name}", "identity-mismatch"
        )
