"""Kits on disk: who may read what, what a second run keeps, and that a failure leaves nothing behind."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cellnet.errors import ConfigurationError
from provisioning import Lock, provision
from provisioning.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
BASE = {"kit.json", "rootCA.pem", "issuer.crt", "manifest.json", "manifest.sig"}
CLIENT = BASE | {"client.crt", "client.key", "placement.bin"}
SERVER = BASE | {"server.crt", "server.key"}
LAYOUT = {
    "server": SERVER | {"denied.bin", "roster.bin", "start.sh"},
    "R1": SERVER | CLIENT | {"start.sh"},
    "C11": CLIENT | {"start.sh"},
    "admin@nvidia.com": CLIENT,
}


def everything(folder: Path) -> dict[str, bytes | None]:
    """Return every path below *folder*, with its content."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


@pytest.mark.parametrize("name", LAYOUT)
def test_a_kit_has_the_files_of_its_role_and_no_others(name: str, kits: Path) -> None:
    beside = {"Dockerfile", "compose.yaml", "kubernetes.yaml", f"cellnet-{name}.service"}
    wanted = {"startup", "local", "transfer"} | (set() if "@" in name else beside)
    assert {path.name for path in (kits / name).iterdir()} == wanted
    assert {path.name for path in (kits / name / "startup").iterdir()} == LAYOUT[name]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_are_the_same_under_every_umask_and_no_key_is_readable_by_others(
    umask: int, example: Path, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        provision(example, tmp_path / "kits", LOCK)
    finally:
        os.umask(before)
    for path in [tmp_path / "kits", *(tmp_path / "kits").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir() or path.suffix == ".sh":
            assert mode == (0o700 if path.is_dir() else 0o755), path
        else:
            private = path.suffix == ".key" or path.parent.name == "authority"
            assert mode == (0o600 if private else 0o644), path


def test_a_key_is_never_readable_by_others_not_even_while_it_is_written(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    born: dict[str, int] = {}
    opened = os.open

    def watch(path: str | Path, flags: int, mode: int = 0o777, **rest: int) -> int:
        if str(path).endswith(".key") and flags & os.O_CREAT:
            born[str(path)] = mode
        return opened(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", watch)
    provision(example, tmp_path / "kits", LOCK)
    assert len(born) == 12, "ten participants, of which two relays have two"
    assert set(born.values()) == {0o600}


def test_kits_are_kept_out_of_version_control(kits: Path) -> None:
    assert "*" in (kits / ".gitignore").read_text().splitlines()


def test_a_run_for_another_project_into_the_same_folder_is_refused(kits: Path, example: Path) -> None:
    edited = kits.parent / "edited.yml"
    edited.write_text(example.read_text().replace("name: mobile ", "name: desktop "))
    before = everything(kits)
    with pytest.raises(ConfigurationError, match=r"is the authority of project 'mobile', not 'desktop': give another"):
        provision(edited, kits, LOCK)
    assert everything(kits) == before


@pytest.mark.parametrize("text", ["api_version: 3\n", "a: [", None])
def test_nothing_is_written_when_the_project_has_an_error(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    if text is not None:
        file.write_text(text)
    before = everything(tmp_path)
    with pytest.raises(ConfigurationError):
        provision(file, tmp_path / "deep" / "kits", LOCK)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_left_when_the_disk_is_full_halfway(
    again: bool, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "kits"
    file = example
    if again:
        provision(example, out, LOCK)
        file = tmp_path / "edited.yml"
        file.write_text(example.read_text().replace("org: nvidia", "org: acme"))
    before = everything(tmp_path)
    written = []

    def fail_late(path: Path, content: bytes, mode: int) -> None:
        written.append(path)
        if len(written) > 20:
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(content)

    monkeypatch.setattr("provisioning.kits.write_file", fail_late)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left on device"):
        provision(file, out, LOCK)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_in_the_way_of_a_kit_is_left_alone_and_named(kind: str, example: Path, tmp_path: Path) -> None:
    out, canary = tmp_path / "kits", tmp_path / "canary"
    out.mkdir()
    (canary / "startup").mkdir(parents=True)
    place = out / "R1"
    match kind:
        case "file":
            place.write_text("x")
        case "folder":
            place.mkdir()
        case "link":
            place.symlink_to(canary)
    before = everything(tmp_path)
    with pytest.raises(ConfigurationError, match=r"kits/R1: is in the way of a kit, and is none"):
        provision(example, out, LOCK)
    assert everything(tmp_path) == before


def test_the_output_folder_may_not_be_a_file(example: Path, tmp_path: Path) -> None:
    (tmp_path / "kits").write_text("x")
    with pytest.raises(ConfigurationError, match="is no folder"):
        provision(example, tmp_path / "kits", LOCK)


@pytest.mark.parametrize("name", ["../C1", "/tmp/C1", "C1/../../x", "..", "."])  # noqa: S108 - nothing is written
def test_no_name_leads_out_of_the_output_folder(name: str, example: Path, tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    for old in ("  - name: C22", "  - name: admin@nvidia.com", "  - name: server", "name: mobile"):
        file.write_text(example.read_text().replace(old, f"{old.partition('name')[0]}name: '{name}'"))
        with pytest.raises(ConfigurationError):
            provision(file, tmp_path / "sub" / "kits", LOCK)
        assert [path.name for path in tmp_path.iterdir()] == ["project.yml"]


def test_start_sh_starts_the_node_from_anywhere(kits: Path, tmp_path: Path) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    fake = commands / "cellnet"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    moved = tmp_path / "a folder with spaces"
    (kits / "C1").rename(moved)
    script = moved / "startup" / "start.sh"
    link = tmp_path / "link.sh"
    link.symlink_to(script)
    environment = {"PATH": f"{commands}:/usr/bin:/bin"}
    for folder, command in (
        ("/", [script]),
        (script.parent, ["./start.sh"]),
        (script.parent, ["sh", "start.sh"]),
        ("/", [link]),
    ):
        done = subprocess.run(
            [*command, "--json"], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == ["start", str(moved), "--json"]


def test_start_sh_says_what_is_missing(kits: Path) -> None:
    script = kits / "C1" / "startup" / "start.sh"
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "'cellnet' was not found: install cellnet-fl" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_says_where_each_kit_is_and_warns_on_the_other_stream(
    guide: Path, tmp_path: Path, settings: Path
) -> None:
    source = tmp_path / "project.yml"
    source.write_text(guide.read_text().replace("role: project_admin", "role: boss"))
    done = CliRunner().invoke(main, ["provision", str(source), "--out", str(tmp_path / "kits")])
    assert done.exit_code == 0, done.output
    assert re.search(r"^added +\S+/kits/C11$", done.stdout, re.MULTILINE)
    assert "10 added, 0 changed, 0 unchanged, 0 removed" in done.stdout
    key_file = settings / "cellnet" / "keys" / "mobile.key"
    assert done.stderr.splitlines() == [
        f"warning: {source}:63:11: PRJ208 admin@nvidia.com: 'boss' is no known role: "
        "project_admin, org_admin, lead, member are",
        f"note: the authority's keys are encrypted with {key_file}: keep a copy of it elsewhere",
    ]
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_the_command_prints_every_error_and_fails_without_a_traceback(guide: Path, tmp_path: Path) -> None:
    (tmp_path / "project.yml").write_text(
        guide.read_text().replace("port: 18004", "port: x").replace("R2\n", "R3\n", 1)
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "provisioning", "provision", "project.yml", "--out", "kits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("project.yml:19:13: PRJ302 R1: 'x' is no port")
    assert len(lines) == 4
    assert all(
        re.match(r"project\.yml:\d+:\d+: PRJ402 C2\d?: there is no server or relay 'R2'", line) for line in lines[1:]
    )
    assert not (tmp_path / "kits").exists()


def test_provisioning_imports_nothing_that_the_file_names(
    project: Callable[..., str], tmp_path: Path, settings: Path
) -> None:
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')\n")
    text = project(top="") + "builders:\n  - path: canary.StaticFileBuilder\n    args: {scheme: tcp}\n"
    (tmp_path / "project.yml").write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "provisioning",
            "provision",
            "project.yml",
            "--out",
            "kits",
        ],  # no -P: canary could be imported
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert str(settings) in done.stderr
