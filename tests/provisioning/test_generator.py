"""Generated trees: they are planned without a complaint, are aligned, and what an analysis says of any plan."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.errors import ConfigurationError
from provisioning import Code
from provisioning.analysis import Analysis, Largest, analyze
from provisioning.generator import MAX_PARTICIPANTS, Shape, project_text
from provisioning.plan import draw
from provisioning.source import MAX_BYTES, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioning import Plan

    Write = Callable[..., str]
    Draw = Callable[[str], Plan]

MISALIGNED = """\
api_version: 3
name: lab
participants:
  - {name: a@b.c, type: admin, org: acme, role: lead}
  - {name: d@b.c, type: admin, org: acme, role: lead}
  - {name: e@b.c, type: admin, org: acme, role: lead}
  - {name: fl.acme.com, type: server, org: acme}
  - {name: R1, type: relay, org: acme, listening_host: {default_host: r1.acme.com, port: 1}}
  - {name: R2, type: relay, org: acme, listening_host: {default_host: r2.acme.com, port: 1}, connect_to: {name: R1}}
  - {name: R3, type: relay, org: acme, listening_host: {default_host: r3.acme.com, port: 1}}
  - {name: C1, type: client, org: acme, connect_to: {name: R2}}
  - {name: C2, type: client, org: acme, connect_to: {name: R1}, parent: C1}
  - {name: C3, type: client, org: acme, connect_to: {name: R3}, parent: C1}
  - {name: C4, type: client, org: acme, connect_to: gate.acme.com, parent: C3}
  - {name: C5, type: client, org: acme, connect_to: {name: R1}, parent: C1}
builders: [{path: a.StaticFileBuilder}]
"""
"""C1 reports to the server; C3 and C4 can reach their parents only through it; the way of C2 and C5 turns at R1."""


def generate(*numbers: int, **values: object) -> Plan:
    text = project_text(Shape(*numbers), **values)  # type: ignore[arg-type]
    return draw(Source.parse(text.encode("ascii"), "project.yml"))


def names(plan: Plan, role: str) -> list[str]:
    return [node.name for node in plan.nodes if node.role == role]


def test_a_tree_of_the_guides_size_is_the_guides(guide: Path, plan: Draw) -> None:
    def places(drawn: Plan) -> set[tuple[str, str, str]]:
        return {(n.name, str(n.fqcn), str(n.fqsn)) for n in drawn.nodes if n.role != "admin"}

    assert places(generate(1, 2, 2)) == places(plan(guide.read_text()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(0, 12))
def test_every_tree_is_planned_without_a_warning_has_its_size_and_is_aligned(
    depth: int, width: int, clients: int
) -> None:
    shape = Shape(depth, width, clients)
    drawn = generate(depth, width, clients)
    assert drawn.warnings == ()
    assert len(names(drawn, "relay")) == shape.relay_count
    assert len(names(drawn, "client")) == shape.client_count
    assert len(drawn.nodes) == shape.participant_count
    figures = analyze(drawn)
    assert figures.aligned == figures.clients
    assert figures.top_clients == (width if depth else clients)
    assert figures.most_hops <= 3
    assert figures.site_levels == (depth + 1 if clients else depth)


@pytest.mark.parametrize("numbers", [(3, 2, 2), (2, 10, 1), (2, 2, 10)])
def test_every_relay_has_one_lead_and_all_others_are_below_the_lead_of_their_own_leaf(
    numbers: tuple[int, int, int],
) -> None:
    drawn = generate(*numbers)
    relays = {node.name: node for node in drawn.nodes if node.role == "relay"}
    clients = {node.name: node for node in drawn.nodes if node.role == "client"}
    leads = {"C" + name[1:] for name in relays}
    assert leads < clients.keys()
    for name, client in clients.items():
        assert client.fqcn is not None
        assert client.fqcn.parent is not None
        relay = client.fqcn.parent
        if name in leads:
            assert relay.base_name == "R" + name[1:]
            assert relay.parent is not None
            assert client.parent == (
                relay.parent.base_name if relay.parent.is_root else "C" + relay.parent.base_name[1:]
            )
        else:
            assert relay.depth == numbers[0]
            assert client.parent == "C" + relay.base_name[1:]


def test_numbers_run_together_until_one_is_over_nine_then_all_names_have_hyphens() -> None:
    assert names(generate(2, 2, 9), "relay") == ["R1", "R2", "R11", "R12", "R21", "R22"]
    assert names(generate(1, 2, 1), "client") == ["C1", "C2", "C11", "C21"]
    assert names(generate(2, 2, 10), "relay") == ["R1", "R2", "R1-1", "R1-2", "R2-1", "R2-2"]
    assert names(generate(1, 1, 10), "client")[-2:] == ["C1-9", "C1-10"]
    wide = names(generate(2, 11, 0), "relay")
    assert (wide[10], wide[11], wide[-1]) == ("R11", "R1-1", "R11-11")


def test_the_relays_of_a_tree_are_a_tier_each_and_leave_room_for_job_cells() -> None:
    drawn = generate(8, 1, 1)
    deepest = drawn.nodes[-2]
    assert str(deepest.fqcn) == "R1.R11.R111.R1111.R11111.R111111.R1111111.R11111111.C111111111"
    assert deepest.fqcn is not None
    deepest.fqcn.job("digits")


def test_without_relays_all_clients_are_at_the_server() -> None:
    drawn = generate(0, 7, 12)
    assert [str(node.fqsn) for node in drawn.nodes if node.role == "client"] == [f"C{n}" for n in range(1, 13)]
    assert {node.parents for node in drawn.nodes if node.role == "client"} == {("server",)}
    assert names(generate(0, 1, 0), "client") == []


def test_an_admin_of_the_project_is_included() -> None:
    text = project_text(Shape(1, 1, 1))
    assert "  - name: admin@example.com\n    type: admin\n    org: example\n    role: project_admin\n" in text


def test_nodes_with_a_hundred_children_are_the_only_ones_that_get_a_warning() -> None:
    assert generate(1, 1, 98).warnings == ()
    (relay,) = generate(1, 1, 99).warnings
    assert (relay.code, relay.participant) == (Code.CROWD, "R1")
    assert [found.participant for found in generate(1, 1, 100).warnings] == ["R1", "C1"]
    assert [found.participant for found in generate(0, 1, 100).warnings] == ["server"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 2, 3), "depth is -1: 0 to 8 are allowed"),
        ((9, 1, 3), "depth is 9: 0 to 8 are allowed"),
        ((2, 0, 3), "width is 0: 1 to 99 are allowed"),
        ((2, 100, 3), "width is 100: 1 to 99 are allowed"),
        ((2, 2, -1), "clients is -1: 0 to 10,000 are allowed"),
        ((2, 2, 10_001), "clients is 10001: 0 to 10,000 are allowed"),
        ((1, 10, 9998), "100,002 participants are too many: 100,000 are allowed (take a smaller depth"),
        ((8, 99, 10_000), "participants are too many"),
    ],
)
def test_a_tree_that_is_too_large_is_refused_at_once(numbers: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Shape(*numbers)


def test_a_tree_may_be_as_large_as_the_limits_say() -> None:
    assert Shape(1, 10, 9997).participant_count == MAX_PARTICIPANTS - 8
    assert Shape(0, 99, 10_000).client_count == 10_000
    assert Shape(8, 1, 0).relay_count == 8


def test_the_ports_of_relays_leave_out_those_of_the_server_and_end_where_ports_end() -> None:
    def ports(first: int, width: int) -> list[int]:
        drawn = generate(1, width, 0, first_port=first)
        return [int(node.listen.url.rpartition(":")[2]) for node in drawn.nodes if node.listen and node.role == "relay"]

    assert ports(8003, 3) == [8003, 8004, 8005]
    assert ports(8001, 3) == [8001, 8003, 8004]
    assert ports(9092, 3) == [9092, 9094, 9095]
    assert ports(65534, 2) == [65534, 65535]
    with pytest.raises(ConfigurationError, match=r"3 relays from port 65534 up would need port 65536"):
        ports(65534, 3)


def test_all_values_are_those_of_the_project() -> None:
    drawn = generate(1, 1, 1, name="lab.2", scheme="TCP", security="tls", host="fl.acme.com", first_port=7000)
    assert drawn.project == "lab.2"
    assert drawn.warnings == ()
    relay = drawn.nodes[1]
    assert relay.connect is not None
    assert relay.listen is not None
    assert (relay.connect.url, relay.connect.security) == ("tcp://fl.acme.com:8002", "tls")
    assert (relay.listen.url.rpartition(":")[2], relay.listen.security) == ("7000", "tls")
    assert relay.hosts == ("fl.acme.com",)


@pytest.mark.parametrize("name", ["on", "1.5", "12", "null", "0x1F"])
@pytest.mark.parametrize("host", ["no", "0x10", "::1", "127.0.0.1"])
def test_a_name_or_host_that_yaml_would_take_for_something_else_is_quoted(name: str, host: str) -> None:
    drawn = generate(1, 1, 0, name=name, host=host)
    assert drawn.project == name
    assert [node.hosts for node in drawn.nodes if node.listen] == [(host,), (host,)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "a b"}, "name: 'a b' is no project name"),
        ({"scheme": "ftp"}, "scheme: 'ftp' is not allowed: 'grpc', 'tcp' or 'http' is"),
        ({"security": "none"}, "security: 'none' is not allowed: 'clear', 'tls' or 'mtls' is"),
        ({"host": "a\nb: c"}, "host: 'a\\nb: c' is neither a host name nor an IP address"),
        ({"first_port": 0}, "first_port: 0 is no port"),
        ({"name": "", "host": ""}, "name: '' is no project name"),
    ],
)
def test_a_value_that_no_project_may_have_is_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        generate(1, 1, 1, **setting)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).split("; ")) == len(setting)


def test_listeners_without_tls_get_their_usual_warning_only_if_others_reach_them() -> None:
    assert generate(1, 1, 1, security="clear").warnings == ()
    assert {found.code for found in generate(1, 1, 1, security="clear", host="a.b").warnings} == {Code.CLEAR_LISTENER}


def test_a_text_that_could_not_be_read_again_is_refused() -> None:
    shape = Shape(3, 36, 0)
    assert len(project_text(shape)) <= MAX_BYTES
    with pytest.raises(ConfigurationError, match=r"larger than 16 MiB"):
        project_text(shape, host=".".join(["a" * 63] * 3))


def test_the_text_says_how_it_was_made_and_lists_participants_as_people_do() -> None:
    first, *_ = project_text(Shape(2, 3, 4)).splitlines()
    assert first == "# Made by `cellnet tree --depth 2 --width 3 --clients 4`: 12 relays, 48 clients."
    text = project_text(Shape(2, 2, 2))
    assert (
        "\n  - name: C11\n    type: client\n    org: example\n    parent: C1\n    connect_to:\n      name: R11\n"
        in text
    )
    assert not set("{[&*") & set(text)
    assert max(map(len, text.splitlines())) <= 120


def test_the_comments_of_a_tree_without_relays_speak_of_none() -> None:
    text = project_text(Shape(0, 1, 1))
    assert "all clients are directly at the server" in text
    assert "lead" not in text.lower().replace("project_admin", "")
    assert "tier" not in text


def test_there_is_no_heading_over_nobody() -> None:
    assert "The other clients" in project_text(Shape(1, 1, 1))
    assert "The other clients" not in project_text(Shape(1, 1, 0))


def test_an_analysis_tells_who_is_not_aligned_and_what_the_server_passes_on(plan: Draw) -> None:
    assert analyze(plan(MISALIGNED)) == Analysis(
        relays=3,
        clients=5,
        cell_levels=3,
        site_levels=3,
        most_connected=Largest("server", 3),  # R1, R3 and C4; R1 has as many, and is later in the file
        most_clients_below=Largest("C1", 3),
        mean_hops=(3 + 3 + 5 + 3 + 3) / 5,
        most_hops=5,
        aligned=3,
        top_clients=1,
    )


def test_what_reaches_the_server_is_what_it_combines_and_what_it_passes_on(plan: Draw) -> None:
    figures = analyze(plan(MISALIGNED))
    assert (figures.top_clients, figures.passing, figures.results_at_server) == (1, 2, 3)
    assert figures.results_without_hierarchy == 5
    aligned = analyze(generate(2, 2, 3))
    assert (aligned.top_clients, aligned.passing, aligned.results_at_server) == (2, 0, 2)
    assert aligned.results_without_hierarchy == 18


def test_a_child_beside_its_parent_at_the_server_is_not_aligned(project: Write, plan: Draw) -> None:
    clients = ("name: C1\ntype: client\norg: acme", "name: C2\ntype: client\norg: acme\nparent: C1")
    figures = analyze(plan(project(*clients)))
    assert (figures.clients, figures.aligned, figures.mean_hops, figures.most_hops) == (2, 1, 1.5, 2)


def test_a_plan_without_clients_has_figures_too(project: Write, plan: Draw) -> None:
    nobody = Largest("server", 0)
    assert analyze(plan(project())) == Analysis(0, 0, 0, 0, nobody, nobody, 0.0, 0, 0, 0)


def test_an_analysis_is_said_to_people_in_five_lines(plan: Draw) -> None:
    assert analyze(plan(MISALIGNED)).lines() == [
        "communication   3 relays, 5 clients, 3 levels; at most 3 at one node (server)",
        "clients         3 levels; at most 3 below one node (C1)",
        "to the parent   3.4 hops on average, at most 5",
        "aligned         3 of 5 clients",
        "at the server   3 results per round, 2 of them only on their way to another client; "
        "without a client hierarchy 5",
    ]
    assert analyze(generate(1, 1, 0)).lines()[-1] == (
        "at the server   1 result per round; without a client hierarchy 1"
    )


def test_an_analysis_is_said_to_programs_in_plain_values(plan: Draw) -> None:
    assert json.loads(json.dumps(analyze(plan(MISALIGNED)).as_json())) == {
        "relays": 3,
        "clients": 5,
        "communication": {"levels": 3, "largest": {"name": "server", "children": 3}},
        "client_hierarchy": {"levels": 3, "largest": {"name": "C1", "children": 3}},
        "hops_to_parent": {"mean": 3.4, "most": 5},
        "aligned": 3,
        "results_per_round": {"at_server": 3, "combined": 1, "passing": 2, "without_client_hierarchy": 5},
    }


@pytest.mark.measured
def test_ten_thousand_clients_are_generated_planned_and_analysed_in_seconds() -> None:
    before = time.process_time()
    drawn = generate(2, 11, 82)
    figures = analyze(drawn)
    assert time.process_time() - before < 15, "three seconds are usual"
    assert drawn.warnings == ()
    assert (figures.clients, figures.aligned, figures.results_at_server) == (10_054, 10_054, 11)
