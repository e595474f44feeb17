"""Which cells there are, as far as this one knows: who comes and goes, and which of them a pattern means."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from cellnet.errors import LocalProtocolError
from cellnet.fqcn import FQCN, Pattern
from cellnet.protocol.events import MemberJoined
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from cellnet.message import Request
    from cellnet.protocol.endpoint import Endpoint
    from cellnet.protocol.events import MemberLeft

__all__ = ["MEMBERS_TOPIC", "Directory"]

MEMBERS_TOPIC = "cellnet.members"
MEMBERS_PER_PAGE = 500
CROWDED_CHILDREN = 100

logger = logging.getLogger("cellnet.cell")


class Directory:
    """What one cell knows of the others. The server knows them all; another cell asks it."""

    def __init__(self, endpoint: Endpoint, request: Callable[[str, str, object], Awaitable[Any]]) -> None:
        """Look names up.

        :param request: asks another cell
        """
        self._endpoint = endpoint
        self._router = endpoint.router
        self._request = request
        self._changed = Wakeup()
        self._crowded = False

    def note(self, event: MemberJoined | MemberLeft) -> None:
        """Note that a cell came or went, and log what concerns this one's children."""
        self._changed.notify()
        endpoint = self._endpoint
        children = len(endpoint.children)
        if children >= CROWDED_CHILDREN and not self._crowded:
            logger.warning("%s has %d children: below %d is recommended", endpoint.name, children, CROWDED_CHILDREN)
        self._crowded = children >= CROWDED_CHILDREN
        if event.member.fqcn.parent == endpoint.fqcn:
            did = "joined" if isinstance(event, MemberJoined) else "left"
            logger.info("%s %s", event.member.fqcn, did)

    async def wait_present(self, names: Iterable[FQCN]) -> None:
        """Wait until all of *names*, cells below this one, are present, under these names or later ones."""
        wanted = list(names)
        is_present = self._router.holds
        while missing := [name for name in wanted if not is_present(name)]:
            for name in missing:  # one look at everybody per round, not per arrival
                while not is_present(name):
                    await self._changed.wait()

    async def resolve(self, pattern: Pattern) -> list[FQCN]:
        """Return the cells that a pattern means now, but for this one.

        :raises DeliveryError: if the server does not say
        """
        me = self._router.fqcn
        if me is not None and me.is_root:
            return [member.fqcn for member in self._router.members() if pattern.matches(member.fqcn)]
        names: list[FQCN] = []
        page = None
        while page is None or len(page) == MEMBERS_PER_PAGE:
            last = page[-1] if page else ""
            page = await self._request("server", MEMBERS_TOPIC, [str(pattern), last])
            names += (FQCN(name) for name in page)
        return [name for name in names if name != me]

    async def answer(self, request: Request) -> list[str]:
        """Answer another cell that asks for a page of names.

        :raises LocalProtocolError: if it asks in another way
        """
        match request.payload:
            case [str(text), str(last)]:
                pattern = Pattern(text)
            case _:
                raise LocalProtocolError("a pattern and a name are wanted")
        names = sorted(str(member.fqcn) for member in self._router.members() if pattern.matches(member.fqcn))
        return [name for name in names if name > last][:MEMBERS_PER_PAGE]
