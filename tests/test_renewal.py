"""Certificates that are renewed while cells run: new ones are shown from then on, and no request fails."""

from __future__ import annotations

import datetime
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.streams.tls import TLSAttribute
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cellnet import Cell, Credentials, HandshakeError, RemoteError
from cellnet.credentials import CONNECT
from cellnet.errors import ConfigurationError
from cellnet.placement import Placement
from provisioning.authority import Authority, certificates_pem, key_pem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cellnet import Request
    from tests.conftest import Issue

    Renewed = Callable[[Credentials, Issue], Credentials]

pytestmark = pytest.mark.anyio
SECONDS = 10


async def echo(request: Request) -> object:
    return request.payload


def kept(newer: Credentials, folder: Path) -> Credentials:
    """Return credentials whose files were moved to where a kit keeps what was renewed."""
    assert newer.files is not None
    certificate, key, roots = newer.files
    newer.files = folder / "renewed.crt", folder / "renewed.key", roots
    for old, new in zip((certificate, key), newer.files, strict=False):
        old.replace(new)
    return newer


@pytest.fixture
def renewed(tmp_path: Path) -> Renewed:
    """Return a function that has new certificates issued for the keys of some credentials."""

    def make(old: Credentials, issue: Issue) -> Credentials:
        authority, now = issue.authority(), datetime.datetime.now(datetime.UTC)

        def pair(one: Credentials, listening: Credentials | None = None) -> Credentials:
            assert one.files is not None
            (usage,) = one.chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            certificate = authority.issue(
                one.identity,
                one.key.public_key(),
                usage,
                common_name=one.identity.name,
                org="acme",
                hosts=["localhost"],
                now=now,
            )
            folder = tmp_path / f"{certificate.serial_number:x}"
            folder.mkdir()
            (folder / "it.crt").write_bytes(certificates_pem(certificate))
            (folder / "it.key").write_bytes(key_pem(one.key))
            placement = one.placement.signed if one.placement else b""
            return Credentials.load(
                folder / "it.crt", folder / "it.key", one.files[2], placement=placement, listening=listening
            )

        return pair(old, pair(old.listening) if old.listening else None)

    return make


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_all_nodes_are_renewed_under_load_and_no_request_fails(
    scheme: str, issue: Issue, renewed: Renewed
) -> None:
    roles = {"server": "server", "R1": "relay", "C1": "client", "C2": "client"}
    held = {name: issue(name, role) for name, role in roles.items()}
    cells = {name: Cell(name, handlers={"echo": echo}) for name in roles}
    done = {"C1": 0, "C2": 0}

    async def ask(name: str, other: str) -> None:
        while True:
            assert await cells[name].request(other, "echo", done[name]) == done[name]
            done[name] += 1

    async with cells["server"], cells["R1"], cells["C1"], cells["C2"]:
        with anyio.fail_after(SECONDS * 3):
            top = await cells["server"].listen(f"{scheme}://localhost:0", held["server"])
            await cells["R1"].connect(top, held["R1"])
            middle = await cells["R1"].listen(f"{scheme}://localhost:0", held["R1"].listening)
            await cells["C1"].connect(middle, held["C1"])
            await cells["C2"].connect(top, held["C2"])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "C1", "C2")
                tasks.start_soon(ask, "C2", "R1.C1")
                old = {name: credentials.chain[0] for name, credentials in held.items()}
                for name in ("server", "R1", "C1", "C2"):
                    held[name].renew(renewed(held[name], issue))
                    cells[name].renew()
                    before = dict(done)
                    while any(done[one] < before[one] + 5 for one in done):
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            for name, credentials in held.items():
                assert credentials.chain[0] != old[name]
            # who joins now sees the new certificate, and the parent sees the child's new one
            for name, parent in (("R1", "server"), ("C2", "server"), ("C1", "R1")):
                shown = [
                    seen.serial
                    for _connection, neighbour, seen in cells[parent]._neighbours.proven()
                    if neighbour.name == name
                ]
                assert shown == [held[name].chain[0].serial_number]
            ((_connection, _parent, above),) = cells["C2"]._neighbours.proven()
            assert above.serial == held["server"].chain[0].serial_number


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_a_cell_that_connects_shows_in_tls_what_was_renewed_each_time(
    scheme: str, issue: Issue, renewed: Renewed, tmp_path: Path
) -> None:
    held, server_held = issue("C1", "client"), issue("server", "server", hosts=["localhost"])
    with anyio.fail_after(SECONDS):
        async with Cell("server") as server, Cell("C1") as cell:
            await cell.connect(await server.listen(f"{scheme}://localhost:0", server_held, security="mtls"), held)
            for _ in range(3):
                newer = kept(renewed(held, issue), tmp_path)
                held.renew(newer)
                cell.renew()
                serial = newer.chain[0].serial_number
                while serial not in [shown.serial for _connection, _neighbour, shown in server._neighbours.proven()]:
                    await anyio.sleep(0.01)
                assert await cell.request("server", "cellnet.members", ["C1", ""]) == ["C1"]


@pytest.mark.parametrize("scheme", ["tcp", "http", "grpc"])
async def test_a_listener_shows_in_tls_what_was_renewed_each_time(
    scheme: str, issue: Issue, renewed: Renewed, tmp_path: Path
) -> None:
    held = issue("server", "server")

    async def shown(port: int) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1", "cellnet/1"])
        async with await anyio.connect_tcp(
            "localhost", port, ssl_context=context, tls_standard_compatible=False
        ) as link:
            found = link.extra_attributes[TLSAttribute.peer_certificate_binary]()
            assert isinstance(found, bytes)
            return found

    async with Cell("server") as server:
        url = await server.listen(f"{scheme}://localhost:0", held, security="tls")
        port = int(url.rpartition(":")[2])
        assert await shown(port) == held.chain_der[0]
        for _ in range(3):  # as in a kit, where the files are called the same each time
            held.renew(kept(renewed(held, issue), tmp_path))
            server.renew()
            assert await shown(port) == held.chain_der[0]


async def test_certificates_of_others_or_for_other_keys_do_not_renew(issue: Issue, renewed: Renewed) -> None:
    mine, same, other = issue("C1", "client"), issue("C1", "client"), issue("C2", "client")
    for wrong in (same, other):
        with pytest.raises(ConfigurationError, match=r"do not renew those of cellnet://mobile/client/C1"):
            mine.renew(wrong)
    newer = renewed(mine, issue)
    mine.renew(newer)
    assert mine.chain == newer.chain
    assert isinstance(mine.placement, Placement)


async def test_job_cells_show_the_new_certificate_of_their_site(issue: Issue, renewed: Renewed, tmp_path: Path) -> None:
    site, server = issue("C1", "client"), issue("server", "server")
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    job = Credentials.unpack(site.delegate("j1", "job", end).pack(), datetime.datetime.now(datetime.UTC))
    url = f"unix://{tmp_path}/s"
    async with Cell("server", handlers={"echo": echo}) as top, Cell("C1") as middle:
        with anyio.fail_after(SECONDS):
            await middle.connect(await top.listen("tcp://localhost:0", server), site)
            await middle.listen(url, site)
            async with Cell("j1", epoch=1) as leaf:
                await leaf.connect(url, job)
                old = job.chain[0]
                site.renew(renewed(site, issue))
                middle.renew()
                while job.chain[0] == old:
                    await anyio.sleep(0.01)
                assert job.chain == site.chain
                site.roots += (Authority.create("mobile", name="root 2").certificate,)
                middle.renew()
                while job.roots != site.roots:
                    await anyio.sleep(0.01)
                assert await leaf.request("server", "echo", 1) == 1
            # and whoever begins later: the site's listener shows the new one, the delegation is by the same key
            async with Cell("j1", epoch=2) as again:
                await again.connect(url, job)
                assert await again.request("server", "echo", 2) == 2


async def test_nobody_can_give_a_job_another_certificate(issue: Issue, renewed: Renewed, tmp_path: Path) -> None:
    site, other = issue("C1", "client"), issue("C2", "client")
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    job = site.delegate("j1", "job", end)
    before = job.chain
    now = datetime.datetime.now(datetime.UTC)
    forged = Authority.create("mobile").issue(site.identity, site.key.public_key(), CONNECT, common_name="C1", org="x")
    for chain in (
        other.chain_der,
        issue("C1", "client").chain_der,
        [b"x"],
        [forged.public_bytes(serialization.Encoding.DER)],
    ):
        with pytest.raises(HandshakeError):
            job.take_chain(chain, site.roots_der, now)
    newer = renewed(site, issue).chain_der
    wrong: tuple[Any, ...] = ([], [b"x"], [7], other.chain_der)
    for roots in wrong:
        with pytest.raises(HandshakeError):
            job.take_chain(newer, roots, now)
    assert job.chain == before
    assert job.roots == site.roots
    job.take_chain(newer, site.roots_der, now)
    assert job.chain_der == newer
    if before[0].not_valid_after_utc < job.chain[0].not_valid_after_utc:
        with pytest.raises(HandshakeError, match="older than the one"):
            job.take_chain([one.public_bytes(serialization.Encoding.DER) for one in before], site.roots_der, now)


async def test_only_its_site_tells_a_job_cell_of_a_certificate(issue: Issue, renewed: Renewed, tmp_path: Path) -> None:
    site, server = issue("C1", "client"), issue("server", "server")
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    job = site.delegate("j1", "job", end)
    url = f"unix://{tmp_path}/s"
    async with Cell("server") as top, Cell("C1") as middle, Cell("j1") as leaf:
        with anyio.fail_after(SECONDS):
            await middle.connect(await top.listen("tcp://localhost:0", server), site)
            await middle.listen(url, site)
            await leaf.connect(url, job)
            await top.wait_present(["C1.j1"])
            with pytest.raises(RemoteError, match="only that one says which"):
                await top.request("C1.j1", "cellnet.chain", [renewed(site, issue).chain_der, site.roots_der])
            good = site.chain_der
            for wrong in (None, [], [[], []], good, [good], [good, []], [[], good], [good, ["x"]], [good, good, good]):
                with pytest.raises(RemoteError, match="certificates are wanted, and roots"):
                    await middle.request("C1.j1", "cellnet.chain", wrong)
