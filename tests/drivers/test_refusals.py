"""What can be wrong between two nodes is told within five seconds, each in its own words, whatever the driver."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, ConnectError, HandshakeError
from tests.test_joining import trusting_as

if TYPE_CHECKING:
    from pathlib import Path

    from cellnet import Credentials
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
SCHEMES = ["tcp", "http", "grpc"]
SECONDS = 5.0
QUICK = {"tcp": SECONDS, "http": 2.0, "grpc": 2.0}
"""How long it takes to be told at a listener that waits: those who speak first are told at once."""


async def met(
    server: Credentials | None,
    client: Credentials | None,
    schemes: tuple[str, str],
    modes: tuple[str, str] = ("mtls", "mtls"),
    seconds: float = SECONDS,
) -> str:
    """Return what a client is told that cannot join."""
    async with Cell("server") as parent, Cell("C1") as child:
        url = await parent.listen(f"{schemes[0]}://localhost:0", server, security=modes[0])
        url = url.replace(schemes[0], schemes[1], 1)
        with pytest.raises(ConnectError) as caught:
            with anyio.fail_after(seconds):
                await child.connect(url, client, security=modes[1])
    assert str(caught.value).count(url) == 1 or "within" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_listener_of_another_authority(issue: Issue, scheme: str) -> None:
    client = issue("C1", "client")
    server = trusting_as(client, issue("server", "server", foreign=True))
    told = await met(server, client, (scheme, scheme), ("tls", "tls"))
    assert "the listener's certificate is not acceptable" in told


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_client_of_another_authority(issue: Issue, scheme: str) -> None:
    server = issue("server", "server")
    client = trusting_as(server, issue("C1", "client", foreign=True))
    told = await met(server, client, (scheme, scheme))
    assert "the peer refused our certificate" in told
    assert ("another authority" if scheme == "grpc" else "unknown ca") in told


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_listener_with_another_name(issue: Issue, scheme: str) -> None:
    server = issue("server", "server", hosts=["hub.example.org"])
    assert "Hostname mismatch" in await met(server, issue("C1", "client"), (scheme, scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_listener_whose_certificate_has_expired(issue: Issue, scheme: str) -> None:
    told = await met(issue("server", "server", age_days=100), issue("C1", "client"), (scheme, scheme))
    assert "certificate has expired" in told


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_client_whose_certificate_has_expired(issue: Issue, scheme: str) -> None:
    told = await met(issue("server", "server"), issue("C1", "client", age_days=100), (scheme, scheme))
    assert "the peer refused our certificate" in told
    assert "expired" in told


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_client_that_shows_no_certificate(issue: Issue, scheme: str) -> None:
    told = await met(issue("server", "server"), issue("C1", "client"), (scheme, scheme), ("mtls", "tls"))
    assert ("does it want our certificate?" if scheme == "grpc" else "certificate required") in told


async def test_a_clear_client_at_a_listener_with_tls(issue: Issue) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    told: dict[str, str] = {}

    async def meet(scheme: str) -> None:
        told[scheme] = await met(server, client, (scheme, scheme), ("mtls", "clear"), QUICK[scheme])

    async with anyio.create_task_group() as tasks:  # at the same time, as some of them wait
        for scheme in SCHEMES:
            tasks.start_soon(meet, scheme)
    assert set(told) == set(SCHEMES)
    for text in told.values():
        assert "compare the scheme, and connection_security" in text
        assert "TLS" in text


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_client_with_tls_at_a_clear_listener(issue: Issue, scheme: str) -> None:
    told = await met(issue("server", "server"), issue("C1", "client"), (scheme, scheme), ("clear", "mtls"))
    assert "the other side does not speak TLS: compare connection_security" in told


SPOKEN = {"tcp": "cellnet over tcp", "http": "HTTP", "grpc": "HTTP/2, as gRPC does"}


@pytest.mark.parametrize("mode", ["clear", "mtls"])
async def test_another_scheme(issue: Issue, mode: str) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    told: dict[tuple[str, str], str] = {}

    async def meet(listening: str, dialling: str) -> None:
        told[listening, dialling] = await met(server, client, (listening, dialling), (mode, mode), QUICK[dialling])

    async with anyio.create_task_group() as tasks:  # at the same time, as some of them wait
        for pair in permutations(SCHEMES, 2):
            tasks.start_soon(meet, *pair)
    assert len(told) == 6
    for (listening, _dialling), text in told.items():
        spoken = f"the other side speaks {SPOKEN[listening]}"
        assert spoken in text or (listening == "grpc" and "before it said what it is" in text)
        assert "compare the scheme" in text


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_host_that_is_not_known(scheme: str) -> None:
    async with Cell("C1") as child:
        with pytest.raises(ConnectError, match=r"the host 'nowhere\.invalid' is not known"):
            with anyio.fail_after(1):
                await child.connect(f"{scheme}://nowhere.invalid:8002")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_port_at_which_nobody_listens(scheme: str) -> None:
    async with Cell("server") as parent, Cell("C1") as child:
        url = await parent.listen(f"{scheme}://localhost:0")
    async with Cell("C1") as child:
        with pytest.raises(ConnectError, match=r"nobody answers at localhost:.*refused"):
            with anyio.fail_after(1):
                await child.connect(url)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_certificate_of_an_admin_at_the_server_a_relay_and_a_site(
    issue: Issue, scheme: str, tmp_path: Path
) -> None:
    admin, middle = issue("boss", "admin"), issue("R1", "relay")
    site = issue("C1", "client", placed="C1", parents=["R1"])
    async with Cell("server") as server, Cell("R1") as relay, Cell("C1") as client:
        urls = [await server.listen(f"{scheme}://localhost:0", issue("server", "server"))]
        await relay.connect(urls[0], middle)
        urls.append(await relay.listen(f"{scheme}://localhost:0", middle))
        await client.connect(urls[1], site)
        urls.append(await client.listen(f"unix://{tmp_path}/s", site))  # as it does for the processes of its jobs
        for url in urls:
            async with Cell("boss") as boss:
                with pytest.raises(
                    HandshakeError, match=r"admin may not join below|the certificate of C1 is not for listening"
                ) as refused:
                    with anyio.fail_after(SECONDS):
                        await boss.connect(url, admin)
            assert refused.value.code in ("wrong-role", "wrong-usage")
        assert [str(member.fqcn) for member in server.members()] == ["R1", "R1.C1"]
