"""Kits that FLARE's own provisioning made: read, found wanting, and turned into a project file again."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cellnet.cli import main
from cellnet.credentials import CONNECT, LISTEN, Identity
from cellnet.errors import ConfigurationError
from cellnet.kit import Endpoint
from provisioning import read_plan
from provisioning.authority import Authority, certificates_pem
from provisioning.foreign import ForeignKit, is_foreign, missing, read_foreign
from provisioning.plan import Plan, draw
from provisioning.reconstruction import project_text
from provisioning.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

FLARE = Path(__file__).parent / "fixtures" / "flare"
NOW = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


def unpack(project: str, folder: Path) -> Path:
    for name, content in json.loads((FLARE / f"{project}.json").read_text()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def read_all(folder: Path) -> dict[str, ForeignKit]:
    return {path.name: read_foreign(path) for path in sorted(folder.iterdir())}


def plan_of(text: str) -> Plan:
    return draw(Source.parse(text.encode(), "f"))


def edit(file: Path, *keys: str | int, to: Any) -> None:
    """Change one value in a JSON file, or delete it."""
    content = json.loads(file.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    file.write_text(json.dumps(content))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return unpack("guide", tmp_path / "mobile")


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    return unpack("nested", tmp_path / "nested")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return unpack("flat", tmp_path / "flat")


def test_a_kit_of_theirs_is_told_from_one_of_ours_and_from_other_folders(theirs: Path, kits: Path) -> None:
    assert all(is_foreign(path) for path in theirs.iterdir())
    assert not any(is_foreign(path) for path in (*kits.iterdir(), theirs, theirs / "C1" / "startup", Path("a\0b")))


def test_a_relays_kit_says_where_it_listens_and_whom_it_joins(nested: Path) -> None:
    kit = read_foreign(nested / "R11")
    assert (kit.project, kit.name, kit.role, kit.org) == ("nested", "R11", "relay", "north")
    assert (kit.fqcn, kit.fqsn, kit.parent) == ("R1.R11", "", "R1")
    assert kit.listen == Endpoint(url="http://localhost:18005", security="mtls")
    assert kit.connect == Endpoint(url="tcp://r1.internal:18004", security="clear", parent="R1")
    assert read_foreign(nested / "R1").hosts == ("r1.example.org", "10.9.9.9", "r1.internal")


def test_a_clients_kit_says_its_place_in_both_hierarchies(theirs: Path, nested: Path) -> None:
    kit = read_foreign(theirs / "C11")
    assert (kit.name, kit.role, kit.fqcn, kit.fqsn, kit.listen) == ("C11", "client", "R1.C11", "C1.C11", None)
    assert kit.connect == Endpoint(url="tcp://localhost:18004", security="clear", parent="R1")
    direct = read_foreign(nested / "D1")
    assert direct.connect == Endpoint(url="http://hub.example.org:8102", security="mtls", parent="server")
    assert (direct.fqcn, direct.hosts, direct.listen) == ("D1", ("d1.example.org",), None)


def test_a_servers_kit_has_its_own_name_and_the_roots(nested: Path) -> None:
    kit = read_foreign(nested / "hub.example.org")
    assert (kit.name, kit.base_name, kit.fqcn, kit.fqsn) == ("hub.example.org", "server", "server", "server")
    assert kit.listen == Endpoint(url="http://hub.example.org:8102", security="mtls")
    assert (kit.connect, kit.parent, kit.control_port) == (None, None, 8103)
    assert kit.identity == Identity("nested", "server", "server")


def test_an_admins_kit_has_the_role_that_is_in_its_certificate(theirs: Path, nested: Path) -> None:
    kit = read_foreign(nested / "boss@example.org")
    assert (kit.role, kit.admin_role, kit.fqcn, kit.fqsn, kit.hosts) == ("admin", "lead", "", "", ())
    assert read_foreign(theirs / "admin@nvidia.com").admin_role == "project_admin"


def test_no_security_as_their_relays_write_it_is_mutual_tls(nested: Path) -> None:
    assert '"connection_security": "None"' in (nested / "R1" / "startup" / "fed_relay.json").read_text()
    connect = read_foreign(nested / "R1").connect
    assert connect is not None
    assert connect.security == "mtls"


@pytest.mark.parametrize(
    ("scheme", "ours"),
    [("atcp", "tcp"), ("stcp", "tcp"), ("satcp", "tcp"), ("agrpc", "grpc"), ("grpcs", "grpc"), ("https", "http")],
)
def test_schemes_that_differ_in_their_code_only_are_ours(theirs: Path, scheme: str, ours: str) -> None:
    edit(theirs / "R1" / "startup" / "fed_relay.json", "connect_to", "scheme", to=scheme)
    connect = read_foreign(theirs / "R1").connect
    assert connect is not None
    assert connect.url == f"{ours}://localhost:8002"


def test_an_admin_of_a_trial_and_a_client_of_an_older_version_have_the_names_in_their_certificates(
    theirs: Path,
) -> None:
    edit(theirs / "admin@nvidia.com" / "startup" / "fed_admin.json", "admin", "username", to="")
    edit(theirs / "C1" / "startup" / "fed_client.json", "client", "fqsn", to=None)
    assert read_foreign(theirs / "admin@nvidia.com").name == "admin@nvidia.com"
    assert read_foreign(theirs / "C1").fqsn == "C1"


@pytest.mark.parametrize(
    ("file", "keys", "to", "message"),
    [
        ("R1/startup/fed_relay.json", ("identity",), None, "identity: is missing"),
        ("R1/startup/fed_relay.json", ("identity",), "R.1", "identity: 'R.1' is no name"),
        ("R1/startup/fed_relay.json", ("connect_to", "fqcn"), "a..b", "connect_to.fqcn: "),
        ("R1/startup/fed_relay.json", ("connect_to", "address"), "localhost:0", "connect_to.address: 0 is no port"),
        (
            "R1/startup/fed_relay.json",
            ("connect_to", "scheme"),
            "shared-file",
            "connect_to.scheme: 'shared-file' is no",
        ),
        ("R1/local/comm_config.json", ("internal", "resources", "port"), None, "internal.resources.port: is missing"),
        ("R1/local/comm_config.json", ("internal", "resources", "port"), True, "internal.resources.port: the truth"),
        ("C1/startup/fed_client.json", ("servers",), [], "servers: List should have at least 1 item"),
        ("C2/startup/fed_client.json", ("client", "connection_security"), "open", "client.connection_security: 'open'"),
        ("C1/local/relay__resources.json", ("relay_config", "address"), "x" * 999, "relay_config.address: 'xxx"),
        (
            "C1/startup/fed_client.json",
            ("servers", 0, "service", "target"),
            "None:8002",
            "servers.0.service.target: 'N",
        ),
        ("server/startup/fed_server.json", ("servers", 0, "name"), "../up", "servers.0.name: '../up' is no project"),
        ("admin@nvidia.com/startup/fed_admin.json", ("admin", "username"), "x", "admin.username: 'x' is no name"),
    ],
)
def test_what_is_malformed_is_told_with_file_and_key(
    theirs: Path, file: str, keys: tuple[str | int, ...], to: Any, message: str
) -> None:
    edit(theirs / file, *keys, to=to)
    with pytest.raises(ConfigurationError) as caught:
        read_foreign(theirs / file.partition("/")[0])
    assert str(caught.value).startswith(f"{theirs / file}: {message}")
    assert len(str(caught.value)) < 600


def _delete(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _swell(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" " * 2**20)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("harm", [_delete, _empty, _swell, _link, _pipe])
@pytest.mark.parametrize(
    "file", ["startup/client.crt", "startup/server.crt", "startup/rootCA.pem", "local/comm_config.json"]
)
def test_a_file_that_is_not_there_or_no_file_or_too_large_is_named(
    theirs: Path, file: str, harm: Callable[[Path], None]
) -> None:
    harm(theirs / "R1" / file)
    with pytest.raises(ConfigurationError) as caught:
        read_foreign(theirs / "R1")
    assert str(caught.value).startswith(f"{theirs / 'R1' / file}: ")


def test_folders_that_are_no_kit_or_two_are_refused(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is no kit of FLARE's: it has none of fed_relay\.json"):
        read_foreign(tmp_path)
    shutil.copy(theirs / "C1" / "startup" / "fed_client.json", theirs / "R1" / "startup")
    with pytest.raises(ConfigurationError, match=r"it has fed_relay\.json and fed_client\.json"):
        read_foreign(theirs / "R1")


def test_a_certificate_of_somebody_else_is_noticed(theirs: Path) -> None:
    shutil.copy(theirs / "C2" / "startup" / "client.crt", theirs / "C1" / "startup")
    with pytest.raises(ConfigurationError, match=r"client\.crt: is the certificate of 'C2', and the kit that of 'C1'"):
        read_foreign(theirs / "C1")


def faults_of(kit: ForeignKit, file: str, now: datetime.datetime = NOW) -> list[str]:
    start = f"{kit.path / 'startup' / file}: "
    return [line.removeprefix(start) for line in missing(kit, now) if line.startswith(start)]


def test_what_a_relay_lacks_is_listed_with_every_file_and_what_to_do_is_last(theirs: Path) -> None:
    kit = read_foreign(theirs / "R1")
    key = "holds an RSA key of 2048 bits, and not one on the curve P-256."
    common = [
        "has not the one URI name cellnet://mobile/relay/R1: a certificate needs exactly one URI name, this one has 0."
    ]
    rest = ["has no critical key usage.", "has no critical basic constraints."]
    listen, connect = (
        f"has no extended key usage {usage}." for usage in ("serverAuth, to listen with", "clientAuth, to connect with")
    )
    assert faults_of(kit, "server.crt") == [key, *common, listen, *rest]
    assert faults_of(kit, "client.crt") == [key, *common, connect, *rest]
    assert faults_of(kit, "rootCA.pem") == [key]
    assert [len(faults_of(kit, name)) for name in ("kit.json", "placement.bin", "manifest.json", "issuer.crt")] == [
        1
    ] * 4
    found = missing(kit, NOW)
    assert len(found) == 16
    assert len(set(found)) == 16
    assert found[-1] == (
        f"{theirs / 'R1'}: run `cellnet request R1 --project mobile --type relay --out DIR` at the site, "
        "and `cellnet sign PROJECT.YML DIR/R1.request --out KITS` at the project."
    )


def test_each_role_is_asked_for_its_own_files(theirs: Path) -> None:
    server, client = read_foreign(theirs / "server"), read_foreign(theirs / "C1")
    assert (faults_of(server, "client.crt"), faults_of(client, "server.crt")) == ([], [])
    assert (faults_of(server, "placement.bin"), faults_of(client, "roster.bin")) == ([], [])
    assert len(faults_of(server, "roster.bin")) == len(faults_of(client, "placement.bin")) == 1


def test_a_server_asks_for_its_kit_by_the_name_that_every_server_has_here(nested: Path) -> None:
    remedy = missing(read_foreign(nested / "hub.example.org"), NOW)[-1]
    assert "cellnet request server --project nested --type server" in remedy


def test_a_key_of_a_kind_that_nobody_knows_is_a_fault_among_the_others(theirs: Path) -> None:
    kit, rsa, unknown = (
        read_foreign(theirs / "C1"),
        bytes.fromhex("2a864886f70d010101"),
        bytes.fromhex("2a864886f70d01017f"),
    )
    file = kit.path / "startup" / "client.crt"
    lines = file.read_bytes().split()
    body = base64.b64decode(b"".join(lines[2:-2])).replace(rsa, unknown)
    file.write_bytes(b"\n".join([b" ".join(lines[:2]), base64.b64encode(body), b" ".join(lines[-2:]), b""]))
    found = faults_of(kit, "client.crt")
    assert found[0].startswith("has a part that cannot be read: ")
    assert len(found) == 5


def test_certificates_that_ended_or_are_of_the_future_are_among_it(theirs: Path) -> None:
    kit = read_foreign(theirs / "C1")
    late, early = NOW + datetime.timedelta(days=400), NOW - datetime.timedelta(days=400)
    for file in ("client.crt", "rootCA.pem"):
        assert "expired on 2027-11-24 21:14 UTC." in faults_of(kit, file, late)
        assert "is not valid before 2026-11-29 21:14 UTC." in faults_of(kit, file, early)
        assert not any("valid" in fault or "expired" in fault for fault in faults_of(kit, file))


def test_a_certificate_is_held_against_each_rule_alone(theirs: Path) -> None:
    kit = read_foreign(theirs / "C1")
    root = Authority.create("mobile", NOW)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()

    def faults(name: str, usage: x509.ObjectIdentifier) -> list[str]:
        made = root.issue(Identity("mobile", "client", name), key, usage, common_name="C1", org="a", now=NOW)
        (kit.path / "startup" / "client.crt").write_bytes(certificates_pem(made))
        return faults_of(kit, "client.crt")

    assert faults("C1", CONNECT) == []
    assert faults("C2", CONNECT) == ["has the URI name cellnet://mobile/client/C2, and not cellnet://mobile/client/C1."]
    assert faults("C1", LISTEN) == ["has no extended key usage clientAuth, to connect with."]
    (kit.path / "startup" / "client.crt").write_bytes(root.certificate_pem)
    assert "is an authority's, and no node's." in faults_of(kit, "client.crt")


def test_nothing_is_missing_only_where_a_node_could_start(theirs: Path, kits: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    kit = dataclasses.replace(read_foreign(theirs / "R1"), path=kits / "R1")
    assert missing(kit, now) == []
    (kits / "R1" / "startup" / "client.key").unlink()
    (fault, _remedy) = missing(kit, now)
    assert fault.startswith(f"{kits / 'R1' / 'startup' / 'client.key'}: ")


def test_the_guides_project_comes_back_with_all_its_names(theirs: Path, guide: Path) -> None:
    again, original = plan_of(project_text(list(read_all(theirs).values()))), read_plan(guide)
    assert again.project == original.project
    assert again.warnings == ()
    for facts in ("role", "org", "fqcn", "fqsn", "parent", "parents", "hosts"):
        found = {node.name: getattr(node, facts) for node in again.nodes}
        assert found == {node.name: getattr(node, facts) for node in original.nodes}
    assert {node.name: node.connect.security for node in again.nodes if node.connect} == {
        node.name: node.connect.security for node in original.nodes if node.connect
    }


def test_nested_relays_come_back_with_their_names_hosts_and_addresses(nested: Path) -> None:
    theirs = read_all(nested)
    text = project_text(list(theirs.values()))
    plan = plan_of(text)
    assert plan.warnings == ()
    for node in plan.nodes:
        kit = theirs[node.name]
        assert (str(node.fqcn or ""), str(node.fqsn or ""), node.hosts) == (kit.fqcn, kit.fqsn, kit.hosts)
        if node.connect and kit.connect and kit.role != "admin":
            assert (node.connect.url, node.connect.parent) == (kit.connect.url, kit.parent)
    (admin,) = [node for node in plan.nodes if node.role == "admin"]
    assert admin.connect == Endpoint(url="http://hub.example.org:8102", security="mtls", parent="server")
    assert "admin_port: 8103" in text
    assert "role: lead" in text


def test_a_relay_without_tls_that_nobody_may_have_meant_gets_the_projects_security_and_a_comment(nested: Path) -> None:
    kits = read_all(nested)
    listen = kits["R1"].listen
    assert listen is not None
    assert listen.security == "clear"
    text = project_text(list(kits.values()))
    at = {node.name: node.listen.security for node in plan_of(text).nodes if node.listen}
    assert at == {"hub.example.org": "mtls", "R1": "mtls", "R11": "mtls"}
    assert text.count("# The kit listens without TLS") == 1


def test_a_relay_without_tls_behind_an_ingress_stays_so(nested: Path) -> None:
    edit(nested / "C1" / "local" / "relay__resources.json", "relay_config", "connection_security", to="tls")
    text = project_text(list(read_all(nested).values()))
    plan = {node.name: node for node in plan_of(text).nodes}
    assert "# The kit listens without TLS" not in text
    assert plan["R1"].listen is not None
    assert plan["R1"].listen.security == "clear"
    assert [node.connect.security for node in (plan["C1"], plan["R11"]) if node.connect] == ["tls", "clear"]
    assert str(plan["C1"].fqcn) == "R1.C1"


def test_a_flat_project_behind_an_ingress_comes_back_with_its_securities_and_authorities(flat: Path) -> None:
    theirs = read_all(flat)
    text = project_text(list(theirs.values()))
    drawn = plan_of(text)
    plan = {node.name: node for node in drawn.nodes}
    assert [warning.code for warning in drawn.warnings] == ["PRJ305", "PRJ407", "PRJ407"]
    for name, kit in theirs.items():
        assert kit.connect is None or plan[name].connect == kit.connect.model_copy(
            update={"parent": None if name in ("site-2", "site-3") else "server"}
        )
    assert plan["server1"].listen is not None
    assert plan["server1"].listen.security == "clear"
    assert "\nconnection_security: tls\n" in text
    assert text.count("taken for an ingress in front of it") == 2
    assert plan["site-2"].ingress_ca == (flat / "site-2" / "startup" / "customRootCA.pem").read_bytes()


def test_a_server_whose_only_port_is_that_of_our_control_api_gets_another_for_it(flat: Path) -> None:
    file = flat / "server1" / "startup" / "fed_server.json"
    edit(file, "servers", 0, "service", "target", to="server1:9093")
    edit(file, "servers", 0, "admin_port", to=9093)
    (server,) = plan_of(project_text([read_foreign(flat / "server1")])).nodes
    assert server.control_port == 9094


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("server", "the server's kit is not among those given"),
        ("R1", "C1: is below the relay 'R1', whose kit is not among those given"),
        ("C1", "C11: is below the client 'C1', whose kit is not among those given"),
    ],
)
def test_a_kit_that_is_not_there_and_is_needed_is_named(theirs: Path, gone: str, message: str) -> None:
    kits = [kit for name, kit in read_all(theirs).items() if name != gone]
    with pytest.raises(ConfigurationError, match=message):
        project_text(kits)


def test_kits_that_are_not_of_one_project_are_refused(theirs: Path, nested: Path) -> None:
    kits = read_all(theirs)
    with pytest.raises(ConfigurationError, match="C1: is a second kit of C1"):
        project_text([*kits.values(), kits["C1"]])
    with pytest.raises(ConfigurationError, match="D1: is not of the project of"):
        project_text([*kits.values(), read_foreign(nested / "D1")])
    other = read_foreign(nested / "R1").root
    with pytest.raises(ConfigurationError, match="C22: is not of the project of"):
        project_text([*(kits[name] for name in kits if name != "C22"), dataclasses.replace(kits["C22"], root=other)])
    with pytest.raises(ConfigurationError, match=r"C11: is below 'R9\.R1', but the kit of R1 says 'R1'"):
        project_text(
            [*(kits[name] for name in kits if name != "C11"), dataclasses.replace(kits["C11"], fqcn="R9.R1.C11")]
        )


def _mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Flip, cut, insert; in a certificate, below its armour."""
    armoured = data.startswith(b"-----BEGIN") and draw(st.booleans())
    lines = data.splitlines()
    changed = bytearray(base64.b64decode(b"".join(lines[1:-1])) if armoured else data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.sampled_from([0, 1, 1, 1, 2, 9, 200]))
        changed[at : at + length] = draw(st.binary(max_size=4))
    if not armoured:
        return bytes(changed)
    return b"\n".join([lines[0], base64.b64encode(bytes(changed)), lines[-1], b""])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ForeignKit]:
    return read_all(unpack("nested", tmp_path_factory.mktemp("foreign")))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_are_the_answer_is_a_kit_or_an_error_of_ours(
    whole: dict[str, ForeignKit], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(whole)))
    folder = whole[name].path
    file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    original = file.read_bytes()
    try:
        file.write_bytes(data.draw(st.composite(_mutations)(original)))
        with contextlib.suppress(ConfigurationError):
            kit = read_foreign(folder)
            assert missing(kit, NOW)
            plan_of(project_text([*(other for other in whole.values() if other.name != name), kit]))
    finally:
        file.write_bytes(original)


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=300)
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"nul\0l"])
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
    ).map(
        lambda value: json.dumps({"project_name": value, "identity": value, "connect_to": {"address": value}}).encode()
    )
)
def test_any_json_in_place_of_a_relays_is_refused(whole: dict[str, ForeignKit], content: bytes) -> None:
    file = whole["R1"].path / "startup" / "fed_relay.json"
    original = file.read_bytes()
    try:
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"fed_relay\.json: "):
            read_foreign(whole["R1"].path)
    finally:
        file.write_bytes(original)


def test_the_command_prints_a_project_from_a_folder_of_kits(theirs: Path, guide: Path) -> None:
    done = CliRunner().invoke(main, ["migrate", str(theirs)])
    assert done.exit_code == 0, done.output
    names = {node.name: (node.fqcn, node.fqsn) for node in plan_of(done.stdout).nodes}
    assert names == {node.name: (node.fqcn, node.fqsn) for node in read_plan(guide).nodes}
    empty = CliRunner().invoke(main, ["migrate", str(guide.parent)])
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert "there is no kit of FLARE's here" in empty.stderr


def test_a_node_is_not_started_from_one_and_all_that_it_lacks_is_said(theirs: Path) -> None:
    done = CliRunner().invoke(main, ["start", str(theirs / "C11")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(theirs / "C11" / "startup" / "client.crt") in done.stderr
    assert "cellnet request C11 --project mobile --type client" in done.stderr
    assert "Traceback" not in done.stderr
