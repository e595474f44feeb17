"""Why a node would not work, told step by step on its machine, before it is started or while it runs."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell
from cellnet.checkup import check_kit
from cellnet.kit import Kit
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
PROJECT = """
api_version: 3
name: checked
scheme: tcp
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: server}}}}
  - {{name: C2, type: client, org: x, connect_to: {{host: no-such-host.invalid}}}}
  - {{name: C3, type: client, org: x, connect_to: {{name: R1}}}}
  - {{name: a@x.org, type: admin, org: x, role: lead}}
builders: [{{path: a.CertBuilder}}]
"""


@pytest.fixture(scope="module")
def kits() -> Iterator[Path]:
    with provisioned(PROJECT.format(*free_ports(2))) as folder:
        yield folder / "kits"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.checkup.CONNECT_SECONDS", 3.0)


async def found(path: Path) -> list[tuple[str, bool, str]]:
    return [(one.step, one.is_fine, one.text) async for one in check_kit(path)]


async def test_a_node_that_would_work_is_fine_in_every_step(kits: Path) -> None:
    kit = Kit.load(kits / "server")
    assert kit.listen is not None
    async with Cell("server") as server:
        await server.listen(kit.listen.url, kit.credentials)
        steps = await found(kits / "C1")
        assert [(step, fine) for step, fine, _text in steps] == [
            ("kit", True),
            ("certificates", True),
            ("local/network.yml", True),
            ("host", True),
            ("joining", True),
        ]
        assert steps[1][2] == "hold for 89 days"
        assert steps[-1][2] == f"joined at {Kit.load(kits / 'C1').connect.url} as C1, and the server answers"  # type: ignore[union-attr]
        assert [fine for _step, fine, _text in await found(kits / "R1")] == [True] * 6


async def test_a_node_that_runs_is_not_disturbed(kits: Path) -> None:
    kit, own = Kit.load(kits / "server"), Kit.load(kits / "C1")
    assert kit.listen is not None
    assert own.connect is not None
    async with Cell("server") as server, Cell("C1") as node:
        await server.listen(kit.listen.url, kit.credentials)
        await node.connect(own.connect.url, own.credentials)
        (*_, last) = await found(kits / "C1")
        assert last == ("joining", True, f"the node runs, and its parent at {own.connect.url} knows it")
        with anyio.fail_after(5):
            assert await node.request("server", "cellnet.members", ["C1", ""]) == ["C1"]


async def test_what_is_wrong_is_the_last_step_and_says_what_to_do(kits: Path, tmp_path: Path) -> None:
    (*_, last) = await found(kits / "C1")
    assert last[:2] == ("joining", False)
    assert re.search(r"could not join at tcp://localhost:\d+ within", last[2])
    (*_, last) = await found(kits / "C2")
    assert last[:2] == ("host", False)
    assert "no-such-host.invalid is unknown here" in last[2]
    (only,) = await found(tmp_path)
    assert only[:2] == ("kit", False)


async def test_a_parent_that_is_another_node_is_told(kits: Path) -> None:
    kit, server = Kit.load(kits / "R1"), Kit.load(kits / "server")
    assert kit.listen is not None
    async with Cell("server") as wrong:
        # somebody started the server at the relay's address
        await wrong.listen(kit.listen.url, server.credentials)
        (*_, last) = await found(kits / "C3")
    assert last[:2] == ("joining", False)
    assert "the listener is server, but this kit joins R1: check the address" in last[2]


async def test_a_taken_port_and_a_wrong_setting_of_the_site_are_told(kits: Path) -> None:
    kit = Kit.load(kits / "server")
    assert kit.listen is not None
    host, port = kit.listen.url.removeprefix("tcp://").split(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        (*_, last) = await found(kits / "server")
    assert last[:2] == ("listening", False)
    assert "Does the node run already, or another program?" in last[2]
    settings = kits / "C1" / "local" / "network.yml"
    settings.write_text("proxi: x\n")
    try:
        (*_, last) = await found(kits / "C1")
    finally:
        settings.unlink()
    assert last[:2] == ("local/network.yml", False)
    assert "network.yml:1:1: 'proxi' is not known" in last[2]


def test_the_command_ends_as_the_checkup_did(kits: Path) -> None:
    from click.testing import CliRunner

    from cellnet.cli import main

    done = CliRunner().invoke(main, ["check", str(kits / "server")])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[0] == "ok     kit: server server of project checked: whole and unaltered"
    failed = CliRunner().invoke(main, ["check", str(kits / "C2"), "--json"])
    assert failed.exit_code == 1
    said = json.loads(failed.stdout)
    assert (said["ok"], said["steps"][-1]["step"], said["steps"][-1]["ok"]) == (False, "host", False)
