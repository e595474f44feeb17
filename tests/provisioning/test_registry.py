"""The folder that never leaves the project: encrypted keys, a log of every certificate, and who may read it."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.cli import main
from cellnet.credentials import CONNECT, Identity
from cellnet.errors import ConfigurationError
from provisioning import Authority, Lock, provision, registry
from provisioning.authority import ISSUER_LIFE, key_pem
from provisioning.issuance import append, read_issued
from provisioning.lock import default_key_file
from provisioning.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
OTHER = Lock("key file", b"o" * 64)
NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Registry.create("mobile", LOCK, NOW).save(tmp_path / "authority")
    return tmp_path / "authority"


def test_a_registry_comes_back_as_it_was_saved(folder: Path) -> None:
    registry = Registry.load(folder, LOCK, NOW)
    assert registry.project == "mobile"
    assert registry.issuer.anchor == registry.roots[0]
    assert registry.issuer.certificate.issuer == registry.roots[0].subject
    registry.issuer.certificate.verify_directly_issued_by(registry.roots[0])
    assert "private" not in repr(registry).lower()
    assert "kkkk" not in repr(registry)


def test_the_issuer_may_issue_leaves_and_no_authorities(folder: Path) -> None:
    issuer = Registry.load(folder, LOCK, NOW).issuer
    constraints = issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert issuer.certificate.not_valid_after_utc - NOW == ISSUER_LIFE
    assert issuer.key.public_key() != issuer.anchor.public_key()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_everything_in_it_is_its_owners_alone(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        Registry.create("mobile", LOCK, NOW).save(tmp_path / "authority")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "authority").iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["root.key", "issuer.pem"])
def test_keys_are_encrypted_where_they_lie(name: str, folder: Path) -> None:
    data = (folder / name).read_bytes()
    assert b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data
    data = data[data.index(b"-----BEGIN ENCRYPTED") :]
    with pytest.raises(TypeError, match="encrypted"):
        serialization.load_pem_private_key(data, None)
    shown = subprocess.run(
        ["openssl", "pkey", "-in", folder / name, "-passin", "stdin", "-noout", "-text"],
        input=b"k" * 64 + b"\n",
        capture_output=True,
        check=True,
    )
    assert b"prime256v1" in shown.stdout, "a stranger's tool opens it with the key file's content"


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (OTHER, r"issuer\.pem: is not opened by this key file, or is damaged"),
        (Lock("passphrase", b"k" * 64), "its keys are encrypted with a key file: give it"),
    ],
)
def test_another_lock_does_not_open_it(lock: Lock, message: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Registry.load(folder, lock, NOW)


def _spoil(folder: Path, how: str) -> None:
    other = Authority.create("mobile", NOW)
    match how:
        case "no key":
            (folder / "issuer.pem").unlink()
        case "no roots":
            (folder / "rootCA.pem").unlink()
        case "open":
            (folder / "issuer.pem").chmod(0o640)
        case "garbage":
            (folder / "issuer.pem").write_bytes((folder / "issuer.pem").read_bytes()[:-100])
        case "another key":
            certificate = (folder / "issuer.pem").read_bytes().partition(b"-----BEGIN ENCRYPTED")[0]
            (folder / "issuer.pem").write_bytes(certificate + LOCK.encrypt(other.key, b""))
        case "another root":
            (folder / "rootCA.pem").write_bytes(other.certificate_pem)
        case "no records":
            (folder / "kits.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no key", r"issuer\.pem: cannot be read \(No such file"),
        ("no roots", r"rootCA\.pem: cannot be read \(No such file"),
        ("open", r"issuer\.pem: is readable by others \(mode 0640\).* chmod 600"),
        ("garbage", r"issuer\.pem: is not opened by this key file, or is damaged"),
        ("another key", r"is not the issuer of rootCA\.pem"),
        ("another root", r"is not the issuer of rootCA\.pem"),
        ("no records", r"kits\.json: is damaged"),
    ],
)
def test_a_registry_that_is_not_whole_is_refused_by_the_file(how: str, message: str, folder: Path) -> None:
    _spoil(folder, how)
    with pytest.raises(ConfigurationError, match=message):
        Registry.load(folder, LOCK, NOW)


def test_the_root_may_be_kept_elsewhere_until_the_issuer_is_near_its_end(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "root.key").rename(tmp_path / "offline.key")
    first = Registry.load(folder, LOCK, NOW + 400 * DAY).issuer
    late = NOW + 500 * DAY
    assert not caplog.records
    assert Registry.load(folder, LOCK, late).issuer.certificate == first.certificate, "it holds, so it goes on"
    assert "root.key: the issuer expires on 2028-03-01, and only the root can make a new one" in caplog.text
    with pytest.raises(ConfigurationError, match="the authority expired on 2028-03-01"):
        identity = Identity("mobile", "client", "C1")
        ended = Registry.load(folder, LOCK, NOW + ISSUER_LIFE + DAY)
        ended.issue(identity, ended.issuer.key.public_key(), CONNECT, common_name="C1", org="a", why="test")
    (tmp_path / "offline.key").rename(folder / "root.key")
    registry = Registry.load(folder, LOCK, late)
    registry.save(folder)
    second = Registry.load(folder, LOCK, late).issuer
    assert second.certificate == registry.issuer.certificate != first.certificate
    assert second.certificate.not_valid_after_utc == late + ISSUER_LIFE
    assert second.anchor == first.anchor


def test_a_passphrase_takes_long_to_try_and_a_key_file_does_not(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    lock = Lock.of_passphrase("correct horse battery")
    data = lock.encrypt(key, b"salt" * 4)
    assert isinstance(lock.decrypt(data, b"salt" * 4), ec.EllipticCurvePrivateKey)
    for wrong, salt in ((lock, b"another salt"), (Lock.of_passphrase("correct horse batterz"), b"salt" * 4)):
        with pytest.raises(ValueError, match=r"(?i)password|decrypt|deserialize"):
            wrong.decrypt(data, salt)
    with pytest.raises(ConfigurationError, match="at least 12 characters"):
        Lock.of_passphrase("short")
    assert "horse" not in repr(lock)
    assert tmp_path.exists()


def test_a_key_file_is_made_once_and_never_for_others_eyes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    first = Lock.of_file(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Lock.of_file(path, create=True) == first == Lock.of_file(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="readable by others: run chmod 600"):
        Lock.of_file(path)
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Lock.of_file(tmp_path / "none")
    (tmp_path / "short").write_text("x")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(ConfigurationError, match="is no key file: 32 to 4096 bytes are wanted, there are 1"):
        Lock.of_file(tmp_path / "short")


def test_every_certificate_of_every_kit_is_in_the_log(kits: Path) -> None:
    issued = read_issued(kits / "authority" / "issued.jsonl")
    serials = {
        f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:x}"
        for path in kits.glob("*/startup/*.crt")
        if path.name != "issuer.crt"
    }
    assert {one.serial for one in issued} == serials
    assert len(issued) == 12
    relay = [one for one in issued if one.identity == "cellnet://mobile/relay/R1"]
    assert sorted(one.usage for one in relay) == ["clientAuth", "serverAuth"]
    assert {one.why for one in issued} == {"added"}


@pytest.mark.parametrize("how", ["change", "remove", "swap", "cut", "garbage"])
def test_a_log_that_was_changed_is_told_by_the_line(how: str, kits: Path) -> None:
    path = kits / "authority" / "issued.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    match how:
        case "change":
            lines[3] = lines[3].replace(b'"added"', b'"other"')
            first = 5
        case "remove":
            del lines[3]
            first = 4
        case "swap":
            lines[3], lines[4] = lines[4], lines[3]
            first = 4
        case "cut":
            lines[3] = lines[3][:-9] + b"\n"
            first = 4
        case _:
            lines[3] = b"[]\n"
            first = 4
    path.write_bytes(b"".join(lines))
    with pytest.raises(ConfigurationError, match=rf"issued\.jsonl:{first}: the log of issued certificates was changed"):
        read_issued(path)


def test_the_log_only_grows(kits: Path, example: Path) -> None:
    path = kits / "authority" / "issued.jsonl"
    before = path.read_bytes()
    edited = kits.parent / "edited.yml"
    edited.write_text(example.read_text().replace("org: nvidia", "org: acme"))
    provision(edited, kits, LOCK)
    assert path.read_bytes().startswith(before)
    assert len(read_issued(path)) == 24
    append(path, ())
    assert len(read_issued(path)) == 24
    assert read_issued(path.with_name("none")) == ()


def test_two_commands_at_once_do_not_change_one_project(
    kits: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "WAIT_SECONDS", 0.1)
    with changing(kits), pytest.raises(ConfigurationError, match="another command changes this project now: wait"):
        provision(example, kits, LOCK)
    provision(example, kits, LOCK)


def test_a_command_waits_for_another_that_ends_soon(kits: Path, example: Path) -> None:
    with ExitStack() as other, ThreadPoolExecutor() as pool:
        other.enter_context(changing(kits))
        second = pool.submit(provision, example, kits, LOCK)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        other.close()
        assert {change.kind for change in second.result(5).changes} == {"unchanged"}


@contextmanager
def changing(kits: Path) -> Iterator[None]:
    """Be another command that changes the project."""
    descriptor = os.open(kits / "authority", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_a_passphrase_is_asked_for_where_one_was_given_and_never_shown(example: Path, tmp_path: Path) -> None:
    words = ["provision", str(example), "--out", str(tmp_path / "kits")]
    typed = "correct horse battery"
    first = CliRunner().invoke(main, [*words, "--passphrase"], input=f"{typed}\n{typed}\n")
    assert first.exit_code == 0, first.output
    assert json.loads((tmp_path / "kits" / "authority" / "authority.json").read_text())["lock"] == "passphrase"
    again = CliRunner().invoke(main, words, input=f"{typed}\n")
    assert (again.exit_code, "10 unchanged" in again.stdout) == (0, True), again.output
    wrong = CliRunner().invoke(main, words, input="something else it is\n")
    assert wrong.exit_code == 1
    assert "is not opened by this passphrase" in wrong.stderr
    assert typed not in first.output + again.output


def test_a_missing_key_file_is_named_and_none_is_made_for_keys_that_exist(
    example: Path, tmp_path: Path, settings: Path
) -> None:
    words = ["provision", str(example), "--out", str(tmp_path / "kits")]
    assert CliRunner().invoke(main, words).exit_code == 0
    path = default_key_file("mobile")
    assert path == settings / "cellnet" / "keys" / "mobile.key"
    path.rename(tmp_path / "moved")
    failed = CliRunner().invoke(main, words)
    assert (failed.exit_code, failed.stderr) == (1, f"{path}: the key file cannot be read: No such file or directory\n")
    assert not path.exists()
    assert CliRunner().invoke(main, [*words, "--key-file", str(tmp_path / "moved")]).exit_code == 0


def test_a_chain_verifies_for_its_purpose_in_a_strangers_tool_and_for_no_other(kits: Path) -> None:
    for name, stem, purpose, wrong in (
        ("server", "server", "sslserver", "sslclient"),
        ("R1", "server", "sslserver", "sslclient"),
        ("R1", "client", "sslclient", "sslserver"),
        ("C11", "client", "sslclient", "sslserver"),
        ("admin@nvidia.com", "client", "sslclient", "sslserver"),
    ):
        startup = kits / name / "startup"
        words = ["openssl", "verify", "-x509_strict", "-CAfile", startup / "rootCA.pem"]
        words += ["-untrusted", startup / "issuer.crt"]
        good = subprocess.run([*words, "-purpose", purpose, startup / f"{stem}.crt"], capture_output=True, check=False)
        assert good.returncode == 0, good.stderr
        bad = subprocess.run([*words, "-purpose", wrong, startup / f"{stem}.crt"], capture_output=True, check=False)
        assert bad.returncode != 0
        assert b"purpose" in bad.stderr
    alone = subprocess.run(
        ["openssl", "verify", "-CAfile", startup / "rootCA.pem", startup / "client.crt"],
        capture_output=True,
        check=False,
    )
    assert alone.returncode != 0, "the issuer is needed between them"


def test_a_key_that_no_authority_holds_signs_nothing_that_is_believed(folder: Path) -> None:
    registry = Registry.load(folder, LOCK, NOW)
    with pytest.raises(ValueError, match="not that of the certificate"):
        Authority.adopt(registry.issuer.certificate, ec.generate_private_key(ec.SECP256R1()), registry.roots[0])
    assert key_pem(registry.issuer.key).startswith(b"-----BEGIN PRIVATE KEY")
