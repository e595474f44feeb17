"""Every rule about a project.yml: the code, line, column and participant that a file which breaks it gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provisioning import Code, ProjectError
from provisioning.plan import draw
from provisioning.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioning import Problem

VALID = """\
api_version: 3
name: lab
participants:
  - name: fl.acme.com
    type: server
    org: acme
  - name: R1
    type: relay
    org: acme
    listening_host: {default_host: r1.acme.com, port: 18004}
  - name: C1
    type: client
    org: acme
    connect_to: {name: R1}
  - name: C2
    type: client
    org: acme
    parent: C1
  - name: ann@acme.com
    type: admin
    org: acme
    role: lead
builders:
  - path: x.StaticFileBuilder
    args: {scheme: grpc}
"""

SERVER, RELAY, C1, C2, ADMIN = "fl.acme.com", "R1", "C1", "C2", "ann@acme.com"
CELL_NAMES = ("-C", "C.1", "C 1", "C\u00e9", '"C\\n"', "..", "a/b", "/etc", "C" * 64)
HOSTS = ("a_b", "'fl:80'", "999.1.1.1", "'[::1]'", '"a\\n"', "__SERVER_IP__", "a." * 127 + "com", "-a.com", "7")
VERSIONS = ("2", "5", '"3"', "3.0", "yes")
PORTS = ("0", "-1", "70000", "true", '"18004"', "18004.0", "08004")


def rows() -> list[tuple[str, str, str, int, int, str]]:
    """What is replaced by what, and the code, line, column and participant of the error that follows."""
    return [
        # the file
        ("api_version: 3\n", "api_version: 3\nname: other\n", "PRJ002", 3, 1, ""),
        ("name: lab\n", "name: lab\n---\n", "PRJ001", 3, 1, ""),
        ("    type: server", "\ttype: server", "PRJ001", 5, 1, ""),
        ("name: lab", "name: !!python/name:os.system x", "PRJ001", 2, 7, ""),
        ("name: lab", "include: other.yml\nname: lab", "PRJ004", 2, 1, ""),
        ("name: lab", "edge: {depth: 3}\nname: lab", "PRJ004", 2, 1, ""),
        # keys
        ("name: lab", "name: lab\nshceme: tcp", "PRJ101", 3, 1, ""),
        ("type: relay", "type: relay\n    conect_to: {name: R1}", "PRJ101", 9, 5, RELAY),
        ("port: 18004", "port: 18004, prot: 1", "PRJ101", 10, 62, RELAY),
        ("{name: R1}", "{name: R1, nane: x}", "PRJ101", 14, 28, C1),
        ("{scheme: grpc}", "{schema: grpc}", "PRJ602", 25, 12, ""),
        ("type: server", "type: server\n    host: a", "PRJ101", 6, 5, SERVER),
        ("type: server", "type: server\n    fqdn: a", "PRJ101", 6, 5, SERVER),
        ("type: server", "type: server\n    cn: a", "PRJ101", 6, 5, SERVER),
        ("type: server", "type: server\n    connect_to: {name: R1}", "PRJ101", 6, 5, SERVER),
        ("type: relay", "type: relay\n    parent: C1", "PRJ101", 9, 5, RELAY),
        ("name: lab", "name: lab\nstudies: {a: {}}", "PRJ101", 3, 1, ""),
        # versions and names
        ("api_version: 3\n", "", "PRJ102", 1, 1, ""),
        *(
            ("api_version: 3", f"api_version: {value}", "PRJ005", 1, 14, "")
            for value in ("2", "5", '"3"', "3.0", "yes")
        ),
        ("name: lab\n", "", "PRJ102", 1, 1, ""),
        ("name: lab", "name: 7", "PRJ103", 2, 7, ""),
        *(("name: lab", f"name: {value}", "PRJ201", 2, 7, "") for value in ("a/b", "../a", "/a", "l\u00e4b", "x" * 64)),
        ("- name: C2\n    type", "- type", "PRJ102", 15, 5, "participants[3]"),
        ("type: client\n    org: acme\n    connect", "org: acme\n    connect", "PRJ102", 11, 5, C1),
        ("org: acme\n    parent", "parent", "PRJ102", 15, 5, C2),
        ("type: client\n    org: acme\n    parent", "type: Client\n    org: acme\n    parent", "PRJ104", 16, 11, C2),
        ("type: admin", "type: gateway", "PRJ104", 20, 11, ADMIN),
        *(("name: C2", f"name: {name}", "PRJ201", 15, 11, "*") for name in CELL_NAMES),
        ("name: C2", "name: 7", "PRJ103", 15, 11, "participants[3]"),
        ("name: C2", "name: yes", "PRJ103", 15, 11, "participants[3]"),
        ("name: fl.acme.com", "name: " + "x" * 65, "PRJ201", 4, 11, "x" * 65),
        ("org: acme\n    role", "org: a b\n    role", "PRJ201", 21, 10, ADMIN),
        ("name: fl.acme.com\n    type: server", "name: C0\n    type: client", "PRJ205", 3, 1, ""),
        ("  - name: ann@acme.com\n    type: admin", "  - name: s2\n    type: server", "PRJ206", 20, 11, "s2"),
        ("name: C2", "name: C1", "PRJ202", 15, 11, C1),
        ("name: C2", "name: c1", "PRJ203", 15, 11, "c1"),
        ("name: C2", "name: server", "PRJ204", 15, 11, "server"),
        ("name: C2", "name: Authority", "PRJ204", 15, 11, "Authority"),
        ("name: ann@acme.com", "name: ann", "PRJ201", 19, 11, "ann"),
        ("    role: lead\n", "", "PRJ102", 19, 5, ADMIN),
        # listeners
        *(("type: server", f"type: server\n    fed_learn_port: {port}", "PRJ302", 6, 21, SERVER) for port in PORTS),
        *(("type: server", f"type: server\n    admin_port: {port}", "PRJ302", 6, 17, SERVER) for port in PORTS),
        *(("port: 18004", f"port: {port}", "PRJ302", 10, 55, RELAY) for port in PORTS),
        ("type: server", "type: server\n    fed_learn_port: 9093", "PRJ303", 6, 21, SERVER),
        (", port: 18004", "", "PRJ102", 10, 21, RELAY),
        ("default_host: r1.acme.com, ", "", "PRJ102", 10, 21, RELAY),
        ("    listening_host: {default_host: r1.acme.com, port: 18004}\n", "", "PRJ102", 7, 5, RELAY),
        ("listening_host: {default_host: r1.acme.com, port: 18004}", "listening_host: a", "PRJ103", 10, 21, RELAY),
        *(("r1.acme.com", host, "PRJ103" if host == "7" else "PRJ301", 10, 36, RELAY) for host in HOSTS),
        ("port: 18004", "port: 18004, host_names: a", "PRJ103", 10, 74, RELAY),
        ("port: 18004", "port: 18004, scheme: quic", "PRJ104", 10, 70, RELAY),
        ("{scheme: grpc}", "{scheme: quic}", "PRJ104", 25, 20, ""),
        ("port: 18004", "port: 18004, connection_security: ssl", "PRJ104", 10, 83, RELAY),
        ("name: lab", "name: lab\nconnection_security: ssl", "PRJ104", 3, 22, ""),
        # connections
        ("{name: R1}", "{}", "PRJ401", 14, 17, C1),
        ("{name: R1}", "{name: R1, host: a}", "PRJ401", 14, 17, C1),
        ("{name: R1}", "[R1]", "PRJ406", 14, 18, C1),
        ("{name: R1}", "{name: R2}", "PRJ402", 14, 24, C1),
        ("{name: R1}", "{name: C2}", "PRJ402", 14, 24, C1),
        ("{name: R1}", "{name: C1}", "PRJ403", 14, 24, C1),
        ("{name: R1}", "{name: R1, port: 0}", "PRJ302", 14, 34, C1),
        ("{name: R1}", "R1", "PRJ406", 14, 17, C1),
        ("{name: R1}", "[]", "PRJ411", 14, 17, C1),
        ("{name: R1}", "[a, b, c, d, e]", "PRJ411", 14, 17, C1),
        ("{name: R1}", "[{name: R1}, {name: C2}]", "PRJ402", 14, 37, C1),
        ("{name: R1}", "[{name: R1}, {name: server}, r1.acme.com]", "PRJ411", 14, 46, C1),
        ("{name: R1}", "[{name: R1, hots: a}]", "PRJ101", 14, 29, C1),
        ("{name: R1}", "[{name: R1}, 7]", "PRJ103", 14, 30, C1),
        ("    role: lead", "    role: lead\n    connect_to: [fl.acme.com, {name: server}]", "PRJ411", 23, 31, ADMIN),
        ("name: lab", "name: lab\ncustom_ca_cert: none.pem", "PRJ410", 3, 17, ""),
        ("{name: R1}", "{name: R1}\n    custom_ca_cert: project.yml", "PRJ410", 15, 21, C1),
        # the client hierarchy
        ("parent: C1", "parent: C9", "PRJ501", 18, 13, C2),
        ("parent: C1", "parent: R1", "PRJ501", 18, 13, C2),
        ("parent: C1", "parent: ann@acme.com", "PRJ501", 18, 13, C2),
        ("parent: C1", "parent: C9.C1", "PRJ501", 18, 13, C2),
        ("parent: C1", "parent: [C1]", "PRJ103", 18, 13, C2),
        ("parent: C1", "parent: C2", "PRJ502", 18, 13, C2),
        ("connect_to: {name: R1}", "parent: C2", "PRJ503", 14, 13, C1),
        # builders
        ("x.StaticFileBuilder", "x.HEBuilder", "PRJ601", 24, 11, ""),
        ("{scheme: grpc}", "{scheme: grpc, port: 7}", "PRJ602", 25, 26, ""),
        ("name: lab", "name: lab\nscheme: tcp", "PRJ603", 26, 20, ""),
    ]


def problems_of(text: str, file: Path) -> Sequence[Problem]:
    file.write_text(text)
    with pytest.raises(ProjectError) as caught:
        draw(Source.read(file))
    return caught.value.problems


@pytest.mark.parametrize(("old", "new", "code", "line", "column", "participant"), rows())
def test_a_broken_rule_is_told_with_its_code_and_place_and_nothing_else_is(
    old: str, new: str, code: str, line: int, column: int, participant: str, tmp_path: Path
) -> None:
    assert VALID.count(old) >= 1
    problems = problems_of(VALID.replace(old, new, 1), tmp_path / "project.yml")
    told = [(str(found.code), found.line, found.column) for found in problems]
    assert told[:1] == [(code, line, column)], [*map(str, problems)]
    if participant != "*":
        assert problems[0].participant == participant
    others = {found.code for found in problems[1:]}
    # what refers to a name that is wrong cannot be found either
    assert others <= {Code.UNKNOWN_PARENT, Code.UNKNOWN_NODE, Code.UNKNOWN_KEY}, [*map(str, problems)]


@pytest.mark.parametrize(("text", "code"), [("", "PRJ003"), ("- a\n", "PRJ103"), ("7\n", "PRJ103"), (None, "PRJ000")])
def test_a_file_that_holds_no_project_has_a_code_too(text: str | None, code: str, tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ProjectError) as caught:
        draw(Source.read(file))
    assert [(str(found.code), found.line, found.column) for found in caught.value.problems] == [(code, 1, 1)]


@pytest.mark.parametrize(
    ("text", "place"), [("participants: []", (3, 1)), ("participants: {a: 1}", (3, 15)), ("", (1, 1))]
)
def test_a_project_without_participants_is_told_so(text: str, place: tuple[int, int], tmp_path: Path) -> None:
    problems = problems_of(f"api_version: 3\nname: lab\n{text}\n", tmp_path / "project.yml")
    assert [(found.line, found.column) for found in problems] == [place]
    assert problems[0].code in (Code.NO_SERVER, Code.WRONG_KIND, Code.MISSING_KEY)


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "column"),
    [
        *(
            ("name: lab", f"name: lab\n{key}: x", "PRJ105", 3, 1)
            for key in ("overseer_agent", "allow_log_streaming", "packager")
        ),
        *(
            ("type: admin", f"type: admin\n    {key}: x", "PRJ105", 21, 5)
            for key in (
                "enable_byoc",
                "capacity",
                "resource",
                "cc_config",
                "edge_service_port",
                "components",
                "use_aio",
            )
        ),
        ("api_version: 3", "api_version: 4\nstudies: {a: {site_orgs: {}}}", "PRJ105", 2, 1),
        ("type: server", "type: server\n    listening_host: {default_host: a, port: 1}", "PRJ105", 6, 5),
        ("{name: R1}", "", "PRJ106", 14, 5),
        ("parent: C1", "parent:", "PRJ106", 18, 5),
        ("role: lead", "role: boss", "PRJ208", 22, 11),
        ("type: server", "type: server\n    admin_port: 8002", "PRJ303", 6, 17),
        ("{default_host: r1.acme.com, port: 18004}", "{default_host: FL.acme.com, port: 8002}", "PRJ304", 10, 21),
        ("{default_host: r1.acme.com, port: 18004}", "{default_host: fl.acme.com, port: 9093}", "PRJ304", 10, 21),
        ("port: 18004", "port: 18004, connection_security: clear", "PRJ305", 10, 21),
        ("{name: R1}", "{host: gate.acme.com}", "PRJ407", 14, 17),
        ("{name: R1}", "gate.acme.com", "PRJ407", 14, 17),
        ("{name: R1}", "{name: R1, connection_security: tls}", "PRJ408", 14, 49),
        ("builders:\n  - path: x.StaticFileBuilder\n    args: {scheme: grpc}\n", "", "PRJ604", 1, 1),
    ],
)
def test_what_is_worth_a_second_look_is_a_warning_with_its_code_and_place(
    old: str, new: str, code: str, line: int, column: int
) -> None:
    assert VALID.count(old) >= 1
    warnings = draw(Source.parse(VALID.replace(old, new, 1).encode(), "project.yml")).warnings
    assert [(str(found.code), found.line, found.column) for found in warnings] == [(code, line, column)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("name: lab", "name: lab\ndescription: a test\nscheme: GRPC\nconnection_security: TLS"),
        ("api_version: 3", "api_version: 4"),
        ("type: server", "type: server\n    admin_port: 9443\n    host_names: [10.0.0.1, '2001:db8::1']"),
        ("org: acme\n    parent", "org: a-c_me\n    parent"),
        ("parent: C1", "parent: server"),
        ("parent: C1", "parent: fl.acme.com"),
        ("parent: C1", "listening_host: c2.acme.com"),
        ("parent: C1", "listening_host: {default_host: c2.acme.com, port: 4000}"),
        ("{name: R1}", "{host: r1.acme.com, port: 18004}"),
        ("{name: R1}", "{name: server}"),
        ("{name: R1}", "{name: fl.acme.com}"),
        ("{scheme: grpc}", "{scheme: HTTP, config_folder: config, app_validator: a, download_job_url: b}"),
        (
            "{scheme: grpc}",
            "{scheme: grpc}\n  - {path: nvflare.lighter.impl.cert.CertBuilder, args: {root_valid_days: 9}}",
        ),
    ],
)
def test_what_the_guide_allows_has_neither_errors_nor_warnings(old: str, new: str) -> None:
    drawn = draw(Source.parse(VALID.replace(old, new, 1).encode(), "project.yml"))
    assert drawn.warnings == ()


def test_the_order_of_builders_does_not_matter() -> None:
    text = VALID + "  - path: a.WorkspaceBuilder\n  - path: a.SignatureBuilder\n"
    swapped = VALID.replace("builders:\n", "builders:\n  - path: a.SignatureBuilder\n  - path: a.WorkspaceBuilder\n")
    plans = [draw(Source.parse(written.encode(), "f")) for written in (text, swapped)]
    assert plans[0] == plans[1]


def test_a_host_of_two_nodes_is_an_error_that_lists_them_unless_the_port_tells_them_apart(tmp_path: Path) -> None:
    shared = VALID.replace("r1.acme.com", "fl.acme.com")
    problems = problems_of(shared.replace("{name: R1}", "fl.acme.com"), tmp_path / "project.yml")
    assert [(found.code, found.line, found.column) for found in problems] == [(Code.AMBIGUOUS_HOST, 14, 17)]
    assert "(fl.acme.com, R1)" in problems[0].message
    drawn = draw(Source.parse(shared.replace("{name: R1}", "{host: fl.acme.com, port: 18004}").encode(), "f"))
    assert [str(node.fqcn) for node in drawn.nodes if node.name == "C1"] == ["R1.C1"]


def test_an_admins_host_is_the_servers_whoever_else_has_it() -> None:
    shared = VALID.replace("r1.acme.com", "fl.acme.com").replace(
        "role: lead", "role: lead\n    connect_to: fl.acme.com"
    )
    admin = draw(Source.parse(shared.encode(), "f")).nodes[-1]
    assert admin.connect is not None
    assert (admin.connect.url, admin.connect.parent) == ("grpc://fl.acme.com:8002", "server")


def test_a_ring_of_relays_is_shown_with_each_line(tmp_path: Path) -> None:
    ring = "".join(
        f"  - {{name: R{n}, type: relay, org: a, listening_host: {{default_host: h, port: {n}}}, "
        f"connect_to: {{name: R{3 if n == 2 else 2}}}}}\n"
        for n in (2, 3)
    )
    (problem,) = problems_of(VALID.replace("builders:", ring + "builders:"), tmp_path / "project.yml")
    assert (problem.code, problem.line, problem.participant) == (Code.CONNECTION_CIRCLE, 23, "R2")
    assert "R2 (line 23) -> R3 (line 24) -> R2" in problem.message


def test_names_that_lead_too_deep_are_an_error(tmp_path: Path) -> None:
    chain = "".join(
        f"  - {{name: D{n}, type: client, org: a, parent: {f'D{n - 1}' if n else 'C1'}}}\n" for n in range(20)
    )
    problems = problems_of(VALID.replace("builders:", chain + "builders:"), tmp_path / "project.yml")
    assert {found.code for found in problems} == {Code.TOO_DEEP}


def test_a_crowd_is_a_warning_at_the_node_that_it_stands_at() -> None:
    crowd = "".join(f"  - {{name: D{n}, type: client, org: a, parent: C1}}\n" for n in range(100))
    warnings = draw(Source.parse(VALID.replace("builders:", crowd + "builders:").encode(), "f")).warnings
    assert [(found.code, found.line, found.participant) for found in warnings] == [
        (Code.CROWD, 4, SERVER),
        (Code.CROWD, 11, C1),
    ]


def test_every_code_has_a_test_and_an_explanation() -> None:
    tests = Path(__file__).read_text()
    explained = (Path(__file__).parents[2] / "docs" / "project-file.md").read_text()
    for code in Code:
        assert f'"{code}"' in tests or f"Code.{code.name}" in tests, code
        assert f"| {code} |" in explained, code
