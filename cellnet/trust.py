"""What a cell does about certificates while it runs: about those that were revoked, and its own that were renewed.

Who was revoked stands on a list that the project's issuer signs, with a version, so it does not matter who brings it,
or how often. A cell that learns of a newer one first tells its children, also those who are on the list, since others
may be below them. Then it holds, and the links of who is on it end. Whoever joins is told what there is.

Job cells show their site's certificate and trust the roots that it trusts, so a site whose own were renewed tells them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from cellnet.clock import wall_time
from cellnet.errors import DeliveryError, HandshakeError, LocalProtocolError
from cellnet.protocol.events import MemberJoined

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from cellnet.credentials import Credentials
    from cellnet.fqcn import FQCN
    from cellnet.message import Handler, Request
    from cellnet.neighbours import Neighbours
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.events import MemberLeft

__all__ = ["Trust"]

DENIED_TOPIC = "cellnet.denied"
CHAIN_TOPIC = "cellnet.chain"
GRACE_SECONDS = 1.0
"""What children have to take a list, before it holds here."""

logger = logging.getLogger("cellnet.link")


class Trust:
    """What one cell does about certificates."""

    def __init__(
        self,
        endpoint: Endpoint,
        neighbours: Neighbours,
        request: Callable[[FQCN, str, object], Awaitable[Any]],
        tasks: TaskGroup,
    ) -> None:
        """Begin with what the credentials know.

        :param request: asks another cell
        """
        self._endpoint = endpoint
        self._neighbours = neighbours
        self._request = request
        self._tasks = tasks
        self._newest, self._signed = 0, b""
        self.handlers: dict[str, Handler] = {DENIED_TOPIC: self._denied, CHAIN_TOPIC: self._renewed}
        """What other cells tell."""

    def renew(self) -> None:
        """Show what the credentials have now: to the parent, to who joins, and by the job cells."""
        self._neighbours.renew()
        if (credentials := self._endpoint.credentials) is not None:
            for child, connection in self._endpoint.children.items():
                if connection.neighbour and connection.neighbour.role in ("job", "operator"):
                    shown = [credentials.chain_der, credentials.roots_der]
                    self._tasks.start_soon(self._tell, child, CHAIN_TOPIC, shown)

    def deny(self, signed: bytes) -> None:
        """Take a list, and if it is newer, tell the children and cut who is on it.

        :raises HandshakeError: if it was not signed by the project's issuer, or this cell has no credentials
        """
        credentials = self._endpoint.credentials
        if credentials is None:
            raise HandshakeError("a cell without credentials knows nobody who could be revoked", "bad-denial")
        version = credentials.denied.read(signed, credentials.identity.project, credentials.roots).version
        if version > max(self._newest, credentials.denied.version):
            self._newest, self._signed = version, signed
            self._tasks.start_soon(self._apply, signed, credentials)

    def note(self, event: MemberJoined | MemberLeft) -> None:
        """Tell a child that has just joined."""
        credentials, member = self._endpoint.credentials, event.member
        is_new_child = isinstance(event, MemberJoined) and member.fqcn.parent == self._endpoint.fqcn
        # what does not hold here yet may be news to it all the same
        signed = self._signed or (credentials.denied.signed if credentials else b"")
        if is_new_child and signed:
            self._tasks.start_soon(self._tell, member.fqcn, DENIED_TOPIC, signed)

    async def _denied(self, request: Request) -> None:
        if not isinstance(request.payload, bytes):
            raise LocalProtocolError("a signed list is wanted")
        self.deny(request.payload)

    async def _renewed(self, request: Request) -> None:
        """Take the site's new certificate, which must be for the key that it had, and the roots that it trusts."""
        credentials = self._endpoint.credentials
        if credentials is None or credentials.delegation is None or request.origin != self._fqcn_of_site:
            raise LocalProtocolError("only a job's cell shows another's certificate, and only that one says which")
        match request.payload:
            case [[*chain], [*roots]] if chain and roots and all(isinstance(one, bytes) for one in (*chain, *roots)):
                credentials.take_chain(chain, roots, wall_time())
            case _:
                raise LocalProtocolError("certificates are wanted, and roots")

    @property
    def _fqcn_of_site(self) -> FQCN | None:
        return self._endpoint.fqcn.parent if self._endpoint.fqcn else None

    async def _apply(self, signed: bytes, credentials: Credentials) -> None:
        with anyio.move_on_after(GRACE_SECONDS):
            async with anyio.create_task_group() as telling:
                for child in self._endpoint.children:
                    telling.start_soon(self._tell, child, DENIED_TOPIC, signed)
        if credentials.denied.take(signed, credentials.identity.project, credentials.roots):
            name, version = self._endpoint.name, credentials.denied.version
            logger.info("%s: the list of revoked certificates has version %d", name, version)
            self._cut(credentials)

    async def _tell(self, child: FQCN, topic: str, payload: object) -> None:
        with suppress(DeliveryError):  # it left, or it is slow and hears of it from somebody else
            await self._request(child, topic, payload)

    def _cut(self, credentials: Credentials) -> None:
        for connection, neighbour, shown in self._neighbours.proven():
            if credentials.denied.has(shown.serial, shown.key.hex()):
                message = f"the certificate of {neighbour.name} was revoked"
                logger.warning("%s: %s", self._endpoint.name, message)
                self._neighbours.end(connection, HandshakeError(message, "revoked"))
