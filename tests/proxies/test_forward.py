"""A site behind a forward proxy: out by CONNECT, with a password or without, and told when the proxy refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, ConfigurationError, ConnectError, HandshakeError
from cellnet.drivers.grpc import GrpcDriver
from cellnet.drivers.http import HttpDriver
from tests.proxies.conftest import running, tinyproxy

if TYPE_CHECKING:
    from pathlib import Path

    from cellnet import Request
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
DRIVERS = {"http": HttpDriver, "grpc": GrpcDriver}
SCHEMES = list(DRIVERS)


async def echo(request: Request) -> object:
    return request.payload


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize("mode", ["clear", "mtls"])
@pytest.mark.parametrize("password", [None, "pw"], ids=["open", "password"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_client_goes_out_through_a_forward_proxy(
    issue: Issue, tmp_path: Path, scheme: str, password: str | None, mode: str
) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as top:
        url = await top.listen(f"{scheme}://localhost:0", server, security=mode)
        command, port = tinyproxy(tmp_path, port_of(url), password=password)
        user = "user:p%77@" if password else ""
        drivers = {scheme: DRIVERS[scheme](f"http://{user}127.0.0.1:{port}")}
        with running(command, tmp_path, port), anyio.fail_after(30):
            async with Cell("C1", drivers=drivers) as child:
                await child.connect(url, client, security=mode)
                large = bytes(range(256)) * 16 * 1024
                assert bytes(await child.request("server", "echo", large)) == large
        assert "CONNECT localhost" in (tmp_path / "tinyproxy.log").read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_environment_names_the_proxy(
    issue: Issue, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as top:
        url = await top.listen(f"{scheme}://localhost:0", server)
        command, port = tinyproxy(tmp_path, port_of(url))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "")
        with running(command, tmp_path, port), anyio.fail_after(30):
            async with Cell("C1") as child:
                await child.connect(url, client)
                assert await child.request("server", "echo", "up") == "up"
        assert "CONNECT localhost" in (tmp_path / "tinyproxy.log").read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_hosts_that_the_environment_excepts_are_dialled_directly(
    issue: Issue, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "localhost")
    async with Cell("server") as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://localhost:0", issue("server", "server"))
        with anyio.fail_after(10):
            await child.connect(url, issue("C1", "client"))


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("", "407: it wants a name and a password"),
        ("user:wrong@", "40[17]: it wants a name and a password"),
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_wants_another_password(
    issue: Issue, tmp_path: Path, scheme: str, user: str, reason: str
) -> None:
    async with Cell("server") as top:
        url = await top.listen(f"{scheme}://localhost:0", issue("server", "server"))
        command, port = tinyproxy(tmp_path, port_of(url), password="other")
        drivers = {scheme: DRIVERS[scheme](f"http://{user}127.0.0.1:{port}")}
        with running(command, tmp_path, port), anyio.fail_after(5):
            async with Cell("C1", drivers=drivers) as child:
                with pytest.raises(HandshakeError, match=f"the proxy 127.0.0.1:{port} answered with status {reason}"):
                    await child.connect(url, issue("C1", "client"))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_forbids_the_port(issue: Issue, tmp_path: Path, scheme: str) -> None:
    async with Cell("server") as top:
        url = await top.listen(f"{scheme}://localhost:0", issue("server", "server"))
        command, port = tinyproxy(tmp_path, 1)
        drivers = {scheme: DRIVERS[scheme](f"http://127.0.0.1:{port}")}
        with running(command, tmp_path, port), anyio.fail_after(5):
            async with Cell("C1", drivers=drivers) as child:
                with pytest.raises(HandshakeError, match="answered with status 403: it forbids this host or port"):
                    await child.connect(url, issue("C1", "client"))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_is_not_there(scheme: str) -> None:
    async with Cell("C1", drivers={scheme: DRIVERS[scheme]("http://127.0.0.1:1")}) as child:
        with pytest.raises(ConnectError, match=r"the proxy 127\.0\.0\.1:1 cannot be reached: nobody answers"):
            with anyio.fail_after(2):
                await child.connect(f"{scheme}://hub.invalid:8002")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "proxy", ["https://user:secret@proxy:3128", "proxy", "socks5://proxy:1080", "http://a@b", "http://a%3Ab:secret@c:1"]
)
async def test_what_is_no_proxy_is_said_without_its_password(scheme: str, proxy: str) -> None:
    async with Cell("C1", drivers={scheme: DRIVERS[scheme](proxy)}) as child:
        with pytest.raises(ConfigurationError, match="the proxy") as caught:
            await child.connect(f"{scheme}://hub.invalid:8002")
    assert "secret" not in str(caught.value)
