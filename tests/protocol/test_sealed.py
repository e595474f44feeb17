"""Between cells with credentials, who stands in between reads nothing, and makes nothing happen but silence."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from cellnet.errors import Indeterminate, StillUnreachable
from cellnet.fqcn import FQCN
from cellnet.protocol import askers as askers_module
from cellnet.protocol.events import Failed, Message, Replied
from cellnet.protocol.frames import Frame, Kind, pack, unpack
from tests.protocol.conftest import DAY, MINUTE, WALL, Net, Project, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from cellnet.credentials import Credentials

SECRET = b"what nobody in between may read"
PROJECT = Project()
SERVER = PROJECT.server()
RELAY = PROJECT.relay("R")
CLIENT = PROJECT.cell("C", parents=("R",))


def sealed_net(client: Credentials = CLIENT) -> Net:
    """Return ``server``, ``R`` and ``R.C``, each with credentials of its own."""
    net = Net()
    for name in ("server", "R", "R.C"):
        net.add(name)
    net.connect("R", credentials=(SERVER, RELAY), roles=("server", "relay"))
    net.run()
    assert RELAY.listening is not None
    net.connect("R.C", credentials=(RELAY.listening, client), roles=("relay", "client"))
    net.run()
    assert str(net["R.C"].fqcn) == "R.C"
    return net


def resend(frame: Frame, header: bytes | None = None, body: bytes | None = None) -> bytes:
    return encode_frame(
        frame.kind,
        frame.header if header is None else header,
        frame.body if body is None else body,
        label=frame.label,
        hop=frame.hop,
        remaining_ms=frame.remaining_ms,
    )


def watch(net: Net, link: str = "R") -> list[Frame]:
    """Return a list that grows with every frame that crosses a link."""
    seen: list[Frame] = []

    def note(frame: Frame) -> bytes:
        seen.append(frame)
        return resend(frame)

    net.links[link].tamper = note
    return seen


def test_a_cell_with_credentials_seals_what_it_sends_and_no_other() -> None:
    assert all(endpoint.credentials is not None for endpoint in sealed_net().endpoints.values())
    assert not any(endpoint.credentials is not None for endpoint in Net.tree("A").endpoints.values())


def outcomes(net: Net, origin: str = "server") -> list[str]:
    return [type(o).__name__ if isinstance(o, Replied) else type(o.error).__name__ for o in net.outcomes(origin)]


@pytest.mark.parametrize(("origin", "destination"), [("server", "R.C"), ("R.C", "server"), ("R.C", "R.C")])
def test_a_request_and_its_answer_cross_unread(origin: str, destination: str) -> None:
    net = sealed_net()
    seen = watch(net, "R.C")
    net.request(origin, destination, payload=SECRET, key="secret key")
    net[origin].send(FQCN(destination), "news", 1, SECRET, deadline=net.now + 5, now=net.now)
    net.run()
    assert outcomes(net, origin) == ["Replied"]
    assert {m.payload for m in net.received(destination, Message)} == {SECRET}
    for frame in seen:
        assert not any(word in frame.header + frame.body for word in (SECRET, b"secret key", b"echo", b"news"))


def test_a_broadcast_is_sealed_once_and_each_receiver_has_a_key_to_it() -> None:
    net = sealed_net()
    seen = watch(net)
    net.request("server", "R", "R.C", "server", payload=SECRET)
    net.tick(1)
    assert outcomes(net) == ["Replied"] * 3
    sent = [frame for frame in seen if frame.kind is Kind.BROADCAST]
    assert len(sent) == 1
    assert len(unpack(sent[0].header, list)[0]) == 2
    assert not any(SECRET in frame.header + frame.body for frame in seen)


def test_what_is_altered_played_again_or_invented_on_the_way_never_runs_and_costs_nobody_a_session() -> None:
    net = sealed_net()
    rng = random.Random(1)
    kept: list[Frame] = []
    altered = 0

    def alter(frame: Frame) -> bytes:
        nonlocal altered
        if frame.kind < Kind.REQUEST:
            return resend(frame)
        kept.append(frame)
        altered += 1
        body = bytearray(frame.body)
        if body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        again = rng.choice(kept)
        if again.label != frame.label:
            again = frame
        wrong = resend(frame, body=bytes(body)) if body else b""
        return wrong + resend(frame) + resend(frame) + resend(again) + resend(frame, body=frame.body[:-1])

    net.links["R.C"].tamper = alter
    for number in range(200):
        for origin, destination in (("server", "R.C"), ("R.C", "server")):
            net.request(origin, destination, payload=str(number).encode())
        net.run()
    assert altered > 800
    for origin, destination in (("server", "R.C"), ("R.C", "server")):
        assert outcomes(net, origin) == ["Replied"] * 200
        assert [m.payload for m in net.received(destination, Message)] == [str(n).encode() for n in range(200)]
        assert net[origin].exchange.refused + net[origin].switch.refused > 200


def lie(kind: Kind, answer: Callable[[Frame], bytes]) -> Callable[[Frame], bytes]:
    """Return a stranger on the link who lets frames pass, but says something of his own after each of a kind."""
    return lambda frame: resend(frame) + (answer(frame) if frame.kind is kind else b"")


def test_bad_news_about_what_arrived_is_not_believed() -> None:
    net = sealed_net()
    net.request("server", "R.C")
    net.run()
    assert outcomes(net) == ["Replied"]
    link = net.links["R"]
    net.request("server", "R.C", topic="hold", deadline=net.now + 5)
    net.request("server", "R.C", topic="hold", once=False)
    told: list[Frame] = []
    link.tamper = lambda frame: told.append(frame) or resend(frame)  # type: ignore[func-returns-value]
    net.run()
    link.tamper = None
    for frame in told:
        if frame.kind is Kind.REQUEST:
            session, counter = unpack(frame.header, int, int)
            said = pack("unreachable", "it is not there", [["R.C", session, counter]])
            net["server"].receive(link.listening, encode_frame(Kind.NACK, said, label=frame.label), net.now)
    net.run()
    (failed,) = (o for o in net.outcomes("server") if isinstance(o, Failed))
    assert type(failed.error) is Indeterminate
    assert "it is not there" in str(failed.error)
    net.tick(6)
    assert outcomes(net) == ["DeadlineExceeded"]
    assert len(net.received("R.C", Message)) == 3


def test_a_session_that_somebody_else_closes_is_opened_again_and_nothing_runs_twice() -> None:
    net = sealed_net()
    net.request("server", "R.C")
    net.run()
    link, seen = net.links["R"], watch(net)
    net.request("server", "R.C", topic="hold")
    net.run()
    (request,) = (frame for frame in seen if frame.kind is Kind.REQUEST)
    session, counter = unpack(request.header, int, int)
    back = next(label for label, one in link.listening.routes.items() if one.origin == FQCN("R.C"))
    forged = encode_frame(Kind.CLOSED, pack(session, counter), pack("go", b""), label=back, hop=9, remaining_ms=1000)
    net["server"].receive(link.listening, forged, net.now)
    net.tick(3)
    held = net.received("R.C", Message)[-1]
    net["R.C"].ended(held.number, 0, 0, b"", net.now)  # type: ignore[arg-type]
    net.run()
    assert outcomes(net)[-1] == "Replied"
    assert [m.topic for m in net.received("R.C", Message)] == ["echo", "hold"]


def test_an_open_that_was_recorded_ends_no_session_and_lets_nobody_in() -> None:
    net = sealed_net()
    seen = watch(net, "R.C")
    net.request("server", "R.C")
    net.run()
    (opened,) = (frame for frame in seen if frame.kind is Kind.OPEN)
    (request,) = (frame for frame in seen if frame.kind is Kind.REQUEST)
    link = net.links["R.C"]
    for _ in range(3):
        for frame in (opened, request):
            net["R.C"].receive(link.connecting, resend(frame), net.now)
    net.request("server", "R.C")
    net.run()
    assert outcomes(net) == ["Replied"] * 2
    assert len(net.received("R.C", Message)) == 2
    assert net.links["R"].sent(Kind.CLOSED) == 0


def test_a_relay_that_speaks_for_a_cell_below_it_is_refused_by_the_destination() -> None:
    net = sealed_net()
    relay, seen = net["R"], watch(net)
    # The relay calls itself by the name of its child, but its own certificate is all that it has to show.
    relay.router.fqcn = FQCN("R.C")
    relay.request([FQCN("server")], "echo", 1, b"forged", deadline=net.now + 3, now=net.now)
    relay.router.fqcn = FQCN("R")
    net.run()
    (refusal,) = (frame.body for frame in seen if frame.kind is Kind.CLOSED)
    assert unpack(refusal, str, bytes, str)[0] == "the certificate shown for R.C is for relay R"
    net.tick(4)
    assert outcomes(net, "R") == ["StillUnreachable"]
    assert net.received("server", Message) == []


def test_a_cell_without_credentials_is_not_talked_to() -> None:
    net = Net()
    net.add("server")
    net.add("C")
    net.connect("C")
    net.run()
    net["server"].credentials = SERVER
    net.request("C", "server", deadline=net.now + 3)
    net.request("server", "C", deadline=net.now + 3)
    net.tick(4)
    for origin in ("C", "server"):
        (failed,) = (o for o in net.outcomes(origin) if isinstance(o, Failed))
        assert isinstance(failed.error, StillUnreachable)
        assert "belongs to" in str(failed.error)
    assert net.received("server", Message) == net.received("C", Message) == []


def test_who_cannot_prove_who_it_is_is_told_why_and_its_asker_too() -> None:
    net = sealed_net()
    net["R.C"]._wall = lambda: WALL + 1000 * DAY  # type: ignore[method-assign]
    net["R.C"].exchange.asking.sessions._introducer._wall = lambda: WALL + 1000 * DAY  # the same one answers
    net.request("server", "R.C", deadline=net.now + 3)
    net.request("R.C", "server", deadline=net.now + 3)
    net.tick(4)
    for origin in ("server", "R.C"):
        (failed,) = (o for o in net.outcomes(origin) if isinstance(o, Failed))
        assert isinstance(failed.error, StillUnreachable)
        assert "expired" in str(failed.error)


def test_of_too_many_introductions_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(askers_module, "INTRODUCTIONS", 3)
    monkeypatch.setattr(askers_module, "INTRODUCTIONS_PER_SECOND", 1)
    net = Net.tree(*(f"R.C{number}" for number in range(5)), "D")
    origins = [f"R.C{number}" for number in range(5)]
    for origin in origins:
        net.request(origin, "server")
    net.request("D", "server")
    net.run()
    assert [outcomes(net, origin) for origin in (*origins, "D")] == [["Replied"]] * 3 + [[]] * 2 + [["Replied"]]
    net.tick(MINUTE / 2)
    assert [outcomes(net, origin) for origin in origins] == [[]] * 3 + [["Replied"]] * 2
