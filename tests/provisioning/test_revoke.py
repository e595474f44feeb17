"""Revoking at the project: what is on the list, who gets a new kit, and what the list forgets."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cellnet.cli import main
from cellnet.denial import Denial, key_digest
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from provisioning import Lock, provision
from provisioning.issuance import Issuance, append
from provisioning.registry import Registry
from provisioning.revocation import revoke

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def listed(kits: Path) -> Denial:
    return Denial.verify((kits / "authority" / "denied.bin").read_bytes(), Registry.roots_in(kits / "authority"))


def test_nobody_is_on_the_list_of_a_new_project(kits: Path) -> None:
    assert listed(kits) == Denial(project="mobile", version=0)
    assert (kits / "server" / "startup" / "denied.bin").read_bytes() == (kits / "authority" / "denied.bin").read_bytes()
    assert Kit.load(kits / "server").credentials.denied.version == 0


def test_a_relay_is_revoked_with_both_certificates_and_both_keys(kits: Path) -> None:
    credentials = Kit.load(kits / "R1").credentials
    assert credentials.listening is not None
    found = revoke(["R1"], kits, LOCK)
    leaves = [credentials.chain[0], credentials.listening.chain[0]]
    assert {one.serial for one in found} == {f"{leaf.serial_number:x}" for leaf in leaves}
    assert set(listed(kits).keys) == {key_digest(leaf.public_key()) for leaf in leaves}
    assert listed(kits).version == 1
    server = Kit.load(kits / "server").credentials
    assert server.denied.version == 1
    assert all(map(server.denied.includes, leaves))
    assert not server.denied.includes(Kit.load(kits / "R2").credentials.chain[0])


def test_who_is_still_in_the_project_gets_a_new_kit_that_holds(kits: Path, example: Path) -> None:
    old = Kit.load(kits / "C1").credentials
    revoke(["C1"], kits, LOCK)
    (change,) = (change for change in provision(example, kits, LOCK).changes if change.kind != "unchanged")
    assert (change.name, change.kind) == ("C1", "added")
    new, server = Kit.load(kits / "C1").credentials, Kit.load(kits / "server").credentials
    assert server.denied.includes(old.chain[0])
    assert not server.denied.includes(new.chain[0])
    assert listed(kits).version == 1, "a run does not make the list anew"


def test_each_revocation_makes_the_list_longer_and_its_version_higher(kits: Path) -> None:
    first = revoke(["C1", "C2"], kits, LOCK)
    second = revoke(["C11"], kits, LOCK)
    assert (len(first), len(second)) == (2, 1)
    assert listed(kits).version == 2
    assert set(listed(kits).serials) == {one.serial for one in (*first, *second)}


def test_what_has_expired_leaves_the_list(kits: Path) -> None:
    (expired,) = revoke(["C1"], kits, LOCK)
    log = kits / "authority" / "issued.jsonl"
    log.write_bytes(b"")
    ago = f"{now() - DAY:%Y-%m-%dT%H:%M:%SZ}"
    ends = f"{now() + DAY:%Y-%m-%dT%H:%M:%SZ}"
    one = Issuance(ago, expired.serial, expired.identity, "clientAuth", ago, expired.key, "added")
    other = Issuance(ago, "abc", "cellnet://mobile/client/C2", "clientAuth", ends, "0" * 64, "added")
    append(log, [one, other])
    revoke(["C2"], kits, LOCK)
    assert listed(kits).serials == ("abc",)


def test_a_list_never_gets_so_long_that_no_node_takes_it(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioning.revocation.MAX_DENIED", 3)
    revoke(["R1", "C1"], kits, LOCK)
    with pytest.raises(ConfigurationError, match="more than 3 certificates would be revoked"):
        revoke(["C2"], kits, LOCK)
    assert listed(kits).version == 1


@pytest.mark.parametrize(("name", "hint"), [("nobody", ""), ("c1", "did you mean 'C1'")])
def test_who_never_had_a_kit_cannot_be_revoked(name: str, hint: str, kits: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"'{name}' has no kit of this project.*{hint}"):
        revoke([name, "C2"], kits, LOCK)
    assert listed(kits).version == 0


def test_the_command_says_what_was_revoked(kits: Path, tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"k" * 64)
    (tmp_path / "lock").chmod(0o600)
    done = CliRunner().invoke(main, ["revoke", "C1", "--out", str(kits), "--key-file", str(tmp_path / "lock")])
    assert done.exit_code == 0, done.output
    assert "revoked cellnet://mobile/client/C1 clientAuth " in done.stdout
    assert f"1 certificate of C1; the list is {kits / 'authority' / 'denied.bin'}" in done.stdout
    again = CliRunner().invoke(main, ["revoke", "C1", "--out", str(tmp_path), "--key-file", str(tmp_path / "lock")])
    assert again.exit_code == 1
    assert "Traceback" not in again.output


def test_a_list_that_was_tampered_with_is_refused_at_the_start(kits: Path) -> None:
    path = kits / "server" / "startup" / "denied.bin"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigurationError, match=r"startup/denied\.bin: .*provision it anew"):
        Kit.load(kits / "server")
    (kits / "C1" / "local" / "denied.bin").write_bytes(bytes(data))
    with pytest.raises(ConfigurationError, match=r"local/denied\.bin: .*remove it, the parent has another"):
        Kit.load(kits / "C1")
