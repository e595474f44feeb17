"""How a project's roots change: who may say so, and what a node believes that was away meanwhile."""

from __future__ import annotations

import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from cellnet.errors import HandshakeError
from cellnet.roots import MAX_CHANGES, MAX_HISTORY_BYTES, MAX_ROOTS, changed, extends, follow
from cellnet.signing import sign
from provisioning.authority import Authority

A, B, C, STRANGER = (Authority.create("mobile", name=name) for name in ("root", "root 2", "root 3", "root"))


def history(*changes: tuple[Authority, tuple[Authority, ...]], project: str = "mobile") -> bytes:
    """Return how roots changed: who signed, and who was trusted from then on."""
    found = b""
    for signer, trusted in changes:
        found = changed(found, project, [one.certificate for one in trusted], signer.key)
    return found


def followed(found: bytes, *trusted: Authority) -> list[x509.Certificate]:
    return list(follow(found, "mobile", [one.certificate for one in trusted]))


TWICE = history((A, (A, B)), (B, (B,)), (B, (B, C)), (C, (C,)))


@pytest.mark.parametrize("trusted", [(A,), (A, B), (B,), (B, C), (C,)])
def test_whoever_trusted_a_root_at_any_time_ends_with_the_newest(trusted: tuple[Authority, ...]) -> None:
    assert followed(TWICE, *trusted) == [C.certificate]


def test_each_step_is_what_its_document_says() -> None:
    assert followed(history((A, (A, B))), A) == [A.certificate, B.certificate]
    assert followed(history((A, (A, B)), (B, (B,))), A) == [B.certificate]


def test_a_root_that_is_not_trusted_says_nothing() -> None:
    assert followed(history((STRANGER, (STRANGER,))), A) == [A.certificate]
    forged = changed(TWICE, "mobile", [STRANGER.certificate], STRANGER.key)
    assert followed(forged, A) == [C.certificate]


def test_a_root_that_is_trusted_no_longer_says_nothing() -> None:
    assert followed(changed(TWICE, "mobile", [A.certificate], A.key), A) == [C.certificate]


def test_the_history_of_another_project_is_refused() -> None:
    with pytest.raises(HandshakeError, match="are those of project other"):
        followed(history((A, (A, B)), project="other"), A)


def test_a_history_goes_on_only_from_all_that_is_known() -> None:
    first, other = history((A, (A, B))), history((A, (A, C)))
    longer = changed(first, "mobile", [B.certificate], B.key)
    assert extends(longer, first)
    assert extends(first, first)
    assert not extends(first, longer)
    assert not extends(other, first)
    assert not extends(changed(other, "mobile", [C.certificate], C.key), first)


@pytest.mark.parametrize("wrong", [b"", b"x", msgpack.packb("x"), msgpack.packb(["x"]), msgpack.packb([b"x"] * 65)])
def test_what_is_no_history_is_refused(wrong: bytes) -> None:
    with pytest.raises(HandshakeError, match="malformed"):
        followed(wrong, A)


@pytest.mark.parametrize("ders", [[], ["x"], [b"x"], [b"x"] * (MAX_ROOTS + 1)])
def test_signed_roots_that_are_none_are_refused(ders: list[object]) -> None:
    body = msgpack.packb(["mobile", ders])
    with pytest.raises(HandshakeError, match="malformed"):
        followed(msgpack.packb([msgpack.packb([body, sign(A.key, b"cellnet roots 1", body)])]), A)


def test_a_history_has_a_limit() -> None:
    found = b""
    for _ in range(MAX_CHANGES):
        found = changed(found, "mobile", [A.certificate], A.key)
    with pytest.raises(HandshakeError, match="malformed"):
        changed(found, "mobile", [A.certificate], A.key)
    assert followed(found, A) == [A.certificate]


def test_a_history_of_too_many_bytes_is_refused_unread() -> None:
    strangers = [msgpack.packb([bytes(size), b"signature"]) for size in (MAX_HISTORY_BYTES // 2, MAX_HISTORY_BYTES)]
    small, large = (msgpack.packb([one]) for one in strangers)
    assert followed(small, A) == [A.certificate]
    with pytest.raises(HandshakeError, match="malformed"):
        followed(large, A)


def test_a_root_of_another_kind_signs_nothing() -> None:
    key, name = rsa.generate_private_key(65537, 2048), A.certificate.subject
    begin, end = A.certificate.not_valid_before_utc, A.certificate.not_valid_after_utc
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end)
    root = builder.sign(key, hashes.SHA256())
    assert follow(history((A, (A, B))), "mobile", [root]) == (root,)
