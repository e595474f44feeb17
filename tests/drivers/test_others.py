"""A driver that another distribution ships is found by its entry point, and keeps the laws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellnet import Cell, ConfigurationError, Request
from cellnet.drivers import load
from cellnet.testing import check_driver

EXAMPLE = Path(__file__).parent / "example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder of its own, as pip lays it out."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "cellnet_shouting").symlink_to(EXAMPLE / "cellnet_shouting")
    info = folder / "cellnet_shouting-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cellnet-shouting\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[cellnet.drivers]\nshout = cellnet_shouting:ShoutDriver\nbad = nowhere:No\n"
    )
    return folder


@pytest.fixture
def offered(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))


async def echo(request: Request) -> object:
    return request.payload


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.usefixtures("offered")
async def test_a_driver_of_another_distribution_keeps_the_laws_and_carries_cells() -> None:
    await check_driver(load("shout"), "shout://127.0.0.1:0", connections=50)
    drivers = {"shout": load("shout")}
    async with Cell("server", handlers={"echo": echo}, drivers=drivers) as top, Cell("C1", drivers=drivers) as child:
        await child.connect(await top.listen("shout://127.0.0.1:0"))
        assert await child.request("server", "echo", "hello") == "hello"
        assert [member.driver for member in top.members()] == ["shout"]


@pytest.mark.usefixtures("offered")
def test_a_driver_that_cannot_be_loaded_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"the driver for 'bad' \(nowhere:No\) cannot be loaded: No module"):
        load("bad")


@pytest.mark.usefixtures("offered")
def test_a_driver_that_nobody_offers_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"offers a driver for 'shuot' \(offered: bad, shout\)"):
        load("shuot")


def test_a_built_in_driver_cannot_be_replaced_by_name() -> None:
    with pytest.raises(ConfigurationError, match="is built in"):
        load("tcp")


@pytest.mark.usefixtures("offered")
def test_nothing_is_loaded_that_nobody_asked_for() -> None:
    code = "import sys, cellnet; cellnet.Cell('C1', drivers={}); print('cellnet_shouting' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
