"""What a child costs its parent's process in memory, with mutual TLS."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.conftest import provisioned

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
CHILDREN = 1000
PROJECT = """\
api_version: 3
name: many
scheme: tcp
participants:
  - {name: server, type: server, org: x, fed_learn_port: 8002, default_host: localhost}
"""


@pytest.fixture(scope="module")
def kits() -> Iterator[Path]:
    clients = "".join(f"  - {{name: C{number}, type: client, org: x}}\n" for number in range(CHILDREN))
    with provisioned(PROJECT + clients) as folder:
        yield folder / "kits"


@pytest.mark.parametrize(("scheme", "limit"), [("tcp", 60_000), ("http", 60_000), ("grpc", 120_000)])
def test_each_of_a_thousand_children_takes_little(kits: Path, scheme: str, limit: int) -> None:
    with ExitStack() as processes:

        def start(*arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.drivers.many", *map(str, arguments)]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        def said(process: subprocess.Popen[str]) -> str:
            assert process.stdout is not None
            return process.stdout.readline().strip()

        def resident(parent: subprocess.Popen[str], children: int) -> int:
            assert parent.stdin is not None
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert int(said(parent)) == children
            return int(psutil.Process(parent.pid).memory_info().rss)

        parent = start(kits, scheme)
        url = said(parent)
        first = start(kits, url, 0, 10)  # what is needed once: modules, pools, contexts
        assert said(first) == "joined"
        before = resident(parent, 10)
        rest = start(kits, url, 10, CHILDREN)
        assert said(rest) == "joined"
        assert (resident(parent, CHILDREN) - before) / (CHILDREN - 10) < limit
