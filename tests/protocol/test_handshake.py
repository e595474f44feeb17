"""The handshake: who may join whom, and everything for which one side refuses the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import CONNECT, LISTEN, Credentials
from cellnet.errors import HandshakeError, RefusedByPeer, RemoteProtocolError
from cellnet.fqcn import FQCN, ROOT
from cellnet.placement import Delegation, Placement
from cellnet.protocol.events import Attached, LinkFailed, MemberJoined
from cellnet.protocol.frames import Frame, Kind, pack
from cellnet.protocol.handshake import NONCE_BYTES, Handshake, Self, Transport
from cellnet.signing import public_key_bytes, sign
from tests.protocol.conftest import (
    DAY,
    MEMORY,
    NONCE,
    WALL,
    Net,
    Peer,
    Project,
    encode_frame,
    introduction,
    new_endpoint,
)

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable

MOBILE = Project()
SERVER = MOBILE.server()
R1 = MOBILE.relay("R1")
C1 = MOBILE.cell("C1", parents=("R1",))
DER = serialization.Encoding.DER


@dataclass
class Outcome:
    """How an attempt to join ended on both sides."""

    net: Net
    parent: str
    child: str

    @property
    def fqcn(self) -> str | None:
        attached = self.net.received(self.child, Attached)
        return str(attached[0].fqcn) if attached else None

    def refusal(self, side: str) -> tuple[str, str]:
        """Return the code and text with which one side refused; the other heard the same."""
        by, other = (self.parent, self.child) if side == "parent" else (self.child, self.parent)
        (failed,) = self.net.received(by, LinkFailed)
        (heard,) = self.net.received(other, LinkFailed)
        error = failed.error
        assert not isinstance(error, RefusedByPeer)
        assert isinstance(heard.error, RefusedByPeer)
        code = error.code if isinstance(error, HandshakeError) else "protocol"
        assert (heard.error.code, str(heard.error)) == (code, str(error)[:500])
        assert not self.net[self.parent].children
        assert self.net[self.child].fqcn is None
        return code, str(error)


def attempt(
    parent: Credentials | None = SERVER,
    child: Credentials | None = R1,
    *,
    names: tuple[str, str] = ("server", "R1"),
    fqcn: str | None = None,
    roles: tuple[str, str] | None = None,
    transports: tuple[Transport, Transport] = (MEMORY, MEMORY),
    tamper: Callable[[Frame], bytes] | None = None,
    walls: tuple[datetime.datetime, datetime.datetime] = (WALL, WALL),
) -> Outcome:
    """Let a cell join another; *fqcn* is what the parent is called, if it is not the server."""
    net = Net()
    for name, wall in zip(names, walls, strict=True):
        net.endpoints[name] = new_endpoint(name, wall=wall)
    if names[0] != ROOT:
        Peer.parent(net[names[0]], fqcn or names[0])
        net[names[0]].events.clear()
    roles = roles or (role_of(parent), role_of(child))
    held = (parent, child)
    link = net.connect(names[1], parent=names[0], credentials=held, roles=roles, transports=transports)
    link.tamper = tamper
    net.run()
    return Outcome(net, *names)


def role_of(credentials: Credentials | None) -> str:
    if credentials is None:
        return "cell"
    return credentials.delegation.role if credentials.delegation else credentials.identity.role


def rewrite(kind: Kind, change: Callable[[list[Any]], None], body: bytes | None = None) -> Callable[[Frame], bytes]:
    """Return a tamperer that changes the header of one kind of frame."""
    import msgpack

    def tamper(frame: Frame) -> bytes:
        if frame.kind is not kind:
            return encode_frame(frame.kind, frame.header, frame.body)
        fields = msgpack.unpackb(frame.header)
        change(fields)
        return encode_frame(frame.kind, pack(*fields), frame.body if body is None else body)

    return tamper


def put(position: int, value: Any) -> Callable[[list[Any]], None]:
    def change(fields: list[Any]) -> None:
        fields[position] = value

    return change


# Who may join


def test_a_relay_joins_the_server_and_learns_its_name() -> None:
    outcome = attempt()
    assert outcome.fqcn == "R1"
    (joined,) = outcome.net.received("server", MemberJoined)
    assert (joined.member.role, joined.member.fqsn, joined.member.epoch) == ("relay", "R1", 1)
    (attached,) = outcome.net.received("R1", Attached)
    assert (str(attached.parent.fqcn), attached.parent.role) == ("server", "server")


def test_a_client_joins_a_relay_which_listens_with_its_other_certificate() -> None:
    outcome = attempt(R1, C1, names=("R1", "C1"), fqcn="R9.R1")
    assert outcome.fqcn == "R9.R1.C1"


def test_a_cell_whose_placement_names_no_parent_joins_any() -> None:
    anywhere = MOBILE.cell("C1", parents=())
    assert attempt(R1, anywhere, names=("R1", "C1")).fqcn == "R1.C1"
    assert attempt(SERVER, anywhere, names=("server", "C1")).fqcn == "C1"


@pytest.mark.parametrize("role", ["job", "operator"])
@pytest.mark.parametrize(
    ("site", "names", "fqcn"),
    [(SERVER, ("server", "j1"), "server.j1"), (C1, ("C1", "j1"), "R1.C1.j1")],
)
def test_a_job_joins_its_site_with_the_sites_delegation(
    site: Credentials, names: tuple[str, str], fqcn: str, role: str
) -> None:
    job = site.delegate("j1", role, WALL + DAY)
    assert attempt(site, job, names=names, fqcn="R1.C1").fqcn == fqcn


def test_cells_without_credentials_join_each_other_without_proof() -> None:
    assert attempt(None, None, names=("a", "b")).fqcn == "a.b"
    assert attempt(None, None, roles=("server", "cell")).fqcn == "R1"


# Certificates, on both sides


@pytest.mark.parametrize("side", ["parent", "child"])
def test_a_certificate_of_a_foreign_authority_of_the_same_name_is_refused(side: str) -> None:
    foreign = Project()
    outcome = attempt(child=foreign.relay("R1")) if side == "parent" else attempt(parent=foreign.server())
    code, text = outcome.refusal("child")  # the listener speaks first
    assert (code, "was not issued by this project's authority" in text) == ("untrusted", True)


def test_a_listener_too_refuses_a_certificate_of_a_foreign_authority() -> None:
    forged = replace(Project().relay("R1"), roots=SERVER.roots, placement=R1.placement)
    code, text = attempt(child=forged).refusal("parent")
    assert (code, "was not issued by this project's authority" in text) == ("untrusted", True)


@pytest.mark.parametrize(("side", "walls"), [("parent", (91 * DAY, 0 * DAY)), ("child", (0 * DAY, 91 * DAY))])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_certificate_out_of_its_time_is_refused(side: str, walls: tuple[Any, Any], sign: int) -> None:
    later = (WALL + sign * walls[0], WALL + sign * walls[1])
    code, text = attempt(walls=later).refusal(side)
    assert code == "untrusted"
    assert ("expired on" if sign > 0 else "is valid from") in text


def test_a_certificate_for_listening_is_none_for_connecting_and_the_other_way_round() -> None:
    listener = MOBILE.cell("R1", "relay", usage=LISTEN)
    assert attempt(child=listener).refusal("parent")[0] == "wrong-usage"
    connector = MOBILE.cell("server", "server", usage=CONNECT)
    assert attempt(parent=connector).refusal("child")[0] == "wrong-usage"


def test_a_name_or_role_that_is_not_the_certificates_is_refused() -> None:
    code, text = attempt(names=("server", "R2")).refusal("parent")
    assert code == "identity-mismatch"
    assert text == "the peer calls itself relay R2, but its certificate is for relay R1"
    assert attempt(roles=("server", "client")).refusal("parent")[0] == "identity-mismatch"
    anywhere = MOBILE.cell("C1", parents=())
    assert attempt(R1, anywhere, names=("R9", "C1")).refusal("child")[0] == "identity-mismatch"
    assert attempt(roles=("relay", "relay")).refusal("child")[0] == "identity-mismatch"


def test_a_certificate_of_the_same_authority_for_another_project_is_refused() -> None:
    other = Project("other", authority=replace(MOBILE.authority, project="other"))
    disguised = rewrite(Kind.JOIN, put(1, "mobile"))
    child = other.relay("R1")
    tampers = {Kind.HELLO: rewrite(Kind.HELLO, put(1, "other")), Kind.JOIN: disguised}

    def tamper(frame: Frame) -> bytes:
        return tampers.get(frame.kind, rewrite(frame.kind, lambda _: None))(frame)

    code, text = attempt(child=child, tamper=tamper).refusal("child")
    assert (code, text) == ("wrong-project", "the certificate is for project mobile")


def test_another_project_is_refused_by_name() -> None:
    code, text = attempt(child=Project("other").relay("R1")).refusal("child")
    assert (code, text) == ("wrong-project", "the peer belongs to mobile, this cell to other")


def test_a_cell_without_credentials_is_refused_by_one_that_has_some() -> None:
    code, text = attempt(child=None).refusal("child")
    assert (code, text) == ("wrong-project", "the peer belongs to mobile, this cell to no project")
    code, text = attempt(parent=None, roles=("server", "relay")).refusal("child")
    assert (code, "no project (it has no credentials)" in text) == ("wrong-project", True)


# Places


@pytest.mark.parametrize(
    ("roles", "names"),
    [
        (("relay", "job"), ("R1", "j")),
        (("relay", "cell"), ("R1", "c")),
        (("client", "client"), ("C1", "C2")),
        (("client", "relay"), ("C1", "R1")),
        (("job", "job"), ("j", "k")),
        (("server", "server"), ("server", "server2")),
        (("server", "admin"), ("server", "a")),
        (("relay", "admin"), ("R1", "a")),
        (("client", "admin"), ("C1", "a")),
        (("cell", "relay"), ("c", "R1")),
    ],
)
def test_not_every_role_may_join_below_every_other(roles: tuple[str, str], names: tuple[str, str]) -> None:
    code, text = attempt(None, None, roles=roles, names=names).refusal("parent")
    assert (code, f"a {roles[1]} may not join below {names[0]}" in text) == ("wrong-role", True)


def test_a_cell_of_a_wrong_role_is_refused_although_its_certificate_is_good() -> None:
    admin = MOBILE.cell("boss", "admin")
    assert attempt(child=admin, names=("server", "boss")).refusal("parent")[0] == "wrong-role"


def test_a_cell_joins_only_parents_of_its_placement_and_both_sides_see_to_it() -> None:
    code, text = attempt(SERVER, C1, names=("server", "C1")).refusal("child")
    assert (code, text) == ("wrong-parent", "the listener is server, but this kit joins R1: check the address")
    elsewhere = MOBILE.cell("C1", parents=("R2", "R3"))
    careless = replace(elsewhere, placement=replace(elsewhere.placement, parents=()))
    code, text = attempt(R1, careless, names=("R1", "C1")).refusal("parent")
    assert (code, text) == ("wrong-parent", "C1 belongs below R2 or R3, not below R1")


@pytest.mark.parametrize(
    "placement",
    [
        Placement("mobile", "relay", "R1", (), "").issue(ec.generate_private_key(ec.SECP256R1())),
        Placement("mobile", "relay", "R2", (), "").issue(MOBILE.authority.key),
        Placement("mobile", "client", "R1", (), "").issue(MOBILE.authority.key),
        Placement("other", "relay", "R1", (), "").issue(MOBILE.authority.key),
        Placement("mobile", "relay", "R1", (), "", signed=b""),
        Placement("mobile", "relay", "R1", (), "", signed=b"\xc1"),
    ],
    ids=["key", "name", "role", "project", "absent", "garbage"],
)
def test_a_placement_that_is_forged_or_somebody_elses_is_refused(placement: Placement) -> None:
    code, _text = attempt(child=replace(R1, placement=placement)).refusal("parent")
    assert code in ("bad-placement", "bad-signature")


def test_a_cell_without_a_placement_is_refused() -> None:
    assert attempt(child=replace(R1, placement=None)).refusal("parent")[0] == "bad-placement"


# Jobs


def job_with(**changes: Any) -> Credentials:
    """Return credentials of a job of C1 whose delegation says something else, signed by C1's key."""
    job = C1.delegate("j1", "job", WALL + DAY)
    delegation = job.delegation
    signer = changes.pop("signer", C1.key)
    return replace(job, delegation=replace(delegation, **changes).issue(signer))


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (job_with(signer=R1.key), "bad-signature"),
        (job_with(site="C2"), "bad-delegation"),
        (job_with(job="j2"), "bad-delegation"),
        (job_with(not_after=int(WALL.timestamp()) - 1), "expired"),
        (job_with(public_key=public_key_bytes(R1.key.public_key())), "bad-signature"),
        (job_with(public_key=b"\x04" + bytes(64)), "bad-signature"),
        (job_with(public_key=b""), "bad-signature"),
    ],
    ids=["signer", "site", "job", "expired", "key", "no point", "no key"],
)
def test_a_delegation_that_is_forged_or_for_another_is_refused(job: Credentials, code: str) -> None:
    assert attempt(C1, job, names=("C1", "j1"), fqcn="R1.C1", roles=("client", "job")).refusal("parent")[0] == code


def test_a_delegation_for_an_operator_is_none_for_a_job() -> None:
    operator = job_with(role="operator")
    outcome = attempt(C1, operator, names=("C1", "j1"), fqcn="R1.C1", roles=("client", "job"))
    assert outcome.refusal("parent")[0] == "bad-delegation"


def test_a_job_that_shows_another_certificate_than_its_sites_is_refused() -> None:
    job = replace(job_with(), chain=C1.chain + R1.chain)
    swap = rewrite(Kind.JOIN, lambda fields: fields[6].pop(0))
    outcome = attempt(C1, job, names=("C1", "j1"), fqcn="R1.C1", tamper=swap)
    assert outcome.refusal("parent")[0] == "bad-delegation"
    outcome = attempt(C1, job, names=("C1", "j1"), fqcn="R1.C1", tamper=rewrite(Kind.JOIN, put(6, [])))
    assert outcome.refusal("parent")[0] == "bad-delegation"


def test_a_job_does_not_join_a_foreign_site() -> None:
    other = MOBILE.cell("C2")
    outcome = attempt(other, job_with(), names=("C2", "j1"), fqcn="R1.C2")
    assert outcome.refusal("child") == ("untrusted", "the listener on this socket is not the job's own site")
    tamper = rewrite(Kind.HELLO, put(6, []))
    assert attempt(C1, job_with(), names=("C1", "j1"), tamper=tamper).refusal("child")[0] == "untrusted"


def test_a_site_whose_certificate_expired_takes_no_jobs() -> None:
    job = C1.delegate("j1", "job", WALL + 200 * DAY)
    walls = (WALL + 91 * DAY, WALL)
    assert attempt(C1, job, names=("C1", "j1"), walls=walls).refusal("parent")[0] == "expired"
    walls = (WALL, WALL + 91 * DAY)
    assert attempt(C1, job, names=("C1", "j1"), walls=walls).refusal("child")[0] == "expired"


# Tampering: every field is under a signature


FIELDS = {
    "version": (0, 2),
    "project": (1, "other"),
    "name": (2, "R2"),
    "role": (3, "client"),
    "epoch": (4, 2),
    "nonce": (5, bytes(range(NONCE_BYTES))),
    "chain": (6, C1.chain_der),
    "driver": (7, "unix"),
    "security": (8, "mtls"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_of_hello_is_noticed(field: str) -> None:
    outcome = attempt(tamper=rewrite(Kind.HELLO, put(*FIELDS[field])))
    noticed = "parent" if field in ("epoch", "nonce", "driver", "security") else "child"
    code, _text = outcome.refusal(noticed)
    assert code != "bad-signature" or noticed == "parent"


@pytest.mark.parametrize("field", [*FIELDS, "placement", "delegation"])
def test_a_changed_field_of_join_is_noticed(field: str) -> None:
    more = {"placement": (9, C1.placement and C1.placement.signed), "delegation": (10, b"\x01")}
    code, _text = attempt(tamper=rewrite(Kind.JOIN, put(*(FIELDS | more)[field]))).refusal("parent")
    assert code == "bad-signature" or field not in ("epoch", "nonce", "driver", "security", "delegation")


@pytest.mark.parametrize("fqcn", ["R2.R1", "server.R1", "R1.R1"])
def test_a_changed_name_in_welcome_is_noticed(fqcn: str) -> None:
    net = attempt(tamper=rewrite(Kind.WELCOME, put(0, fqcn))).net
    (failed,) = net.received("R1", LinkFailed)
    assert failed.error.code == "bad-signature"
    (heard,) = net.received("server", LinkFailed)
    assert isinstance(heard.error, RefusedByPeer)
    assert not net["server"].children


@pytest.mark.parametrize("kind", [Kind.JOIN, Kind.WELCOME])
@pytest.mark.parametrize(
    "signature",
    [b"", bytes(70), sign(R1.key, b"cellnet join 1"), sign(R1.key, b"x", b"y")],
    ids=["empty", "zeros", "over other fields", "in another context"],
)
def test_a_changed_signature_is_noticed(kind: Kind, signature: bytes) -> None:
    net = attempt(tamper=rewrite(kind, lambda _: None, signature)).net
    (failed,) = net.received("server" if kind is Kind.JOIN else "R1", LinkFailed)
    assert failed.error.code == "bad-signature"


def test_a_recorded_join_is_not_accepted_again() -> None:
    recorded: list[bytes] = []

    def record(frame: Frame) -> bytes:
        data = encode_frame(frame.kind, frame.header, frame.body)
        recorded.append(data)
        return data

    assert attempt(tamper=record).fqcn == "R1"
    server = new_endpoint("server")
    server._entropy = lambda count: bytes([7]) * count
    link = server.open(MEMORY, is_listener=True, now=0.0, role="server", credentials=SERVER)
    server.receive(link, recorded[1], 0.0)
    (failed,) = server.events
    assert isinstance(failed, LinkFailed)
    assert "JOIN was not signed" in str(failed.error)


def test_the_certificate_of_tls_must_be_the_handshakes() -> None:
    def tls(certificate: bytes) -> Transport:
        return Transport("tcp", "mtls", certificate)

    listening = R1.listening
    good = (tls(R1.chain_der[0]), tls(SERVER.chain_der[0]))
    assert attempt(transports=good).fqcn == "R1"
    assert attempt(transports=(tls(listening.chain_der[0]), good[1])).refusal("parent")[0] == "wrong-channel"
    assert attempt(transports=(good[0], tls(R1.chain_der[0]))).refusal("child")[0] == "wrong-channel"
    assert attempt(None, None, transports=good, roles=("server", "cell")).refusal("child")[0] == "wrong-channel"


# What no good cell sends


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 2}, "speaks version 2, this cell 1: upgrade the older"),
        ({"version": 0}, "speaks version 0"),
        ({"name": "a.b"}, "is no name"),
        ({"name": ""}, "is no name"),
        ({"name": "server"}, "nothing below it may have that name"),
        ({"nonce": bytes(31)}, "a field that cannot be"),
        ({"chain": ["text"]}, "a field that cannot be"),
        ({"name": "\x00" * 60000}, "a field that is too long"),
        ({"project": "p" * 60000}, "a field that is too long"),
        ({"role": "r" * 256}, "a field that is too long"),
        ({"driver": "d" * 256}, "a field that is too long"),
        ({"security": "s" * 256}, "a field that is too long"),
        ({"epoch": -1}, "negative"),
        ({"epoch": "1"}, "wrong type"),
    ],
)
def test_an_introduction_that_cannot_be_is_refused_with_a_reason(changes: dict[str, Any], text: str) -> None:
    peer = Peer.child(new_endpoint("server"), "R1", joined=False)
    peer.send(Kind.JOIN, *introduction(**{"name": "R1"} | changes), b"", b"", [])
    (refused,) = peer.frames()
    assert refused.kind is Kind.REFUSED
    assert text in peer.error()
    assert text in refused.header.decode(errors="replace")


def test_a_reason_that_quotes_the_peer_at_length_is_cut() -> None:
    peer = Peer.child(new_endpoint("server"), "R1", joined=False)
    peer.send(Kind.JOIN, *introduction("\x00" * 255), b"", b"", [])
    (refused,) = peer.frames()
    assert 500 < len(refused.header) < 600


def test_a_name_that_would_be_too_long_or_too_deep_below_us_is_refused() -> None:
    deep = new_endpoint("c")
    Peer.parent(deep, ".".join("c" * 16))
    peer = Peer.child(deep, "d", joined=False)
    peer.send(Kind.JOIN, *introduction("d"), b"", b"", [])
    assert peer.error().startswith("HandshakeError: ")
    assert "17 segments" in peer.frames()[0].header.decode(errors="replace")


@pytest.mark.parametrize("fqcn", ["", "R1.", "server", "R2", "X.R1", "R1.R1", "R1" * 200])
def test_a_parent_that_gives_an_impossible_name_is_refused(fqcn: str) -> None:
    peer = Peer.parent(new_endpoint("R1"), "R1", joined=False)
    peer.send(Kind.HELLO, *introduction("server", "server"))
    peer.send(Kind.WELCOME, fqcn)
    assert peer.error().startswith("HandshakeError: ")


@pytest.mark.parametrize("header", [b"", b"\xc1", pack(1), pack("R1", 1), pack(b"R1")])
def test_a_welcome_of_other_fields_is_refused(header: bytes) -> None:
    peer = Peer.parent(new_endpoint("R1"), "R1", joined=False)
    peer.send(Kind.HELLO, *introduction("server", "server"))
    peer.send_bytes(encode_frame(Kind.WELCOME, header))
    assert "RemoteProtocolError" in peer.error()


def handshake(credentials: Credentials | None = R1) -> Handshake:
    return Handshake(Self("R1", "relay", 1, credentials), MEMORY, NONCE, WALL)


@pytest.mark.parametrize("credentials", [None, R1])
def test_a_welcome_before_any_hello_is_believed_by_nobody(credentials: Credentials | None) -> None:
    with pytest.raises(RemoteProtocolError, match="before HELLO"):
        handshake(credentials).welcome_received(pack("R1"), b"")


def test_a_second_hello_is_not_answered() -> None:
    mine = handshake(None)
    hello = pack(*introduction("server", "server"))
    mine.hello_received(hello)
    with pytest.raises(RemoteProtocolError, match="twice"):
        mine.hello_received(hello)


def test_a_hello_that_was_refused_opens_no_way_for_a_welcome() -> None:
    mine = handshake()
    with pytest.raises(HandshakeError):
        mine.hello_received(pack(*introduction("server", "server")))
    with pytest.raises(RemoteProtocolError):
        mine.welcome_received(pack("R1"), b"")


def test_the_root_is_called_server_whatever_its_participant_is_called() -> None:
    assert SERVER.identity.name == "fl.example.com"
    outcome = attempt()
    assert outcome.net["R1"].router.parent is not None
    assert FQCN("R1").parent == FQCN(ROOT)


def test_a_delegations_signature_is_none_for_a_placement() -> None:
    delegation = Delegation("C1", "j1", "job", b"", 0).issue(MOBILE.authority.key)
    forged = Placement("mobile", "relay", "R1", (), "", signed=delegation.signed)
    assert attempt(child=replace(R1, placement=forged)).refusal("parent")[0] == "bad-signature"
