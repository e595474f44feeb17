"""``cellnet ca``: which roots there are, what the next step of a change waits for, and what it did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cellnet.cli import main
from provisioning import Lock, provision

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """
api_version: 3
name: lab
builders: [{path: a.StaticFileBuilder}]
participants:
  - {name: server, type: server, org: acme, default_host: localhost}
  - {name: C1, type: client, org: acme}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "project.yml").write_text(PROJECT)
    provision(tmp_path / "project.yml", tmp_path / "kits", Lock.of_file(tmp_path / "lock", create=True))
    return tmp_path


def run(lab: Path, *words: str) -> tuple[int, str, str]:
    lock = ("--key-file", str(lab / "lock")) if "rotate" in words else ()
    done = CliRunner().invoke(main, ["ca", *words, "--out", str(lab / "kits"), *lock])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


def test_it_shows_the_root_and_the_issuer(lab: Path) -> None:
    code, out, _err = run(lab, "show")
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith("root      root, until 20")
    assert first.count(":") == 31
    assert second.startswith("issuer    issuer 20")
    assert second.endswith(", below root")


def test_the_first_step_tells_the_new_fingerprint_and_what_is_next(lab: Path) -> None:
    code, out, _err = run(lab, "rotate")
    assert code == 0
    old, new, following = out.splitlines()
    assert old.startswith("trusted   root, ")
    assert "new" not in old
    assert new.startswith("trusted   root 2, ")
    assert new.endswith("(new: tell it to whoever compares fingerprints)")
    assert following == "next      issue below the new root, once these are renewed, or have a new kit: server, C1"
    assert run(lab, "show")[1].splitlines()[-1] == following
    assert json.loads(run(lab, "show", "--json")[1])["next_step"] == "move"
    assert json.loads(run(lab, "show", "--json")[1])["waits_for"] == ["server", "C1"]


def test_a_step_that_comes_too_early_says_for_whom(lab: Path) -> None:
    run(lab, "rotate")
    code, out, err = run(lab, "rotate")
    assert (code, out) == (1, "")
    assert "too early to issue below the new root: server, C1 would be cut off" in err
    assert "by 20" in err


@pytest.mark.parametrize("words", [("show",), ("rotate",)])
def test_a_folder_without_an_authority_is_told(words: tuple[str, ...], tmp_path: Path) -> None:
    code, _out, err = run(tmp_path, *words)
    assert code == 1
    assert "authority.json: cannot be read (No such file or directory)" in err
