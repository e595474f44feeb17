"""The job tree: it mirrors the client hierarchy over the chosen sites."""

from __future__ import annotations

import pytest

from cellnet.errors import JobError
from cellnet.fqcn import FQSN
from cellnet.jobs.tree import JobTree, choose

GUIDE = tuple(map(FQSN, ("C1", "C1.C11", "C1.C12", "C2", "C2.C21", "C2.C22")))


def names(sites: tuple[FQSN, ...]) -> list[str]:
    return list(map(str, sites))


def test_it_mirrors_the_client_hierarchy_of_the_guide() -> None:
    tree = JobTree(GUIDE)
    assert names(tree.top) == ["C1", "C2"]
    assert names(tree.children(FQSN("C1"))) == ["C1.C11", "C1.C12"]
    assert tree.parent(FQSN("C2.C21")) == FQSN("C2")
    assert tree.parent(FQSN("C1")).is_root


def test_a_flat_run_has_all_sites_below_the_server() -> None:
    tree = JobTree(GUIDE, flat=True)
    assert tree.top == GUIDE
    assert not any(tree.children(site) for site in GUIDE)


def test_a_site_whose_parent_was_not_chosen_stands_below_its_nearest_chosen_ancestor() -> None:
    deep = tuple(map(FQSN, ("A", "A.B.C", "A.B.C.D", "X.Y")))
    tree = JobTree(deep)
    assert tree.parent(FQSN("A.B.C")) == FQSN("A")
    assert tree.parent(FQSN("A.B.C.D")) == FQSN("A.B.C")
    assert tree.parent(FQSN("X.Y")).is_root


def test_children_are_in_the_order_of_their_names_whatever_order_they_came_in() -> None:
    assert JobTree(reversed(GUIDE)).sites == GUIDE


def test_sites_are_chosen_by_base_name_or_by_fqsn() -> None:
    assert names(choose(GUIDE, ["C11", "C2.C21", "C11"])) == ["C1.C11", "C2.C21"]


def test_all_sites_are_chosen_by_default() -> None:
    assert choose(reversed(GUIDE), None) == GUIDE


def test_an_unknown_site_is_named_with_those_there_are() -> None:
    with pytest.raises(JobError, match=r"there is no site C9, X: the project has C1, C1\.C11"):
        choose(GUIDE, ["X", "C1", "C9"])


@pytest.mark.parametrize(("known", "wanted"), [((), None), (GUIDE, [])])
def test_a_job_needs_a_site(known: tuple[FQSN, ...], wanted: list[str] | None) -> None:
    with pytest.raises(JobError, match="name at least one"):
        choose(known, wanted)
