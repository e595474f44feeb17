"""Identities, placements, delegations and certificates: what is believed, and every way in which it is not."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import TYPE_CHECKING

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import example, given
from hypothesis import strategies as st

from cellnet.credentials import CONNECT, LISTEN, ROLES, Credentials, Identity
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.placement import Delegation, Placement
from cellnet.signing import load_public_key, public_key_bytes, sign, verify
from provisioning import Authority
from provisioning.authority import key_pem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)
C1 = Identity("mobile", "client", "C1")
DAY = datetime.timedelta(days=1)
ED25519_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
SECOND = datetime.timedelta(seconds=1)
DER = serialization.Encoding.DER


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("mobile", NOW)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def own(authority: Authority, key: ec.EllipticCurvePrivateKey) -> Credentials:
    leaf = authority.issue(C1, key.public_key(), CONNECT, common_name="C1", org="acme", now=NOW)
    return Credentials(key, (leaf,), (authority.certificate,))


# Identity


# characters that mean something in a URI are rare among all that there are
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("/%@:?#[]. "), min_size=1, max_size=30)


@given(TEXTS, st.sampled_from(ROLES), TEXTS)
def test_an_identity_is_its_uri_and_back(project: str, role: str, name: str) -> None:
    identity = Identity(project, role, name)
    assert identity.uri.isascii()
    assert identity.uri.count("/") == 4
    assert Identity.parse(identity.uri) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "cellnet://mobile/client",
        "cellnet://mobile/client/",
        "cellnet:///client/C1",
        "cellnet://mobile/boss/C1",
        "cellnet://mobile/client/C1/",
        "cellnet://mobile/client/C1/x",
        "cellnet://mobile/client/C1?x",
        "cellnet://mobile/client/C1#x",
        "CELLNET://mobile/client/C1",
        "spiffe://mobile/client/C1",
        "cellnet://mobile/client/%43%31",
        "cellnet://mobile/client/a@b",
        "cellnet://mobile/client/a%4fb",
        "cellnet://mobile/client/C1 ",
        " cellnet://mobile/client/C1",
        "cellnet://mobile/client/C\n1",
        "cellnet://mobile/./C1",
        "cellnet://[mobile/client/C1",
        "cellnet://[::1/client/C1",
        "cellnet://mobile/client/%ff",
    ],
)
def test_what_is_no_identity_in_canonical_form_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError):
        Identity.parse(uri)


def test_an_identity_tells_names_apart_that_differ_in_case_or_in_what_needs_escaping() -> None:
    names = ["C1", "c1", "a@b.c", "a%40b.c", "a/b", "a%2Fb", "a b", "é"]
    uris = {Identity("P", "client", name).uri for name in names} | {Identity("p", "client", "C1").uri}
    assert len(uris) == len(names) + 1
    assert Identity("mobile", "admin", "admin@nvidia.com").uri == "cellnet://mobile/admin/admin%40nvidia.com"


# Signatures


@given(st.lists(st.binary(max_size=20), max_size=4), st.lists(st.binary(max_size=20), max_size=4))
def test_a_signature_is_for_its_fields_and_for_no_others(fields: list[bytes], others: list[bytes]) -> None:
    signature = sign(KEY, b"context", *fields)
    verify(KEY.public_key(), signature, b"context", *fields)
    for context, wrong in ((b"context", others), (b"contex", [b"t", *fields]), (b"other", fields)):
        if (context, wrong) != (b"context", fields):
            with pytest.raises(HandshakeError, match="was not signed by the key"):
                verify(KEY.public_key(), signature, context, *wrong)


KEY = new_key()


def test_the_border_between_fields_is_signed_too(key: ec.EllipticCurvePrivateKey) -> None:
    signature = sign(key, b"c", b"ab", b"c")
    for fields in ((b"a", b"bc"), (b"abc",), (b"ab", b"c", b""), (b"", b"ab", b"c")):
        with pytest.raises(HandshakeError):
            verify(key.public_key(), signature, b"c", *fields)


def test_a_public_key_is_65_bytes_and_back_and_what_is_no_point_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    point = public_key_bytes(key.public_key())
    assert len(point) == 65
    assert load_public_key(point) == key.public_key()
    for wrong in (b"", point[:-1], b"\x04" + b"\xff" * 64, b"\x00" * 65, point + b"\x00"):
        with pytest.raises(HandshakeError, match="malformed"):
            load_public_key(wrong)


# Placements


def test_a_placement_comes_back_as_the_authority_signed_it(authority: Authority) -> None:
    for parents in ((), ("R1",), ("R1", "server")):
        placement = Placement("mobile", "client", "C11", parents, "C1.C11").issue(authority.key)
        assert Placement.verify(placement.signed, authority.key.public_key()) == placement


def test_a_forged_placement_is_refused(authority: Authority) -> None:
    placement = Placement("mobile", "client", "C11", ("R1",), "C1.C11")
    with pytest.raises(HandshakeError, match="the placement was not signed by the key"):
        Placement.verify(placement.issue(new_key()).signed, authority.key.public_key())
    body, signature = msgpack.unpackb(placement.issue(authority.key).signed)
    for forged in (
        [body.replace(b"R1", b"R2"), signature],
        [body, b""],
        [body, signature[:-1]],
        [body, sign(authority.key, b"cellnet delegation 1", body)],
        [body, sign(authority.key, b"cellnet kit 1", body)],
    ):
        with pytest.raises(HandshakeError):
            Placement.verify(msgpack.packb(forged), authority.key.public_key())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb(None),
        msgpack.packb(["mobile", "client", "C1", []]),
        msgpack.packb(["mobile", "client", "C1", [], "C1", 0]),
        msgpack.packb(["mobile", "client", b"C1", [], "C1"]),
        msgpack.packb(["mobile", "client", "C1", [7], "C1"]),
        msgpack.packb(["mobile", "client", "C1", "R1", "C1"]),
        msgpack.packb({"project": "mobile"}),
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_a_malformed_placement_is_refused_even_if_it_is_signed(body: bytes, authority: Authority) -> None:
    signed = msgpack.packb([body, sign(authority.key, b"cellnet placement 1", body)])
    for data in (signed, body, msgpack.packb([body]), msgpack.packb([body, "text"])):
        with pytest.raises(HandshakeError, match="malformed"):
            Placement.verify(data, authority.key.public_key())


# Delegations


def delegate(site_key: ec.EllipticCurvePrivateKey, **changes: object) -> Delegation:
    whole = Delegation("C1", "j1", "job", b"\x04" + b"k" * 64, int(NOW.timestamp()))
    return replace(whole, **changes).issue(site_key)  # type: ignore[arg-type]  # wrong types are a case, too


def test_a_delegation_holds_until_its_last_second(key: ec.EllipticCurvePrivateKey) -> None:
    made = delegate(key)
    assert Delegation.verify(made.signed, key.public_key(), NOW) == made
    with pytest.raises(HandshakeError, match="the credential of job j1 has expired") as caught:
        Delegation.verify(made.signed, key.public_key(), NOW + SECOND)
    assert caught.value.code == "expired"


def test_a_forged_delegation_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    body, signature = msgpack.unpackb(delegate(key).signed)
    for forged in (
        msgpack.packb([body.replace(b"j1", b"j2"), signature]),
        msgpack.packb([body, sign(key, b"cellnet placement 1", body)]),
        delegate(new_key()).signed,
    ):
        with pytest.raises(HandshakeError, match="was not signed by the key"):
            Delegation.verify(forged, key.public_key(), NOW)


@pytest.mark.parametrize("changes", [{"role": "root"}, {"not_after": 1.5}, {"site": b"C1"}, {"public_key": "k"}])
def test_a_malformed_delegation_is_refused_even_if_it_is_signed(
    changes: dict[str, object], key: ec.EllipticCurvePrivateKey
) -> None:
    with pytest.raises(HandshakeError, match="malformed"):
        Delegation.verify(delegate(key, **changes).signed, key.public_key(), NOW)


def test_a_jobs_credentials_travel_as_bytes_and_hold_a_key_that_is_not_the_sites(own: Credentials) -> None:
    job = own.delegate("j1", "job", NOW + DAY)
    loaded = Credentials.unpack(job.pack(), NOW)
    assert loaded.delegation is not None
    assert loaded.delegation == job.delegation
    assert (loaded.identity, loaded.chain, loaded.roots) == (own.identity, own.chain, own.roots)
    assert loaded.key.private_numbers() == job.key.private_numbers() != own.key.private_numbers()
    assert loaded.delegation.public_key == public_key_bytes(loaded.key.public_key())
    assert key_pem(own.key) not in job.pack()
    with pytest.raises(HandshakeError, match="expired"):
        Credentials.unpack(job.pack(), NOW + 2 * DAY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fields: [b"no key", *fields[1:]],
        lambda fields: [ED25519_KEY, *fields[1:]],
        lambda fields: [fields[0], [], *fields[2:]],
        lambda fields: [fields[0], [7], *fields[2:]],
        lambda fields: [fields[0], [b"no certificate"], *fields[2:]],
        lambda fields: [*fields[:2], ["text"], fields[3]],
        lambda fields: [*fields[:3], b""],
        lambda fields: fields[:3],
    ],
)
def test_malformed_job_credentials_are_refused(spoil: Callable[[list[object]], list[object]], own: Credentials) -> None:
    fields = msgpack.unpackb(own.delegate("j1", "job", NOW + DAY).pack())
    with pytest.raises(HandshakeError):
        Credentials.unpack(msgpack.packb(spoil(fields)), NOW)


# Certificates of peers


def issue(authority: Authority, key: ec.EllipticCurvePrivateKey, **changes: object) -> x509.Certificate:
    """Issue a certificate as the authority does, but for *changes*: a broken one that its key has signed."""
    good = authority.issue(C1, key.public_key(), CONNECT, common_name="C1", org="acme", now=NOW)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(changes.get("public_key", key.public_key()))  # type: ignore[arg-type]  # any key is a case
        .serial_number(good.serial_number)
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
    )
    for extension in good.extensions:
        value, critical = changes.get(type(extension.value).__name__, (extension.value, extension.critical))  # type: ignore[misc]  # as above
        if value is not None:
            builder = builder.add_extension(value, critical)
    return builder.sign(authority.key, hashes.SHA256())


def uris(*names: str) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName(list(map(x509.UniformResourceIdentifier, names))), False


def test_a_peers_certificate_of_our_authority_tells_who_it_is(own: Credentials, authority: Authority) -> None:
    for usage, role, name in ((LISTEN, "server", "server"), (CONNECT, "admin", "a@b.c"), (CONNECT, "relay", "R1")):
        key = new_key()
        identity = Identity("mobile", role, name)
        leaf = authority.issue(identity, key.public_key(), usage, common_name=name, org="acme", now=NOW)
        peer = own.verify_chain([leaf.public_bytes(DER)], usage, NOW)
        assert (peer.identity, peer.key, peer.certificate) == (identity, key.public_key(), leaf.public_bytes(DER))
        with pytest.raises(HandshakeError, match=f"the certificate of {name} is not for") as caught:
            own.verify_chain([leaf.public_bytes(DER)], CONNECT if usage == LISTEN else LISTEN, NOW)
        assert caught.value.code == "wrong-usage"


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (NOW - datetime.timedelta(minutes=5) - SECOND, r"is valid from 2026-03-01 11:55 UTC: check the clock"),
        (NOW + 90 * DAY + SECOND, r"expired on 2026-05-30 12:00 UTC: renew it"),
        (NOW + 5000 * DAY, r"expired on 2026-05-30 12:00 UTC: renew it"),
    ],
)
def test_a_certificate_out_of_its_time_says_when_it_was(
    when: datetime.datetime, message: str, own: Credentials
) -> None:
    with pytest.raises(HandshakeError, match=message) as caught:
        own.verify_chain(own.chain_der, CONNECT, when)
    assert caught.value.code == "untrusted"


def test_a_certificate_holds_from_its_first_to_its_last_second(own: Credentials) -> None:
    for when in (NOW - datetime.timedelta(minutes=5), NOW, NOW + 90 * DAY):
        assert own.verify_chain(own.chain_der, CONNECT, when).identity == C1


def test_a_foreign_authority_of_the_same_name_is_refused(own: Credentials) -> None:
    foreign = Authority.create("mobile", NOW)
    leaf = foreign.issue(C1, new_key().public_key(), CONNECT, common_name="C1", org="acme", now=NOW)
    for chain in ([leaf], [leaf, foreign.certificate]):
        with pytest.raises(HandshakeError, match=r"was not issued by this project's authority") as caught:
            own.verify_chain([certificate.public_bytes(DER) for certificate in chain], CONNECT, NOW)
        assert caught.value.code == "untrusted"


def test_a_cell_cannot_issue_certificates(own: Credentials, key: ec.EllipticCurvePrivateKey) -> None:
    posing = Authority("mobile", own.chain[0], key)
    leaf = posing.issue(
        Identity("mobile", "server", "server"), new_key().public_key(), LISTEN, common_name="server", org="x", now=NOW
    )
    with pytest.raises(HandshakeError, match="was not issued by this project's authority"):
        own.verify_chain([leaf.public_bytes(DER), *own.chain_der], LISTEN, NOW)


def test_the_root_itself_is_no_cells_certificate(own: Credentials, authority: Authority) -> None:
    with pytest.raises(HandshakeError, match="exactly one URI name"):
        own.verify_chain([authority.certificate.public_bytes(DER)], CONNECT, NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BasicConstraints": (None, True)}, "rules"),
        ({"BasicConstraints": (x509.BasicConstraints(ca=False, path_length=None), False)}, "rules"),
        ({"BasicConstraints": (x509.BasicConstraints(ca=True, path_length=None), True)}, "rules"),
        ({"KeyUsage": (None, True)}, "rules"),
        ({"ExtendedKeyUsage": (None, False)}, "rules"),
        ({"ExtendedKeyUsage": (x509.ExtendedKeyUsage([LISTEN]), False)}, "is not for connecting"),
        ({"SubjectAlternativeName": (None, False)}, "exactly one URI name, this one has 0"),
        ({"SubjectAlternativeName": uris(C1.uri, C1.uri)}, "exactly one URI name, this one has 2"),
        ({"SubjectAlternativeName": uris("https://acme.com")}, "is no identity"),
        ({"SubjectAlternativeName": uris("cellnet://mobile/client/%43%31")}, "is no identity in canonical form"),
        ({"SubjectAlternativeName": (x509.SubjectAlternativeName([x509.DNSName("C1")]), False)}, "this one has 0"),
        ({"public_key": ec.generate_private_key(ec.SECP384R1()).public_key()}, "P-256|rules"),
        ({"public_key": ed25519.Ed25519PrivateKey.generate().public_key()}, "P-256|rules"),
    ],
)
def test_a_certificate_that_breaks_a_rule_is_refused_even_if_our_authority_signed_it(
    changes: dict[str, object], message: str, own: Credentials, authority: Authority
) -> None:
    key = new_key()
    assert own.verify_chain([issue(authority, key).public_bytes(DER)], CONNECT, NOW).key == key.public_key()
    with pytest.raises(HandshakeError, match=message):
        own.verify_chain([issue(authority, key, **changes).public_bytes(DER)], CONNECT, NOW)


@pytest.mark.parametrize("chain", [[], [b""], [b"x"], [b"\x30\x82\x01\x00"]])
def test_a_chain_that_is_none_is_refused(chain: list[bytes], own: Credentials) -> None:
    with pytest.raises(HandshakeError, match="is not acceptable"):
        own.verify_chain(chain, CONNECT, NOW)


# around there stand version, subject, extensions and kinds of names: each made the library raise something else
@example(position=123, other=255)
@example(position=12, other=127)
@example(position=118, other=15)
@example(position=350, other=45)
@example(position=283, other=37)
@given(position=st.integers(0), other=st.integers(1, 255))
def test_no_change_of_what_a_certificate_says_is_accepted(position: int, other: int) -> None:
    der = bytearray(STATIC.chain_der[0])
    # All but the signature: that has other encodings that are as good (s and n - s, for one), so the hash of
    # a whole certificate names a certificate for as long as a handshake, and no longer.
    signed = der.index(STATIC.chain[0].signature) - 1  # the byte between is the count of unused bits: encoding, too
    der[position % signed] ^= other
    with pytest.raises(HandshakeError):
        STATIC.verify_chain([bytes(der)], CONNECT, NOW)


@pytest.mark.parametrize("position", range(0, 60, 3))
def test_a_changed_signature_is_refused(position: int) -> None:
    der = bytearray(STATIC.chain_der[0])
    der[-1 - position] ^= 0x10
    with pytest.raises(HandshakeError):
        STATIC.verify_chain([bytes(der)], CONNECT, NOW)


_AUTHORITY = Authority.create("mobile", NOW)
_LEAF = _AUTHORITY.issue(C1, KEY.public_key(), CONNECT, common_name="C1", org="acme", now=NOW)
STATIC = Credentials(KEY, (_LEAF,), (_AUTHORITY.certificate,))


# Files


def test_credentials_that_cannot_be_loaded_name_the_file(
    own: Credentials, authority: Authority, tmp_path: Path
) -> None:
    certificate, key, roots = (tmp_path / name for name in ("client.crt", "client.key", "rootCA.pem"))
    good = {
        certificate: own.chain[0].public_bytes(serialization.Encoding.PEM),
        key: key_pem(own.key),
        roots: authority.certificate_pem,
    }
    encrypted = own.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cases: list[tuple[Path, bytes | None, str]] = [
        *((path, None, "cannot be read: No such file") for path in good),
        *((path, b"x", "is not what it should be") for path in good),
        (key, encrypted, "is not what it should be"),
        (key, other, "not a P-256 key"),
        (key, key_pem(new_key()), "the key does not belong to the certificate"),
        (certificate, authority.certificate_pem, "does not belong to the certificate"),
    ]
    for path, content, message in cases:
        for each, whole in good.items():
            each.write_bytes(whole)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=message) as caught:
            Credentials.load(certificate, key, roots)
        assert str(tmp_path) in str(caught.value)
    for each, whole in good.items():
        each.write_bytes(whole)
    assert Credentials.load(certificate, key, roots).identity == C1
    foreign = Placement("mobile", "client", "C1", (), "C1").issue(new_key()).signed
    with pytest.raises(ConfigurationError, match="the placement was not signed by the key"):
        Credentials.load(certificate, key, roots, placement=foreign)
