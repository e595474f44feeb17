"""A later run: what is made again and why, what stays byte for byte, and what the plan says of it before."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cellnet.cli import main
from cellnet.kit import Kit
from provisioning import Change, Lock, provision, read_plan
from provisioning.records import compare
from provisioning.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Edit = Callable[[str, str], Path]

LOCK = Lock("key file", b"k" * 64)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.fixture
def edit(example: Path, tmp_path: Path) -> Edit:
    """Return a function that writes the example with something replaced."""

    def write(old: str, new: str) -> Path:
        text = example.read_text()
        assert old in text
        path = tmp_path / "edited.yml"
        path.write_text(text.replace(old, new))
        return path

    return write


def by_kind(changes: tuple[Change, ...]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change.name)
    return kinds


def test_a_second_run_changes_nothing_at_all(kits: Path, example: Path) -> None:
    (kits / "C1" / "local" / "notes.txt").write_text("mine")
    (kits / "readme.txt").write_text("somebody's")
    before = everything(kits)
    done = provision(example, kits, LOCK)
    assert set(by_kind(done.changes)) == {"unchanged"}
    assert everything(kits) == before


def test_who_joins_later_is_added_and_only_the_servers_roster_changes_besides(kits: Path, edit: Edit) -> None:
    before = everything(kits)
    done = provision(edit("  - name: C22\n", "  - {name: C23, type: client, org: nvidia}\n  - name: C22\n"), kits, LOCK)
    assert by_kind(done.changes)["added"] == ["C23"]
    assert len(by_kind(done.changes)["unchanged"]) == 10
    others = {path for path in changed(before, everything(kits)) if not path.startswith("C23/")}
    assert others == {
        "server/startup/roster.bin",
        "authority/roster.bin",
        "authority/kits.json",
        "authority/issued.jsonl",
    }
    assert "C23" in [member.name for member in Kit.load(kits / "server").roster]
    assert Kit.load(kits / "C23").credentials.roots == Kit.load(kits / "C22").credentials.roots


def test_who_left_is_named_and_its_kit_is_not_touched(kits: Path, edit: Edit) -> None:
    before = everything(kits)
    file = edit(
        "  - name: C22\n    type: client\n    org: nvidia\n    parent: C2\n    connect_to:\n      name: R2\n", ""
    )
    done = provision(file, kits, LOCK)
    assert by_kind(done.changes)["removed"] == ["C22"]
    assert not any(path.startswith("C22/") for path in changed(before, everything(kits)))
    assert "C22" not in [member.name for member in Kit.load(kits / "server").roster]
    assert by_kind(provision(file, kits, LOCK).changes)["removed"] == ["C22"], "until it is revoked"


def test_another_host_makes_the_listeners_certificate_again_and_leaves_the_keys_of_its_children(
    kits: Path, edit: Edit
) -> None:
    (kits / "C1" / "local" / "notes.txt").write_text("mine")
    before = everything(kits)
    done = provision(
        edit("default_host: localhost\n      port: 18004", "default_host: r1\n      port: 18004"), kits, LOCK
    )
    reasons = {change.name: change.reasons for change in done.changes if change.kind == "changed"}
    moved = "connect_to: R1 grpc://localhost:18004 mtls -> R1 grpc://r1:18004 mtls"
    assert reasons["C1"] == reasons["C11"] == reasons["C12"] == (moved,)
    assert reasons["R1"][0] == "hosts: localhost -> r1"
    assert set(reasons) == {"R1", "C1", "C11", "C12"}
    different = changed(before, everything(kits))
    assert {path for path in different if path.startswith("C1/")} == {
        "C1/compose.yaml",
        "C1/kubernetes.yaml",
        "C1/startup/kit.json",
        "C1/startup/manifest.json",
        "C1/startup/manifest.sig",
        "C1/startup/placement.bin",
    }
    assert {"R1/startup/server.crt", "R1/startup/server.key", "R1/startup/client.key"} <= different
    assert (
        Kit.load(kits / "C1").connect
        == read_plan(edit("localhost\n      port: 18004", "r1\n      port: 18004")).nodes[3].connect
    )


def test_another_org_makes_the_certificate_again(kits: Path, edit: Edit) -> None:
    before = everything(kits)
    done = provision(
        edit("  - name: C2\n    type: client\n    org: nvidia", "  - name: C2\n    type: client\n    org: acme"),
        kits,
        LOCK,
    )
    (change,) = (change for change in done.changes if change.kind == "changed")
    assert (change.name, change.reasons) == ("C2", ("org: nvidia -> acme",))
    assert {"C2/startup/client.crt", "C2/startup/client.key"} <= changed(before, everything(kits))


def test_a_kit_that_was_taken_to_its_node_is_none_the_worse(kits: Path, example: Path, tmp_path: Path) -> None:
    (kits / "C1").rename(tmp_path / "C1")
    assert set(by_kind(provision(example, kits, LOCK).changes)) == {"unchanged"}
    assert not (kits / "C1").exists()


def test_a_kit_that_was_taken_away_and_must_change_gets_new_keys(kits: Path, edit: Edit, tmp_path: Path) -> None:
    (kits / "C2").rename(tmp_path / "C2")
    file = (
        edit("default_host: localhost\n\n", "default_host: localhost\n\n")
        if False
        else edit("port: 28004", "port: 28005")
    )
    done = provision(file, kits, LOCK)
    assert "C2" in by_kind(done.changes)["changed"]
    old, new = Kit.load(tmp_path / "C2"), Kit.load(kits / "C2")
    assert old.credentials.identity == new.credentials.identity
    assert old.credentials.key.private_numbers() != new.credentials.key.private_numbers()


def test_a_certificate_of_an_earlier_issuer_is_not_kept_beside_what_a_later_one_signs(
    kits: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Kit.load(kits / "C1").credentials
    monkeypatch.setattr("provisioning.registry.ISSUER_LIFE", datetime.timedelta(days=3000))  # so it is near its end
    done = provision(edit("port: 18004", "port: 18005"), kits, LOCK)
    assert {change.name for change in done.changes if change.kind == "changed"} == {"R1", "C1", "C11", "C12"}
    for name in ("R1", "C1", "C2"):
        assert Kit.load(kits / name).name == name
    after = Kit.load(kits / "C1").credentials
    assert after.chain[1] != before.chain[1]
    assert Kit.load(kits / "C2").credentials.chain[1] == before.chain[1], "which was not made again, and holds"


def test_a_kit_that_was_altered_is_made_again(kits: Path, example: Path) -> None:
    manifest = kits / "C1" / "startup" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    done = provision(example, kits, LOCK)
    assert [change for change in done.changes if change.kind == "changed"] == [
        Change("C1", "changed", ("its kit was altered",), renewed=True)
    ]
    assert Kit.load(kits / "C1").name == "C1"


@pytest.mark.parametrize(("days", "reason"), [(59, None), (61, "expire in 2[89] days"), (91, "have expired")])
def test_certificates_that_are_past_two_thirds_of_their_life_are_a_reason(
    days: int, reason: str | None, kits: Path, example: Path
) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    changes = compare(read_plan(example), Registry.records_in(kits / "authority"), kits, later)
    if reason is None:
        assert {change.kind for change in changes} == {"unchanged"}
    else:
        assert {change.kind for change in changes} == {"changed"}
        assert all(re.search(reason, change.reasons[0]) for change in changes)


def test_a_plan_says_what_a_run_would_do_and_does_not(kits: Path, edit: Edit, example: Path) -> None:
    before = everything(kits)
    file = edit("  - name: C22\n", "  - name: C23\n")
    done = CliRunner().invoke(main, ["plan", str(file), "--out", str(kits), "--json"])
    assert done.exit_code == 0, done.output
    changes = [Change(**change) for change in json.loads(done.stdout)["changes"]]
    assert {change.name: change.kind for change in changes if change.kind != "unchanged"} == {
        "C23": "added",
        "C22": "removed",
    }
    shown = CliRunner().invoke(main, ["plan", str(file), "--out", str(kits)]).stdout
    assert shown.splitlines()[-1] == "1 added, 0 changed, 9 unchanged, 1 removed"
    fresh = CliRunner().invoke(main, ["plan", str(example), "--out", str(kits.parent / "none")]).stdout
    assert fresh.splitlines()[-1] == "10 added, 0 changed, 0 unchanged, 0 removed"
    assert everything(kits) == before


def test_a_missing_folder_beside_startup_is_the_operators_to_restore(kits: Path, example: Path) -> None:
    shutil.rmtree(kits / "R1" / "local")
    provision(example, kits, LOCK)
    assert not (kits / "R1" / "local").exists()
