"""Several parents in an order: what a project file says of them, and what becomes of that in a kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellnet.kit import Kit
from provisioning import ProjectError, update
from provisioning.plan import draw
from provisioning.source import Source
from provisioning.tree import circle
from tests.provisioning.conftest import LOCK

if TYPE_CHECKING:
    from pathlib import Path

    from provisioning.plan import Plan

PROJECT = """\
api_version: 3
name: lab
scheme: tcp
connection_security: mtls
participants:
  - {name: server, type: server, org: lab, default_host: localhost}
  - name: R1
    type: relay
    org: lab
    listening_host: {default_host: localhost, port: 8101}
  - name: R2
    type: relay
    org: lab
    listening_host: {default_host: localhost, port: 8102, connection_security: tls}
    connect_to: SECOND
  - name: C1
    type: client
    org: lab
    connect_to: FIRST
"""


def planned(file: Path, first: str, second: str = "{name: server}") -> Plan:
    file.write_text(PROJECT.replace("FIRST", first).replace("SECOND", second))
    return draw(Source.read(file))


def test_the_first_of_several_parents_gives_the_name_and_the_kit_has_them_all(tmp_path: Path) -> None:
    plan = planned(tmp_path / "project.yml", "[{name: R1}, {name: R2}, {host: localhost, port: 8002}]")
    client = plan.nodes[-1]
    assert str(client.fqcn) == "R1.C1"
    assert client.parents == ("R1", "R2", "server")
    assert [(end["name"], end["url"], end["security"]) for end in client.as_json()["others"]] == [
        ("R2", "tcp://localhost:8102", "tls"),
        ("server", "tcp://localhost:8002", "mtls"),
    ]
    update(plan, tmp_path / "kits", LOCK)
    kit = Kit.load(tmp_path / "kits" / "C1")
    assert [end.parent for end in kit.others] == ["R2", "server"]
    assert kit.credentials.placement is not None
    assert kit.credentials.placement.parents == ("R1", "R2", "server")


def test_who_may_come_through_an_ingress_may_join_below_any(tmp_path: Path) -> None:
    plan = planned(tmp_path / "project.yml", "[{name: R1}, gate.lab.org]")
    assert plan.nodes[-1].parents == ()
    assert [str(warning) for warning in plan.warnings if "PRJ407" in str(warning)]


def test_another_order_changes_that_kit_and_no_other(tmp_path: Path) -> None:
    file, out = tmp_path / "project.yml", tmp_path / "kits"
    update(planned(file, "[{name: R1}, {name: R2}]"), out, LOCK)
    changes = update(planned(file, "[{name: R2}, {name: R1}]"), out, LOCK)
    assert {change.name for change in changes if change.kind == "changed"} == {"C1"}
    changes = update(planned(file, "[{name: R2}]"), out, LOCK)
    assert {change.name: change.reasons for change in changes if change.kind == "changed"} == {
        "C1": ("others: R1 tcp://localhost:8101 mtls -> -", "parents: R2 R1 -> R2")
    }


def test_two_relays_that_may_be_below_each_other_are_told(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    text = PROJECT.replace("SECOND", "[{name: server}, {name: R1}]").replace("FIRST", "{name: R1}")
    file.write_text(text.replace("port: 8101}\n", "port: 8101}\n    connect_to: [{name: server}, {name: R2}]\n"))
    with pytest.raises(ProjectError) as caught:
        draw(Source.read(file))
    (problem,) = caught.value.problems
    assert (problem.code, problem.participant) == ("PRJ404", "R1")
    assert "R1 (line 11) -> R2 (line 16) -> R1" in problem.message


@pytest.mark.parametrize(
    ("above", "found"),
    [
        ({}, []),
        ({"a": ["root"], "b": ["a", "root"], "c": ["b", "a"]}, []),
        ({"a": ["root", "b"], "b": ["root", "a"]}, ["a", "b"]),
        ({"x": ["a"], "a": ["root", "b"], "b": ["root", "c"], "c": ["root", "a"]}, ["a", "b", "c"]),
        ({"a": ["root", "a"]}, ["a"]),
    ],
)
def test_a_circle_is_found_where_any_choice_of_parents_would_make_one(
    above: dict[str, list[str]], found: list[str]
) -> None:
    assert circle(above) == found
