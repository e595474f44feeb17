"""What the issuer believes: old certificates that hold, with proof of their keys, and nobody's word."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cellnet import Credentials, HandshakeError
from cellnet.credentials import CONNECT, LISTEN, Identity
from cellnet.enrolment import Enrolment
from cellnet.errors import ConfigurationError
from cellnet.kit import Kit
from cellnet.placement import Placement
from cellnet.renewal import renewal_request
from provisioning import Lock, compare, read_plan
from provisioning.issuance import read_issued
from provisioning.issuer import Issuer
from provisioning.registry import Registry
from provisioning.revocation import revoke

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
LOCK = Lock("key file", b"k" * 64)
WEEK = datetime.timedelta(days=7)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture
def issuer(kits: Path) -> Issuer:
    return Issuer(kits / "authority", LOCK, WEEK)


def credentials(kits: Path, name: str) -> Credentials:
    return Kit.load(kits / name).credentials


@pytest.mark.parametrize("name", ["server", "R1", "C11", "admin@nvidia.com"])
async def test_every_role_is_renewed_for_the_keys_that_it_has(name: str, kits: Path, issuer: Issuer) -> None:
    own = credentials(kits, name)
    answer = await issuer.renew(renewal_request(own))
    wanted = {"server": {"server"}, "R1": {"server", "client"}}.get(name, {"client"})
    assert set(answer["certificates"]) == wanted
    for stem, pem in answer["certificates"].items():
        chain = x509.load_pem_x509_certificates(pem)
        old = own.listening or own if stem == "server" else own
        assert chain[0].public_key() == old.chain[0].public_key()
        assert chain[0] != old.chain[0]
        assert chain[0].subject == old.chain[0].subject
        names = x509.SubjectAlternativeName
        assert chain[0].extensions.get_extension_for_class(names) == old.chain[0].extensions.get_extension_for_class(
            names
        )
        assert abs(chain[0].not_valid_after_utc - now() - WEEK) < datetime.timedelta(minutes=1)
        ders = [one.public_bytes(serialization.Encoding.DER) for one in chain]
        assert own.verify_chain(ders, LISTEN if stem == "server" else CONNECT, now()).identity == own.identity
    if own.placement:
        assert Placement.verify(answer["placement"], own.issuer_key) == own.placement


async def test_what_was_renewed_is_in_the_log_and_no_reason_for_a_new_kit(
    kits: Path, issuer: Issuer, example: Path
) -> None:
    await issuer.renew(renewal_request(credentials(kits, "R1")))
    issued = read_issued(kits / "authority" / "issued.jsonl")
    assert [(one.identity, one.why) for one in issued[-2:]] == [("cellnet://mobile/relay/R1", "renewed")] * 2
    changes = compare(read_plan(example), Registry.records_in(kits / "authority"), kits, now())
    assert {change.kind for change in changes} == {"unchanged"}


def swapped(asked: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**asked, **changes}


async def test_proof_of_another_key_or_of_another_participant_is_none(kits: Path, issuer: Issuer) -> None:
    mine, other = renewal_request(credentials(kits, "C1")), renewal_request(credentials(kits, "C2"))
    relay = renewal_request(credentials(kits, "R1"))
    stolen, _keys = Enrolment.make(Identity("mobile", "client", "C1"))
    for asked, message in (
        (swapped(mine, chains=other["chains"]), "another participant's, or for another key"),
        (swapped(mine, request=other["request"]), "another participant's, or for another key"),
        (swapped(mine, request=stolen), "another participant's, or for another key"),
        (swapped(mine, chains={"client": relay["chains"]["server"]}), "is not for connecting"),
        (swapped(relay, chains={"client": relay["chains"]["client"]}), "no old certificate for server"),
    ):
        with pytest.raises((HandshakeError, ConfigurationError), match=message):
            await issuer.renew(asked)
    assert len(read_issued(kits / "authority" / "issued.jsonl")) == 12, "nothing was issued"


@pytest.mark.parametrize(
    "asked",
    [
        None,
        {},
        {"request": b"", "chains": {}},
        {"request": b"x" * 100_000, "chains": {"client": []}},
        {"request": "text", "chains": {}},
    ],
)
async def test_what_is_no_request_is_refused(asked: object, issuer: Issuer) -> None:
    with pytest.raises(ConfigurationError):
        await issuer.renew(asked)


@pytest.mark.parametrize("chain", [[], [b""], [b"x"] * 5, "x", [7], None])
async def test_a_chain_that_is_none_is_refused(chain: object, kits: Path, issuer: Issuer) -> None:
    asked = swapped(renewal_request(credentials(kits, "C1")), chains={"client": chain})
    with pytest.raises((HandshakeError, ConfigurationError)):
        await issuer.renew(asked)


async def test_who_was_revoked_is_not_renewed(kits: Path, issuer: Issuer) -> None:
    asked = renewal_request(credentials(kits, "C1"))
    await issuer.renew(asked)
    revoke(["C1"], kits, LOCK)
    with pytest.raises(HandshakeError, match="the certificate of C1 was revoked"):
        await issuer.renew(asked)


async def test_an_expired_certificate_proves_nothing(
    kits: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = renewal_request(credentials(kits, "C1"))
    loaded = Registry.load
    later = now() + datetime.timedelta(days=91)
    monkeypatch.setattr(Registry, "load", lambda folder, lock: loaded(folder, lock, later))
    with pytest.raises(HandshakeError, match="expired on"):
        await issuer.renew(asked)


async def test_nobody_makes_the_log_grow_by_asking_again_and_again(kits: Path, issuer: Issuer) -> None:
    asked = renewal_request(credentials(kits, "C1"))
    await issuer.renew(asked)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="C1 was renewed a moment ago"):
            await issuer.renew(asked)
    assert len(read_issued(kits / "authority" / "issued.jsonl")) == 13
    await Issuer(kits / "authority", LOCK, datetime.timedelta(0)).renew(asked)


def test_a_wrong_key_file_is_told_when_it_starts(kits: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not opened by this key file"):
        Issuer(kits / "authority", Lock("key file", b"o" * 64), WEEK)
