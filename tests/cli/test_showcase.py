"""The steps of the demo that need no processes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.cli import showcase
from cellnet.cli.federation import Node, NodeFailed, federation
from cellnet.errors import ConnectError
from cellnet.jobs.operator import PresentCell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

R1 = PresentCell(fqcn="R1", role="relay", fqsn="", driver="tcp", security="mtls")
C1 = PresentCell(fqcn="R1.C1", role="client", fqsn="C1", driver="memory", security="tls")
COMMAND = PresentCell(fqcn="server.command", role="operator", fqsn="", driver="unix", security="clear")


def nodes(folder: Path, *names: str) -> list[Node]:
    """Return nodes whose process nobody looks at."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    for name in names:
        (folder / f"{name}.log").write_text(f"{name} has begun\n{name} is stuck\n", encoding="utf-8")
    return [Node(name, process, folder / f"{name}.log") for name in names]


async def test_all_are_present_once_the_server_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[ConnectError | list[PresentCell]]
    answers = iter([ConnectError("the server does not run"), [R1, COMMAND], [C1, R1, COMMAND]])

    async def present_cells(_kit: Path) -> list[PresentCell]:
        answer = next(answers)
        if isinstance(answer, ConnectError):
            raise answer
        return answer

    monkeypatch.setattr(showcase, "present_cells", present_cells)
    cells = await showcase.wait_all_present(tmp_path, nodes(tmp_path, "server", "R1", "C1"))
    assert [(cell.fqcn, cell.fqsn, cell.driver, cell.security) for cell in cells] == [
        ("server", "server", "tcp", "mtls"),
        ("R1", None, "tcp", "mtls"),
        ("R1.C1", "C1", "memory", "tls"),
    ]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([R1, COMMAND], "not present after 0.3 s: C1; the last lines of C1:\n    C1 has begun\n    C1 is stuck"),
        ([], "not present after 0.3 s: server; the last lines of server:\n    server has begun\n    server is stuck"),
    ],
)
async def test_a_node_that_does_not_come_up_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[PresentCell], expected: str
) -> None:
    async def present_cells(_kit: Path) -> list[PresentCell]:
        return seen

    monkeypatch.setattr(showcase, "present_cells", present_cells)
    monkeypatch.setattr(showcase, "PRESENT_SECONDS", 0.3)
    with pytest.raises(NodeFailed) as caught:
        await showcase.wait_all_present(tmp_path, nodes(tmp_path, "server", "R1", "C1"))
    assert str(caught.value) == expected


async def test_a_node_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match=r"(?s)node C1 ended \(exit status 1\); its last lines:\n.*no such folder"):
        async with federation({"C1": tmp_path / "missing"}, tmp_path):
            await anyio.sleep(60)
