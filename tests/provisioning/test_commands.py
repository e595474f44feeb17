"""What the commands that read a project print, and how they end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from cellnet.cli import main
from provisioning.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [*map(str, words)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def warned(guide: Path, tmp_path: Path) -> Path:
    path = tmp_path / "warned.yml"
    path.write_text(guide.read_text().replace("fed_learn_port: 8002", "fed_learn_port: 8002\n    admin_port: 8002"))
    return path


@pytest.fixture
def wrong(guide: Path, tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yml"
    path.write_text(guide.read_text().replace("port: 18004", "port: 0").replace("parent: C2", "parrent: C2"))
    return path


def test_a_project_that_is_right_is_counted_and_ends_with_zero(guide: Path) -> None:
    assert run("validate", guide, "--strict") == (0, f"{guide}: 0 errors, 0 warnings, 10 participants\n", "")


def test_errors_come_all_at_once_on_the_other_stream_and_end_with_one(wrong: Path) -> None:
    code, out, err = run("validate", wrong)
    assert (code, out) == (1, f"{wrong}: 3 errors, 0 warnings\n")
    assert [re.sub(r"^\S+/wrong.yml:", "", line) for line in err.splitlines()] == [
        "19:13: PRJ302 R1: 0 is no port: an integer from 1 to 65535 is wanted",
        "51:5: PRJ101 C21: unknown key 'parrent' (did you mean 'parent'?)",
        "57:5: PRJ101 C22: unknown key 'parrent' (did you mean 'parent'?)",
    ]


def test_warnings_fail_only_a_strict_validation(warned: Path) -> None:
    message = f"warning: {warned}:12:17: PRJ303 server: 8002 is the port of links already: the Control API takes 9093\n"
    said = f"{warned}: 0 errors, 1 warning, 10 participants\n"
    assert run("validate", warned) == (0, said, message)
    assert run("validate", warned, "--strict") == (1, said, message)


def test_programs_get_the_same_as_one_object(guide: Path, wrong: Path, warned: Path, tmp_path: Path) -> None:
    assert json.loads(run("validate", guide, "--json")[1]) == {"ok": True, "errors": [], "warnings": []}
    code, out, err = run("validate", wrong, "--json")
    found = json.loads(out)
    assert (code, err, found["ok"], len(found["errors"]), found["warnings"]) == (1, "", False, 3, [])
    assert found["errors"][1] == {
        "code": "PRJ101",
        "line": 51,
        "col": 5,
        "participant": "C21",
        "message": "unknown key 'parrent'",
        "hint": "did you mean 'parent'?",
    }
    assert json.loads(run("validate", warned, "--json", "--strict")[1])["ok"] is False
    missing = json.loads(run("validate", tmp_path / "none.yml", "--json")[1])
    assert [(error["code"], error["participant"]) for error in missing["errors"]] == [("PRJ000", None)]


def test_a_plan_lists_the_guides_names_in_both_hierarchies(guide: Path) -> None:
    code, out, err = run("plan", guide, "--json")
    assert (code, err) == (0, "")
    found = {one["name"]: one for one in json.loads(out)["participants"]}
    assert {name: (one["fqcn"], one["fqsn"], one["parent"]) for name, one in found.items()} == {
        "server": ("server", "server", None),
        "R1": ("R1", None, None),
        "R2": ("R2", None, None),
        "C1": ("R1.C1", "C1", "server"),
        "C11": ("R1.C11", "C1.C11", "C1"),
        "C12": ("R1.C12", "C1.C12", "C1"),
        "C2": ("R2.C2", "C2", "server"),
        "C21": ("R2.C21", "C2.C21", "C2"),
        "C22": ("R2.C22", "C2.C22", "C2"),
        "admin@nvidia.com": (None, None, None),
    }
    assert found["R1"] == {
        "name": "R1",
        "type": "relay",
        "org": "nvidia",
        "fqcn": "R1",
        "fqsn": None,
        "parent": None,
        "connect_to": {"name": "server", "url": "grpc://localhost:8002", "security": "clear"},
        "listen": {"url": "grpc://localhost:18004", "security": "clear"},
        "security": "clear",
        "hosts": ["localhost"],
        "others": [],
        "control_port": None,
    }
    assert found["server"]["control_port"] == 9093


def test_the_same_clients_may_all_connect_to_the_server(guide: Path, tmp_path: Path) -> None:
    direct = tmp_path / "direct.yml"
    direct.write_text(re.sub(r"    connect_to:\n      name: R\d\n", "", guide.read_text()))
    found = {one["name"]: one for one in json.loads(run("plan", direct, "--json")[1])["participants"]}
    assert (found["C11"]["fqcn"], found["C11"]["fqsn"]) == ("C11", "C1.C11")
    assert (found["C22"]["fqcn"], found["C22"]["fqsn"]) == ("C22", "C2.C22")


def test_relays_may_be_nested(project: Callable[..., str], tmp_path: Path) -> None:
    relay = "name: {}\ntype: relay\norg: a\nlistening_host: {{default_host: h, port: {}}}\nconnect_to: {{name: {}}}"
    text = project(
        relay.format("R2", 1, "server"),
        relay.format("R21", 2, "R2"),
        "name: C6\ntype: client\norg: a\nconnect_to: {name: R21}",
    )
    (tmp_path / "project.yml").write_text(text)
    found = {one["name"]: one for one in json.loads(run("plan", tmp_path / "project.yml", "--json")[1])["participants"]}
    assert found["C6"]["fqcn"] == "R2.R21.C6"


def test_a_plan_for_people_is_a_table(guide: Path) -> None:
    code, out, _err = run("plan", guide)
    assert code == 0
    assert re.search(r"^NAME +TYPE +FQCN +FQSN +LISTENS AT +CONNECTS TO$", out, re.MULTILINE)
    assert re.search(r"^C11 +client +R1\.C11 +C1\.C11 +- +R1 grpc://localhost:18004 clear$", out, re.MULTILINE)


@pytest.mark.parametrize(("kind", "begin"), [("text", "Communication"), ("mermaid", "flowchart TD"), ("svg", "<svg")])
def test_a_plan_may_be_drawn(kind: str, begin: str, guide: Path) -> None:
    code, out, err = run("plan", guide, "--picture", kind)
    assert (code, err) == (0, "")
    assert out.startswith(begin)
    assert "R1.C11" in out


def test_the_picture_in_the_documents_is_the_one_that_is_drawn(example: Path) -> None:
    shown = example.parent / "docs" / "pictures" / "example.svg"
    assert shown.read_text(encoding="utf-8") == run("plan", example, "--picture", "svg")[1]


@pytest.mark.parametrize("command", [("plan",), ("plan", "--json"), ("provision", "--out", "kits")])
def test_every_command_tells_all_errors_and_writes_nothing(command: tuple[str, ...], wrong: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cellnet", command[0], wrong.name, *command[1:]],
        cwd=wrong.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(" ")[1].rstrip(":") for line in done.stderr.splitlines()] == ["PRJ302", "PRJ101", "PRJ101"]
    assert [path.name for path in wrong.parent.iterdir()] == [wrong.name]


def test_a_tree_is_a_project_and_can_be_looked_at_before(tmp_path: Path) -> None:
    code, out, err = run("tree", "--depth", 2, "--width", 2, "--clients", 3)
    assert (code, err) == (0, "")
    (tmp_path / "project.yml").write_text(out)
    assert run("validate", tmp_path / "project.yml", "--strict")[0] == 0
    shown = run("tree", "--depth", 2, "--width", 2, "--clients", 3, "--analyze")[1]
    assert "18 of 18 clients" in shown
    figures = json.loads(run("tree", "--depth", 2, "--width", 2, "--clients", 3, "--analyze", "--json")[1])
    assert (figures["relays"], figures["clients"]) == (6, 18)
    code, out, err = run("tree", "--depth", 99)
    assert (code, out) == (1, "")
    assert "depth" in err


def accepted(document: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json_schema()).is_valid(document))


def test_the_schema_for_editors_is_valid_and_accepts_what_we_do(guide: Path, example: Path) -> None:
    code, out, _err = run("schema")
    assert (code, json.loads(out)) == (0, json_schema())
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for path in (guide, example):
        assert accepted(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_version: 3", "api_version: 5"),
        ("name: mobile", "nme: mobile"),
        ("name: C11", "name: C.11"),
        ("type: relay", "type: gateway"),
        ("port: 18004", "port: 0"),
        ("port: 18004", "prt: 18004"),
        ("name: R1\n  - name: C11", "name: R1\n      host: a\n  - name: C11"),
        ("scheme: grpc", "scheme: grpc\n  - path: 7"),
    ],
)
def test_the_schema_for_editors_refuses_what_one_can_see_in_one_place(old: str, new: str, guide: Path) -> None:
    assert old in guide.read_text()
    assert not accepted(yaml.safe_load(guide.read_text().replace(old, new, 1)))
