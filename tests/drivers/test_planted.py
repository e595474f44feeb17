"""A driver with a bug breaks the law that is about it, so the laws can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from cellnet.drivers.sock import SockLink
from cellnet.drivers.sock_listener import SockListener
from cellnet.drivers.tcp import TcpDriver
from cellnet.laws import LAWS, check_driver, check_law
from cellnet.testing import Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.drivers.base import Address, Buffer, Security


class Reordering(SockLink):
    async def send(self, buffers: Sequence[Buffer]) -> None:
        await super().send(list(reversed(buffers)) if len(buffers) == 2 else buffers)


class Forgetful(SockLink):
    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        super().try_send(buffers)
        return []


class Hoarding(SockLink):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hoard: list[Buffer] = []

    async def send(self, buffers: Sequence[Buffer]) -> None:
        self.hoard = list(self.try_send([*self.hoard, *buffers]))
        await anyio.lowlevel.checkpoint()


class Losing(SockLink):
    async def fill(self, buffer: memoryview) -> int:
        try:
            return await super().fill(buffer)
        except anyio.get_cancelled_exc_class():
            self.abort()
            raise


class Nameless(SockLink):
    def __init__(self, sock: Any, _driver: str) -> None:
        super().__init__(sock, "mine")


class PlantedListener(SockListener):
    """A listener with other links."""

    link: type[SockLink]

    async def accept(self) -> SockLink:
        # of a clear link, as all are that are planted
        return self.link((await super().accept())._sock, "tcp")


class Planted(TcpDriver):
    """The tcp driver with other links."""

    def __init__(self, link: type[SockLink]) -> None:
        self.link = link

    async def connect(self, address: Address, security: Security) -> SockLink:
        link = await super().connect(address, security)
        return self.link(link._sock, "tcp")

    async def listen(self, address: Address, security: Security) -> SockListener:
        listener = await super().listen(address, security)
        planted = PlantedListener(listener._sock, listener.url, "tcp", security)
        planted.link = self.link
        return planted


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("link", "law"),
    [
        (Reordering, "bytes_arrive_in_order_both_ways_whatever_their_pieces"),
        (Forgetful, "what_is_not_taken_at_once_is_returned_in_order"),
        (Hoarding, "a_peer_that_does_not_read_makes_the_sender_wait"),
        (Losing, "to_give_up_waiting_for_bytes_loses_none"),
        (Nameless, "a_link_says_what_lies_below_it"),
    ],
)
async def test_a_planted_bug_breaks_its_law(link: type[SockLink], law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.trial.PATIENCE_SECONDS", 2.0)
    (broken,) = (one for one in LAWS if one.__name__ == law)
    with pytest.raises(AssertionError, match=law.replace("_", " ")):
        await check_law(broken, Trial(Planted(link), "tcp://127.0.0.1:0"))


@pytest.mark.anyio
async def test_the_check_names_the_law_that_is_broken() -> None:
    with pytest.raises(AssertionError, match=r"tcp://127\.0\.0\.1:0: bytes arrive in order both ways"):
        await check_driver(Planted(Reordering), "tcp://127.0.0.1:0", connections=10)
