"""A cell that moves to another parent has another name, and remains the same cell for all who know it."""

from __future__ import annotations

import pytest

from cellnet.fqcn import FQCN
from cellnet.protocol.envelope import Status
from cellnet.protocol.events import Failed, LinkFailed, MemberJoined, Message, Replied
from cellnet.protocol.frames import Kind
from cellnet.protocol.routing import MAX_FORMER, Member, Router
from tests.protocol.conftest import MINUTE, Net, Peer, Project, events, introduction, new_endpoint


def move(net: Net, name: str, parent: str) -> None:
    """Let a cell lose its parent and join another."""
    if net.links[name].is_up:
        net.cut(name)
    net.connect(name, parent=parent)
    net.run()


def answered(net: Net, origin: str) -> list[tuple[str, bytes]]:
    outcomes = net.outcomes(origin)
    assert all(isinstance(outcome, Replied) for outcome in outcomes), outcomes
    return [(str(outcome.source), outcome.payload) for outcome in outcomes if isinstance(outcome, Replied)]


ASKERS = ("server", "A", "A.X", "B", "B.Y", "D", "A.C")


@pytest.mark.parametrize("is_acquainted", [True, False])
@pytest.mark.parametrize("origin", ASKERS)
def test_who_moved_is_reached_by_its_former_name_from_everywhere(origin: str, is_acquainted: bool) -> None:
    net = Net.tree("A.C", "A.X", "B.Y", "D")
    if is_acquainted:
        net.request(origin, "A.C", payload=b"before")
        net.tick(1)
        assert answered(net, origin) == [("A.C", b"before")]
    move(net, "A.C", "B")
    assert str(net["A.C"].fqcn) == "B.C"
    net.request(origin, "A.C", payload=b"former")
    net.tick(1)
    net.request(origin, "B.C", payload=b"new")
    net.tick(1)
    assert answered(net, origin) == [("A.C", b"former"), ("B.C", b"new")]
    assert [m.payload for m in net.received("A.C", Message)][-2:] == [b"former", b"new"]


@pytest.mark.parametrize("destination", ASKERS)
def test_what_a_cell_asked_before_it_moved_is_answered_and_runs_once(destination: str) -> None:
    net = Net.tree("A.C", "A.X", "B.Y", "D")
    net.request("A.C", destination, topic="hold", payload=b"works")
    net.tick(1)
    (message,) = net.received(destination, Message)
    net.cut("A.C")
    net[destination].ended(message.number, Status.OK, 1, b"done", net.now)
    move(net, "A.C", "B")
    net.request("A.C", destination, payload=b"next")
    net.tick(2)
    assert sorted(answered(net, "A.C")) == [(destination, b"done"), (destination, b"next")]
    assert [m.payload for m in net.received(destination, Message)] == [b"works", b"next"]


def test_what_a_cell_works_on_when_it_moves_is_answered_from_where_it_is_and_runs_once() -> None:
    net = Net.tree("A.C", "B", "D")
    net.request("D", "A.C", topic="hold", payload=b"works")
    net.tick(1)
    (message,) = net.received("A.C", Message)
    move(net, "A.C", "B")
    net["A.C"].ended(message.number, Status.OK, 1, b"done", net.now)
    net.tick(5)
    assert answered(net, "D") == [("A.C", b"done")]
    assert len(net.received("A.C", Message)) == 1


def test_an_answerer_is_told_where_its_asker_is() -> None:
    net = Net.tree("A.C", "B", "D")
    net.request("A.C", "D", payload=b"before")
    net.tick(1)
    move(net, "A.C", "B")
    net.request("A.C", "D", payload=b"after")
    net.tick(1)
    asked = net.received("D", Message)
    assert [(str(m.origin), str(m.source)) for m in asked] == [("A.C", "A.C"), ("A.C", "B.C")]


def test_a_broadcast_reaches_those_that_moved_once() -> None:
    net = Net.tree("A.C", "A.X", "B.Y")
    move(net, "A.C", "B")
    net.request("server", "A.C", "A.X", "B.Y", "A", payload=b"all")
    net.tick(1)
    assert sorted(name for name, _payload in answered(net, "server")) == ["A", "A.C", "A.X", "B.Y"]
    net.request("server", "A.C", "A.X", "B.Y", "A", payload=b"again")
    net.tick(1)
    assert len(answered(net, "server")) == 4
    assert [m.payload for m in net.received("A.C", Message)] == [b"all", b"again"]


def test_those_below_a_relay_that_moves_are_found_by_their_former_names() -> None:
    net = Net.tree("A.R.C", "B", "D")
    net.request("D", "A.R.C", payload=b"before")
    net.tick(1)
    move(net, "A.R", "B")
    net.connect("A.R.C", parent="A.R")
    net.run()
    assert str(net["A.R.C"].fqcn) == "B.R.C"
    net.request("D", "A.R.C", payload=b"after")
    net.tick(2)
    assert answered(net, "D") == [("A.R.C", b"before"), ("A.R.C", b"after")]


def test_a_cell_that_comes_back_has_its_name_again() -> None:
    net = Net.tree("A.C", "B", "D")
    net.request("D", "A.C", topic="hold", payload=b"works")
    net.tick(1)
    for parent in ("B", "A"):
        move(net, "A.C", parent)
        net.request("D", "A.C", payload=parent.encode())
        net.tick(2)
        assert ("A.C", parent.encode()) in answered(net, "D")
    assert str(net["A.C"].fqcn) == "A.C"
    assert net["A.C"].router.former == (FQCN("B.C"),)
    assert [m.payload for m in net.received("A.C", Message)] == [b"works", b"B", b"A"]


@pytest.mark.parametrize("once", [True, False], ids=["repeated", "sent once"])
@pytest.mark.parametrize("origin", ["D", "A.X", "B.Y"])
def test_who_came_back_and_was_started_again_is_found_by_those_who_knew_it_elsewhere(origin: str, once: bool) -> None:
    net = came_back(origin)
    net.request(origin, "A.C", payload=b"again", once=once)
    net.tick(2)
    outcome = net.outcomes(origin)[-1]
    if once:
        assert isinstance(outcome, Replied)
        assert outcome.payload == b"again"
    else:
        assert isinstance(outcome, Failed)
        net.request(origin, "A.C", payload=b"once more", once=False)
        net.tick(2)
        assert answered(net, origin)[-1:] == [("A.C", b"once more")]


def came_back(origin: str) -> Net:
    """Let a cell move, be asked where it is then, come back, and be started again."""
    net = Net.tree("A.C", "A.X", "B.Y", "D")
    move(net, "A.C", "B")
    net.request(origin, "A.C", payload=b"there")
    net.tick(1)
    assert answered(net, origin) == [("A.C", b"there")]
    move(net, "A.C", "A")
    net.cut("A.C")
    net.add("A.C", 2)
    net.connect("A.C")
    net.run()
    return net


def test_since_when_a_cell_can_be_asked_does_not_change_when_it_moves() -> None:
    net = Net.tree("B")
    net.tick(7)
    net.add("A"), net.connect("A"), net.run()
    assert net["A"].exchange.answering.started == net.now
    net.tick(7)
    move(net, "A", "B")
    assert net["A"].exchange.answering.started == net.now - 7


def test_a_cell_of_the_same_base_name_is_not_taken_for_one_that_left() -> None:
    net = Net.tree("A.C", "B.C")
    net.cut("A.C")
    for origin in ("server", "A", "B", "B.C"):
        net.request(origin, "A.C", once=False)
        net.run()
        (failed,) = net.outcomes(origin)
        assert isinstance(failed, Failed)
        assert "no cell A.C is present" in str(failed.error)
    assert net.received("B.C", Message) == []


def test_who_has_the_name_now_is_meant_and_not_who_had_it() -> None:
    net = Net.tree("A.C", "B")
    move(net, "A.C", "B")
    other = Net.tree("A.C")["A.C"]  # another process of the same name
    net.endpoints["other"] = other
    other.router.parent = None
    net.connect("other", parent="A")
    net.run()
    net.request("server", "A.C", payload=b"?")
    net.tick(1)
    assert [m.payload for m in net.received("other", Message)] == [b"?"]
    assert net.received("A.C", Message) == []


def test_the_last_names_of_a_cell_are_known_and_no_more() -> None:
    parents = [f"P{number}" for number in range(MAX_FORMER + 4)]
    net = Net.tree("P0.C", *parents)
    for parent in parents[1:]:
        move(net, "P0.C", parent)
    joined = net.received("server", MemberJoined)[-1].member
    assert joined.former == tuple(FQCN(f"{parent}.C") for parent in reversed(parents[3:-1]))
    assert len(joined.former) == MAX_FORMER
    assert len(net["P0.C"].router.former) == MAX_FORMER
    net.request("server", "P3.C", "P2.C", once=False)
    net.tick(1)
    first, second = net.outcomes("server")
    assert (type(first), type(second)) in [(Replied, Failed), (Failed, Replied)]


def test_what_is_known_of_who_moved_ends_with_it() -> None:
    router: Router[str] = Router(FQCN("server"))
    old, new = FQCN("A.C"), FQCN("B.C")
    router.join(Member(new, "cell", "", 1, "tcp", "clear", (old, FQCN("D.C"))), "B")
    assert router.holds(old)
    router.join(Member(FQCN("E.C"), "cell", "", 2, "tcp", "clear", (old,)), "E")
    assert router.next_hop(old) == "E"
    router.leave(new, "B")
    assert router.next_hop(old) == "E"
    assert not router.holds(FQCN("D.C"))
    router.join(Member(FQCN("E.C"), "cell", "", 2, "tcp", "clear"), "E")
    assert not router.holds(old)
    assert router._moved == {}


def test_sealed_cells_and_jobs_follow_too() -> None:
    project = Project()
    net = Net.tree("A", "B")
    for name in ("A", "B"):
        net.cut(name)
    server, relays = project.server(), {name: project.relay(name) for name in ("A", "B")}
    for name, relay in relays.items():
        net.connect(name, credentials=(server, relay), roles=("server", "relay"))
    net.run()
    site = project.cell("C", parents=("A", "B"))
    net.add("A.C")
    net.add("A.C.j")
    job = site.delegate("j", "job", net.wall.replace(year=2099))

    def join(parent: str) -> None:
        net.connect("A.C", parent=parent, credentials=(relays[parent], site), roles=("relay", "client"))
        net.run()
        net.connect("A.C.j", parent="A.C", credentials=(site, job), roles=("client", "job"))
        net.run()

    join("A")
    net.request("server", "A.C", "A.C.j", payload=b"before")
    net.request("A.C.j", "server", payload=b"up")
    net.tick(2)
    net.cut("A.C")
    join("B")
    assert str(net["A.C.j"].fqcn) == "B.C.j"
    net.request("server", "A.C", "A.C.j", payload=b"after")
    net.request("A.C.j", "server", payload=b"up")
    net.tick(MINUTE / 2)
    assert sorted(answered(net, "server")) == [
        ("A.C", b"after"), ("A.C", b"before"), ("A.C.j", b"after"), ("A.C.j", b"before"),
    ]  # fmt: skip
    assert answered(net, "A.C.j") == [("server", b"up")] * 2


def test_former_names_that_are_too_long_for_presence_are_not_told_of() -> None:
    first, second = (".".join([letter * 60] * 4) for letter in "sr")
    net = Net.tree(f"{first}.C", second, "B", "D")
    for parent in ("B", second, "D"):
        move(net, f"{first}.C", parent)
    (member,) = [one for one in net["server"].router.members() if str(one.fqcn) == "D.C"]
    assert [str(former) for former in member.former] == [f"{second}.C", "B.C"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["A.D"], "had another base name"),
        (["A.C", 7], "malformed"),
        (["A..C"], "no FQCN"),
        (["A.C"] * (MAX_FORMER + 2), "malformed"),
    ],
)
def test_who_joins_with_names_that_cannot_have_been_its_own_is_refused(names: list[object], said: str) -> None:
    peer = Peer.child(new_endpoint("server"), "C", joined=False)
    peer.send(Kind.JOIN, *introduction("C"), b"", b"", names)
    assert said in peer.error()


def test_a_job_says_only_that_it_was_one_of_the_same_site() -> None:
    server = new_endpoint("server")
    peer = Peer.child(server, "j", joined=False)
    peer.send(Kind.JOIN, *introduction("j", "job"), b"", b"", ["R1.C1.j", "server.j", "R1.j"])
    (joined,) = [event.member for event in events(server, MemberJoined)]
    assert (str(joined.fqcn), joined.former) == ("server.j", ())
    site = new_endpoint("C1")
    site.router.fqcn = FQCN("R1.C1")
    site.router.fqcn = FQCN("R2.C1")
    peer = Peer.child(site, "j", joined=False)
    peer.send(Kind.JOIN, *introduction("j", "job"), b"", b"", ["R1.C1.j", "R1.C2.j", "R2.C1.j"])
    (joined,) = [event.member for event in events(site, MemberJoined)]
    assert (str(joined.fqcn), joined.former) == ("R2.C1.j", (FQCN("R1.C1.j"),))


def test_two_cells_are_never_below_each_other() -> None:
    net = Net.tree("A.B")
    net.cut("A"), net.cut("A.B")
    net.connect("A", parent="A.B")
    net.run()
    assert net["A"].router.parent is None
    (failed,) = [event for event in net.received("A", LinkFailed) if "may not join" in str(event.error)]
    assert "A may not join below A.B, which is below A" in str(failed.error)
