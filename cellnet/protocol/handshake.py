"""The handshake of a link: who is there, whether both sides allow it, and what the child is called.

::

    listener                                connector
       | HELLO  who I am, nonce, certificates  |     the listener speaks first: under TLS 1.3 only then does
       |-------------------------------------> |     a connector hear why it was refused
       |  JOIN  the same + placement, signed   |
       | <-------------------------------------|
       | WELCOME  your FQCN, signed            |
       |-------------------------------------> |

JOIN's signature covers HELLO and JOIN, WELCOME's covers all three: certificates, nonces and names of both, whatever
driver and security lie below. Either side answers REFUSED instead, with a reason for the operator of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellnet.credentials import CONNECT, LISTEN, is_of_key
from cellnet.errors import HandshakeError, InvalidName, RemoteProtocolError
from cellnet.fqcn import FQCN, ROOT, check_segment
from cellnet.placement import Delegation, Placement
from cellnet.protocol.envelope import read_names
from cellnet.protocol.frames import pack, unpack
from cellnet.protocol.routing import MAX_FORMER
from cellnet.signing import load_public_key, sign, verify

if TYPE_CHECKING:
    import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

    from cellnet.credentials import Credentials, Peer, Shown

__all__ = ["VERSION", "Handshake", "Neighbour", "Self", "Transport"]

VERSION = 1
NONCE_BYTES = 32
MAX_FIELD = 255
"""Characters of a text in an introduction."""

_JOIN_CONTEXT = b"cellnet join 1"
_WELCOME_CONTEXT = b"cellnet welcome 1"
_INTRODUCTION = (int, str, str, str, int, bytes, list, str, str)
_MAY_HAVE_CHILDREN = {
    "server": {"relay", "client", "job", "operator", "cell"},
    "relay": {"relay", "client"},
    "client": {"job", "operator"},
    "cell": {"cell", "job", "operator"},  # a cell without credentials, which may be anything
}
"""Roles of a parent, and which roles may join below it."""


@dataclass(frozen=True, slots=True)
class Self:
    """What a cell says about itself on every link."""

    name: str
    """Its base name: ``server`` for the root, the job's name for a job cell."""
    role: str
    epoch: int
    """Grows with every start of the process."""
    credentials: Credentials | None = None
    names: tuple[FQCN, ...] = ()
    """What it is called and was called before, the latest first; it may be called otherwise below another parent."""

    @property
    def project(self) -> str:
        """The project of the certificate; empty without one."""
        return self.credentials.identity.project if self.credentials else ""


@dataclass(frozen=True, slots=True)
class Transport:
    """What lies below a link."""

    driver: str
    security: str = "clear"
    certificate: bytes | None = None
    """What TLS says is the peer's certificate, in DER."""
    address: str = ""
    """The host that the peer dialled from, where there are such."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The authenticated other side of a link."""

    fqcn: FQCN
    name: str
    role: str
    epoch: int
    fqsn: str
    shown: Shown | None = None
    """Its certificate; none for a job cell, which has none of its own, and between cells without credentials."""
    former: tuple[FQCN, ...] = ()
    """What a child was called before it moved."""


class Handshake:
    """One side of one handshake. Signs and verifies; the connection sends what it returns."""

    __slots__ = ("_hello", "_join", "_nonce", "_peer_key", "_peer_said", "_shown", "_wall", "me", "transport")

    def __init__(self, me: Self, transport: Transport, nonce: bytes, wall: datetime.datetime) -> None:
        self.me = me
        self.transport = transport
        self._nonce = nonce
        self._wall = wall
        self._hello = b""
        self._join = b""
        self._peer_key: ec.EllipticCurvePublicKey | None = None
        self._peer_said: tuple[str, str, int] = ("", "", 0)
        self._shown: Shown | None = None

    # The listener's side.

    def hello(self) -> bytes:
        """Return the header of HELLO."""
        self._hello = pack(*self._introduction(listening=True))
        return self._hello

    def join_received(self, header: bytes, signature: bytes, fqcn: FQCN) -> Neighbour:
        """Judge a JOIN.

        :param fqcn: our own FQCN, of which the child's is made
        :raises HandshakeError: if the connector may not join; its text goes back to it
        """
        if self._join:
            raise RemoteProtocolError("JOIN came twice")
        *introduction, signed_placement, signed_delegation, names = unpack(header, *_INTRODUCTION, bytes, bytes, list)
        name, role, epoch, chain = self._check_introduction(introduction)
        self._join = header
        if role not in _MAY_HAVE_CHILDREN.get(self.me.role, ()):
            raise HandshakeError(f"a {role} may not join below {self.me.name}, which is a {self.me.role}", "wrong-role")
        placement: Placement | None = None
        if (mine := self.me.credentials) is not None:
            if role in ("job", "operator"):
                key = self._check_delegation(mine, name, role, chain, signed_delegation)
            else:
                peer = mine.verify_chain(chain, CONNECT, self._wall)
                self._check_identity(peer, name, role)
                placement = self._check_placement(peer, signed_placement)
                key, self._shown = peer.key, peer.shown
            verify(key, signature, _JOIN_CONTEXT, self._hello, header, what="JOIN")
        try:
            child = fqcn.job(name) if role in ("job", "operator") else fqcn.child(name)
        except InvalidName as error:
            raise HandshakeError(str(error), "bad-name") from None
        known = self._names(name, role, names, fqcn)
        if any(one.is_ancestor_of(fqcn) for one in known):  # each would be below the other
            raise HandshakeError(f"{name} may not join below {fqcn}, which is below {name}", "circle", temporary=True)
        former = tuple(one for one in known if one != child)[:MAX_FORMER]
        return Neighbour(child, name, role, epoch, placement.fqsn if placement else "", self._shown, former)

    def welcome(self, child: FQCN) -> tuple[bytes, bytes]:
        """Return the header of WELCOME and its signature."""
        header = pack(str(child))
        if self.me.credentials is None:
            return header, b""
        credentials = self.me.credentials.listening or self.me.credentials
        signature = sign(credentials.key, _WELCOME_CONTEXT, self._hello, self._join, header)
        self._hello = self._join = b""  # for a thousand children they would be megabytes
        return header, signature

    # The connector's side.

    def hello_received(self, header: bytes) -> tuple[bytes, bytes]:
        """Judge a HELLO; return the header of JOIN and its signature.

        :raises HandshakeError: if the listener is not one below which we may join
        """
        if self._hello:
            raise RemoteProtocolError("HELLO came twice")
        name, role, epoch, chain = self._check_introduction(unpack(header, *_INTRODUCTION))
        self._hello = header
        self._peer_said = (name, role, epoch)
        if (mine := self.me.credentials) is not None:
            if mine.delegation is not None:
                # A job cell's parent is its own site: its key is compared, whatever the certificate says meanwhile.
                if not chain or not is_of_key(chain[0], mine.chain[0].public_key()):
                    raise HandshakeError("the listener on this socket is not the job's own site", "untrusted")
                peer = mine.site(self._wall)
            else:
                peer = mine.verify_chain(chain, LISTEN, self._wall)
                self._check_identity(peer, name, role)
                self._shown = peer.shown
            if mine.placement and mine.placement.parents and name not in mine.placement.parents:
                wanted = " or ".join(mine.placement.parents)
                raise HandshakeError(
                    f"the listener is {name}, but this kit joins {wanted}: check the address", "wrong-parent"
                )
            self._peer_key = peer.key
        placement = mine.placement.signed if mine and mine.placement else b""
        delegation = mine.delegation.signed if mine and mine.delegation else b""
        names = list(map(str, self.me.names))
        self._join = pack(*self._introduction(listening=False), placement, delegation, names)
        signature = sign(mine.key, _JOIN_CONTEXT, header, self._join) if mine else b""
        return self._join, signature

    def welcome_received(self, header: bytes, signature: bytes) -> tuple[FQCN, Neighbour]:
        """Judge a WELCOME; return our FQCN and the parent.

        :raises HandshakeError: if the listener could not prove who it is, or gave us an impossible name
        """
        if not self._join:
            raise RemoteProtocolError("WELCOME came before HELLO")
        (text,) = unpack(header, str)
        name, role, epoch = self._peer_said
        if self._peer_key is not None:
            verify(self._peer_key, signature, _WELCOME_CONTEXT, self._hello, self._join, header, what="WELCOME")
        try:
            fqcn = FQCN(text)
        except InvalidName as error:
            raise HandshakeError(str(error), "bad-name") from None
        parent = fqcn.parent
        if parent is None or fqcn.base_name != self.me.name or parent.base_name != name:
            raise HandshakeError(f"{name} called this cell {text}, but it is {self.me.name}", "bad-name")
        return fqcn, Neighbour(parent, name, role, epoch, "", self._shown)

    # Both sides.

    def _introduction(self, *, listening: bool) -> tuple[object, ...]:
        me, chain = self.me, []
        if me.credentials is not None:
            credentials = me.credentials.listening if listening and me.credentials.listening else me.credentials
            chain = credentials.chain_der
        return (
            VERSION,
            me.project,
            me.name,
            me.role,
            me.epoch,
            self._nonce,
            chain,
            self.transport.driver,
            self.transport.security,
        )

    def _check_introduction(self, fields: list[Any]) -> tuple[str, str, int, list[bytes]]:
        version, project, name, role, epoch, nonce, chain, driver, security = fields
        if max(map(len, (project, name, role, driver, security))) > MAX_FIELD:
            raise RemoteProtocolError("a handshake has a field that is too long")
        if version != VERSION:
            raise HandshakeError(
                f"the peer speaks version {version}, this cell {VERSION}: upgrade the older", "version"
            )
        if project != self.me.project:
            theirs, ours = project or "no project (it has no credentials)", self.me.project or "no project"
            raise HandshakeError(f"the peer belongs to {theirs}, this cell to {ours}", "wrong-project")
        if len(nonce) != NONCE_BYTES or not all(type(one) is bytes for one in chain):
            raise RemoteProtocolError("a handshake has a field that cannot be")
        try:
            check_segment(name)
        except InvalidName as error:
            raise HandshakeError(str(error), "bad-name") from None
        seen = self.transport.certificate
        if seen is not None and (not chain or chain[0] != seen):
            raise HandshakeError(
                "the certificate of the handshake is not the one of the TLS connection: is an ingress in between?",
                "wrong-channel",
            )
        return name, role, epoch, chain

    def _check_identity(self, peer: Peer, name: str, role: str) -> None:
        # The server's participant may have any name in the project; as a cell it is always "server".
        certified = ROOT if peer.identity.role == "server" else peer.identity.name
        if peer.identity.project != self.me.project:
            raise HandshakeError(f"the certificate is for project {peer.identity.project}", "wrong-project")
        if (certified, peer.identity.role) != (name, role):
            raise HandshakeError(
                f"the peer calls itself {role} {name}, but its certificate is for {peer.identity.role} {certified}",
                "identity-mismatch",
            )

    def _check_placement(self, peer: Peer, signed: bytes) -> Placement:
        placement = Placement.verify(signed, peer.issuer)
        identity = peer.identity
        if (placement.project, placement.role, placement.name) != (identity.project, identity.role, identity.name):
            raise HandshakeError(f"the placement is for {placement.name}, not for {identity.name}", "bad-placement")
        if placement.parents and self.me.name not in placement.parents:
            wanted = " or ".join(placement.parents)
            raise HandshakeError(f"{identity.name} belongs below {wanted}, not below {self.me.name}", "wrong-parent")
        return placement

    def _names(self, name: str, role: str, values: list[object], fqcn: FQCN) -> tuple[FQCN, ...]:
        """Return what a child was called. A job was always one of this site, which may have been called otherwise."""
        names = read_names(values, name, MAX_FORMER + 1)
        if role not in ("job", "operator"):
            return names
        return tuple(one for one in names if one.parent == fqcn or one.parent in self.me.names)

    def _check_delegation(
        self, mine: Credentials, name: str, role: str, chain: list[bytes], signed: bytes
    ) -> ec.EllipticCurvePublicKey:
        site = mine.site(self._wall)
        delegation = Delegation.verify(signed, site.key, self._wall)
        if (
            (delegation.site, delegation.job, delegation.role) != (site.identity.name, name, role)
            or not chain
            or not is_of_key(chain[0], site.key)
        ):
            raise HandshakeError(f"the delegation is not for {role} {name} of this site", "bad-delegation")
        return load_public_key(delegation.public_key)
