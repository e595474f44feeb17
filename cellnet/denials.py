"""How it becomes known who was revoked: each cell tells its children, and cuts the links that must not be any more.

The list is signed by the project's issuer and has a version, so it does not matter who brings it, or how often. A cell
that learns of a newer one first tells its children, also those who are on the list, since others may be below them.
Then it holds, and the links of who is on it end. Whoever joins is told what there is.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from cryptography import x509

from cellnet.errors import DeliveryError, HandshakeError, LocalProtocolError
from cellnet.protocol.events import MemberJoined

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from cellnet.credentials import Credentials
    from cellnet.fqcn import FQCN
    from cellnet.message import Request
    from cellnet.neighbours import Neighbours
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.events import MemberLeft

__all__ = ["DENIED_TOPIC", "Denials"]

DENIED_TOPIC = "cellnet.denied"
GRACE_SECONDS = 1.0
"""What children have to take a list, before it holds here."""

logger = logging.getLogger("cellnet.link")


class Denials:
    """What one cell does about who was revoked."""

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
        self._newest = 0

    def take(self, signed: bytes) -> None:
        """Take a list, and if it is newer, tell the children and cut who is on it.

        :raises HandshakeError: if it was not signed by the project's issuer, or this cell has no credentials
        """
        credentials = self._endpoint.credentials
        if credentials is None:
            raise HandshakeError("a cell without credentials knows nobody who could be revoked", "bad-denial")
        version = credentials.denied.read(signed, credentials.identity.project, credentials.roots).version
        if version > max(self._newest, credentials.denied.version):
            self._newest = version
            self._tasks.start_soon(self._apply, signed, credentials)

    def note(self, event: MemberJoined | MemberLeft) -> None:
        """Tell a child that has just joined."""
        credentials, member = self._endpoint.credentials, event.member
        is_new_child = isinstance(event, MemberJoined) and member.fqcn.parent == self._endpoint.fqcn
        if is_new_child and credentials and credentials.denied.signed:
            self._tasks.start_soon(self._tell, member.fqcn, credentials.denied.signed)

    async def answer(self, request: Request) -> None:
        """Take what another cell says.

        :raises LocalProtocolError: if it is no list
        """
        if not isinstance(request.payload, bytes):
            raise LocalProtocolError("a signed list is wanted")
        self.take(request.payload)

    async def _apply(self, signed: bytes, credentials: Credentials) -> None:
        with anyio.move_on_after(GRACE_SECONDS):
            async with anyio.create_task_group() as telling:
                for child in self._endpoint.children:
                    telling.start_soon(self._tell, child, signed)
        if credentials.denied.take(signed, credentials.identity.project, credentials.roots):
            name, version = self._endpoint.name, credentials.denied.version
            logger.info("%s: the list of revoked certificates has version %d", name, version)
            self._cut(credentials)

    async def _tell(self, child: FQCN, signed: bytes) -> None:
        with suppress(DeliveryError):  # it left, or it is slow and hears of it from somebody else
            await self._request(child, DENIED_TOPIC, signed)

    def _cut(self, credentials: Credentials) -> None:
        for connection, neighbour in self._neighbours.proven():
            if credentials.denied.includes(x509.load_der_x509_certificate(neighbour.certificate)):
                message = f"the certificate of {neighbour.name} was revoked"
                logger.warning("%s: %s", self._endpoint.name, message)
                self._neighbours.end(connection, HandshakeError(message, "revoked"))
