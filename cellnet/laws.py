"""What every driver has to do, as laws that can be tried on one: ours, and those of others.

::

    async def test_my_driver_keeps_the_laws() -> None:
        await check_driver(MyDriver(), "mine://localhost:0")

Each law is a function that listens with the driver, dials what it listens at, and asserts; its name says what holds.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.base import CLEAR, Address
from cellnet.errors import CellError, ConnectError
from cellnet.groups import leaves
from cellnet.trial import (
    CONNECTIONS,
    PATIENCE_SECONDS,
    Trial,
    allowed,
    digest,
    drawn,
    expect_end,
    expect_pieces,
    expect_served,
    read,
    send_pieces,
    strangers,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cellnet.drivers.base import Buffer, Driver, Link, Listener, Security

    Law = Callable[[Trial], Awaitable[None]]

__all__ = ["LAWS", "check_driver", "check_law"]

BROKEN = (AssertionError, TimeoutError, CellError)
"""What a law raises that is broken; anything else is a bug of the driver, or of the law, and is raised as it is."""

BATCH_BYTES = 256 * 1024
"""What cells send in one call, at most."""
HELD_BYTES = 32 << 20
"""What a link may take for a peer that does not read, at most, wherever it lies."""
SILENT = 64
"""Peers that connect and say nothing, while another is served."""
SERVED_SECONDS = 2.0


async def check_driver(
    driver: Driver,
    url: str,
    *,
    listening: Security = CLEAR,
    connecting: Security = CLEAR,
    connections: int = CONNECTIONS,
) -> None:
    """Try all laws on a driver, one after the other.

    :param url: where to listen, such as ``mine://localhost:0``
    :param listening: how listeners protect links, see :mod:`cellnet.drivers.tls`
    :param connecting: the same of those who dial
    :param connections: how many links at a time it has to bear
    :raises AssertionError: naming the law that it breaks
    """
    trial = Trial(driver, url, listening, connecting, connections)
    for law in LAWS:
        await check_law(law, trial)


async def check_law(law: Law, trial: Trial) -> None:
    """Try one of the laws.

    :raises AssertionError: naming it, if it is broken: by either end, or by both at the same moment
    """
    try:
        await law(trial)
    except (*BROKEN, ExceptionGroup) as error:
        broken, other = ExceptionGroup("", [error]).split(BROKEN)
        if broken is None or other is not None:
            raise
        first = next(leaves(broken))
        name = law.__name__.replace("_", " ")
        raise AssertionError(f"{trial.url}: {name}: {first or type(first).__name__}") from error


async def bytes_arrive_in_order_both_ways_whatever_their_pieces(trial: Trial) -> None:
    """However they were cut, and while as many go the other way."""
    async with trial.pair() as pair, anyio.create_task_group() as tasks:
        for near, far, seed in ((pair[0], pair[1], 1), (pair[1], pair[0], 2)):
            tasks.start_soon(send_pieces, near, seed)
            tasks.start_soon(expect_pieces, far, seed)


async def a_long_list_of_small_buffers_leaves_in_one_call(trial: Trial) -> None:
    """More of them than a system call takes; and an empty one among them is nothing."""
    pieces = [number.to_bytes(4, "big") for number in range(5000)]
    async with trial.pair() as (near, far), anyio.create_task_group() as tasks:
        tasks.start_soon(near.send, [*pieces[:100], b"", *pieces[100:]])
        assert await read(far, 20000) == b"".join(pieces)


async def a_buffer_of_sixteen_mebibytes_arrives_whole(trial: Trial) -> None:
    """And a view of one is as good as one."""
    data = bytearray(drawn(3).randbytes(1 << 20)) * 16
    async with trial.pair() as (near, far), anyio.create_task_group() as tasks:
        tasks.start_soon(near.send, [memoryview(data)])
        assert await digest(far, len(data)) == hashlib.sha256(data).digest()


async def what_is_not_taken_at_once_is_returned_in_order(trial: Trial) -> None:
    """Who sends what :meth:`Link.try_send` returned loses nothing."""
    data = memoryview(drawn(4).randbytes(HELD_BYTES))
    async with trial.pair() as (near, far), anyio.create_task_group() as tasks:
        cuts = range(0, len(data), BATCH_BYTES)
        batches = [[data[cut : cut + 1000], data[cut + 1000 : cut + BATCH_BYTES]] for cut in cuts]
        rest: Sequence[Buffer] = ()
        while batches and not rest:
            rest = near.try_send(batches.pop(0))
        assert rest, "all was taken for a peer that does not read"
        tasks.start_soon(near.send, [*rest, *chain.from_iterable(batches)])
        assert await digest(far, len(data)) == hashlib.sha256(data).digest(), "other bytes arrived than were sent"


async def what_was_sent_before_the_end_arrives_before_the_end(trial: Trial) -> None:
    """Closing gives it a moment, and then the other side sees the end."""
    data = bytes(1 << 20)
    async with trial.pair() as (near, far), anyio.create_task_group() as tasks:

        async def send() -> None:
            await near.send([data])
            await near.aclose()

        tasks.start_soon(send)
        assert await digest(far, len(data)) == hashlib.sha256(data).digest()
        assert await far.fill(memoryview(bytearray(10))) == 0, "there is more than was sent"


async def a_peer_that_does_not_read_makes_the_sender_wait(trial: Trial) -> None:
    """Memory is bounded on both sides; once it reads, all arrives."""
    piece = bytes(1 << 20)
    sent = 0
    async with trial.pair() as (near, far), anyio.create_task_group() as tasks:

        async def send() -> None:
            nonlocal sent
            while sent < 2 * HELD_BYTES:
                await near.send([piece])
                sent += len(piece)

        tasks.start_soon(send)
        before = -1
        while sent != before:
            before = sent
            await anyio.sleep(0.2)
        assert sent <= HELD_BYTES, f"{sent >> 20} MiB were taken for a peer that does not read"
        assert await digest(far, 2 * HELD_BYTES) == hashlib.sha256(bytes(2 * HELD_BYTES)).digest()


async def to_give_up_waiting_for_bytes_loses_none(trial: Trial) -> None:
    """Who is cancelled while nothing comes reads on later."""
    async with trial.pair() as (near, far):
        with anyio.move_on_after(0.05):
            await far.fill(memoryview(bytearray(10)))
        await near.send([b"all of it"])
        assert await read(far, 9) == b"all of it"


async def to_give_up_sending_leaves_a_link_that_can_be_closed(trial: Trial) -> None:
    """It is of no more use, and nobody hangs: neither who closes it, nor the peer."""
    async with trial.pair() as (near, far):
        with anyio.move_on_after(0.5) as gave_up:
            for _ in range(2 * HELD_BYTES >> 20):
                await near.send([bytes(1 << 20)])
        assert gave_up.cancelled_caught, "the peer did not read, and all was sent"
        near.abort()
        await expect_end(far)


async def the_death_of_the_peer_is_seen(trial: Trial) -> None:
    """By who reads as an end or an error, and by who writes as an error."""
    async with trial.pair() as (near, far):
        far.abort()
        await expect_end(near)
        with anyio.fail_after(PATIENCE_SECONDS), suppress(ConnectError):
            while True:
                await near.send([bytes(65536)])
                await anyio.lowlevel.checkpoint()


async def to_abort_wakes_who_waits(trial: Trial) -> None:
    """Reading and writing end with an error, or with the end."""
    async with trial.pair() as (near, _far):

        async def wait() -> None:
            await expect_end(near)

        async def write() -> None:
            with anyio.fail_after(PATIENCE_SECONDS), suppress(ConnectError):
                await near.send([bytes(2 * HELD_BYTES)])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(write)
            await anyio.sleep(0.2)
            near.abort()
            near.abort()


async def a_link_says_what_lies_below_it(trial: Trial) -> None:
    """Its driver by the scheme, and how it is protected; of mutual TLS, the peer's certificate where it can be had."""
    scheme = Address.parse(trial.url).scheme
    async with trial.pair() as (near, far):
        for link, security in ((near, trial.connecting), (far, trial.listening)):
            assert link.transport.driver == scheme
            assert link.transport.security == security.mode
        if trial.listening.mode == "mtls":
            assert far.transport.certificate, "the listener does not see the certificate"


async def a_closed_listener_accepts_no_more(trial: Trial) -> None:
    """Who waits at it is told, and who dials it too; links that it accepted go on."""
    with anyio.fail_after(PATIENCE_SECONDS):
        async with trial.pair() as (near, far):
            await near.send([b"still"])
            assert await read(far, 5) == b"still"
        async with trial.listener() as listener, anyio.create_task_group() as tasks:

            async def wait() -> None:
                with suppress(anyio.ClosedResourceError):
                    await listener.accept()
                    raise AssertionError("it accepted somebody")

            tasks.start_soon(wait)
            await anyio.sleep(0.05)
            listener.close()
            listener.close()
        try:
            await trial.dial(listener)
        except ConnectError:
            return
        raise AssertionError("somebody answers where a listener was closed")


async def a_thousand_links_at_once_are_served(trial: Trial) -> None:
    """Each has its own bytes, and all are open at the same time."""
    count = allowed(trial.connections)
    limit = anyio.CapacityLimiter(50)
    answered = 0
    everybody = anyio.Event()

    async def echo(link: Link) -> None:
        await link.start()
        data = await read(link, 4)
        await link.send([data])
        await everybody.wait()
        await link.aclose()

    async def ask(listener: Listener, number: int) -> None:
        nonlocal answered
        async with limit:
            link = await trial.dial(listener)
            await link.send([number.to_bytes(4, "big")])
            assert await read(link, 4) == number.to_bytes(4, "big")
        answered += 1
        if answered == count:
            everybody.set()
        await everybody.wait()
        await link.aclose()

    with anyio.fail_after(3 * PATIENCE_SECONDS):
        async with trial.listener() as listener, anyio.create_task_group() as tasks:

            async def serve() -> None:
                for _ in range(count):
                    tasks.start_soon(echo, await listener.accept())

            tasks.start_soon(serve)
            for number in range(count):
                tasks.start_soon(ask, listener, number)


async def who_says_nothing_keeps_nobody_from_being_served(trial: Trial) -> None:
    """Handshakes are not done in the accept path."""
    async with trial.listener() as listener:
        with strangers(listener, SILENT):
            await expect_served(trial, listener, SERVED_SECONDS)


async def who_talks_nonsense_is_refused_and_others_are_served(trial: Trial) -> None:
    """Random bytes, the beginning of other protocols, and lengths that are not to be believed."""
    rng = drawn(5)
    noise = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\xff" * 65536, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    noise += [rng.randbytes(rng.randrange(1, 5000)) for _ in range(12)]
    async with trial.listener() as listener:
        with strangers(listener, len(noise)) as sockets:
            for sock, data in zip(sockets, noise, strict=False):
                with suppress(OSError):
                    sock.send(data)
            await expect_served(trial, listener, PATIENCE_SECONDS)


LAWS: tuple[Law, ...] = (
    bytes_arrive_in_order_both_ways_whatever_their_pieces,
    a_long_list_of_small_buffers_leaves_in_one_call,
    a_buffer_of_sixteen_mebibytes_arrives_whole,
    what_is_not_taken_at_once_is_returned_in_order,
    what_was_sent_before_the_end_arrives_before_the_end,
    a_peer_that_does_not_read_makes_the_sender_wait,
    to_give_up_waiting_for_bytes_loses_none,
    to_give_up_sending_leaves_a_link_that_can_be_closed,
    the_death_of_the_peer_is_seen,
    to_abort_wakes_who_waits,
    a_link_says_what_lies_below_it,
    a_closed_listener_accepts_no_more,
    a_thousand_links_at_once_are_served,
    who_says_nothing_keeps_nobody_from_being_served,
    who_talks_nonsense_is_refused_and_others_are_served,
)
"""All of them."""
