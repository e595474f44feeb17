"""The guide's own example, byte for byte, and ours, which says the same with comments."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509

from cellnet.credentials import CONNECT, LISTEN
from cellnet.kit import Kit
from provisioning import Lock, provision, read_plan

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
FQCNS = {
    "server": "server",
    "R1": "R1",
    "R2": "R2",
    "C1": "R1.C1",
    "C11": "R1.C11",
    "C12": "R1.C12",
    "C2": "R2.C2",
    "C21": "R2.C21",
    "C22": "R2.C22",
}
FQSNS = {
    "server": "server",
    "C1": "C1",
    "C11": "C1.C11",
    "C12": "C1.C12",
    "C2": "C2",
    "C21": "C2.C21",
    "C22": "C2.C22",
}


def test_the_fixture_is_the_guides_file_byte_for_byte(guide: Path) -> None:
    assert len(guide.read_bytes()) == 1505
    assert hashlib.sha256(guide.read_bytes()).hexdigest() == (
        "a38e98ad1eaf9d5bbdf807035939e6cd35ea1a6efec1b8cbe996f481e457f969"
    )


def test_the_guides_example_has_the_names_that_the_guide_gives_it(guide: Path) -> None:
    plan = read_plan(guide)
    assert {node.name: str(node.fqcn) for node in plan.nodes if node.fqcn} == FQCNS
    assert {node.name: str(node.fqsn) for node in plan.nodes if node.fqsn} == FQSNS
    assert [node.name for node in plan.nodes if node.fqcn is None] == ["admin@nvidia.com"]


def test_the_guides_example_uses_the_projects_scheme_and_security_everywhere(guide: Path) -> None:
    plan = read_plan(guide)
    listen = {node.name: (node.listen.url, node.listen.security) for node in plan.nodes if node.listen}
    assert listen == {
        "server": ("grpc://localhost:8002", "clear"),
        "R1": ("grpc://localhost:18004", "clear"),
        "R2": ("grpc://localhost:28004", "clear"),
    }
    connect = {node.name: (node.connect.url, node.connect.parent) for node in plan.nodes if node.connect}
    assert connect["R1"] == connect["R2"] == ("grpc://localhost:8002", "server")
    assert connect["C1"] == connect["C11"] == connect["C12"] == ("grpc://localhost:18004", "R1")
    assert connect["C2"] == connect["C21"] == connect["C22"] == ("grpc://localhost:28004", "R2")
    assert connect["admin@nvidia.com"] == ("grpc://127.0.0.1:8002", "server")
    assert {node.connect.security for node in plan.nodes if node.connect} == {"clear"}


def test_the_guides_example_gives_nothing_to_think_about(guide: Path) -> None:
    assert read_plan(guide).warnings == ()


def test_what_the_project_allows_stands_in_the_kits_of_server_and_sites(guide: Path, tmp_path: Path) -> None:
    path = tmp_path / "project.yml"
    path.write_text(guide.read_text().replace("allow_error_sending: false", "allow_error_sending: true"))
    assert provision(path, tmp_path / "kits", LOCK).plan.warnings == ()
    allowed = {name for name in FQCNS if Kit.load(tmp_path / "kits" / name).allow_error_sending}
    assert allowed == set(FQSNS)
    changes = provision(guide, tmp_path / "kits", LOCK).changes
    assert {change.name for change in changes if change.kind == "changed"} == set(FQSNS)


def test_the_example_differs_from_the_guides_in_security_only(guide: Path, example: Path) -> None:
    theirs, ours = yaml.safe_load(guide.read_text()), yaml.safe_load(example.read_text())
    assert (ours["connection_security"], ours["builders"][1]["args"]["scheme"]) == ("mtls", "grpc")
    theirs["connection_security"] = "mtls"
    assert ours == theirs


@pytest.mark.parametrize("file", ["guide", "example"])
def test_nine_nodes_and_an_admin_get_kits_that_load(file: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    done = provision(request.getfixturevalue(file), tmp_path / "kits", LOCK)
    assert {change.kind for change in done.changes} == {"added"}
    loaded = {node.name: Kit.load(tmp_path / "kits" / node.name) for node in done.plan.nodes}
    assert set(loaded) == {*FQCNS, "admin@nvidia.com"}
    for node in done.plan.nodes:
        kit = loaded[node.name]
        assert kit.credentials.identity == done.plan.identity(node)
        assert (kit.listen, kit.connect, kit.role) == (node.listen, node.connect, node.role)
        placement = kit.credentials.placement
        assert (placement.fqsn if placement else "server") == str(node.fqsn or "")
    assert {member.name: member.fqcn for member in loaded["server"].roster if member.fqcn} == {
        name: fqcn for name, fqcn in FQCNS.items() if name != "server"
    }
    assert all(kit.roster == () for name, kit in loaded.items() if name != "server")


def test_a_relay_has_two_key_pairs_with_one_identity_and_only_the_listening_one_names_hosts(kits: Path) -> None:
    startup = kits / "R1" / "startup"
    server, client = (
        x509.load_pem_x509_certificate((startup / name).read_bytes()) for name in ("server.crt", "client.crt")
    )
    assert server.public_key() != client.public_key()
    names = [
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for certificate in (server, client)
    ]
    assert [next(iter(found)).value for found in names] == ["cellnet://mobile/relay/R1"] * 2
    assert names[0].get_values_for_type(x509.DNSName) == ["localhost"]
    assert len(names[1]) == 1
    usages = [c.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value for c in (server, client)]
    assert [list(usage) for usage in usages] == [[LISTEN], [CONNECT]]
