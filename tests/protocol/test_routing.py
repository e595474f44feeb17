"""Routing: the links of one cell against a naive tree, and the two sides of a link."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from cellnet.fqcn import FQCN
from cellnet.protocol import routing
from cellnet.protocol.routing import Member, Router, Side

if TYPE_CHECKING:
    import pytest

SEGMENTS = ("a", "b", "c")
NAMES = [FQCN("server")] + [FQCN(".".join(path)) for n in (1, 2, 3) for path in product(SEGMENTS, repeat=n)]


def member(name: FQCN) -> Member:
    return Member(name, "cell", "", 1, "memory", "clear")


@given(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)), st.booleans(), st.lists(st.sampled_from(NAMES)))
def test_a_router_leads_down_to_who_is_present_and_up_to_all_others(
    me: FQCN, present: set[FQCN], has_parent: bool, destinations: list[FQCN]
) -> None:
    router: Router[str] = Router(me)
    router.parent = "up" if has_parent and not me.is_root else None
    below = [name for name in sorted(present) if me.is_ancestor_of(name)]
    for name in below:
        assert router.join(member(name), str(me.next_hop(name)))
    expected: dict[FQCN, str | None] = {}
    for name in set(destinations) - {me}:
        if me.is_ancestor_of(name):
            expected[name] = str(me.next_hop(name)) if name in below else router.parent  # it may have moved
        else:
            expected[name] = router.parent
        assert router.next_hop(name) == expected[name]
    assert [m.fqcn for m in router.members()] == below
    assert len(router) == len(below)


def test_nothing_can_be_reached_before_a_cell_has_a_name() -> None:
    router: Router[str] = Router(None)
    router.parent = "up"
    assert router.next_hop(FQCN("a")) is None


@given(st.sets(st.sampled_from(NAMES[1:])), st.sampled_from(NAMES[1:]))
def test_who_leaves_takes_along_all_below_it_that_came_over_the_same_link(present: set[FQCN], gone: FQCN) -> None:
    router: Router[str] = Router(FQCN("server"))
    for position, name in enumerate(sorted(present)):
        router.join(member(name), "one" if position % 3 else "two")
    links = {name: router.next_hop(name) for name in present}
    left = router.leave(gone, "one")
    expected = {name for name in present if Side(gone, below=True).holds(name) and links[name] == "one"}
    assert {m.fqcn for m in left} == expected
    assert {m.fqcn for m in router.members()} == present - expected
    assert all((router.member(name) is None) == (name in expected) for name in present)


def test_a_router_knows_as_many_cells_as_it_may_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_MEMBERS", 2)
    router: Router[str] = Router(FQCN("server"))
    assert router.join(member(FQCN("a")), "one")
    assert router.join(member(FQCN("b")), "one")
    assert not router.join(member(FQCN("c")), "one")
    assert router.join(member(FQCN("b")), "two")
    assert router.next_hop(FQCN("b")) == "two"
    assert len(router) == 2


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_every_cell_is_on_exactly_one_side_of_a_link(name: FQCN, cell: FQCN) -> None:
    below = str(f"{cell}.").startswith(f"{name}.") or name.is_root
    assert Side(name, below=True).holds(cell) == below
    assert Side(name, below=False).holds(cell) != below
