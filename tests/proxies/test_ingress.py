"""A client and a relay behind an ingress: it ends TLS, and the cells are authenticated all the same."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import Cell, HandshakeError, Ingress
from tests.proxies.conftest import haproxy, nginx, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cellnet import Request
    from tests.conftest import Issue
    from tests.proxies.conftest import Certified

pytestmark = pytest.mark.anyio
SCHEMES = ["tcp", "http", "grpc"]
INGRESSES = [nginx, haproxy]


async def echo(request: Request) -> object:
    return request.payload


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ingress", INGRESSES, ids=["nginx", "haproxy"])
async def test_a_client_and_a_relay_behind_an_ingress_that_ends_tls(
    issue: Issue, certified: Certified, tmp_path: Path, ingress: Callable[..., tuple[list[str], int]], scheme: str
) -> None:
    server, relay = issue("server", "server"), issue("R1", "relay", parents=["server"])
    first, second = issue("C1", "client", parents=["server"]), issue("C2", "client", parents=["R1"])
    handlers = {"echo": echo}
    async with AsyncExitStack() as cells:
        names = ("server", "R1", "C1", "C2")
        top, middle, beside, below = [await cells.enter_async_context(Cell(n, handlers=handlers)) for n in names]
        url = await top.listen(f"{scheme}://127.0.0.1:0", server, security="clear")
        command, port = ingress(tmp_path, certified, scheme, port_of(url))
        with running(command, tmp_path, port):
            dialled, through = f"{scheme}://localhost:{port}", Ingress(certified.roots)
            with anyio.fail_after(30):
                await middle.connect(dialled, relay, security="tls", ingress=through)
                await beside.connect(dialled, first, security="tls", ingress=through)
                await below.connect(await middle.listen("tcp://localhost:0", relay), second)
                await top.wait_present(["C1", "R1.C2"])
                assert {str(member.fqcn) for member in top.members()} == {"R1", "C1", "R1.C2"}
                assert await top.request("R1.C2", "echo", "down") == "down"
                large = bytes(range(256)) * 32 * 1024  # 8 MiB: more than an ingress buffers
                assert bytes(await below.request("C1", "echo", large)) == large


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ingress", INGRESSES, ids=["nginx", "haproxy"])
async def test_mutual_tls_from_end_to_end_through_an_ingress_that_routes_by_name(
    issue: Issue, certified: Certified, tmp_path: Path, ingress: Callable[..., tuple[list[str], int]], scheme: str
) -> None:
    server, client = issue("server", "server"), issue("C1", "client", parents=["server"])
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://127.0.0.1:0", server)
        command, port = ingress(tmp_path, certified, "sni", port_of(url))
        with running(command, tmp_path, port), anyio.fail_after(30):
            await child.connect(f"{scheme}://localhost:{port}", client)
            assert await child.request("server", "echo", "up") == "up"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_stranger_behind_an_ingress_is_refused(
    issue: Issue, certified: Certified, tmp_path: Path, scheme: str
) -> None:
    server = issue("server", "server")
    stranger = issue("C1", "client", foreign=True)
    async with Cell("server") as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://127.0.0.1:0", server, security="clear")
        command, port = nginx(tmp_path, certified, scheme, port_of(url))
        dialled, through = f"{scheme}://localhost:{port}", Ingress(certified.roots)
        with (
            running(command, tmp_path, port),
            anyio.fail_after(30),
            pytest.raises(HandshakeError, match="was not issued by this project's authority"),
        ):
            await child.connect(dialled, stranger, security="tls", ingress=through)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_ingress_that_nobody_told_of_is_noticed(
    issue: Issue, certified: Certified, tmp_path: Path, scheme: str
) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    async with Cell("server") as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://127.0.0.1:0", server, security="clear")
        command, port = nginx(tmp_path, certified, scheme, port_of(url))
        with (
            running(command, tmp_path, port),
            anyio.fail_after(30),
            pytest.raises(HandshakeError, match=r"the other side knows no TLS 1\.3: is an ingress in between\?"),
        ):
            await child.connect(f"{scheme}://localhost:{port}", client, security="tls")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_ingress_restarts_and_no_request_fails(
    issue: Issue, certified: Certified, tmp_path: Path, scheme: str
) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as child:
        url = await top.listen(f"{scheme}://127.0.0.1:0", server, security="clear")
        command, port = nginx(tmp_path, certified, scheme, port_of(url))
        answers: list[object] = []
        async with anyio.create_task_group() as tasks:
            with running(command, tmp_path, port), anyio.fail_after(30):
                await child.connect(
                    f"{scheme}://localhost:{port}", client, security="tls", ingress=Ingress(certified.roots)
                )

                async def ask() -> None:
                    for number in range(100):
                        answers.append(await child.request("server", "echo", number))
                        await anyio.sleep(0.02)

                tasks.start_soon(ask)
                await anyio.sleep(0.5)
            assert answers
            with running(command, tmp_path, port), anyio.fail_after(30):
                while len(answers) < 100:
                    await anyio.sleep(0.05)
        assert answers == list(range(100))


@pytest.mark.long
async def test_an_ingress_that_cuts_what_is_silent_for_ten_seconds_cuts_no_link(
    issue: Issue, certified: Certified, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        top = await stack.enter_async_context(Cell("server", handlers={"echo": echo}))
        children = []
        for number, (scheme, ingress) in enumerate((s, i) for s in SCHEMES for i in INGRESSES):
            folder = tmp_path / str(number)
            folder.mkdir()
            url = await top.listen(f"{scheme}://127.0.0.1:0", issue("server", "server"), security="clear")
            command, port = ingress(folder, certified, scheme, port_of(url), idle="10s")
            stack.enter_context(running(command, folder, port))
            child = await stack.enter_async_context(Cell(f"C{number}"))
            with anyio.fail_after(10):
                await child.connect(
                    f"{scheme}://localhost:{port}",
                    issue(f"C{number}", "client"),
                    security="tls",
                    ingress=Ingress(certified.roots),
                    reconnect=False,
                )
            children.append(child)
        await anyio.sleep(12)
        with anyio.fail_after(5):
            assert [await child.request("server", "echo", n) for n, child in enumerate(children)] == list(range(6))
