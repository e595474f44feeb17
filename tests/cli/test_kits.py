"""The commands that look at kits, and that tell a kit that was tampered with by the file."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cellnet.cli import main
from cellnet.errors import ConfigurationError
from cellnet.inspection import Certificate, verify_kit
from cellnet.kit import Kit
from provisioning import Lock, provision

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "project.yml.example"
LOCK = Lock("key file", b"k" * 64)
DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "kits"
    provision(EXAMPLE, out, LOCK)
    return out


@pytest.fixture
def kits(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "kits")


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [*map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_a_kit_is_described_without_its_secrets(kits: Path) -> None:
    code, out, err = run("inspect", kits / "R1")
    assert (code, err) == (0, "")
    assert re.search(r"^node +relay R1$", out, re.MULTILINE)
    assert re.search(r"^listens at +grpc://localhost:18004 mtls$", out, re.MULTILINE)
    assert re.search(r"^joins +server$", out, re.MULTILINE)
    assert re.search(r"^certificate +listens, at localhost; until 20\d\d-\d\d-\d\d \(89 days\)$", out, re.MULTILINE)
    assert "PRIVATE" not in out
    found = json.loads(run("inspect", kits / "C11", "--json")[1])
    assert (found["name"], found["fqsn"], found["parents"], found["roster"]) == ("C11", "C1.C11", ["R1"], [])
    root = x509.load_pem_x509_certificate((kits / "C11" / "startup" / "rootCA.pem").read_bytes())
    assert found["roots"][0].replace(":", "") == root.fingerprint(hashes.SHA256()).hex()
    assert len(json.loads(run("inspect", kits / "server", "--json")[1])["roster"]) == 9
    assert "behind the ingress" not in out


def test_whole_kits_are_verified_and_the_root_can_be_compared(kits: Path) -> None:
    code, out, err = run("verify", kits / "C1", kits / "server")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{kits / 'C1'}: client C1 is whole; its certificates hold for 89 days"
    root = json.loads(run("inspect", kits / "C1", "--json")[1])["roots"][0]
    assert run("verify", kits / "C1", "--root", root)[0] == 0
    assert run("verify", kits / "C1", "--root", root.replace(":", "").upper())[0] == 0
    code, _out, err = run("verify", kits / "C1", "--root", "0" * 64)
    assert (code, "is of another project" in err) == (1, True)


def _edit(startup: Path) -> Path:
    (startup / "kit.json").write_text((startup / "kit.json").read_text().replace("18004", "18005"))
    return startup / "kit.json"


def _add(startup: Path) -> Path:
    (startup / "sitecustomize.py").write_text("")
    return startup / "sitecustomize.py"


def _delete(startup: Path) -> Path:
    (startup / "placement.bin").unlink()
    return startup / "placement.bin"


def _rename(startup: Path) -> Path:
    (startup / "issuer.crt").rename(startup / "issuer.pem")
    return startup / "issuer.crt"


def _swap(startup: Path) -> Path:
    shutil.copy(startup.parents[1] / "C2" / "startup" / "client.crt", startup / "client.crt")
    return startup / "client.crt"


def _link(startup: Path) -> Path:
    (startup / "kit.json").rename(startup.parent / "local" / "kit.json")
    (startup / "kit.json").symlink_to(startup.parent / "local" / "kit.json")
    return startup / "kit.json"


def _share(startup: Path) -> Path:
    (startup / "client.key").chmod(0o640)
    return startup / "client.key"


def _open(startup: Path) -> Path:
    startup.chmod(0o770)
    return startup


def _give(startup: Path) -> Path:
    os.chown(startup / "client.key", 12345, -1)
    return startup / "client.key"


@pytest.mark.parametrize("tamper", [_edit, _add, _delete, _rename, _swap, _link, _share, _open, _give])
def test_a_kit_that_was_tampered_with_is_refused_and_the_file_named(tamper: Callable[[Path], Path], kits: Path) -> None:
    if tamper is _give and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file = tamper(kits / "C1" / "startup")
    with pytest.raises(ConfigurationError) as caught:
        Kit.load(kits / "C1")
    assert str(caught.value).startswith(f"{file}: ")
    code, out, err = run("verify", kits / "C1", kits / "C2")
    assert (code, err.startswith(f"{file}: ")) == (1, True)
    assert out.startswith(f"{kits / 'C2'}: client C2 is whole"), "the others are looked at all the same"


def test_a_swap_of_two_whole_kits_is_no_secret_either(kits: Path) -> None:
    (kits / "C1" / "startup").rename(kits / "away")
    (kits / "C2" / "startup").rename(kits / "C1" / "startup")
    assert "client C2" in run("inspect", kits / "C1")[1]


def test_certificates_that_ended_are_told_with_their_file(kits: Path) -> None:
    kit = Kit.load(kits / "R1")
    verify_kit(kit, now())
    with pytest.raises(ConfigurationError, match=r"client\.crt: the certificate of .* expired on .*: renew it"):
        verify_kit(kit, now() + 91 * DAY)
    with pytest.raises(ConfigurationError, match=r"server\.crt: the certificate of .* is valid from"):
        verify_kit(Kit.load(kits / "server"), now() - DAY)


def test_the_table_of_ends_fails_when_one_is_near(kits: Path) -> None:
    code, out, err = run("expiry", kits)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["DAYS", "EXPIRES", "NAME", "USE", "FILE"]
    assert len(lines) == 13, "ten participants, two of whom have two"
    assert run("expiry", kits, "--days", 91)[0] == 1
    assert run("expiry", kits / "C1", "--days", 89)[0] == 0
    found = json.loads(run("expiry", kits / "C1", "--json")[1])["certificates"]
    assert [(one["name"], one["usage"], one["days_left"]) for one in found] == [("C1", "connects", 89)]


def test_an_expiry_in_the_past_counts_below_zero(kits: Path) -> None:
    certificate = Certificate.read(kits / "C1" / "startup" / "client.crt")
    assert certificate.days_left(certificate.not_after - DAY) == 1
    assert certificate.days_left(certificate.not_after + datetime.timedelta(hours=1)) == -1


@pytest.mark.parametrize("command", ["inspect", "verify", "expiry"])
def test_a_folder_without_a_kit_is_told_so(command: str, tmp_path: Path) -> None:
    code, out, err = run(command, tmp_path)
    assert (code, out) == (1, "")
    assert "is no startup kit" in err or "there is no kit in" in err
    assert "Traceback" not in err
