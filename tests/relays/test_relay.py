"""A relay carries what others say, between real kits, in one event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet.cell import Cell
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from relays import run_relay
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cellnet.message import Request

pytestmark = pytest.mark.anyio

PROJECT = """
api_version: 3
name: relays
scheme: tcp
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: R2, type: relay, org: x, connect_to: {{name: R1}}, listening_host: {{default_host: localhost, port: {2}}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: R1}}}}
  - {{name: C2, type: client, org: x, connect_to: {{name: R2}}}}
"""


@pytest.fixture(scope="module")
def kits() -> Iterator[Path]:
    with provisioned(PROJECT.format(*free_ports(3))) as folder:
        yield folder / "kits"


async def answer(request: Request) -> str:
    return f"{request.payload} from {request.origin}"


async def test_clients_reach_the_server_and_each_other_through_relays(kits: Path) -> None:
    server, one, other = (Kit.load(kits / name) for name in ("server", "C1", "C2"))
    handlers = {"say": answer}
    with anyio.fail_after(20):
        async with Cell("server", handlers=handlers) as root, anyio.create_task_group() as tasks:
            assert server.listen
            assert one.connect
            assert other.connect
            await root.listen(server.listen.url, server.credentials, security=server.listen.security)
            first = await tasks.start(partial(run_relay, Kit.load(kits / "R1")))
            second = await tasks.start(partial(run_relay, Kit.load(kits / "R2")))
            assert first.startswith("R1 joined server over tcp, mtls; listens at tcp://")
            assert second.startswith("R1.R2 joined R1 over tcp, mtls; listens at tcp://")
            async with Cell("C1", handlers=handlers) as c1, Cell("C2", handlers=handlers) as c2:
                await c1.connect(one.connect.url, one.credentials, security=one.connect.security)
                await c2.connect(other.connect.url, other.credentials, security=other.connect.security)
                await root.wait_present(["R1.C1", "R1.R2.C2"])
                assert await c2.request("server", "say", "hello") == "hello from R1.R2.C2"
                assert await c1.request("R1.R2.C2", "say", "hello") == "hello from R1.C1"
                assert await root.request("R1.R2.C2", "say", "hello") == "hello from server"
            tasks.cancel_scope.cancel()


async def test_a_relay_runs_from_a_relays_kit_only(kits: Path) -> None:
    for name, role in (("C1", "client"), ("server", "server")):
        with pytest.raises(ConfigurationError, match=f"is the kit of a {role}, not of a relay: use cellnet start"):
            await run_relay(Kit.load(kits / name))
