"""The introduction of two cells over relays: who is believed, who is not, and which keys they then share."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cellnet.credentials import CONNECT, LISTEN, Credentials
from cellnet.errors import HandshakeError, RemoteProtocolError
from cellnet.fqcn import FQCN
from cellnet.protocol.claim import (
    MAX_CHAIN,
    MAX_DELEGATION,
    MAX_INTRODUCTION,
    MAX_SIGNATURE,
    MAX_TEXT,
    Party,
)
from cellnet.protocol.frames import pack
from cellnet.protocol.introduction import ENTROPY_BYTES, Asked, Introduction, Opened, answer
from cellnet.protocol.sealing import WINDOW, BrokenSeal, Seal
from cellnet.signing import public_key_bytes, sign
from tests.protocol.conftest import DAY, WALL, Project
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

    Change = Callable[[bytes, bytes], bytes]
    """What is made of a body that is on its way. The second argument is OPEN's, if the first is OPENED's."""

SEED = int(os.environ.get("CELLNET_FUZZ_SEED", "20261122"))
MUTATIONS = 2000
"""Of each kind. One costs up to a millisecond."""
ENTROPY, MORE_ENTROPY = bytes(range(64)), bytes(range(64, 128))
SESSION = 77
FIELDS = ("version", "project", "source", "destination", "epoch", "nonce", "share", "chain", "delegation")
ANSWER_FIELDS = (*FIELDS, "session", "digest")

MOBILE = Project()
SERVER = MOBILE.server()
R1 = MOBILE.relay("R1")
C1, C2 = MOBILE.cell("C1"), MOBILE.cell("C2")
TENSORS = C1.delegate("j1", "job", WALL + DAY)


def at_wall() -> datetime.datetime:
    return WALL


def party(name: str, credentials: Credentials | None = None, epoch: int = 5) -> Party:
    return Party(FQCN(name), epoch, credentials)


CLIENT, ROOT = party("R1.C1", C1), party("server", SERVER, 7)
BARE_CLIENT, BARE_ROOT = party("R1.C1"), party("server", epoch=7)


@dataclass
class Meeting:
    """An asker and an answerer, and what stands between them."""

    asker: Party = CLIENT
    answerer: Party = ROOT
    asked: FQCN | None = None
    """Whom the asker means; by default the answerer."""
    origin: FQCN | None = None
    """From where OPEN seems to come; by default from the asker."""
    answered_from: FQCN | None = None
    """From where OPENED seems to come; by default from who was asked."""
    change_hello: Change | None = None
    change_reply: Change | None = None
    asker_wall: datetime.datetime = WALL
    answerer_wall: datetime.datetime = WALL

    def run(self) -> tuple[Opened, Asked]:
        asking = Introduction(self.asker, self.asked or self.answerer.fqcn, ENTROPY, lambda: self.asker_wall)
        hello = asking.hello()
        if self.change_hello:
            hello = self.change_hello(hello, b"")
        origin = self.origin or self.asker.fqcn
        reply, asked = answer(self.answerer, origin, hello, SESSION, MORE_ENTROPY, self.answerer_wall)
        if self.change_reply:
            reply = self.change_reply(reply, hello)
        return asking.opened(reply, self.answered_from or self.asked or self.answerer.fqcn), asked

    def refusal(self) -> tuple[str, str]:
        """Return the code and text with which one side refuses the other."""
        with pytest.raises((HandshakeError, RemoteProtocolError)) as caught:
            self.run()
        return getattr(caught.value, "code", "protocol"), str(caught.value)


def meeting(side: str, who: Party, **changes: Any) -> Meeting:
    """Return a meeting in which *who* is the asker, or the answerer."""
    return Meeting(asker=who, **changes) if side == "asker" else Meeting(CLIENT, who, **changes)


def restate(change: Callable[[list[Any]], object], signer: Credentials | None = None) -> Change:
    """Return what changes a statement; the signature stays, unless somebody signs it anew."""

    def changed(body: bytes, hello: bytes) -> bytes:
        statement, signature = msgpack.unpackb(body)
        fields = msgpack.unpackb(statement)
        change(fields)
        return resign(pack(*fields), signature, signer, hello)

    return changed


def resign(statement: bytes, signature: bytes, signer: Credentials | None, hello: bytes) -> bytes:
    if signer is not None:
        before = (b"cellnet opened 1", hello) if hello else (b"cellnet open 1",)
        signature = sign(signer.key, *before, statement)
    return pack(statement, signature)


def unsigned(body: bytes, signature: bytes = b"") -> bytes:
    """Return a body with another signature, or none."""
    return pack(msgpack.unpackb(body)[0], signature)


def put(field: str, value: Any) -> Callable[[list[Any]], None]:
    def change(fields: list[Any]) -> None:
        fields[ANSWER_FIELDS.index(field)] = value

    return change


def both(*changes: Callable[[list[Any]], None]) -> Callable[[list[Any]], None]:
    def change(fields: list[Any]) -> None:
        for one in changes:
            one(fields)

    return change


def flip(field: str) -> Callable[[list[Any]], None]:
    """Return what flips the last bit of a field."""

    def flipped(value: Any) -> Any:
        if isinstance(value, int):
            return value ^ 1
        if isinstance(value, str):
            return value[:-1] + chr(ord(value[-1]) ^ 1)
        if isinstance(value, list):
            return [flipped(value[0]), *value[1:]]
        return value[:-1] + bytes([value[-1] ^ 1]) if value else b"\x01"

    def change(fields: list[Any]) -> None:
        at = ANSWER_FIELDS.index(field)
        fields[at] = flipped(fields[at])

    return change


def hello_of(asker: Party = CLIENT, answerer: Party = ROOT) -> bytes:
    return Introduction(asker, answerer.fqcn, ENTROPY, at_wall).hello()


def talk(here: Seal | None, there: Seal | None) -> None:
    """Check that each opens what the other seals."""
    assert here is not None
    assert there is not None
    assert there.open(32, SESSION, 1, here.seal(32, SESSION, 1, b"?")) == b"?"
    assert here.open(33, SESSION, 1, there.seal(33, SESSION, 1, b"!")) == b"!"


# Who is believed


ALL = (
    CLIENT,
    ROOT,
    party("R1", R1),
    party("R9.R1", R1),
    party("C2", C2),
    party("R1.C1.j1", TENSORS),
    party("R1.C1.o", C1.delegate("o", "operator", WALL + DAY)),
    party("server.j1", SERVER.delegate("j1", "job", WALL + DAY)),
)


@pytest.mark.parametrize("answerer", ALL, ids=lambda one: str(one.fqcn))
@pytest.mark.parametrize("asker", ALL, ids=lambda one: str(one.fqcn))
def test_any_two_cells_of_a_project_learn_each_others_epoch_and_can_talk(asker: Party, answerer: Party) -> None:
    opened, asked = Meeting(asker, answerer).run()
    assert (opened.epoch, opened.session, asked.epoch) == (answerer.epoch, SESSION, asker.epoch)
    talk(opened.seal, asked.seal)


def test_cells_without_credentials_open_a_session_that_is_not_sealed() -> None:
    opened, asked = Meeting(BARE_CLIENT, BARE_ROOT).run()
    assert opened == Opened(7, SESSION, None)
    assert asked == Asked(5, None)
    statement, signature = msgpack.unpackb(hello_of(BARE_CLIENT, BARE_ROOT))
    said = dict(zip(FIELDS, msgpack.unpackb(statement), strict=True))
    assert (said["project"], said["share"], said["chain"], said["delegation"], signature) == ("", b"", [], b"", b"")


def test_open_may_be_sent_again() -> None:
    asking = Introduction(CLIENT, ROOT.fqcn, ENTROPY, at_wall)
    assert asking.hello() == asking.hello()


def test_another_implementation_finds_the_same_keys() -> None:
    asking = Introduction(CLIENT, ROOT.fqcn, ENTROPY, at_wall)
    reply, asked = answer(ROOT, CLIENT.fqcn, asking.hello(), SESSION, MORE_ENTROPY, WALL)
    statement = msgpack.unpackb(reply)[0]
    share = X25519PublicKey.from_public_bytes(msgpack.unpackb(statement)[6])
    secret = X25519PrivateKey.from_private_bytes(ENTROPY[32:]).exchange(share)
    salt = sha256(msgpack.packb([asking.hello(), statement])).digest()
    keys = HKDF(SHA256(), 64, salt, b"cellnet seal 1").derive(secret)
    ends = msgpack.packb(["R1.C1", 5, "server", 7])
    talk(Seal(keys[:32], keys[32:], ends), asked.seal)


def test_the_same_open_answered_twice_makes_two_sessions_with_other_keys() -> None:
    hello = hello_of()
    seals = [answer(ROOT, CLIENT.fqcn, hello, SESSION, bytes([n]) * ENTROPY_BYTES, WALL)[1].seal for n in (1, 2)]
    assert seals[0] is not None
    assert seals[1] is not None
    sealed = seals[0].seal(33, SESSION, 1, b"!")
    assert sealed != seals[1].seal(33, SESSION, 1, b"!")
    opened, _ = Meeting().run()
    assert opened.seal is not None
    with pytest.raises(BrokenSeal):
        opened.seal.open(33, SESSION, 1, sealed)


def test_a_seal_of_one_session_does_not_open_in_another() -> None:
    first, _ = Meeting().run()
    _, second = Meeting(replace(CLIENT, epoch=6)).run()
    assert first.seal is not None
    assert second.seal is not None
    with pytest.raises(BrokenSeal):
        second.seal.open(32, SESSION, 1, first.seal.seal(32, SESSION, 1, b"?"))


# Policy: with credentials or without


def test_a_cell_with_credentials_refuses_one_without_and_the_other_way_round() -> None:
    refused = "server belongs to mobile, this cell to no project"
    assert Meeting(BARE_CLIENT, ROOT).refusal() == (
        "wrong-project",
        "R1.C1 belongs to no project (it has no credentials), this cell to mobile",
    )
    assert Meeting(CLIENT, BARE_ROOT).refusal() == (
        "wrong-project",
        "R1.C1 belongs to mobile, this cell to no project",
    )
    reply, _ = answer(ROOT, CLIENT.fqcn, hello_of(), SESSION, MORE_ENTROPY, WALL)
    assert Meeting(BARE_CLIENT, BARE_ROOT, change_reply=lambda *_: reply).refusal() == ("wrong-project", refused)
    reply, _ = answer(BARE_ROOT, CLIENT.fqcn, hello_of(BARE_CLIENT), SESSION, MORE_ENTROPY, WALL)
    assert Meeting(change_reply=lambda *_: reply).refusal()[0] == "wrong-project"


@pytest.mark.parametrize("empty", [("share", b""), ("chain", []), ("signature", b"")], ids=lambda one: one[0])
@pytest.mark.parametrize("step", ["change_hello", "change_reply"])
def test_nobody_in_between_can_strip_the_proof(step: str, empty: tuple[str, Any]) -> None:
    strip = restate(put(*empty)) if empty[0] != "signature" else lambda body, _: unsigned(body)
    assert Meeting(**{step: strip}).refusal() == ("protocol", "an introduction has a field that cannot be")


@pytest.mark.parametrize(
    "surplus", [("share", bytes(32)), ("chain", [b"c"]), ("delegation", b"d")], ids=lambda one: one[0]
)
@pytest.mark.parametrize("step", ["change_hello", "change_reply"])
def test_a_cell_without_credentials_takes_no_proof_that_it_could_not_check(step: str, surplus: Any) -> None:
    found = Meeting(BARE_CLIENT, BARE_ROOT, **{step: restate(put(*surplus))}).refusal()
    assert found == ("protocol", "an introduction has a field that cannot be")
    found = Meeting(BARE_CLIENT, BARE_ROOT, **{step: lambda body, _: unsigned(body, b"s")}).refusal()
    assert found == ("protocol", "an introduction has a field that cannot be")


# Certificates


@pytest.mark.parametrize("side", ["asker", "answerer"])
def test_a_certificate_of_a_foreign_authority_of_the_same_name_is_refused(side: str) -> None:
    forged = replace(Project().cell("C1"), roots=SERVER.roots)
    code, text = meeting(side, party("R1.C1", forged)).refusal()
    assert (code, "was not issued by this project's authority" in text) == ("untrusted", True)


@pytest.mark.parametrize("wall", ["asker_wall", "answerer_wall"])
@pytest.mark.parametrize(("days", "text"), [(91, "expired on"), (-91, "is valid from")])
def test_a_certificate_out_of_its_time_is_refused(wall: str, days: int, text: str) -> None:
    code, found = Meeting(**{wall: WALL + days * DAY}).refusal()
    assert (code, text in found) == ("untrusted", True)


@pytest.mark.parametrize("side", ["asker", "answerer"])
def test_another_project_is_refused_by_name(side: str) -> None:
    other = party("R1.C1", Project("other").cell("C1"))
    assert meeting(side, other).refusal()[0] == "wrong-project"


@pytest.mark.parametrize("step", ["change_hello", "change_reply"])
def test_a_certificate_of_the_same_authority_for_another_project_is_refused(step: str) -> None:
    other = Project("other", authority=replace(MOBILE.authority, project="other")).cell("C1")
    disguised = restate(put("chain", other.chain_der), other)
    found = Meeting(CLIENT, CLIENT, **{step: disguised}).refusal()
    assert found == ("wrong-project", "the certificate is for project other")


@pytest.mark.parametrize(
    ("name", "credentials", "code"),
    [
        ("R1.C2", C1, "identity-mismatch"),
        ("C1.C2", C1, "identity-mismatch"),
        ("R1.c1", C1, "identity-mismatch"),
        ("R2", R1, "identity-mismatch"),
        ("R1.C1", R1, "identity-mismatch"),
        ("server.C1", C1, "identity-mismatch"),
        ("server.R1", R1, "identity-mismatch"),
        ("server.j", MOBILE.cell("server.j"), "identity-mismatch"),
        ("server", MOBILE.cell("server", usage=LISTEN), "identity-mismatch"),
        ("C1", MOBILE.cell("C1", "server", usage=CONNECT), "identity-mismatch"),
        ("R1.server", MOBILE.cell("server", "server", usage=CONNECT), "identity-mismatch"),
        ("boss", MOBILE.cell("boss", "admin"), "identity-mismatch"),
        ("server", C1, "wrong-usage"),
        ("R1.C1", MOBILE.cell("C1", usage=LISTEN), "wrong-usage"),
        ("R1", R1.listening, "wrong-usage"),
        ("server", MOBILE.cell("server", "server", usage=CONNECT), "wrong-usage"),
        ("fl", SERVER, "wrong-usage"),
    ],
)
@pytest.mark.parametrize("side", ["asker", "answerer"])
def test_a_name_that_is_not_the_certificates_is_refused(
    side: str, name: str, credentials: Credentials, code: str
) -> None:
    assert meeting(side, party(name, credentials)).refusal()[0] == code


def test_the_refusal_says_what_the_certificate_is_for() -> None:
    found = Meeting(party("R1.C2", C1)).refusal()
    assert found == ("identity-mismatch", "the certificate shown for R1.C2 is for client C1")


# Delegations


def job_with(signer: Credentials = C1, **changes: Any) -> Credentials:
    """Return credentials of job j1 of C1 whose delegation says something else."""
    assert TENSORS.delegation is not None
    return replace(TENSORS, delegation=replace(TENSORS.delegation, **changes).issue(signer.key))


@pytest.mark.parametrize(
    ("name", "credentials", "code"),
    [
        ("R1.C1.j2", TENSORS, "bad-delegation"),
        ("R1.C2.j1", TENSORS, "identity-mismatch"),
        ("R1.C1.j1.j1", TENSORS, "identity-mismatch"),
        ("server.j1", TENSORS, "wrong-usage"),
        ("j1", TENSORS, "bad-delegation"),
        ("server", TENSORS, "bad-delegation"),
        ("R1.C1", TENSORS, "identity-mismatch"),
        # A job of the server, called like a relay; one of a relay, called like a site below it.
        ("R1", SERVER.delegate("R1", "job", WALL + DAY), "bad-delegation"),
        ("R1.C1", R1.delegate("C1", "job", WALL + DAY), "identity-mismatch"),
        ("boss.j1", MOBILE.cell("boss", "admin").delegate("j1", "job", WALL + DAY), "identity-mismatch"),
        ("R1.C1.j1", SERVER.delegate("j1", "job", WALL + DAY), "wrong-usage"),
        ("R1.C1.j1", C2.delegate("j1", "job", WALL + DAY), "identity-mismatch"),
        ("R1.C1.j1", C1, "identity-mismatch"),
        ("R1.C1.j1", job_with(site="C2"), "bad-delegation"),
        ("R1.C1.j1", job_with(job="j2"), "bad-delegation"),
        ("R1.C1.j1", job_with(role="client"), "bad-delegation"),
        ("R1.C1.j1", job_with(signer=C2), "bad-signature"),
        ("R1.C1.j1", job_with(signer=TENSORS), "bad-signature"),
        ("R1.C1.j1", job_with(public_key=public_key_bytes(C2.key.public_key())), "bad-signature"),
        ("R1.C1.j1", job_with(public_key=b"\x04" + bytes(64)), "bad-signature"),
        ("R1.C1.j1", job_with(not_after=int(WALL.timestamp()) - 1), "expired"),
        ("R1.C1.j1", replace(TENSORS, chain=C2.chain), "identity-mismatch"),
        ("R1.C1.j1", replace(TENSORS, delegation=replace(TENSORS.delegation, signed=b"\xc1")), "bad-delegation"),
    ],
)
@pytest.mark.parametrize("side", ["asker", "answerer"])
def test_a_delegation_is_for_one_job_of_one_site(side: str, name: str, credentials: Credentials, code: str) -> None:
    assert meeting(side, party(name, credentials)).refusal()[0] == code


@pytest.mark.parametrize("wall", ["asker_wall", "answerer_wall"])
def test_a_job_is_believed_no_longer_than_its_delegation(wall: str) -> None:
    job = party("R1.C1.j1", TENSORS)
    assert Meeting(job, job, **{wall: WALL + 2 * DAY}).refusal() == ("expired", "the credential of job j1 has expired")


# Relays in between, with certificates of their own


@pytest.mark.parametrize("thief", [R1, C2, Project().cell("C1")], ids=["relay", "client", "stranger"])
@pytest.mark.parametrize("step", ["change_hello", "change_reply"])
def test_a_relay_cannot_put_its_own_share_in_the_place_of_a_cells(step: str, thief: Credentials) -> None:
    own = put("share", X25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw())
    assert Meeting(**{step: restate(own)}).refusal()[0] == "bad-signature"
    assert Meeting(**{step: restate(own, thief)}).refusal()[0] == "bad-signature"
    code, _ = Meeting(**{step: restate(both(own, put("chain", thief.chain_der)), thief)}).refusal()
    assert code in ("identity-mismatch", "wrong-usage", "untrusted")


def test_an_open_by_another_route_or_for_another_cell_is_refused() -> None:
    code, text = Meeting(origin=FQCN("R1.C2")).refusal()
    assert (code, text) == (
        "misrouted",
        "an introduction from R1.C1 to server came to server as one from R1.C2",
    )
    assert Meeting(BARE_CLIENT, BARE_ROOT, origin=FQCN("R1.C2")).refusal()[0] == "misrouted"
    for asker, answerer in ((CLIENT, ROOT), (BARE_CLIENT, BARE_ROOT)):
        meant_for_another = Introduction(asker, FQCN("R1.C2"), ENTROPY, at_wall).hello()
        with pytest.raises(HandshakeError, match=r"from R1\.C1 to R1\.C2 came to server"):
            answer(answerer, asker.fqcn, meant_for_another, SESSION, MORE_ENTROPY, WALL)


def test_an_answer_of_another_cell_than_the_one_that_was_asked_is_refused() -> None:
    other = party("R1.C2", C2)
    reply, _ = answer(other, CLIENT.fqcn, hello_of(answerer=other), SESSION, MORE_ENTROPY, WALL)
    assert Meeting(change_reply=lambda *_: reply).refusal()[0] == "misrouted"
    renamed = restate(put("source", "server"))
    assert Meeting(change_reply=lambda *_: renamed(reply, b"")).refusal()[0] == "wrong-answer"
    assert Meeting(change_reply=restate(put("chain", C2.chain_der), C2)).refusal()[0] == "wrong-usage"
    assert Meeting(change_reply=restate(lambda _: None, C2)).refusal()[0] == "bad-signature"
    assert Meeting(change_reply=restate(lambda _: None, SERVER)).run()[0].session == SESSION


@pytest.mark.parametrize("pair", [(CLIENT, ROOT), (BARE_CLIENT, BARE_ROOT)], ids=["sealed", "bare"])
def test_a_recorded_answer_answers_no_other_open(pair: tuple[Party, Party]) -> None:
    asker, answerer = pair
    earlier = Introduction(asker, answerer.fqcn, MORE_ENTROPY, at_wall)
    recorded, _ = answer(answerer, asker.fqcn, earlier.hello(), SESSION, ENTROPY, WALL)
    assert Meeting(asker, answerer, change_reply=lambda *_: recorded).refusal() == (
        "wrong-answer",
        "server answers another OPEN than this cell's last",
    )
    assert earlier.opened(recorded, answerer.fqcn).session == SESSION


def test_a_recorded_answer_is_not_made_to_fit_by_a_change_of_its_digest() -> None:
    recorded, _ = answer(ROOT, CLIENT.fqcn, hello_of(replace(CLIENT, epoch=4)), SESSION, MORE_ENTROPY, WALL)

    def fit(_reply: bytes, hello: bytes) -> bytes:
        return restate(put("digest", sha256(hello).digest()))(recorded, hello)

    assert Meeting(change_reply=fit).refusal()[0] == "bad-signature"


@pytest.mark.parametrize("pair", [(CLIENT, ROOT), (BARE_CLIENT, BARE_ROOT)], ids=["sealed", "bare"])
def test_an_answer_is_accepted_once_and_the_private_key_forgotten(pair: tuple[Party, Party]) -> None:
    asker, answerer = pair
    asking = Introduction(asker, answerer.fqcn, ENTROPY, at_wall)
    reply, _ = answer(answerer, asker.fqcn, asking.hello(), SESSION, MORE_ENTROPY, WALL)
    asking.opened(reply, answerer.fqcn)
    assert asking._private is None
    with pytest.raises(RemoteProtocolError, match="twice"):
        asking.opened(reply, answerer.fqcn)


def test_a_forged_answer_does_not_keep_the_true_one_from_being_accepted() -> None:
    asking = Introduction(CLIENT, ROOT.fqcn, ENTROPY, at_wall)
    reply, asked = answer(ROOT, CLIENT.fqcn, asking.hello(), SESSION, MORE_ENTROPY, WALL)
    for forged in (b"", pack(b"", b""), restate(flip("session"))(reply, b""), restate(flip("digest"))(reply, b"")):
        with pytest.raises((HandshakeError, RemoteProtocolError)):
            asking.opened(forged, ROOT.fqcn)
    talk(asking.opened(reply, ROOT.fqcn).seal, asked.seal)


@pytest.mark.parametrize("context", [b"cellnet join 1", b"cellnet welcome 1", b"cellnet opened 1", b"cellnet open 1"])
@pytest.mark.parametrize(
    ("step", "right"), [("change_hello", b"cellnet open 1"), ("change_reply", b"cellnet opened 1")]
)
def test_a_signature_counts_in_its_own_place_only(step: str, right: bytes, context: bytes) -> None:
    def signed(body: bytes, hello: bytes) -> bytes:
        key = (SERVER if hello else C1).key
        return unsigned(body, sign(key, context, *filter(None, [hello]), msgpack.unpackb(body)[0]))

    attempt = Meeting(**{step: signed})
    if context != right:
        assert attempt.refusal()[0] == "bad-signature"
    elif step == "change_reply":
        attempt.run()
    else:
        assert attempt.refusal()[0] == "wrong-answer"  # the answerer was content with it


# Tampering: every field is under a signature


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("job", [False, True])
def test_a_flipped_bit_in_any_field_of_open_is_noticed_by_the_answerer(field: str, job: bool) -> None:
    change = restate(flip(field))
    asker = party("R1.C1.j1", TENSORS) if job else CLIENT
    with pytest.raises((HandshakeError, RemoteProtocolError)):
        answer(ROOT, asker.fqcn, change(hello_of(asker), b""), SESSION, MORE_ENTROPY, WALL)


@pytest.mark.parametrize("field", ANSWER_FIELDS)
@pytest.mark.parametrize("job", [False, True])
def test_a_flipped_bit_in_any_field_of_opened_is_noticed_by_the_asker(field: str, job: bool) -> None:
    change = restate(flip(field))
    code, _ = Meeting(answerer=party("R1.C1.j1", TENSORS) if job else ROOT, change_reply=change).refusal()
    if field in ("epoch", "nonce", "share", "session"):
        assert code == "bad-signature"


def test_a_flipped_bit_in_any_byte_is_noticed() -> None:
    rng = random.Random(SEED)
    asking = Introduction(CLIENT, ROOT.fqcn, ENTROPY, at_wall)
    hello = asking.hello()
    reply, _ = answer(ROOT, CLIENT.fqcn, hello, SESSION, MORE_ENTROPY, WALL)
    for body in (hello, reply):
        for at in range(len(body)):
            changed = bytearray(body)
            changed[at] ^= 1 << rng.randrange(8)
            with pytest.raises((HandshakeError, RemoteProtocolError)):
                if body is hello:
                    answer(ROOT, CLIENT.fqcn, bytes(changed), SESSION, MORE_ENTROPY, WALL)
                else:
                    asking.opened(bytes(changed), ROOT.fqcn)


def test_an_open_that_was_changed_and_yet_answered_is_noticed_by_the_asker() -> None:
    bare = restate(put("epoch", 4))
    assert Meeting(BARE_CLIENT, BARE_ROOT, change_hello=bare).refusal()[0] == "wrong-answer"


# What no good cell sends


DEEP = b"\x91" * 100_000
TIMESTAMP = b"\xd6\xff\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x92",
        b"\x80",
        b"\x90",
        DEEP[:1000],
        DEEP[: MAX_INTRODUCTION - 1],
        TIMESTAMP,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        pack(b""),
        pack(b"", b"", b""),
        pack("", b""),
        pack(b"", ""),
        pack(None, b""),
        pack(b"", b"") + b"\x00",
        pack(b"", b""),
        pack(b"\xc1", b""),
        pack(b"\x90", b""),
        pack(b"\x80", b""),
        pack(TIMESTAMP, b""),
        pack(DEEP[:5000], b""),
        pack(pack(*[0] * 9), b""),
        pack(msgpack.packb({"version": 1}), b""),
        pack(pack(1, "mobile", b"\xff", "server", 5, bytes(32), b"", [], b""), b""),
    ],
    ids=range(26),
)
@pytest.mark.parametrize("step", ["change_hello", "change_reply"])
def test_what_is_no_introduction_at_all_is_malformed(step: str, body: bytes) -> None:
    assert Meeting(**{step: lambda *_: body}).refusal()[0] == "protocol"


VALUES: tuple[Any, ...] = (None, True, -1, 1.5, "x", b"x", [], {}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1))
TYPES = {"version": int, "epoch": int, "session": int, "project": str, "source": str, "destination": str, "chain": list}


@pytest.mark.parametrize("field", ANSWER_FIELDS)
def test_a_field_of_another_type_is_malformed_although_it_is_signed(field: str) -> None:
    for value in VALUES:
        if type(value) is not TYPES.get(field, bytes) or value == -1:
            found = Meeting(change_reply=restate(put(field, value), SERVER)).refusal()
            assert found[0] == "protocol"
            if field in FIELDS:
                assert Meeting(change_hello=restate(put(field, value), C1)).refusal() == found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put("project", "p" * 256), "too long"),
        (put("source", "s" * 256), "too long"),
        (put("destination", "d" * 256), "too long"),
        (put("chain", C1.chain_der + [b""] * MAX_CHAIN), "too long"),
        (put("delegation", bytes(MAX_DELEGATION + 1)), "too long"),
        (put("nonce", bytes(31)), "cannot be"),
        (put("nonce", bytes(33)), "cannot be"),
        (put("nonce", b""), "cannot be"),
        (put("share", bytes(31)), "cannot be"),
        (put("share", bytes(33)), "cannot be"),
        (put("chain", ["text"]), "cannot be"),
        (put("chain", [[]]), "cannot be"),
        (put("chain", [None]), "cannot be"),
        (lambda fields: fields.append(0), "wrong number"),
        (lambda fields: fields.pop(), "wrong number"),
        (lambda fields: fields.clear(), "wrong number"),
    ],
)
def test_a_field_that_cannot_be_is_malformed_although_it_is_signed(
    change: Callable[[list[Any]], object], text: str
) -> None:
    for changes in ({"change_hello": restate(change, C1)}, {"change_reply": restate(change, SERVER)}):
        code, found = Meeting(**changes).refusal()
        assert (code, text in found) == ("protocol", True)


def test_limits_and_contexts_are_those_of_the_specification() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8").replace("\n", " ")
    assert (
        f"A proof has at most {MAX_INTRODUCTION:,} bytes, a text {MAX_TEXT} characters, a chain {MAX_CHAIN} "
        f"certificates, a delegation {MAX_DELEGATION:,} bytes, a signature {MAX_SIGNATURE}." in text
    )
    assert f"none that is {WINDOW:,} or more below the highest" in text
    assert all(f"`{context}`" in text for context in ("cellnet open 1", "cellnet opened 1", "cellnet seal 1"))
    assert "`misrouted`" in text


def test_every_limit_is_reached_before_it_is_broken() -> None:
    too_long = ("protocol", "an introduction has a field that is too long")

    def sized(size: int) -> Change:
        return lambda body, _: body + bytes(size - len(body))

    assert "is too long: 16384" in Meeting(change_hello=sized(MAX_INTRODUCTION + 1)).refusal()[1]
    assert "is too long" not in Meeting(change_hello=sized(MAX_INTRODUCTION)).refusal()[1]
    full = restate(put("chain", C1.chain_der * MAX_CHAIN), C1)
    assert Meeting(change_hello=full).refusal()[0] == "wrong-answer"  # at the asker: it is another OPEN now
    assert Meeting(change_hello=restate(put("delegation", bytes(MAX_DELEGATION)), C1)).refusal() != too_long
    for size in (MAX_SIGNATURE, MAX_SIGNATURE + 1):
        found = Meeting(change_hello=lambda body, _, size=size: unsigned(body, bytes(size))).refusal()
        assert (found == too_long) == (size > MAX_SIGNATURE)


@pytest.mark.parametrize("version", [0, 2, 2**64 - 1])
def test_another_version_is_refused_with_both_numbers(version: int) -> None:
    change = restate(put("version", version), C1)
    text = f"R1.C1 speaks version {version}, this cell 1: upgrade the older"
    assert Meeting(change_hello=change).refusal() == ("version", text)


@pytest.mark.parametrize("share", [bytes(32), b"\x01" + bytes(31)])
def test_a_share_that_makes_a_secret_which_everybody_knows_is_refused(share: bytes) -> None:
    known = ("bad-share", "the peer's share of the key is none that can be kept secret")
    assert Meeting(change_hello=restate(put("share", share), C1)).refusal() == known
    assert Meeting(change_reply=restate(put("share", share), SERVER)).refusal() == known


@pytest.mark.parametrize("inside", [False, True], ids=["on its way", "by a cell with a good certificate"])
@pytest.mark.parametrize("job", [False, True])
def test_no_mutated_introduction_brings_anything_but_the_documented_errors(inside: bool, job: bool) -> None:
    rng = random.Random(f"{SEED} {inside} {job}")
    who = party("R1.C1.j1", TENSORS) if job else CLIENT
    asking = Introduction(who, who.fqcn, ENTROPY, at_wall)
    hello = asking.hello()
    reply, _ = answer(who, who.fqcn, hello, SESSION, MORE_ENTROPY, WALL)
    accepted = 0
    for number in range(MUTATIONS):
        is_hello = number % 2 == 0
        original = hello if is_hello else reply
        statement, signature = msgpack.unpackb(original)
        if inside:
            body = resign(mutate(rng, statement), signature, who.credentials, b"" if is_hello else hello)
        else:
            body = mutate(rng, original)
        try:
            if is_hello:
                answer(who, who.fqcn, body, SESSION, MORE_ENTROPY, WALL)
            else:
                asking.opened(body, who.fqcn)
                asking = Introduction(who, who.fqcn, ENTROPY, at_wall)
                hello = asking.hello()
                reply, _ = answer(who, who.fqcn, hello, SESSION, MORE_ENTROPY, WALL)
            accepted += 1
            assert inside or body == original
        except (HandshakeError, RemoteProtocolError):
            pass
        except Exception as error:
            pytest.fail(f"seed {SEED}, input {number}, {body.hex()}: {error!r}")
    assert accepted < MUTATIONS // 2


# Who moved

MOVED_CLIENT, MOVED_JOB = replace(CLIENT, fqcn=FQCN("R2.C1"), former=(CLIENT.fqcn,)), FQCN("R2.C1.j1")


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "bare"])
def test_who_moved_asks_and_answers_under_the_name_that_it_had(is_sealed: bool) -> None:
    server, client = (ROOT, MOVED_CLIENT) if is_sealed else (BARE_ROOT, replace(MOVED_CLIENT, credentials=None))
    was = replace(client, fqcn=CLIENT.fqcn)
    for opened, asked in (
        Meeting(was, server, origin=client.fqcn).run(),
        Meeting(server, client, asked=CLIENT.fqcn, answered_from=client.fqcn).run(),
    ):
        assert (opened.seal is not None) == is_sealed
        if is_sealed:
            talk(opened.seal, asked.seal)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "bare"])
def test_another_cell_has_not_moved(is_sealed: bool) -> None:
    server, client = (ROOT, CLIENT) if is_sealed else (BARE_ROOT, BARE_CLIENT)
    for meeting_ in (
        Meeting(client, server, origin=FQCN("R2.C2")),
        Meeting(server, client, asked=FQCN("R9.C1")),
        Meeting(server, replace(client, former=(FQCN("R2.C1"),)), asked=FQCN("R3.C1")),
        Meeting(server, client, answered_from=FQCN("R2.C2")),
    ):
        assert meeting_.refusal()[0] == "misrouted"


def test_a_job_that_moved_is_still_one_of_its_own_site() -> None:
    job = party("R1.C1.j1", TENSORS)
    opened, asked = Meeting(job, ROOT, origin=MOVED_JOB).run()
    talk(opened.seal, asked.seal)
    assert Meeting(job, ROOT, origin=FQCN("R2.C2.j1")).refusal()[0] == "identity-mismatch"
    assert Meeting(ROOT, job, answered_from=FQCN("R2.C2.j1")).refusal()[0] == "identity-mismatch"
    assert Meeting(job, ROOT, origin=FQCN("j1")).refusal()[0] == "bad-delegation"
