"""An archive of a kit: the same bytes every time, what comes out is the kit, and nothing else is ever written."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.archive import pack, unpack
from cellnet.cli import main
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from provisioning import Lock, provision

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[1] / "project.yml.example"
LOCK = Lock("key file", b"k" * 64)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "kits"
    provision(EXAMPLE, out, LOCK)
    return out


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_kit_gives_the_same_bytes_wherever_and_whenever_it_lies(kits: Path, tmp_path: Path) -> None:
    first = pack(kits / "R1")
    copy = shutil.copytree(kits / "R1", tmp_path / "R1")
    for path in copy.rglob("*"):
        path.touch()
    (copy / "local" / "epoch").write_text("7")
    (copy / "transfer" / "model").write_bytes(b"x" * 1000)
    assert pack(copy) == first, "what the node wrote is not part of it"
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_was_packed_comes_out_with_its_modes(kits: Path, tmp_path: Path) -> None:
    kit = unpack(pack(kits / "R1"), tmp_path / "site")
    assert kit == tmp_path / "site" / "R1"
    assert contents(kit) == contents(kits / "R1")
    assert modes(kit) == modes(kits / "R1")
    assert Kit.load(kit).name == "R1"
    assert stat.S_IMODE(kit.stat().st_mode) == 0o700


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_a_strangers_tool_unpacks_it_too(kits: Path, tmp_path: Path) -> None:
    (tmp_path / "R1.zip").write_bytes(pack(kits / "R1"))
    subprocess.run(["unzip", "-q", "R1.zip"], cwd=tmp_path, check=True)
    assert Kit.load(tmp_path / "R1").name == "R1"


def test_only_the_recipient_opens_an_encrypted_one(kits: Path, tmp_path: Path) -> None:
    site, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    key_file = tmp_path / "key.txt"
    key_file.write_text(f"# created: today\n# public key: {site.to_public()}\n{site}\n")
    data = pack(kits / "C1", [str(site.to_public())])
    assert b"PRIVATE KEY" not in data
    assert Kit.load(unpack(data, tmp_path / "site", key_file)).name == "C1"
    key_file.write_text(f"{other}\n")
    with pytest.raises(ConfigurationError, match=r"key\.txt: the archive was not encrypted to this key"):
        unpack(data, tmp_path / "elsewhere", key_file)
    key_file.write_text("nothing\n")
    with pytest.raises(ConfigurationError, match=r"key\.txt: holds no secret keys"):
        unpack(data, tmp_path / "elsewhere", key_file)
    with pytest.raises(ConfigurationError, match=r"is encrypted: give the file with your secret key"):
        unpack(data, tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"cannot be read: No such file"):
        unpack(data, tmp_path / "elsewhere", tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"a recipient is a public key such as age1"):
        pack(kits / "C1", ["age1x"])
    assert not (tmp_path / "elsewhere").exists()


def archive_of(**entries: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            archive.writestr(entry, content)
    return data.getvalue()


def link() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        entry = zipfile.ZipInfo("C1/startup/x")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return data.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"PK",
        lambda: archive_of(),
        lambda: archive_of(**{"../x": b""}),
        lambda: archive_of(**{"/etc/x": b""}),
        lambda: archive_of(**{"C1/startup/../../x": b""}),
        lambda: archive_of(**{"C1/startup/x": b"", "C2/startup/x": b""}),
        lambda: archive_of(**{"C1/local/x": b""}),
        lambda: archive_of(**{"C1/other/x": b""}),
        lambda: archive_of(C1=b""),
        lambda: archive_of(**{"C1/startup/a/b": b""}),
        lambda: archive_of(**{"C1/startup/a\\b": b""}),
        lambda: archive_of(**{"./startup/x": b""}),
        lambda: archive_of(**{f"C1/startup/{n}": b"" for n in range(1001)}),
        link,
    ],
)
def test_what_is_no_archive_of_a_kit_is_refused_and_writes_nothing(make: Callable[[], bytes], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="this is no archive of a kit"):
        unpack(make(), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_kit_that_is_there_already_is_left_alone(kits: Path, tmp_path: Path) -> None:
    data = pack(kits / "C1")
    unpack(data, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match="C1: there is one already: move it away"):
        unpack(data, tmp_path)
    assert contents(tmp_path) == before


@settings(deadline=None)
@given(data=st.data())
def test_no_change_of_its_bytes_raises_anything_else_or_writes_elsewhere(
    data: st.DataObject, kits: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(pack(kits / "C1"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    out = tmp_path_factory.mktemp("out")
    try:
        kit = unpack(bytes(whole), out / "site")
    except ConfigurationError:
        assert not (out / "site").exists() or list((out / "site").iterdir()) == []
    else:
        assert kit.parent == out / "site"
    assert {path.name for path in out.iterdir()} <= {"site"}


def test_the_commands_pack_and_unpack(kits: Path, tmp_path: Path) -> None:
    site = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"{site}\n")
    words = ["pack", str(kits / "C1"), str(kits / "R1"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*words, "--encrypt-to", str(site.to_public())])
    assert done.exit_code == 0, done.output
    archive = tmp_path / "out" / "C1.zip.age"
    assert done.stdout.splitlines()[0] == str(archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    done = CliRunner().invoke(
        main, ["unpack", str(archive), "--out", str(tmp_path / "site"), "--identity", str(tmp_path / "key.txt")]
    )
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'site' / 'C1'}: client C1\n"), done.output
    assert CliRunner().invoke(main, words).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "C1.zip",
        "C1.zip.age",
        "R1.zip",
        "R1.zip.age",
    ]
