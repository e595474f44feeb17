"""The project's certificates, looked at as a stranger's library does, and used in real TLS handshakes."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cellnet.credentials import CONNECT, LISTEN, Credentials, Identity
from cellnet.errors import ConfigurationError
from provisioning import Lock, provision
from provisioning.authority import LEAF_LIFE, Authority

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock("key file", b"k" * 64)
NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
HOSTS = ("fl.acme.com", "10.0.0.1", "::1")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("mobile", NOW)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def leaf(authority: Authority, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    identity = Identity("mobile", "relay", "R1")
    return authority.issue(identity, key.public_key(), LISTEN, common_name="R1", org="acme", hosts=HOSTS, now=NOW)


def test_the_root_may_issue_an_issuer_and_nothing_below_it(authority: Authority) -> None:
    root = authority.certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 1)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.key_encipherment
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    assert root.not_valid_after_utc - NOW >= datetime.timedelta(days=3650)
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    root.verify_directly_issued_by(root)


def test_a_leaf_says_what_it_is_for_and_nothing_more(authority: Authority, leaf: x509.Certificate) -> None:
    leaf.verify_directly_issued_by(authority.certificate)
    found = {extension.oid: extension for extension in leaf.extensions}
    assert len(found) == 6
    constraints, usage, extended, names, issuer, subject = (
        leaf.extensions.get_extension_for_class(kind)
        for kind in (
            x509.BasicConstraints,
            x509.KeyUsage,
            x509.ExtendedKeyUsage,
            x509.SubjectAlternativeName,
            x509.AuthorityKeyIdentifier,
            x509.SubjectKeyIdentifier,
        )
    )
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert usage.critical
    allowed = [
        n for n in ("digital_signature", "key_encipherment", "key_cert_sign", "crl_sign") if getattr(usage.value, n)
    ]
    assert allowed == ["digital_signature"]
    assert list(extended.value) == [LISTEN]
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == ["cellnet://mobile/relay/R1"]
    assert names.value.get_values_for_type(x509.DNSName) == ["fl.acme.com"]
    assert names.value.get_values_for_type(x509.IPAddress) == list(map(ipaddress.ip_address, HOSTS[1:]))
    root = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert issuer.value.key_identifier == root.digest != subject.value.digest
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA256)


def test_a_leaf_is_valid_from_five_minutes_ago_for_ninety_days(leaf: x509.Certificate) -> None:
    assert NOW - leaf.not_valid_before_utc == datetime.timedelta(minutes=5)
    assert leaf.not_valid_after_utc - NOW == LEAF_LIFE == datetime.timedelta(days=90)


def test_a_leaf_never_outlives_its_root(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    identity = Identity("mobile", "client", "C1")
    late = authority.certificate.not_valid_after_utc - datetime.timedelta(days=1)
    leaf = authority.issue(identity, key.public_key(), CONNECT, common_name="C1", org="a", now=late)
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(ConfigurationError, match="the authority expired on 2036-03-"):
        authority.issue(
            identity, key.public_key(), CONNECT, common_name="C1", org="a", now=late + datetime.timedelta(days=1)
        )


def test_serial_numbers_are_random_and_of_128_bits(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    identity = Identity("mobile", "client", "C1")
    serials = {
        authority.issue(identity, key.public_key(), CONNECT, common_name="C1", org="a").serial_number for _ in range(50)
    }
    assert len(serials) == 50
    assert 120 <= max(serial.bit_length() for serial in serials) <= 128


def test_a_name_of_64_characters_stands_in_full_and_a_longer_one_is_never_cut(
    authority: Authority, key: ec.EllipticCurvePrivateKey
) -> None:
    name = "a" * 52 + "@example.com"
    assert len(name) == 64
    identity = Identity("mobile", "admin", name)
    leaf = authority.issue(identity, key.public_key(), CONNECT, common_name=name, org="acme")
    assert [str(part.value) for part in leaf.subject] == [name, "acme"]
    assert leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "acme"
    with pytest.raises(ValueError, match="64"):
        authority.issue(identity, key.public_key(), CONNECT, common_name=name + "x", org="acme")


def test_an_authority_issues_for_its_own_project_only(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(ConfigurationError, match="the authority of project 'mobile', not of 'other'"):
        authority.issue(Identity("other", "client", "C1"), key.public_key(), CONNECT, common_name="C1", org="a")


@pytest.mark.parametrize("name", ["server", "R1", "C11", "admin@nvidia.com"])
def test_every_kits_certificates_verify_against_the_root_for_their_own_use_only(name: str, kits: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    other = Credentials.load(*(kits / "C1" / "startup" / file for file in ("client.crt", "client.key", "rootCA.pem")))
    for stem, usage, unfit in (("server", LISTEN, CONNECT), ("client", CONNECT, LISTEN)):
        file = kits / name / "startup" / f"{stem}.crt"
        if not file.exists():
            continue
        own = Credentials.load(file, file.with_suffix(".key"), file.with_name("rootCA.pem"))
        peer = other.verify_chain(own.chain_der, usage, now)
        assert peer.identity == own.identity
        assert peer.identity.name == name
        with pytest.raises(Exception, match="is not for"):
            other.verify_chain(own.chain_der, unfit, now)


def _context(side: ssl.Purpose, startup: Path, stem: str) -> ssl.SSLContext:
    context = ssl.create_default_context(side, cafile=str(startup / "rootCA.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(startup / f"{stem}.crt", startup / f"{stem}.key")
    return context


def _handshake(listener: Path, connector: Path, host: str, *, stems: tuple[str, str] = ("server", "client")) -> bytes:
    """Connect two kits over a pair of sockets; return what came through, or raise what either side did."""
    here, there = socket.socketpair()
    failure: list[BaseException] = []

    def listen() -> None:
        context = _context(ssl.Purpose.CLIENT_AUTH, listener / "startup", stems[0])
        try:
            with context.wrap_socket(there, server_side=True) as server:
                server.sendall(b"welcome " + dict(server.getpeercert() or {})["subjectAltName"][0][1].encode())
        except (ssl.SSLError, OSError) as error:
            failure.append(error)
        finally:
            there.close()

    thread = threading.Thread(target=listen)
    here.settimeout(10)
    there.settimeout(10)
    thread.start()
    try:
        context = _context(ssl.Purpose.SERVER_AUTH, connector / "startup", stems[1])
        with context.wrap_socket(here, server_hostname=host) as client:
            received = client.recv(100)
    finally:
        here.close()
        thread.join()
    if failure:
        raise failure[0]
    return received


def test_two_kits_shake_hands_over_mutual_tls(kits: Path) -> None:
    assert _handshake(kits / "R1", kits / "C11", "localhost") == b"welcome cellnet://mobile/client/C11"
    assert _handshake(kits / "server", kits / "R1", "127.0.0.1") == b"welcome cellnet://mobile/relay/R1"


def test_a_listener_at_a_host_that_its_certificate_does_not_name_is_refused(kits: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(kits / "R1", kits / "C11", "r1.acme.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        _handshake(kits / "R1", kits / "C11", "127.0.0.1")


def test_a_connectors_certificate_is_no_listeners_and_the_other_way_round(kits: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        _handshake(kits / "R1", kits / "C11", "localhost", stems=("client", "client"))
    with pytest.raises(
        ssl.SSLError, match=r"(?i)unsuitable certificate purpose|unsupported certificate|bad certificate"
    ):
        _handshake(kits / "R2", kits / "R1", "localhost", stems=("server", "server"))


def test_a_kit_of_a_like_named_project_with_another_authority_is_refused(
    kits: Path, example: Path, tmp_path: Path
) -> None:
    provision(example, tmp_path / "others", LOCK)
    with pytest.raises(
        ssl.SSLCertVerificationError, match=r"self-signed certificate|unable to get local issuer|signature"
    ):
        _handshake(kits / "R1", tmp_path / "others" / "C11", "localhost")
