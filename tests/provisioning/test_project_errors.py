"""Whatever is wrong with a project.yml is said with its place, in plain words, and all at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioning import Code, ProjectError
from provisioning.plan import draw
from provisioning.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioning import Plan

    Write = Callable[..., str]
    Errors = Callable[[str], list[str]]

RELAY = "name: R1\ntype: relay\norg: acme\nlistening_host: {default_host: localhost, port: 18004}"
CLIENT = "name: C1\ntype: client\norg: acme"
ADMIN = "name: a@acme.com\ntype: admin\norg: acme\nrole: lead"


def only(found: list[str], message: str, line: int, column: int) -> None:
    """Assert that there is exactly this error."""
    assert len(found) == 1, found
    assert found[0].startswith(f"project.yml:{line}:{column}: "), found
    assert message in found[0]


@pytest.mark.parametrize(
    ("edit", "message", "place"),
    [
        (("api_version: 3", "api_version: 2"), "2 is not supported: 3 is, and 4", (1, 14)),
        (("api_version: 3", 'api_version: "3"'), "'3' is not supported", (1, 14)),
        (("api_version: 3", "api_version: 3.0"), "3.0 is not supported", (1, 14)),
        (("api_version: 3", "api_version: true"), "the truth value true", (1, 14)),
        (("api_version: 3\n", ""), "'api_version' is missing", (1, 1)),
        (("name: mobile\n", ""), "'name' is missing", (1, 1)),
        (("name: mobile", "name: 12"), "a text is wanted, not 12", (2, 7)),
        (("name: mobile", "name:"), "a text is wanted, not nothing", (2, 6)),
        (("name: mobile", "name: ../x"), "'../x' is no project name", (2, 7)),
        (("name: mobile", "name: /etc"), "'/etc' is no project name", (2, 7)),
        (("name: mobile", "name: möbile"), "is no project name", (2, 7)),
        (("name: mobile", "name: " + "x" * 64), "is no project name", (2, 7)),
        (("name: mobile", 'name: "mobile\\n"'), "is no project name", (2, 7)),
        (("connection_security: clear", "connection_security: none"), "'none' is not allowed", (4, 22)),
        (("connection_security: clear", "conection_security: tls"), "(did you mean 'connection_security'?)", (4, 1)),
        (("allow_error_sending: false", "include: other.yml"), "'include' is not supported", (5, 1)),
        (("type: server", "type: Server"), "'Server' is no type", (9, 11)),
        (("fed_learn_port: 8002", "fed_learn_port: 0"), "0 is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_learn_port: 70000"), "70000 is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_learn_port: -1"), "-1 is no port", (11, 21)),
        (("fed_learn_port: 8002", 'fed_learn_port: "8002"'), "'8002' is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_learn_port: 08002"), "'08002' is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_learn_port: 80:02"), "80:02 is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_learn_port: yes"), "is no port", (11, 21)),
        (("fed_learn_port: 8002", "fed_port: 8002"), "(did you mean 'fed_learn_port'?)", (11, 5)),
        (("fed_learn_port: 8002", "port: 8002"), "(did you mean 'fed_learn_port'?)", (11, 5)),
        (("[localhost, 127.0.0.1]", "localhost"), "a list is wanted", (12, 17)),
        (("[localhost, 127.0.0.1]", "[localhost, a_b]"), "'a_b' is neither a host name", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, 999.1.1.1]"), "'999.1.1.1' is neither", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, 'fl:8002']"), "(the port has a key of its own)", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, '[::1]']"), "without brackets", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, 'fe80::1%eth0']"), "is neither", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, -a.com]"), "is neither", (12, 29)),
        (("[localhost, 127.0.0.1]", "[127.0.0.1, " + "a." * 127 + "com]"), "is neither", (12, 29)),
        (("host_names: [loc", "fqdn: [loc"), "(did you mean 'default_host'?)", (12, 5)),
        (("      port: 18004", "      prot: 18004"), "unknown key 'prot' (did you mean 'port'?)", (19, 7)),
        (
            ("      default_host: localhost\n      port: 18004", "      port: 18004"),
            "'default_host' is missing",
            (18, 7),
        ),
        (("      port: 18004", "      port: true"), "is no port", (19, 13)),
        (("      port: 18004", "      port: 18004\n      scheme: udp"), "grpc, tcp, http are", (20, 15)),
        (("      port: 18004", "      port: 18004\n    parent: C1"), "only a client has a parent", (20, 5)),
        (("connect_to: 127.0.0.1", "connect_to: [7]"), "a mapping is wanted", (64, 18)),
    ],
)
def test_a_wrong_value_is_shown_with_line_and_column(
    edit: tuple[str, str], message: str, place: tuple[int, int], guide: Path, errors: Errors
) -> None:
    text = guide.read_text()
    assert edit[0] in text
    found = errors(text.replace(*edit, 1))
    shown = [line for line in found if message in line]
    assert shown, found
    assert shown[0].startswith(f"project.yml:{place[0]}:{place[1]}: "), shown
    assert len([line for line in found if "missing" not in line]) <= 1, found


@pytest.mark.parametrize(
    ("participant", "message"),
    [
        ("name: C.1\ntype: client\norg: acme", "'C.1' is no name: '.' separates the levels"),
        ("name: 'C 1'\ntype: client\norg: acme", "'C 1' is no name"),
        ("name: -C\ntype: client\norg: acme", "'-C' is no name"),
        ("name: Ç\ntype: client\norg: acme", "'Ç' is no name"),
        (f"name: {'C' * 64}\ntype: client\norg: acme", "is no name"),
        ('name: "C1\\n"\ntype: client\norg: acme', "is no name"),
        ("name: 7\ntype: client\norg: acme", "a text is wanted, not 7"),
        ("name: yes\ntype: client\norg: acme", "write a text in quotes"),
        ("name: ..\ntype: client\norg: acme", "'..' is no name"),
        ("name: a/b\ntype: client\norg: acme", "'a/b' is no name"),
        ("name: server2\ntype: server\norg: acme", "this is a second server (the first is at line 5)"),
        ("name: SERVER\ntype: client\norg: acme", "differ in case only"),
        ("name: server\ntype: client\norg: acme", "the name 'server' is given twice (first at line 5)"),
        ("name: authority\ntype: client\norg: acme", "is reserved"),
        ("name: Authority\ntype: client\norg: acme", "is reserved"),
        ("name: C1\ntype: client", "'org' is missing"),
        ("name: C1\ntype: client\norg: a b", "'a b' is no org"),
        ("name: C1\norg: acme", "'type' is missing: one of server, relay, client, admin is wanted"),
        ("name: C1\ntype: gateway\norg: acme", "'gateway' is no type"),
        ("name: C1\ntype: [client]\norg: acme", "is no type"),
        ("name: C1\ntype: client\norg: acme\nrelay: R1", "(did you mean 'connect_to'?)"),
        ("name: R1\ntype: relay\norg: acme", "'listening_host' is missing"),
        ("name: R1\ntype: relay\norg: acme\nlistening_host: localhost", "a mapping is wanted"),
        ("name: R1\ntype: relay\norg: acme\nlistening_host: {default_host: a}\nport: 1", "'listening_host: port'"),
        ("name: joe\ntype: admin\norg: acme\nrole: lead", "an e-mail address"),
        ("name: ../a@b.c\ntype: admin\norg: acme\nrole: lead", "an e-mail address"),
        ("name: a@b.c\ntype: admin\norg: acme", "'role' is missing"),
        ("name: C1\ntype: client\norg: acme\nconnect_to: {}", "either 'name' (of the server or a relay) or 'host'"),
        ("name: C1\ntype: client\norg: acme\nconnect_to: {name: server, host: a}", "exclude each other"),
        ("name: C1\ntype: client\norg: acme\nconnect_to: {nane: server}", "(did you mean 'name'?)"),
        ("name: C1\ntype: client\norg: acme\nconnect_to: {name: C1}", "cannot connect to itself"),
        ("name: C1\ntype: client\norg: acme\nconnect_to: {name: servr}", "(did you mean 'server'?)"),
        ("name: C1\ntype: client\norg: acme\nparent: C1", "cannot be its own parent"),
        ("name: C1\ntype: client\norg: acme\nparent: [C2]", "a text is wanted, not a list"),
        ("name: C1\ntype: client\norg: acme\nparent: C7", "there is no client 'C7'"),
        ("just a text", "a mapping is wanted, with 'name', 'type' and 'org'"),
    ],
)
def test_a_wrong_participant_is_named(participant: str, message: str, project: Write, errors: Errors) -> None:
    found = errors(project(participant))
    assert any(message in line for line in found), found
    assert all(re.match(r"project.yml:\d+:\d+: PRJ\d{3} \S+: ", line) for line in found), found
    assert all(int(line.split(":")[1]) >= 8 for line in found), "the server is all right"


@pytest.mark.parametrize(
    ("participants", "message"),
    [
        ((CLIENT, f"{RELAY}\nconnect_to: {{name: C1}}"), "'C1' is a client, which no node can join"),
        ((ADMIN, f"{CLIENT}\nconnect_to: {{name: a@acme.com}}"), "'a@acme.com' is an admin, which no node can join"),
        ((RELAY, f"{CLIENT}\nparent: R1"), "'R1' is a relay, and no client ('connect_to' says where"),
        ((ADMIN, f"{CLIENT}\nparent: a@acme.com"), "'a@acme.com' is an admin, and no client"),
        ((RELAY, f"{CLIENT}\nconnect_to: R1"), "write 'connect_to: {name: R1}'"),
        (
            (CLIENT, "name: C2\ntype: client\norg: x\nparent: C9.C1"),
            "'C9.C1' is a full name (write the base",
        ),
        ((CLIENT, "name: C11\ntype: client\norg: x\nparent: c1"), "there is no client 'c1' (did you mean 'C1'?)"),
        ((RELAY, f"{CLIENT}\nconnect_to: {{name: r1}}"), "there is no server or relay 'r1' (did you mean 'R1'?)"),
        ((RELAY, RELAY.replace("R1", "R2"), f"{CLIENT}\nconnect_to: {{host: localhost, port: 18004}}"), "(R1, R2)"),
    ],
)
def test_what_does_not_fit_another_participant_is_said_where_it_stands(
    participants: tuple[str, ...], message: str, project: Write, errors: Errors
) -> None:
    text = project(*participants)
    found = errors(text)
    assert len(found) == 1, found
    assert message in found[0]
    line = int(found[0].split(":")[1])
    assert re.search(r"connect_to|parent", text.splitlines()[line - 1])


def test_a_cycle_of_relays_is_shown_once_with_every_line(project: Write, errors: Errors) -> None:
    ring = [RELAY.replace("R1", f"R{n}") + f"\nconnect_to: {{name: R{n % 3 + 1}}}" for n in (1, 2, 3)]
    below = f"{CLIENT}\nconnect_to: {{name: R2}}"
    only(
        errors(project(*ring, below)),
        "PRJ404 R1: 'connect_to' goes round in a circle: R1 (line 13) -> R2 (line 18) -> R3 (line 23) -> R1",
        13,
        17,
    )


def test_a_cycle_of_parents_is_shown_once(project: Write, errors: Errors) -> None:
    clients = [f"name: C{n}\ntype: client\norg: acme\nparent: C{n % 2 + 1}" for n in (1, 2)]
    only(errors(project(*clients)), "'parent' goes round in a circle: C1 (line 12) -> C2 (line 16) -> C1", 12, 13)


@pytest.mark.parametrize(
    ("builders", "message"),
    [
        ("- path: evil.module.Exploit", "'evil.module.Exploit' is no known builder"),
        ("- path: x.StaticFileBilder", "(did you mean 'StaticFileBuilder'?)"),
        ("- path: x.StaticFileBuilder\n    args: {scheme: udp}", "'udp' is no scheme: grpc, tcp, http are"),
        ("- path: x.StaticFileBuilder\n    args: {schema: tcp}", "(did you mean 'scheme'?)"),
        ("- path: x.StaticFileBuilder\n    args: {scheme: 5}", "5 is no scheme"),
        ("- args: {}", "'path' is missing"),
        ("- 7", "a mapping is wanted"),
        ("- path: x.CertBuilder\n    args: {days: 9}", "unknown setting 'days' of the CertBuilder"),
    ],
)
def test_a_wrong_builder_is_said_and_never_imported(
    builders: str, message: str, project: Write, errors: Errors
) -> None:
    found = errors(project(top="") + f"builders:\n  {builders}\n")
    assert len(found) == 1, found
    assert message in found[0]


def test_two_schemes_that_contradict_each_other_are_an_error(project: Write, errors: Errors) -> None:
    builders = "builders:\n  - path: x.StaticFileBuilder\n    args: {scheme: tcp}\n"
    only(errors(project(top="scheme: grpc") + builders), "the scheme 'tcp' contradicts 'grpc'", 11, 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "project.yml:1:1: PRJ103: a mapping is wanted at the top"),
        ("7\n", "project.yml:1:1: PRJ103: a mapping is wanted at the top"),
        ("api_version: 3\nname: x\n", "'participants' is missing"),
        ("api_version: 3\nname: x\nparticipants: []\n", "there are no participants"),
        ("api_version: 3\nname: x\nparticipants: {a: 1}\n", "a list is wanted"),
        (f"api_version: 3\nname: x\nparticipants:\n  - {{{CLIENT.replace(chr(10), ', ')}}}\n", "there is no server"),
    ],
)
def test_a_file_that_is_no_project_is_told_what_one_has(text: str, message: str, errors: Errors) -> None:
    found = errors(text)
    assert any(message in line for line in found), found


def test_all_errors_come_at_once_and_in_the_order_of_the_file(project: Write, errors: Errors) -> None:
    text = project(
        RELAY.replace("port: 18004", "port: 0") + "\nconnect_to: {name: R9}",
        f"{CLIENT.replace('org', 'orgg')}\nparent: C9",
        "name: C2\ntype: client\norg: acme\nparent: C1\nconnect_to: {name: C1}",
        server="default_host: 'a b'",
    )
    found = errors(text)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)
    for message in (
        "'a b' is neither",
        "0 is no port",
        "relay 'R9'",
        "'org' is missing",
        "'orgg'",
        "'C9'",
        "is a client",
    ):
        assert sum(message in line for line in found) == 1, message
    assert len(found) == 7


def test_a_participant_with_one_error_does_not_make_its_children_wrong(project: Write, errors: Errors) -> None:
    relay = RELAY.replace("port: 18004", "port: 0")
    found = errors(project(relay, f"{CLIENT}\nconnect_to: {{name: R1}}", "name: C2\ntype: client\norg: x\nparent: C1"))
    assert len(found) == 1
    assert "0 is no port" in found[0]


def test_other_tools_keys_are_ignored_with_a_warning_and_misspelt_ones_are_not(
    project: Write, plan: Callable[[str], Plan], errors: Errors
) -> None:
    drawn = plan(project(f"{CLIENT}\nenable_byoc: true\ncomponents: {{a: 1}}", top="overseer_agent: {path: x}"))
    ignored = [(found.participant, found.message) for found in drawn.warnings if found.code == Code.IGNORED_KEY]
    assert ignored == [
        ("", "'overseer_agent' is ignored"),
        ("C1", "'enable_byoc' is ignored"),
        ("C1", "'components' is ignored"),
    ]
    only(errors(project(f"{CLIENT}\nenable_byok: true")), "PRJ101 C1: unknown key 'enable_byok'", 12, 5)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["server", "R1", "C1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "host", "port", "x"]), inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_the_guides_example_is_fine_or_a_located_error(data: st.DataObject, guide: Path) -> None:
    tree = yaml.safe_load(guide.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            inner = node[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                break
            node = inner
        node[key] = data.draw(_VALUES)
        if not isinstance(tree.get("participants"), dict | list):
            break
    text = yaml.safe_dump(tree, sort_keys=False)
    problems = ()
    try:
        plan = draw(Source.parse(text.encode(), "f"))
    except ProjectError as error:
        problems = error.problems
    else:
        assert plan.nodes
    assert all(problem.line > 0 for problem in problems)
