"""Byte streams between cells: what both ends see of them, whatever happens on the way."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Busy, InvalidName
from cellnet.outgoing import BUFFER_BYTES
from cellnet.protocol import plane

if TYPE_CHECKING:
    from cellnet import Cell
    from cellnet.stream import Stream
    from cellnet.testing import Network

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
LIMIT_SECONDS = 30
MIB = 1 << 20


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send(data)


async def digest(stream: Stream) -> None:
    """Send back the digest of all that came."""
    seen = hashlib.sha256()
    async for data in stream:
        seen.update(data)
    await stream.send(seen.digest())


async def fail(stream: Stream) -> None:
    raise ValueError(f"{stream.topic} is not wanted")


async def stare(_stream: Stream) -> None:
    await anyio.sleep_forever()


STREAMS = {"echo": echo, "digest": digest, "fail": fail, "stare": stare}


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # data, not secrets


async def all_of(stream: Stream) -> bytes:
    data = bytearray()
    async for piece in stream:
        data += piece
    return bytes(data)


def contents(network: Network) -> dict[str, object]:
    """Return what is left in the tables of all cells."""
    return {str(name): left for name, cell in network.cells.items() if any(left := _left(cell))}


def _left(cell: Cell) -> tuple[int, int, int, int]:
    here = cell._endpoint.plane
    return len(here.offers), len(here.fetches), len(here.transit.passages), here.transit.promised


async def settled(network: Network) -> None:
    with anyio.fail_after(LIMIT_SECONDS):
        while contents(network):
            await anyio.sleep(0.01)


async def test_what_is_sent_comes_and_what_is_answered_comes_back(network: Network) -> None:
    async with network.tree(relays=1, clients=1, depth=2, streams=STREAMS) as server:
        async with server.open_stream("R1.R1-2.C1", "echo") as stream:
            for word in (b"one", b"two"):
                await stream.send(word)
                assert await stream.receive() == word
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await settled(network)


@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 65516, 65536, 10 * MIB])
async def test_many_bytes_come_whole_between_branches(network: Network, size: int) -> None:
    data = noise(size)
    async with network.tree(relays=2, clients=1, streams=STREAMS):
        async with network["R1.C1"].open_stream("R2.C2", "digest") as stream:
            await stream.send(data)
            await stream.send_eof()
            assert await stream.receive() == hashlib.sha256(data).digest()
        await settled(network)


async def test_bytes_go_both_ways_at_once_in_pieces_of_any_size(network: Network) -> None:
    rng = random.Random(1)
    pieces = [noise(rng.choice([1, 10, 1000, 70_000])) for _ in range(100)]
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        async with server.open_stream("R1.C1", "echo") as stream, anyio.create_task_group() as tasks:

            async def send() -> None:
                for piece in pieces:
                    await stream.send(piece)
                await stream.send_eof()

            tasks.start_soon(send)
            assert await all_of(stream) == b"".join(pieces)
        await settled(network)


async def test_a_buffer_may_be_used_again_once_it_was_sent(network: Network) -> None:
    expected, buffer = b"", bytearray(100_000)
    async with (
        network.tree(relays=1, clients=1, streams=STREAMS) as server,
        server.open_stream("R1.C1", "echo") as stream,
    ):
        for number in range(5):
            buffer[:] = bytes([number]) * len(buffer)
            await stream.send(buffer)  # type: ignore[arg-type]  # anything that holds bytes will do
            expected += bytes(buffer)
        await stream.send_eof()
        assert await all_of(stream) == expected


async def test_a_cell_may_open_a_stream_to_itself(network: Network) -> None:
    data = noise(3 * MIB)
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        async with server.open_stream("server", "digest") as stream:
            await stream.send(data)
            await stream.send_eof()
            assert await stream.receive() == hashlib.sha256(data).digest()
        await settled(network)


async def test_the_first_bytes_come_after_one_way(network: Network) -> None:
    came = anyio.Event()
    lead: list[float] = []

    async def take(stream: Stream) -> None:
        assert await stream.receive() == b"first"
        lead.append(anyio.current_time())
        came.set()

    slow = type(network)(latency=0.2)
    async with slow.tree(relays=1, clients=1, streams={"take": take}, handlers={"note": _nothing}) as server:
        await server.request("R1.C1", "note")  # so that there is a session
        began = anyio.current_time()
        async with server.open_stream("R1.C1", "take") as stream:
            await stream.send(b"first")
            await came.wait()
    assert 0.4 <= lead[0] - began < 0.6, "two links, of 0.2 s each"


async def _nothing(_request: object) -> None: ...


async def test_a_stream_that_is_never_used_is_never_opened(network: Network) -> None:
    opened: list[Stream] = []

    async def note(stream: Stream) -> None:
        opened.append(stream)

    async with network.tree(relays=1, clients=1, streams={"note": note}) as server:
        async with server.open_stream("R1.C1", "note"):
            pass
        await anyio.wait_all_tasks_blocked()
        assert not opened
        assert not contents(network)


# What goes wrong between the ends.


@pytest.mark.parametrize("name", ["R1", "R1.R1-2", "R1.R1-2.C1"])
async def test_a_link_that_is_cut_again_and_again_costs_no_byte(network: Network, name: str) -> None:
    data = noise(20 * MIB)
    handlers = {"ping": lambda request: request.payload}
    async with network.tree(relays=1, clients=1, depth=2, handlers=handlers, streams=STREAMS) as server:
        cuts = 0
        with anyio.fail_after(LIMIT_SECONDS):
            # A cell that was started a moment ago could be a later start of one that had been asked: known, it is not.
            assert await server.request("R1.R1-2.C1", "ping", b"x") == b"x"
            async with server.open_stream("R1.R1-2.C1", "digest") as stream:
                for start in range(0, len(data), 2 * MIB):
                    await stream.send(data[start : start + 2 * MIB])
                    network.cut(name)
                    cuts += 1
                    await server.wait_present(["R1.R1-2.C1"])
                await stream.send_eof()
                assert await stream.receive() == hashlib.sha256(data).digest()
        assert cuts == 10
        await settled(network)


async def test_a_relay_that_is_killed_costs_no_byte(network: Network) -> None:
    data = noise(16 * MIB)
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            async with server.open_stream("R1.C1", "digest") as stream:
                await stream.send(data[: 8 * MIB])
                await network.crash("R1")
                await network.restart("R1")
                await stream.send(data[8 * MIB :])
                await stream.send_eof()
                assert await stream.receive() == hashlib.sha256(data).digest()
        await settled(network)


async def test_a_restarted_cell_breaks_its_streams_with_the_reason(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            stream = server.open_stream("R1.C1", "echo")
            await stream.send(b"x")
            await stream.receive()
            await network.crash("R1.C1")
            await network.restart("R1.C1")
            with pytest.raises(anyio.BrokenResourceError, match=r"R1\.C1 does not hold it"):
                await stream.receive()
            stream.reset("enough")
            await stream.aclose()


# What the ends do.


async def test_a_handler_that_raises_resets_its_stream_with_what_it_raised(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        async with server.open_stream("R1.C1", "fail") as stream:
            await stream.send(b"x")
            with pytest.raises(anyio.BrokenResourceError, match="ValueError: fail is not wanted"):
                await stream.receive()
        await settled(network)


async def test_a_topic_without_a_handler_breaks_the_stream_and_says_what_there_is(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        async with server.open_stream("R1.C1", "nope") as stream:
            await stream.send(b"x")
            with pytest.raises(
                anyio.BrokenResourceError, match=r"no stream handler for 'nope' \(there are: digest, echo"
            ):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"y")
        await settled(network)


async def test_a_cell_that_is_not_there_breaks_the_stream_at_its_deadline(network: Network) -> None:
    short = type(network)(request_seconds=0.2)
    async with short.tree(relays=1, clients=1) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            async with server.open_stream("R1.C9", "echo") as stream:
                await stream.send(b"x")
                with pytest.raises(anyio.BrokenResourceError, match=r"no cell R1\.C9 is present"):
                    await stream.receive()
        await settled(short)


async def test_a_malformed_name_is_refused_at_once(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        with pytest.raises(InvalidName):
            server.open_stream("R1..C1", "echo")


async def test_who_left_with_an_error_is_not_taken_for_whole(network: Network) -> None:
    seen: list[str] = []
    told = anyio.Event()

    async def take(stream: Stream) -> None:
        try:
            await all_of(stream)
            seen.append("whole")
        except anyio.BrokenResourceError as error:
            seen.append(str(error))
        told.set()

    async with network.tree(relays=1, clients=1, streams={"take": take}) as server:
        with pytest.raises(KeyError):
            async with server.open_stream("R1.C1", "take") as stream:
                await stream.send(noise(2 * MIB))
                raise KeyError("weights")
        await told.wait()
        assert seen == ["KeyError: 'weights'"]
        await settled(network)


async def test_who_reads_no_more_lets_the_sender_know(network: Network) -> None:
    async def leave(stream: Stream) -> None:
        await stream.receive()

    async with network.tree(relays=1, clients=1, streams={"leave": leave}) as server:
        with anyio.fail_after(LIMIT_SECONDS):
            async with server.open_stream("R1.C1", "leave") as stream:
                with pytest.raises(anyio.BrokenResourceError, match="reads no more"):
                    while True:
                        await stream.send(noise(100_000))
        await settled(network)


async def test_a_closed_stream_is_closed_for_both_directions(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        stream = server.open_stream("R1.C1", "echo")
        await stream.send(b"x")
        await stream.send_eof()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"y")
        await stream.aclose()
        await stream.aclose()
        for use in (stream.send(b"y"), stream.receive()):
            with pytest.raises(anyio.ClosedResourceError):
                await use
        await settled(network)


async def test_closing_waits_until_all_was_taken_and_a_deadline_resets_it(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        stream = server.open_stream("R1.C1", "stare")
        with anyio.move_on_after(0.5) as scope:
            await stream.send(noise(3 * MIB))
            await stream.aclose()
        assert scope.cancelled_caught
        assert stream.is_closed


async def test_a_reader_that_never_reads_holds_up_its_sender_and_takes_a_bounded_room(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        stream = server.open_stream("R1.C1", "stare")
        sent = 0
        with anyio.move_on_after(0.5):
            while True:
                await stream.send(noise(65536))
                sent += 65536
        assert BUFFER_BYTES <= sent <= BUFFER_BYTES + 3 * MIB
        assert network["R1"]._endpoint.plane.transit.promised <= MIB
        stream.reset("enough")


async def test_a_stream_that_was_given_up_keeps_nothing_of_what_it_sent(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        stream = server.open_stream("R1.C1", "stare")
        with anyio.move_on_after(0.5):
            while True:
                await stream.send(noise(65536))
        assert stream.outgoing.is_full
        stream.reset("enough")
        assert not stream.outgoing.is_full
        assert not stream.outgoing._pieces


async def test_a_waiting_receiver_is_told_when_its_stream_is_closed(network: Network) -> None:
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        stream = server.open_stream("R1.C1", "stare")
        async with anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()

            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            stream.reset("enough")


async def test_more_streams_than_there_may_be_are_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MAX_CONTENTS", 2)
    async with network.tree(relays=1, clients=1, streams=STREAMS) as server:
        streams = [server.open_stream("R1.C1", "stare") for _ in range(3)]
        for stream in streams[:2]:
            await stream.send(b"x")
        for _ in range(2):
            with pytest.raises(Busy, match="2 large payloads and streams"):
                await streams[2].send(b"x")
        for stream in streams:
            stream.reset("enough")


async def test_two_hundred_streams_are_open_at_once(network: Network) -> None:
    async with network.tree(relays=1, clients=2, streams=STREAMS) as server:
        streams = [server.open_stream(f"R1.C{number % 2 + 1}", "echo") for number in range(200)]
        for number, stream in enumerate(streams):
            await stream.send(b"%d" % number)
        for number, stream in enumerate(streams):
            assert await stream.receive() == b"%d" % number
        for stream in streams:
            await stream.aclose()
        await settled(network)
