"""Which cells a pattern means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellnet.errors import LocalProtocolError
from cellnet.fqcn import FQCN, Pattern

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cellnet.message import Request
    from cellnet.protocol.routing import Router

__all__ = ["MEMBERS_TOPIC", "Directory"]

MEMBERS_TOPIC = "cellnet.members"
MEMBERS_PER_PAGE = 500


class Directory:
    """What one cell knows of the others. The server knows them all; another cell asks it."""

    def __init__(self, router: Router[Any], request: Callable[[str, str, object], Awaitable[Any]]) -> None:
        """Look names up.

        :param request: asks another cell
        """
        self._router = router
        self._request = request

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
