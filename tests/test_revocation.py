"""Who was revoked has no link any more within seconds, at any depth, and nobody else notices."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from cryptography import x509

from cellnet import Cell, Credentials, HandshakeError
from cellnet.credentials import CONNECT
from cellnet.denial import MAX_DENIED, Denial, Denied, key_digest
from provisioning import Authority
from tests.conftest import free_ports, provisioned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from cellnet import Request
    from tests.conftest import Issue

pytestmark = pytest.mark.anyio
SECONDS = 5


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def echo(request: Request) -> object:
    return request.payload


def denial(authority: Authority, *credentials: Credentials, version: int = 1, project: str = "mobile") -> bytes:
    """Return a list with these certificates, by their serial numbers."""
    pairs = [pair for one in credentials for pair in (one, one.listening) if pair]
    serials = tuple(f"{pair.chain[0].serial_number:x}" for pair in pairs)
    return Denial(project=project, version=version, serials=serials).issue(authority.certificate, authority.key)


class Network:
    """server - R1 - R11 - R111 - C1 and C2, and C3 at the server."""

    def __init__(self, issue: Issue) -> None:
        roles = {"server": "server", "R1": "relay", "R11": "relay", "R111": "relay"}
        roles |= {"C1": "client", "C2": "client", "C3": "client"}
        self.issued = {name: issue(name, role) for name, role in roles.items()}
        self.authority = issue.authority()
        self.cells = {name: Cell(name, handlers={"echo": echo}) for name in roles}
        self.urls: dict[str, str] = {}

    async def join(self, name: str, parent: str) -> None:
        with anyio.fail_after(SECONDS):
            await self.cells[name].connect(self.urls[parent], self.issued[name])

    async def listen(self, name: str) -> None:
        credentials = self.issued[name].listening or self.issued[name]
        self.urls[name] = await self.cells[name].listen("tcp://localhost:0", credentials)


@pytest.fixture
async def network(issue: Issue) -> AsyncGenerator[Network]:
    net = Network(issue)
    cells = net.cells
    async with cells["server"], cells["R1"], cells["R11"], cells["R111"], cells["C1"], cells["C2"], cells["C3"]:
        await net.listen("server")
        for name, parent in (("R1", "server"), ("R11", "R1"), ("R111", "R11")):
            await net.join(name, parent)
            await net.listen(name)
        for name, parent in (("C1", "R111"), ("C2", "R111"), ("C3", "server")):
            await net.join(name, parent)
        await cells["server"].wait_present(["R1.R11.R111.C1", "R1.R11.R111.C2", "C3"])
        yield net


async def test_a_revoked_cell_is_cut_at_depth_four_and_its_siblings_do_not_notice(network: Network) -> None:
    cells, answers = network.cells, []

    async def ask() -> None:
        while True:
            answers.append(await cells["server"].request("R1.R11.R111.C2", "echo", len(answers)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(SECONDS):
            cells["server"].deny(denial(network.authority, network.issued["C1"]))
            await cells["C1"].wait_disconnected()
            seen = len(answers)
            while len(answers) < seen + 20:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert answers == list(range(len(answers)))
    assert "R1.R11.R111.C1" not in [str(member.fqcn) for member in cells["R111"].members()]
    with anyio.fail_after(SECONDS):
        assert await cells["C2"].request("C3", "echo", 7) == 7


async def test_a_revoked_cell_does_not_come_back_anywhere(network: Network) -> None:
    network.cells["server"].deny(denial(network.authority, network.issued["C3"]))
    with anyio.fail_after(SECONDS):
        await network.cells["C3"].wait_disconnected()
    for parent in ("server", "R1", "R111"):
        async with Cell("C3") as again:
            with pytest.raises(HandshakeError, match="the certificate of C3 was revoked"), anyio.fail_after(SECONDS):
                await again.connect(network.urls[parent], network.issued["C3"])


async def test_a_revoked_relay_is_left_by_its_children_too(network: Network) -> None:
    network.cells["server"].deny(denial(network.authority, network.issued["R11"]))
    with anyio.fail_after(SECONDS):
        await network.cells["R11"].wait_disconnected()
        await network.cells["R111"].wait_disconnected()


async def test_who_joins_later_is_told_and_tells_its_children(network: Network, issue: Issue) -> None:
    signed = denial(network.authority, network.issued["C1"])
    network.cells["server"].deny(signed)
    credentials = issue("R2", "relay")
    async with Cell("R2") as late:
        with anyio.fail_after(SECONDS):
            await late.connect(network.urls["server"], credentials)
            url = await late.listen("tcp://localhost:0", credentials.listening)
            while not credentials.denied.version:
                await anyio.sleep(0.01)
        assert credentials.denied.signed == signed
        async with Cell("C1") as again:
            with pytest.raises(HandshakeError, match="the certificate of C1 was revoked"), anyio.fail_after(SECONDS):
                await again.connect(url, network.issued["C1"])


async def test_an_older_list_is_no_news_and_a_forged_one_is_refused(network: Network) -> None:
    server, issued = network.cells["server"], network.issued
    server.deny(denial(network.authority, version=5))
    server.deny(denial(network.authority, issued["C3"], version=4))
    server.deny(denial(network.authority, issued["C3"], version=5))
    with anyio.fail_after(SECONDS):
        while issued["C2"].denied.version != 5 or issued["server"].denied.version != 5:
            await anyio.sleep(0.01)
    for forged in (
        denial(Authority.create("mobile"), issued["C3"], version=6),
        denial(network.authority, issued["C3"], version=6, project="other"),
        b"",
        b"\x93",
    ):
        with pytest.raises(HandshakeError):
            server.deny(forged)
    async with Cell("server") as bare:
        await bare.listen("tcp://localhost:0", security="clear")
        with pytest.raises(HandshakeError, match="a cell without credentials knows nobody"):
            bare.deny(denial(network.authority))
    assert "C3" in [str(member.fqcn) for member in server.members()]


def test_a_certificate_is_meant_by_its_serial_number_or_its_key(issue: Issue) -> None:
    mine, other = issue("C1", "client"), issue("C2", "client")
    authority, denied = issue.authority(), Denied()
    roots = mine.roots
    assert not denied.includes(mine.chain[0])
    keys = (key_digest(other.chain[0].public_key()),)
    serials = (f"{mine.chain[0].serial_number:x}",)
    both = Denial(project="mobile", version=1, serials=serials, keys=keys).issue(authority.certificate, authority.key)
    assert denied.take(both, "mobile", roots)
    assert not denied.take(both, "mobile", roots)
    assert denied.includes(mine.chain[0])
    assert denied.includes(other.chain[0])
    assert not denied.includes(authority.certificate)
    third = issue("C3", "client")
    third.denied.take(both, "mobile", roots)
    assert third.verify_chain(third.chain_der, CONNECT, now()).identity.name == "C3"
    with pytest.raises(HandshakeError, match="the certificate of C1 was revoked") as caught:
        third.verify_chain(mine.chain_der, CONNECT, now())
    assert caught.value.code == "revoked"


def test_a_list_that_is_too_long_is_refused(issue: Issue) -> None:
    authority = issue.authority("mobile")
    full = Denial(project="mobile", version=1, serials=("0",) * MAX_DENIED)
    Denial.verify(full.issue(authority.certificate, authority.key), [authority.certificate])
    over = Denial(project="mobile", version=1, serials=("0",) * (MAX_DENIED + 1))
    with pytest.raises(HandshakeError, match="the denial is malformed"):
        Denial.verify(over.issue(authority.certificate, authority.key), [authority.certificate])


async def test_a_link_ends_when_the_certificate_at_its_other_end_does(
    issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellnet.neighbours.LOOK_SECONDS", 0.2)
    server, near, far = issue("server", "server"), issue("C1", "client", age_days=89.99998), issue("C2", "client")
    async with Cell("server") as parent, Cell("C1") as ends, Cell("C2", handlers={"echo": echo}) as stays:
        url = await parent.listen("tcp://localhost:0", server)
        with anyio.fail_after(SECONDS):
            await ends.connect(url, near)
            await stays.connect(url, far)
            await ends.wait_disconnected()
        end = x509.load_der_x509_certificate(near.chain_der[0]).not_valid_after_utc
        assert datetime.datetime.now(datetime.UTC) >= end
        assert await parent.request("C2", "echo", 1) == 1


@pytest.mark.parametrize("is_renewed", [True, False])
async def test_when_the_certificate_ends_that_a_parent_showed_it_is_joined_again_and_shows_what_it_has_now(
    issue: Issue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_renewed: bool
) -> None:
    monkeypatch.setattr("cellnet.neighbours.LOOK_SECONDS", 0.2)
    held, newer, client = issue("server", "server", age_days=89.99998), issue("server", "server"), issue("C1", "client")
    async with Cell("server", handlers={"echo": echo}) as parent, Cell("C1") as cell:
        with anyio.fail_after(SECONDS):
            await cell.connect(await parent.listen("tcp://localhost:0", held), client)
            ((_connection, _parent, before),) = cell._neighbours.proven()
            if is_renewed:
                held.chain, held.files, held.key = newer.chain, newer.files, newer.key
                parent.renew()
            while [shown for _connection, _neighbour, shown in cell._neighbours.proven()] == [before]:
                await anyio.sleep(0.05)
            if not is_renewed:
                await cell.wait_disconnected()
                while not any("expired" in message for message in caplog.messages):
                    await anyio.sleep(0.05)
                return
            assert await cell.request("server", "echo", 1) == 1
        ((_connection, _parent, after),) = cell._neighbours.proven()
        assert after.serial == newer.chain[0].serial_number
    assert not [message for message in caplog.messages if "expired" in message]


PROJECT = """
api_version: 3
name: revoked
scheme: tcp
participants:
  - {{name: server, type: server, org: x, fed_learn_port: {0}, default_host: localhost}}
  - {{name: R1, type: relay, org: x, listening_host: {{default_host: localhost, port: {1}}}}}
  - {{name: R2, type: relay, org: x, listening_host: {{default_host: localhost, port: {2}}}, connect_to: {{name: R1}}}}
  - {{name: R3, type: relay, org: x, listening_host: {{default_host: localhost, port: {3}}}, connect_to: {{name: R2}}}}
  - {{name: C1, type: client, org: x, connect_to: {{name: R3}}}}
  - {{name: C2, type: client, org: x, connect_to: {{name: R3}}}}
"""


def test_the_command_reaches_nodes_at_depth_four_in_five_seconds_and_holds_after_a_restart() -> None:
    with provisioned(PROJECT.format(*free_ports(4))) as folder:
        nodes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in ("server", "R1", "R2", "R3", "C1", "C2"):
                nodes[name] = _start(folder, name)
                _wait(folder / f"{name}.out", r"joined|listens", SECONDS * 4)
            command = ["revoke", "C1", "--out", "kits", "--key-file", "lock"]
            done = _cellnet(folder, *command)
            began = time.monotonic()
            assert re.search(r"^revoked cellnet://revoked/client/C1 clientAuth [0-9a-f]+$", done, re.MULTILINE)
            _wait(folder / "R3.err", "the certificate of C1 was revoked", SECONDS)
            assert time.monotonic() - began < SECONDS
            _wait(folder / "C1.err", "revoked", SECONDS)
            _wait(folder / "kits" / "R3" / "local" / "denied.bin", "", SECONDS)
            assert "C2 left" not in (folder / "R3.err").read_text()
            nodes["R3"].terminate()
            assert nodes["R3"].wait(SECONDS * 4) == 0
            (folder / "R3.err").unlink()
            nodes["R3"] = _start(folder, "R3")
            _wait(folder / "R3.err", "the certificate of C1 was revoked", SECONDS * 4)
            _wait(folder / "R3.err", "C2 joined", SECONDS * 4)
            assert "C1 joined" not in (folder / "R3.err").read_text()
        finally:
            for node in nodes.values():
                node.kill()
                node.wait()


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        words = [sys.executable, "-P", "-m", "cellnet", "start", f"kits/{name}"]
        return subprocess.Popen(words, cwd=folder, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env={**os.environ})


def _cellnet(folder: Path, *words: str) -> str:
    command = [sys.executable, "-P", "-m", "cellnet", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout


def _wait(path: Path, pattern: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not (path.exists() and re.search(pattern, path.read_bytes().decode(errors="replace"))):
        assert time.monotonic() < deadline, f"{path.name}: {path.read_text() if path.exists() else 'missing'}"
        time.sleep(0.02)
