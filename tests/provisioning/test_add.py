"""Adding one participant: to the text of the project, whose comments stay, and to the kits, of which no other does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from cellnet.cli import main
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from provisioning.entry import with_participant

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = {"name": "C9", "type": "client", "org": "acme", "parent": "C1", "connect_to": {"name": "R1"}}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project_file(example: Path, tmp_path: Path, settings: Path) -> Path:
    path = tmp_path / "project.yml"
    path.write_bytes(example.read_bytes())
    done = CliRunner().invoke(main, ["provision", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert settings.is_dir()
    return path


def test_one_client_more_changes_no_other_kit_but_the_servers_roster(project_file: Path) -> None:
    out = project_file.parent / "out"
    text, before = project_file.read_text(), everything(out)
    words = ["add", str(project_file), "C9", "--org", "acme", "--connect-to", "R1", "--parent", "C1", "--out", str(out)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "1 added, 0 changed, 10 unchanged, 0 removed" in done.stdout
    kit = Kit.load(out / "C9")
    assert kit.credentials.placement is not None
    assert (kit.name, kit.credentials.placement.fqsn) == ("C9", "C1.C9")
    after = everything(out)
    changed = {path for path, content in before.items() if after[path] != content}
    assert changed == {
        "server/startup/roster.bin",
        "authority/roster.bin",
        "authority/kits.json",
        "authority/issued.jsonl",
    }
    assert yaml.safe_load(project_file.read_text())["participants"][-1] == ENTRY
    assert set(text.splitlines()) <= set(project_file.read_text().splitlines()), "every comment is still there"


def test_one_relay_more_has_a_place_to_listen_at(project_file: Path) -> None:
    out = project_file.parent / "out"
    words = ["add", str(project_file), "R3", "--type", "relay", "--org", "acme", "--out", str(out)]
    failed = CliRunner().invoke(main, words)
    assert failed.exit_code == 1
    assert "PRJ102 R3: 'listening_host' is missing" in failed.stderr
    done = CliRunner().invoke(main, [*words, "--host", "localhost", "--port", "19000"])
    assert done.exit_code == 0, done.output
    assert str(Kit.load(out / "R3").listen).count("19000") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["C1", "--org", "acme"], "PRJ202 C1: the name 'C1' is given twice"),
        (["C.9", "--org", "acme"], "PRJ201 C.9: "),
        (["C9", "--org", "acme", "--parent", "C8"], "PRJ501 C9: there is no client 'C8'"),
        (["C9", "--org", "acme", "--connect-to", "C1"], "PRJ402 C9: 'C1' is a client"),
    ],
)
def test_nothing_is_written_when_the_newcomer_does_not_fit(words: list[str], message: str, project_file: Path) -> None:
    before = everything(project_file.parent)
    done = CliRunner().invoke(main, ["add", str(project_file), *words, "--out", str(project_file.parent / "out")])
    assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
    assert everything(project_file.parent) == before


@pytest.mark.parametrize(
    "text",
    [
        "participants:\n  - name: a\n    type: server\nbuilders: []\n",
        "participants:\n- name: a\n  type: server\n\n# the end\nbuilders: []\n",
        "participants:\n    - {name: a, type: server}\n",
        "participants:\n  - name: a   # a comment\n    hosts: [x,\n      y]\n  # after it\nbuilders: []\n",
        "participants:\n  - name: a\n    text: |\n      one\n      two\n\nbuilders: []\n",
        "participants:\n  - name: a\n    empty:\nbuilders: []\n",
        "builders: []\nparticipants:\n  - name: a",
    ],
)
def test_the_newcomer_is_the_last_of_the_list_however_it_is_written(text: str) -> None:
    before, after = yaml.safe_load(text), yaml.safe_load(with_participant(text, ENTRY, "f"))
    assert after["participants"] == [*before["participants"], ENTRY]
    assert {key: value for key, value in after.items() if key != "participants"} == {
        key: value for key, value in before.items() if key != "participants"
    }
    assert set(text.splitlines()) <= set(with_participant(text, ENTRY, "f").splitlines())


def test_a_list_in_brackets_is_left_to_its_author() -> None:
    with pytest.raises(ConfigurationError, match=r"^f:1:15: the participants are written with brackets"):
        with_participant("participants: [{name: a}]\n", ENTRY, "f")
