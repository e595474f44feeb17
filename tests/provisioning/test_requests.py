"""A site that makes its keys itself: the request, the kit without keys, and what later runs do with it."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cellnet.cli import main
from cellnet.credentials import CONNECT, LISTEN, Identity
from cellnet.enrolment import Enrolment
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from provisioning import Lock, provision, read_plan, update
from provisioning.issuance import read_issued

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
C1 = Identity("mobile", "client", "C1")


def request_of(identity: Identity, folder: Path) -> tuple[Enrolment, dict[str, ec.EllipticCurvePrivateKey]]:
    data, keys = Enrolment.make(identity)
    (folder / "it.request").write_bytes(data)
    return Enrolment.read(folder / "it.request"), keys


def test_a_site_gets_a_kit_that_works_and_its_keys_never_leave_it(
    example: Path, tmp_path: Path, settings: Path
) -> None:
    site, out = tmp_path / "site", tmp_path / "kits"
    run = CliRunner()
    for name, role, keys in (("C1", "client", ["client.key"]), ("R1", "relay", ["client.key", "server.key"])):
        made = run.invoke(main, ["request", name, "--project", "mobile", "--type", role, "--out", str(site / name)])
        assert made.exit_code == 0, made.output
        file = site / name / f"{name}.request"
        assert b"PRIVATE" not in file.read_bytes()
        assert sorted(path.name for path in (site / name).glob("*.key")) == keys
        assert {stat.S_IMODE(path.stat().st_mode) for path in (site / name).glob("*.key")} == {0o600}
        signed = run.invoke(main, ["sign", str(example), str(file), "--out", str(out)])
        assert signed.exit_code == 0, signed.output
        assert signed.stdout.splitlines()[0] == f"{name}  {made.stdout.splitlines()[-1]}", "the fingerprints agree"
        assert not list((out / name).rglob("*.key"))
        with pytest.raises(ConfigurationError, match=r"\.key: put the key here that was made for the request"):
            Kit.load(out / name)
        for key in keys:
            shutil.copy(site / name / key, out / name / "startup" / key)
        kit = Kit.load(out / name)
        assert (kit.name, kit.role) == (name, role)
    with_keys = [path.name for path in (out / "authority").iterdir() if b"PRIVATE KEY-----\n" in path.read_bytes()]
    assert sorted(with_keys) == ["issuer.pem", "root.key"]
    assert settings.is_dir()


def test_a_client_that_listens_asks_for_that_too(kits: Path, example: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.yml"
    edited.write_text(example.read_text().replace("  - name: C1\n", "  - name: C1\n    listening_host: c1.acme.com\n"))
    plain, _keys = request_of(C1, tmp_path)
    with pytest.raises(ConfigurationError, match=r"C1 listens, and its request has no key for that: .* --listen"):
        update(read_plan(edited), kits, LOCK, [plain])
    data, keys = Enrolment.make(C1, listens=True)
    update(read_plan(edited), kits, LOCK, [Enrolment.parse(data)])
    certificate = x509.load_pem_x509_certificate((kits / "C1" / "startup" / "server.crt").read_bytes())
    assert certificate.public_key() == keys["server"].public_key()


def test_only_the_kits_that_are_asked_for_are_made(kits: Path, example: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in kits.rglob("*") if path.is_file() and path.parent.parent.name != "C1"}
    request, _keys = request_of(C1, tmp_path)
    (change,) = update(read_plan(example), kits, LOCK, [request])
    assert (change.name, change.kind) == ("C1", "changed")
    different = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert different == {"kits.json", "issued.jsonl"}
    assert read_issued(kits / "authority" / "issued.jsonl")[-1].why == "its site asked for it, with keys of its own"


def test_a_later_run_certifies_the_sites_key_again_and_makes_none(kits: Path, example: Path, tmp_path: Path) -> None:
    request, keys = request_of(C1, tmp_path)
    update(read_plan(example), kits, LOCK, [request])
    first = (kits / "C1" / "startup" / "client.crt").read_bytes()
    text = example.read_text()
    edited = tmp_path / "edited.yml"
    edited.write_text(text.replace("port: 18004", "port: 18005"))
    provision(edited, kits, LOCK)
    assert (kits / "C1" / "startup" / "client.crt").read_bytes() == first, "an address stands in no certificate"
    edited.write_text(text.replace("org: nvidia", "org: acme"))
    provision(edited, kits, LOCK)
    startup = kits / "C1" / "startup"
    again = x509.load_pem_x509_certificate((startup / "client.crt").read_bytes())
    assert again != x509.load_pem_x509_certificate(first)
    assert again.public_key() == keys["client"].public_key()
    assert not (startup / "client.key").exists()
    with (startup / "client.key").open("wb") as file:
        (startup / "client.key").chmod(0o600)
        file.write(
            keys["client"].private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    assert Kit.load(kits / "C1").name == "C1"
    assert {change.kind for change in provision(edited, kits, LOCK).changes} == {"unchanged"}


def test_a_strangers_tool_reads_a_request(tmp_path: Path) -> None:
    request_of(C1, tmp_path)
    shown = subprocess.run(
        ["openssl", "req", "-in", tmp_path / "it.request", "-noout", "-text", "-verify"],
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert "URI:cellnet://mobile/client/C1" in shown
    assert "TLS Web Client Authentication" in shown


def csr(
    uris: list[str],
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    usage: x509.ObjectIdentifier = CONNECT,
) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "there is nothing in it that begins as one"),
        (b"x" * 100_000, "there is nothing in it"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "is no request"),
        (csr([C1.uri, C1.uri]), "is no request"),
        (csr(["https://evil"]), "is no identity"),
        (csr(["cellnet://mobile/boss/C1"]), "is no identity"),
        (csr([C1.uri]) + csr(["cellnet://mobile/client/C2"]), "for different participants"),
        (csr([C1.uri], rsa.generate_private_key(65537, 2048)), "was not signed by its own P-256 key"),
        (csr([C1.uri], ec.generate_private_key(ec.SECP384R1())), "not on the curve P-256"),
        (csr(["cellnet://mobile/relay/R1"]), "a relay needs keys for: server, client"),
        (csr([C1.uri], usage=LISTEN), "a client needs keys for: client"),
    ],
)
def test_what_is_no_request_is_refused_by_its_file(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.request"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=message) as caught:
        Enrolment.read(path)
    assert str(caught.value).startswith(f"{path}: is no request: ")


def test_a_request_that_was_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    data, _keys = Enrolment.make(C1)
    der = bytearray(x509.load_pem_x509_csr(data).public_bytes(serialization.Encoding.DER))
    position = der.index(b"client/C1") + len(b"client/C")
    der[position : position + 1] = b"2"
    path = tmp_path / "x.request"
    path.write_bytes(x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ConfigurationError, match="was not signed by its own P-256 key"):
        Enrolment.read(path)


@pytest.mark.parametrize(
    "identity",
    [Identity("mobile", "client", "C9"), Identity("mobile", "client", "R1"), Identity("other", "client", "C1")],
)
def test_who_is_no_participant_gets_no_kit(identity: Identity, kits: Path, example: Path, tmp_path: Path) -> None:
    request, _keys = request_of(identity, tmp_path) if identity.role == "client" else (None, None)
    assert request is not None
    before = {path: path.read_bytes() for path in kits.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"asks for a kit, and is no participant of this project"):
        update(read_plan(example), kits, LOCK, [request])
    assert {path: path.read_bytes() for path in kits.rglob("*") if path.is_file()} == before
