"""What follows from a project: names, addresses, parents, and what is worth a second look."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.fqcn import FQCN, MAX_SEGMENTS
from provisioning import Code
from provisioning.plan import draw
from provisioning.source import Source
from provisioning.tree import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioning import Node, Plan, Problem

    Write = Callable[..., str]
    Draw = Callable[[str], Plan]

ANY = "0.0.0.0"  # noqa: S104 - nothing is bound here


def relay(name: str, *keys: str, **listening: object) -> str:
    at = {"default_host": "localhost", "port": 18000, **listening}
    written = ", ".join(f"{key}: {value}" for key, value in at.items())
    return "\n".join([f"name: {name}\ntype: relay\norg: acme\nlistening_host: {{{written}}}", *keys])


def client(name: str, *keys: str) -> str:
    return "\n".join([f"name: {name}\ntype: client\norg: acme", *keys])


def node(plan: Plan, name: str) -> Node:
    return next(node for node in plan.nodes if node.name == name)


def endpoints(plan: Plan, name: str) -> list[tuple[str, str, str | None]]:
    found = node(plan, name)
    return [(end.url, end.security, end.parent) for end in (found.listen, found.connect) if end]


def test_without_any_settings_the_scheme_is_grpc_and_the_security_mtls(project: Write, plan: Draw) -> None:
    drawn = plan(project(relay("R1"), client("C1", "connect_to: {name: R1}")))
    assert endpoints(drawn, "server") == [("grpc://localhost:8002", "mtls", None)]
    assert endpoints(drawn, "R1") == [
        ("grpc://localhost:18000", "mtls", None),
        ("grpc://localhost:8002", "mtls", "server"),
    ]
    assert endpoints(drawn, "C1") == [("grpc://localhost:18000", "mtls", "R1")]


def test_a_relays_listener_follows_the_project_unless_it_says_otherwise(project: Write, plan: Draw) -> None:
    top = "scheme: TCP\nconnection_security: TLS"
    drawn = plan(project(relay("R1"), relay("R2", port=1, scheme="HTTP", connection_security="clear"), top=top))
    assert endpoints(drawn, "R1")[0] == ("tcp://localhost:18000", "tls", None)
    assert endpoints(drawn, "R2")[0] == ("http://localhost:1", "clear", None)


def test_a_child_speaks_its_parents_scheme_and_security(project: Write, plan: Draw) -> None:
    drawn = plan(
        project(
            relay("R1", scheme="http", connection_security="tls"),
            client("C1", "connect_to: {name: R1}"),
            client("C2", "connect_to: {name: R1, port: 443, connection_security: clear}"),
        )
    )
    assert endpoints(drawn, "C1") == [("http://localhost:18000", "tls", "R1")]
    assert endpoints(drawn, "C2") == [("http://localhost:443", "clear", "R1")]
    assert any("connects with 'clear', but 'R1' listens with 'tls'" in found.message for found in drawn.warnings)


@pytest.mark.parametrize(
    ("server", "bound", "hosts"),
    [
        ("default_host: localhost", "localhost", ("localhost",)),
        ("default_host: 127.0.0.2", "127.0.0.2", ("127.0.0.2",)),
        ("default_host: '::1'", "[::1]", ("::1",)),
        ("default_host: fl.acme.com", ANY, ("fl.acme.com",)),
        ("default_host: 10.0.0.1\nhost_names: [10.0.0.1, a, A]", ANY, ("10.0.0.1", "a")),
        ("default_host: '2001:DB8::1'", "[::]", ("2001:db8::1",)),
        ("default_host: localhost\nhost_names: [fl.acme.com]", ANY, ("localhost", "fl.acme.com")),
        ("fed_learn_port: 8002", ANY, ("server",)),
    ],
)
def test_a_listener_binds_any_address_unless_all_its_names_are_this_machines(
    server: str, bound: str, hosts: tuple[str, ...], project: Write, plan: Draw
) -> None:
    found = node(plan(project(server=server)), "server")
    assert found.listen is not None
    assert found.listen.url == f"grpc://{bound}:8002"
    assert found.hosts == hosts


def test_the_servers_base_name_is_server_whatever_it_is_called(project: Write, plan: Draw) -> None:
    text = project(
        relay("R1", "connect_to: {name: fl.acme.com}", port=1),
        relay("R2", "connect_to: {name: server}", port=2),
        client("C1", "connect_to: {name: R2}"),
    ).replace("name: server\n", "name: fl.acme.com\n")
    drawn = plan(text)
    server = node(drawn, "fl.acme.com")
    assert (str(server.fqcn), str(server.fqsn), server.base_name) == ("server", "server", "server")
    assert drawn.identity(server).uri == "cellnet://lab/server/server"
    assert endpoints(drawn, "R1")[1] == endpoints(drawn, "R2")[1] == ("grpc://localhost:8002", "mtls", "server")
    assert node(drawn, "R1").parents == ("server",)
    assert str(node(drawn, "C1").fqcn) == "R2.C1"
    with pytest.raises(Exception, match="the name 'server' is the root's"):
        plan(text + "  - {name: server, type: client, org: acme}\n")


@pytest.mark.parametrize(
    ("connect", "url", "parent"),
    [
        ("{host: 10.1.1.1, port: 8002}", "grpc://10.1.1.1:8002", "server"),
        ("FL.acme.com", "grpc://FL.acme.com:8002", "server"),
        ("{host: fl.acme.com, port: 8002}", "grpc://fl.acme.com:8002", "server"),
        ("{host: r1.acme.com}", "tcp://r1.acme.com:18000", "R1"),
        ("{host: 10.1.1.1, port: 18000}", "tcp://10.1.1.1:18000", "R1"),
        ("{host: gate.acme.com}", "grpc://gate.acme.com:8002", None),
        ("{host: gate.acme.com, port: 443}", "grpc://gate.acme.com:443", None),
        ("{host: fl.acme.com, port: 443}", "grpc://fl.acme.com:443", None),
    ],
)
def test_a_host_is_looked_up_among_the_listeners_and_is_an_ingress_if_it_is_none(
    connect: str, url: str, parent: str | None, project: Write, plan: Draw
) -> None:
    text = project(
        relay("R1", default_host="r1.acme.com", host_names="[10.1.1.1]", scheme="tcp"),
        client("C1", f"connect_to: {connect}"),
        server="default_host: fl.acme.com\nhost_names: [10.1.1.1]",
    )
    drawn = plan(text)
    assert endpoints(drawn, "C1") == [(url, "mtls", parent)]
    assert node(drawn, "C1").parents == ((parent,) if parent else ())
    assert any(found.code == Code.INGRESS for found in drawn.warnings) == (parent is None)


def test_the_client_hierarchy_may_lie_over_any_communication_hierarchy(project: Write, plan: Draw) -> None:
    drawn = plan(
        project(
            client("C11", "parent: C1", "connect_to: {name: R2}"),
            client("C111", "parent: C11"),
            client("C1", "connect_to: {name: R1}"),
            relay("R2", "connect_to: {name: R1}", port=2),
            relay("R1", port=1),
        )
    )
    assert {n.name: (str(n.fqcn), n.fqsn and str(n.fqsn)) for n in drawn.nodes} == {
        "server": ("server", "server"),
        "R1": ("R1", None),
        "R2": ("R1.R2", None),
        "C1": ("R1.C1", "C1"),
        "C11": ("R1.R2.C11", "C1.C11"),
        "C111": ("C111", "C1.C11.C111"),
    }


def test_a_chain_of_relays_may_be_as_deep_as_names_are_and_leaves_room_for_job_cells(
    project: Write, plan: Draw
) -> None:
    chain = [
        relay(f"R{n}", f"connect_to: {{name: {f'R{n - 1}' if n > 1 else 'server'}}}", port=n)
        for n in range(1, MAX_SEGMENTS)
    ]
    fits = client("C1", f"connect_to: {{name: R{MAX_SEGMENTS - 2}}}")
    drawn = plan(project(*chain, fits))
    assert len(str(node(drawn, "C1").fqcn).split(".")) == MAX_SEGMENTS - 1
    with pytest.raises(Exception, match=r"PRJ207 C1: too far from the server: .* no room for job cells"):
        plan(project(*chain, client("C1", f"connect_to: {{name: R{MAX_SEGMENTS - 1}}}")))
    deeper = [relay(f"R{n}", f"connect_to: {{name: R{n - 1}}}", port=n) for n in range(MAX_SEGMENTS, MAX_SEGMENTS + 9)]
    with pytest.raises(Exception, match=r"PRJ207 R17: too far from the server") as caught:
        plan(project(*chain, *deeper))
    assert len(str(caught.value).splitlines()) == 1, "what lies below is not wrong by itself"


def test_a_crowd_gets_a_warning_and_one_fewer_does_not(project: Write, plan: Draw) -> None:
    def crowd(count: int) -> tuple[Problem, ...]:
        return plan(project(*(client(f"C{n}") for n in range(count)))).warnings

    assert crowd(99) == ()
    (warning,) = crowd(100)
    assert str(warning).startswith("project.yml:5:11: PRJ409 server: 100 nodes connect here")


@pytest.mark.measured
def test_a_thousand_clients_are_planned_in_a_moment() -> None:
    relays = "".join(
        f"  - {{name: R{n}, type: relay, org: a, listening_host: {{default_host: h{n}, port: 1}}}}\n" for n in range(10)
    )
    clients = "".join(
        f"  - {{name: C{n}, type: client, org: a, connect_to: {{name: R{n % 10}}}}}\n" for n in range(1000)
    )
    text = f"api_version: 3\nname: x\nparticipants:\n  - {{name: server, type: server, org: a}}\n{relays}{clients}"
    before = time.process_time()
    drawn = draw(Source.parse(text.encode(), "f"))
    assert time.process_time() - before < 5, "a fifth of a second is usual"
    assert str(node(drawn, "C999").fqcn) == "R9.C999"
    assert len(drawn.members) == 1010


def test_what_is_hardly_meant_is_a_warning_with_a_place(project: Write, plan: Draw) -> None:
    drawn = plan(
        project(
            relay("R1", default_host="r.acme.com", connection_security="clear", port=1),
            relay("R2", default_host="r.acme.com", port=1),
            client("C1", "resource: {port: 1}", "connect_to:"),
            "name: a@b.c\ntype: admin\norg: acme\nrole: boss",
        )
    )
    assert [str(warning).removeprefix("project.yml:") for warning in drawn.warnings] == [
        "12:21: PRJ305 R1: listens at r.acme.com without TLS: links are authenticated, but others can read along",
        "16:21: PRJ304 R2: listens at r.acme.com:1, as R1 does",
        "20:5: PRJ105 C1: 'resource' is ignored",
        "21:5: PRJ106 C1: 'connect_to' is empty, as if it were not there",
        "25:11: PRJ208 a@b.c: 'boss' is no known role: project_admin, org_admin, lead, member are",
    ]


@given(st.dictionaries(st.integers(0, 30).map(str), st.integers(0, 30).map(str), max_size=30))
def test_a_walk_orders_what_is_a_tree_and_finds_every_cycle(above: dict[str, str]) -> None:
    order, cycles = walk(above)
    position = {name: index for index, name in enumerate(order)}
    assert len(order) == len(set(order))
    for name in order:
        assert above[name] not in above or position[above[name]] < position[name]
    for cycle in cycles:
        assert all(above[name] == cycle[(index + 1) % len(cycle)] for index, name in enumerate(cycle))
    in_cycles = {name for cycle in cycles for name in cycle}
    assert len(in_cycles) == sum(map(len, cycles))
    for name in above:
        steps = [name]
        while steps[-1] in above and len(steps) <= len(above) + 1:
            steps.append(above[steps[-1]])
        assert (name in position) == (steps[-1] not in above)
        assert (name in in_cycles) == (name in steps[1:])


def test_a_chain_of_a_hundred_thousand_is_walked_without_recursion() -> None:
    order, cycles = walk({str(n): str(n - 1) for n in range(100_000, 0, -1)})
    assert (len(order), order[0], order[-1], cycles) == (100_000, "1", "100000", [])


def test_the_roster_holds_everyone_but_the_server(project: Write, plan: Draw) -> None:
    drawn = plan(project(relay("R1"), client("C1", "connect_to: {name: R1}"), client("C2", "connect_to: gate")))
    assert [(m.name, m.role, m.fqcn, m.fqsn, m.parent) for m in drawn.members] == [
        ("R1", "relay", "R1", "", "server"),
        ("C1", "client", "R1.C1", "C1", "R1"),
        ("C2", "client", "C2", "C2", ""),
    ]
    assert node(drawn, "C1").fqcn == FQCN("R1.C1")
