"""Each driver keeps every law of drivers, in each of its security modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.drivers import tls
from cellnet.drivers.base import CLEAR
from cellnet.drivers.grpc import GrpcDriver
from cellnet.drivers.http import HttpDriver
from cellnet.drivers.memory import MemoryDriver
from cellnet.drivers.tcp import TcpDriver
from cellnet.drivers.unix import UnixDriver
from cellnet.testing import LAWS, Trial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Issue

WAYS = [
    *(
        pytest.param((scheme, mode), marks=() if mode == "clear" else pytest.mark.long)
        for scheme in ("tcp", "http", "grpc")
        for mode in ("clear", "tls", "mtls")
    ),
    pytest.param(("unix", "clear")),
    pytest.param(("memory", "clear")),
]


@pytest.fixture(params=WAYS, ids="-".join)
def trial(request: pytest.FixtureRequest, issue: Issue, tmp_path: Path) -> Trial:
    scheme, mode = request.param
    if scheme == "unix":
        return Trial(UnixDriver(), f"unix://{tmp_path}/s")
    if scheme == "memory":
        return Trial(MemoryDriver(), "memory://server")
    driver = {"tcp": TcpDriver, "http": HttpDriver, "grpc": GrpcDriver}[scheme]()
    if mode == "clear":
        return Trial(driver, f"{scheme}://127.0.0.1:0", CLEAR, CLEAR)
    listening = tls.for_listening(mode, issue("server", "server", hosts=["127.0.0.1"]), driver.alpn)
    connecting = tls.for_connecting(mode, issue("C1", "client"), driver.alpn)
    return Trial(driver, f"{scheme}://127.0.0.1:0", listening, connecting, connections=100)


@pytest.mark.anyio
@pytest.mark.parametrize("law", LAWS, ids=[law.__name__ for law in LAWS])
async def test_a_driver_keeps_the_law(law: Callable[[Trial], Awaitable[None]], trial: Trial) -> None:
    await law(trial)
