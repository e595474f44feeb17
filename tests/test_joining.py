"""Who may join whom, over real sockets with real certificates: each refusal says why, on both sides, within 5 s."""

from __future__ import annotations

import logging
import select
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import FQCN, Cell, ConnectDeadline, HandshakeError, RefusedByPeer

if TYPE_CHECKING:
    from pathlib import Path

    from cellnet import Credentials, Request
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
SECONDS = 5


async def echo(request: Request) -> object:
    return request.payload


async def join(
    server: Credentials | None,
    client: Credentials | None,
    *,
    name: str = "C1",
    modes: tuple[str, str] = ("mtls", "mtls"),
) -> FQCN:
    async with Cell("server") as parent, Cell(name) as child:
        url = await parent.listen("tcp://localhost:0", server, security=modes[0])
        with anyio.fail_after(SECONDS):
            await child.connect(url, client, security=modes[1])
        return child.fqcn


@pytest.mark.parametrize("mode", ["clear", "tls", "mtls"])
async def test_a_client_joins_in_every_mode_of_security(issue: Issue, mode: str) -> None:
    server, client = issue("server", "server"), issue("C1", "client", parents=["server"])
    async with Cell("server") as parent, Cell("C1") as child:
        url = await parent.listen("tcp://localhost:0", server, security=mode)
        with anyio.fail_after(SECONDS):
            await child.connect(url, client, security=mode)
        assert [(member.fqcn, member.security) for member in parent.members()] == [(FQCN("C1"), mode)]


async def test_the_link_knows_its_driver_and_its_security(issue: Issue) -> None:
    server, relay = issue("server", "server"), issue("R1", "relay")
    async with Cell("server", handlers={"echo": echo}) as parent, Cell("R1") as child:
        url = await parent.listen("tcp://localhost:0", server)
        await child.connect(url, relay)
        assert await child.request("server", "echo", b"x" * 65536) == b"x" * 65536
        (member,) = parent.members()
        assert (member.driver, member.security, member.role) == ("tcp", "mtls", "relay")


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_cells_whose_issuers_do_not_know_each_other_trust_the_root(scheme: str, issue: Issue) -> None:
    server, client = issue("server", "server", own_issuer=True), issue("C1", "client", own_issuer=True)
    assert server.chain[1] != client.chain[1]
    async with Cell("server", handlers={"echo": echo}) as parent, Cell("C1") as child:
        url = await parent.listen(f"{scheme}://localhost:0", server)
        with anyio.fail_after(SECONDS * 2):
            await child.connect(url, client)
            assert await child.request("server", "echo", 1) == 1


async def test_a_relay_listens_and_connects_with_one_identity(issue: Issue) -> None:
    server, relay, client = issue("server", "server"), issue("R1", "relay"), issue("C1", "client", parents=["R1"])
    async with Cell("server") as top, Cell("R1") as middle, Cell("C1", handlers={"echo": echo}) as leaf:
        await middle.connect(await top.listen("tcp://localhost:0", server), relay)
        await leaf.connect(await middle.listen("tcp://localhost:0", relay), client)
        with anyio.fail_after(SECONDS):
            await top.wait_present(["R1.C1"])
            assert await top.request("R1.C1", "echo", "down") == "down"


def trusting_as(neighbour: Credentials, stranger: Credentials) -> Credentials:
    """Let only one side have a reason to refuse: the stranger accepts what its neighbour would accept."""
    assert neighbour.files
    assert stranger.files
    return replace(stranger, roots=neighbour.roots, files=(*stranger.files[:2], neighbour.files[2]))


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("clear", "was not issued by this project's authority"),
        ("tls", "was not issued by this project's authority"),
        ("mtls", "the peer refused our certificate: unknown ca"),
    ],
)
async def test_a_client_of_another_authority_is_refused_and_told_so(issue: Issue, mode: str, reason: str) -> None:
    server = issue("server", "server")
    with pytest.raises(HandshakeError, match=reason):
        await join(server, trusting_as(server, issue("C1", "client", foreign=True)), modes=(mode, mode))


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("clear", "was not issued by this project's authority"),
        ("tls", "the listener's certificate is not acceptable"),
        ("mtls", "the listener's certificate is not acceptable"),
    ],
)
async def test_a_server_of_another_authority_is_not_joined(issue: Issue, mode: str, reason: str) -> None:
    client = issue("C1", "client")
    with pytest.raises(HandshakeError, match=reason):
        await join(trusting_as(client, issue("server", "server", foreign=True)), client, modes=(mode, mode))


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("clear", "expired on .*: renew it"), ("tls", "expired on .*: renew it"), ("mtls", "certificate expired")],
)
async def test_an_expired_client_is_refused_and_told_to_renew(issue: Issue, mode: str, reason: str) -> None:
    with pytest.raises(HandshakeError, match=reason) as caught:
        await join(issue("server", "server"), issue("C1", "client", age_days=100), modes=(mode, mode))
    assert not caught.value.temporary


@pytest.mark.parametrize("mode", ["clear", "tls", "mtls"])
async def test_an_expired_server_is_not_joined(issue: Issue, mode: str) -> None:
    with pytest.raises(HandshakeError, match="expired"):
        await join(issue("server", "server", age_days=100), issue("C1", "client"), modes=(mode, mode))


async def test_a_server_with_a_wrong_host_name_is_not_joined(issue: Issue) -> None:
    with pytest.raises(HandshakeError, match=r"Hostname mismatch.*'localhost'"):
        await join(issue("server", "server", hosts=["hub.example.org"]), issue("C1", "client"))


@pytest.mark.parametrize("mode", ["clear", "mtls"])
async def test_a_name_that_is_not_the_certificates_is_refused(issue: Issue, mode: str) -> None:
    with pytest.raises(HandshakeError, match="calls itself client C2, but its certificate is for client C1") as caught:
        await join(issue("server", "server"), issue("C1", "client"), name="C2", modes=(mode, mode))
    assert caught.value.code == "identity-mismatch"
    assert isinstance(caught.value, RefusedByPeer)


async def test_a_placement_of_another_cell_is_refused(issue: Issue) -> None:
    with pytest.raises(HandshakeError, match="the placement is for C2, not for C1"):
        await join(issue("server", "server"), issue("C1", "client", placed="C2"))


async def test_a_client_below_the_wrong_parent_is_told_where_it_belongs(issue: Issue) -> None:
    with pytest.raises(HandshakeError, match="the listener is server, but this kit joins R1: check the address"):
        await join(issue("server", "server"), issue("C1", "client", parents=["R1"]))


async def test_a_client_of_another_project_is_refused(issue: Issue) -> None:
    with pytest.raises(HandshakeError, match="belongs to mobile, this cell to lab"):
        await join(issue("server", "server"), issue("C1", "client", project="lab"), modes=("clear", "clear"))


async def test_a_cell_without_credentials_does_not_join_one_with_them(issue: Issue) -> None:
    with pytest.raises(HandshakeError, match="belongs to mobile, this cell to no project"):
        await join(issue("server", "server"), None, modes=("clear", "clear"))


async def test_a_client_may_not_have_children(issue: Issue) -> None:
    server, first, second = issue("server", "server"), issue("C1", "client"), issue("C2", "client")
    async with Cell("server") as top, Cell("C1") as middle, Cell("C2") as leaf:
        await middle.connect(await top.listen("tcp://localhost:0", server), first)
        url = await middle.listen("tcp://localhost:0", first, security="clear")
        with pytest.raises(HandshakeError, match="is not for listening"), anyio.fail_after(SECONDS):
            await leaf.connect(url, second, security="clear")


@pytest.mark.parametrize("modes", [("clear", "mtls"), ("clear", "tls")])
async def test_tls_against_a_clear_listener_names_the_setting(issue: Issue, modes: tuple[str, str]) -> None:
    with pytest.raises(HandshakeError, match="does not speak TLS: compare connection_security"):
        await join(issue("server", "server"), issue("C1", "client"), modes=modes)


async def test_a_clear_client_at_a_tls_listener_ends_with_an_address(issue: Issue) -> None:
    with pytest.raises((ConnectDeadline, HandshakeError), match="tcp://localhost:"):
        async with Cell("server") as parent, Cell("C1") as child:
            url = await parent.listen("tcp://localhost:0", issue("server", "server"))
            with anyio.fail_after(1):
                await child.connect(url, issue("C1", "client"), security="clear")


async def test_the_listener_logs_whom_it_refused(issue: Issue, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cellnet"), pytest.raises(HandshakeError):
        await join(issue("server", "server"), issue("C1", "client"), name="C2")
    assert any("an arrival was refused" in message and "C2" in message for message in caplog.messages)


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_only_looks_and_leaves_is_no_warning_and_who_stays_silent_is(
    leaves: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.protocol.connection.HANDSHAKE_SECONDS", 0.5)
    caplog.set_level("DEBUG", "cellnet.link")
    with anyio.fail_after(3 * SECONDS):
        async with Cell("server") as cell:
            port = int((await cell.listen("tcp://127.0.0.1:0")).rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)):
                while not leaves and not caplog.records:
                    await anyio.sleep(0.02)
            while not caplog.records:
                await anyio.sleep(0.02)
    (record,) = [record for record in caplog.records if "an arrival was refused" in record.getMessage()]
    assert record.levelname == ("DEBUG" if leaves else "WARNING")


async def test_a_job_cell_joins_its_site_over_a_unix_socket_and_no_other(issue: Issue, tmp_path: Path) -> None:
    import datetime

    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    server, site = issue("server", "server"), issue("C1", "client")
    path = tmp_path / "s"
    if len(str(path)) > 90:
        pytest.fail("the temporary folder's path is too long for a unix socket")
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as middle:
        await middle.connect(await top.listen("tcp://localhost:0", server), site)
        url = await middle.listen(f"unix://{path}", site)
        async with Cell("j1") as job:
            await job.connect(url, site.delegate("j1", "job", soon))
            assert job.fqcn == FQCN("C1.j1")
            assert await job.request("server", "echo", "up") == "up"
        for credentials, message in (
            (site.delegate("j2", "job", soon), "not for job j1"),
            (site.delegate("j1", "job", soon - datetime.timedelta(hours=2)), "expired"),
            (server.delegate("j1", "job", soon), "not the job's own site"),
        ):
            async with Cell("j1") as job:
                with pytest.raises(HandshakeError, match=message), anyio.fail_after(SECONDS):
                    await job.connect(url, credentials)
    assert not path.exists()


async def test_the_servers_job_cell_stands_below_the_server(issue: Issue, tmp_path: Path) -> None:
    import datetime

    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    server, site = issue("server", "server"), issue("C1", "client")
    async with Cell("server") as top, Cell("C1") as client, Cell("j1", handlers={"echo": echo}) as job:
        await client.connect(await top.listen("tcp://localhost:0", server), site)
        await job.connect(await top.listen(f"unix://{tmp_path}/s", server), server.delegate("j1", "job", soon))
        assert job.fqcn == FQCN("server.j1")
        assert await client.request("server.j1", "echo", 1) == 1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64])
async def test_strangers_at_the_port_do_not_disturb_those_who_belong(issue: Issue, sent: bytes) -> None:
    server, client = issue("server", "server"), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as parent, Cell("C1") as child:
        for mode in ("clear", "mtls"):
            url = await parent.listen("tcp://localhost:0", server, security=mode)
            strangers = [socket.create_connection(("localhost", int(url.rpartition(":")[2]))) for _ in range(8)]
            for stranger in strangers:
                stranger.sendall(sent)
            if mode == "mtls":
                with anyio.fail_after(SECONDS):
                    await child.connect(url, client)
                    assert await child.request("server", "echo", 1) == 1
            for stranger in strangers:
                stranger.close()


async def test_silent_arrivals_beyond_the_limit_are_turned_away(issue: Issue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellnet.arrivals.MAX_UNPROVEN", 3)
    monkeypatch.setattr("cellnet.arrivals.PATIENCE_SECONDS", 60.0)
    async with Cell("server") as parent:
        url = await parent.listen("tcp://localhost:0", issue("server", "server"))
        port = int(url.rpartition(":")[2])
        strangers = [socket.create_connection(("localhost", port), timeout=SECONDS) for _ in range(8)]
        with anyio.fail_after(SECONDS):
            while parent.statistics().turned_away < 2:
                await anyio.sleep(0.01)
        ended = [stranger for stranger in strangers if select.select([stranger], [], [], 0)[0]]
        assert [stranger.recv(1) for stranger in ended] == [b"", b""], "three are inside, and three wait"
        for stranger in strangers:
            stranger.close()
