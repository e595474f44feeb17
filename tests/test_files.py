"""Files as payloads: sent from the disk and written to it, and never in memory as a whole."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import (
    FQCN,
    Cell,
    ConfigurationError,
    Folder,
    Indeterminate,
    LocalProtocolError,
    Progress,
    RemoteError,
    durable,
)
from cellnet.drivers.memory import MemoryDriver
from cellnet.payload import Encoding, Packed
from tests.test_large_payloads import noise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cellnet import DurableRequest, Request

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
MIB = 1 << 20
SIZES = [0, 1, 65536, 65537, 5 * MIB + 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the cells of a test keep what comes."""
    path = tmp_path / "in"
    path.mkdir()
    return path


class Pair:
    """A server and a client. The client answers, and may keep what it was sent."""

    def __init__(self, server: Cell, client: Cell) -> None:
        self.server = server
        self.client = client


seen: list[Path] = []


async def weigh(request: Request) -> int:
    assert isinstance(request.payload, Path)
    seen.append(request.payload)
    return request.payload.stat().st_size


async def echo(request: Request) -> object:
    return request.payload


async def move(request: Request) -> str:
    moved = request.payload.with_name("moved")
    return str(request.payload.rename(moved))


@pytest.fixture
async def pair(folder: Path) -> AsyncGenerator[Pair]:
    driver = MemoryDriver()
    handlers = {"weigh": weigh, "echo": echo, "move": move}
    async with (
        Cell("server", drivers={"memory": driver}, files=Folder(folder)) as server,
        Cell("C", drivers={"memory": driver}, files=Folder(folder), handlers=handlers) as client,
    ):
        await client.connect(await server.listen("memory://server"))
        yield Pair(server, client)


def made(tmp_path: Path, size: int) -> Path:
    path = tmp_path / f"{size}.bin"
    path.write_bytes(noise(size))
    return path


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_of_any_size_goes_there_and_back(pair: Pair, tmp_path: Path, folder: Path, size: int) -> None:
    sent = made(tmp_path, size)
    back = await pair.server.request("C", "echo", sent)
    assert back != sent
    assert back.read_bytes() == sent.read_bytes()
    assert back.stat().st_mode & 0o077 == 0
    back.unlink()
    await quiet(pair)
    assert kept(folder) == []


async def quiet(pair: Pair) -> None:
    with anyio.fail_after(10):
        while any(
            cell.statistics().contents_held or cell.statistics().contents_wanted for cell in (pair.server, pair.client)
        ):
            await anyio.sleep(0.01)


async def test_a_file_for_many_is_an_object(pair: Pair, tmp_path: Path) -> None:
    sent = made(tmp_path, 5 * MIB)
    async with pair.server.broadcast("*", "weigh", sent) as replies:
        assert [reply.result() async for reply in replies] == [5 * MIB]
    async with pair.server.share(sent) as shared:
        assert await pair.server.request("C", "weigh", shared) == 5 * MIB


async def test_what_a_message_brought_is_removed_when_its_handler_ends_unless_it_was_moved(
    pair: Pair, tmp_path: Path, folder: Path
) -> None:
    sent = made(tmp_path, 100_000)
    seen.clear()
    assert await pair.server.request("C", "weigh", sent) == 100_000
    assert not seen[0].exists()
    moved = Path(await pair.server.request("C", "move", sent))
    assert moved.read_bytes() == sent.read_bytes()
    assert kept(folder) == [moved]


async def test_what_is_left_is_removed_with_the_cell(tmp_path: Path, folder: Path) -> None:
    async with Cell("server", handlers={"echo": echo}, files=Folder(folder)) as server:
        back = await server.request("server", "echo", made(tmp_path, 70_000))
        assert back.exists()
    assert list(folder.iterdir()) == []


async def test_a_cell_without_a_folder_takes_no_files(tmp_path: Path, folder: Path) -> None:
    driver = MemoryDriver()
    async with (
        Cell("server", drivers={"memory": driver}) as server,
        Cell("C", drivers={"memory": driver}, files=Folder(folder), handlers={"echo": echo, "weigh": weigh}) as client,
    ):
        await client.connect(await server.listen("memory://server"))
        with pytest.raises(RemoteError, match="without a folder"):
            await client.request("server", "cellnet.members", made(tmp_path, 100_000))
        with pytest.raises(Indeterminate, match="without a folder"):
            await server.request("C", "echo", made(tmp_path, 100_000))
        assert await server.request("C", "weigh", made(tmp_path, 100_000)) == 100_000


async def test_a_file_that_is_too_large_is_refused_before_it_comes(tmp_path: Path, folder: Path) -> None:
    handlers = {"weigh": weigh}
    async with Cell("server", handlers=handlers, files=Folder(folder, max_bytes=1000)) as server:
        with pytest.raises(RemoteError, match="1001 bytes is too large here: 1000 are allowed"):
            await server.request("server", "weigh", made(tmp_path, 1001))
        assert kept(folder) == []


async def test_a_file_that_does_not_fit_on_the_disk_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 500})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    async with Cell("server", handlers={"weigh": weigh}, files=Folder(folder)) as server:
        with pytest.raises(RemoteError, match="the disk has 500 bytes left"):
            await server.request("server", "weigh", made(tmp_path, 1001))


async def test_a_disk_that_becomes_full_is_told_and_leaves_nothing(pair: Pair, tmp_path: Path, folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sent = made(tmp_path, MIB)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RemoteError, match="could not be kept"):
            await pair.server.request("C", "weigh", sent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept(folder) == []
    assert await pair.server.request("C", "weigh", sent) == MIB


@pytest.mark.parametrize("change", ["shorter", "longer", "same size"])
async def test_a_file_that_is_changed_while_it_is_sent_is_told(pair: Pair, tmp_path: Path, change: str) -> None:
    sent = tmp_path / "model.bin"
    sent.write_bytes(bytes(40 * MIB))

    def spoil(progress: Progress) -> None:
        if progress.received >= MIB and not spoilt:
            spoilt.append(progress)
            if change == "shorter":
                os.truncate(sent, 2 * MIB)
            else:
                with sent.open("r+b") as file:
                    file.seek(0, os.SEEK_END if change == "longer" else os.SEEK_SET)
                    file.write(b"!")

    spoilt: list[Progress] = []
    pair.client._contents._progress = spoil
    with pytest.raises(RemoteError, match=r"ContentLost.*model\.bin was changed while it was sent"):
        await pair.server.request("C", "weigh", sent)
    await quiet(pair)


async def test_what_is_no_file_cannot_be_sent(pair: Pair, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(LocalProtocolError, match="it is no file"):
            await pair.server.request("C", "weigh", path)


async def test_a_path_that_came_as_bytes_is_not_one(pair: Pair) -> None:
    forged = Packed(Encoding.FILE, (b"/etc/hostname",))
    pair.server._contents.is_inline = lambda _packed: False  # type: ignore[method-assign]  # so that the next line is asked
    pair.server._contents._hold = lambda *_args, **_kwargs: (forged.encoding, forged.joined(), None)  # type: ignore[method-assign]  # what no cell says
    with pytest.raises(RemoteError, match="unknown encoding 5"):
        await pair.server.request("C", "weigh")


def test_a_folder_that_cannot_be_one_is_a_mistake_of_its_owner(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the folder for files"), Folder(tmp_path / "missing"):
        pass


async def test_a_cell_to_which_no_file_comes_leaves_nothing_in_the_folder(pair: Pair, folder: Path) -> None:
    assert not list(folder.iterdir())
    await pair.server.request("C", "weigh", made(folder.parent, 1))
    assert len(list(folder.iterdir())) == 1


async def test_a_durable_handler_keeps_no_files(tmp_path: Path, folder: Path) -> None:
    sent = made(tmp_path, 10)

    async def answer(_request: DurableRequest) -> Path:
        return sent

    handlers = {"answer": durable(answer)}
    async with Cell("server", handlers=handlers, journal=tmp_path / "j.db", files=Folder(folder)) as server:
        with pytest.raises(RemoteError, match="cannot be kept"):
            await server.request("server", "answer")


async def test_progress_is_told_a_hundred_times_at_most_and_at_the_end(tmp_path: Path, folder: Path) -> None:
    told: list[Progress] = []
    handlers = {"weigh": weigh}
    async with Cell("server", handlers=handlers, files=Folder(folder), progress=told.append) as server:
        await server.request("server", "weigh", made(tmp_path, 5 * MIB))
    assert 3 < len(told) <= 102
    assert told[-1] == (1, FQCN("server"), 5 * MIB, 5 * MIB)
    received = [progress.received for progress in told]
    assert received == sorted(set(received))
