"""Names and patterns: the grammar, the tree, and that every walk over it takes the tree's own path."""

from __future__ import annotations

import copy
import pickle

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import ConfigurationError, InvalidName
from cellnet.fqcn import FQCN, FQSN, MAX_HOPS, MAX_NAME_BYTES, MAX_SEGMENTS, ROOT, Pattern, check_segment

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SEGMENTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True).filter(lambda text: text != ROOT)
SHORT = st.sampled_from(["a", "b", "R1", "C11"])  # few, so that names share branches and patterns match
PATHS = st.lists(SHORT, max_size=6)
NAMES = st.lists(SEGMENTS, min_size=1, max_size=MAX_SEGMENTS).map(".".join)
CELLS = PATHS.map(lambda path: FQCN(".".join(path) or ROOT)) | st.just(FQCN("server.job1")) | st.just(FQCN("server.a"))


def reference_parents(text: str) -> list[str]:
    """Return the names above *text*, nearest first, by string handling alone."""
    if text == ROOT:
        return []
    parent = ROOT if "." not in text or text.startswith("server.") else text.rpartition(".")[0]
    return [parent, *reference_parents(parent)]


@given(NAMES)
def test_a_name_is_the_text_that_it_was_parsed_from(text: str) -> None:
    for kind in (FQCN, FQSN):
        name = kind(text)
        assert str(name) == text
        assert kind(str(name)) == name
        assert kind(name) is name
        assert name.path == tuple(text.split("."))
        assert pickle.loads(pickle.dumps(name)) == copy.deepcopy(name) == name  # noqa: S301 - our own bytes


@given(NAMES, SEGMENTS)
def test_the_parent_of_a_child_is_the_name_itself(text: str, segment: str) -> None:
    name = FQCN(text)
    if len(name.path) == MAX_SEGMENTS or len(text) + 1 + len(segment) > MAX_NAME_BYTES:
        with pytest.raises(InvalidName):
            name.child(segment)
        return
    child = name.child(segment)
    assert (child.parent, child.base_name, child.depth) == (name, segment, name.depth + 1)
    assert name.is_ancestor_of(child)
    assert not child.is_ancestor_of(name)
    assert not name.is_ancestor_of(name)


@given(NAMES)
def test_the_way_up_leads_to_the_server(text: str) -> None:
    found = []
    name: FQCN | None = FQCN(text)
    while (name := name.parent if name else None) is not None:
        found.append(str(name))
    assert found == reference_parents(text)
    assert found[-1] == ROOT


@given(CELLS, CELLS)
def test_hops_reach_the_destination_in_the_length_of_the_tree_path_and_never_above_the_common_ancestor(
    source: FQCN, destination: FQCN
) -> None:
    up, down = ([str(end), *reference_parents(str(end))] for end in (source, destination))
    common = next(name for name in up if name in down)
    expected = up[1 : up.index(common) + 1] + down[: down.index(common)][::-1]
    assert str(source.common_ancestor(destination)) == str(destination.common_ancestor(source)) == common
    visited = []
    here = source
    while (hop := here.next_hop(destination)) is not None:
        assert hop.parent == here or here.parent == hop, "a hop is a link of the tree"
        visited.append(str(hop))
        here = hop
        assert len(visited) <= MAX_HOPS
    assert visited == expected


@given(CELLS, CELLS)
def test_an_ancestor_is_a_name_on_the_way_up(one: FQCN, other: FQCN) -> None:
    assert one.is_ancestor_of(other) == (str(one) in reference_parents(str(other)))


def test_the_walk_between_the_two_deepest_leaves_is_within_the_hop_limit() -> None:
    left, right = (FQCN(".".join([first] + ["x"] * (MAX_SEGMENTS - 1))) for first in ("a", "b"))
    hops, here = 0, left
    while (hop := here.next_hop(right)) is not None:
        hops, here = hops + 1, hop
    assert hops == MAX_HOPS == 2 * MAX_SEGMENTS


def test_the_root_is_server_and_is_above_everything() -> None:
    root = FQCN(ROOT)
    assert (root.is_root, root.parent, root.depth, root.path, root.base_name) == (True, None, 0, (), ROOT)
    assert root.child("R1") == FQCN("R1")
    assert root.is_ancestor_of(FQCN("R1.C1"))
    assert root.next_hop(root) is None


def test_a_job_of_the_server_is_one_step_below_it_and_any_other_sites_job_is_its_child() -> None:
    job = FQCN(ROOT).job("j1")
    assert (str(job), job.parent, job.depth, job.base_name) == ("server.j1", FQCN(ROOT), 1, "j1")
    assert job.next_hop(FQCN("R1.C1.j1")) == FQCN(ROOT)
    assert FQCN(ROOT).next_hop(job) == job
    assert FQCN("R1.C1").job("j1") == FQCN("R1.C1").child("j1") == FQCN("R1.C1.j1")


@pytest.mark.parametrize("text", ["server.a.b", "server.a.b.c"])
def test_only_the_server_and_its_jobs_begin_with_server(text: str) -> None:
    with pytest.raises(InvalidName, match=r"only 'server' and 'server.<job>' begin with 'server'"):
        FQCN(text)
    with pytest.raises(InvalidName, match="is the root"):
        FQCN(ROOT).child(ROOT)
    with pytest.raises(InvalidName):
        FQCN("server.a").child("b")
    assert FQCN("R1.server").base_name == "server"
    assert FQCN("Server").depth == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\n",
        "-a",
        "_a",
        "é",
        "a.*",
        "a/b",
        "a\x00",
        "\uff11",
        "a" * 64,
        "a." + "b" * 64,
    ],
)
def test_what_the_grammar_does_not_know_is_no_name(text: str) -> None:
    for kind in (FQCN, FQSN):
        with pytest.raises(InvalidName):
            kind(text)


def test_a_segment_is_what_the_grammar_says() -> None:
    # Random texts are hardly ever nearly a segment, so: each character at the front and behind a letter, each length.
    characters = [*map(chr, range(0x300)), "\uff11"]
    for text in [*characters, *(f"a{character}" for character in characters), *("a" * size for size in range(70))]:
        fits = 1 <= len(text) <= 63 and text[0] in LETTERS and all(letter in LETTERS + "_-" for letter in text)
        if fits:
            assert check_segment(text) == text
        else:
            with pytest.raises(InvalidName, match="is no name"):
                check_segment(text)


def deep() -> object:
    """Return a value that came over the network, and that has no repr."""
    return msgpack.unpackb(b"\x91" * 1020 + b"\xc0")


@pytest.mark.parametrize("value", [None, 7, b"a", ["a"], FQSN("a"), deep()])
def test_what_is_no_text_is_no_name(value: object) -> None:
    with pytest.raises(InvalidName):
        FQCN(value)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(InvalidName):
        check_segment(value)  # type: ignore[arg-type]  # as above


def test_the_limits_are_reached_and_not_passed() -> None:
    longest = "a" * 63
    assert check_segment(longest) == longest
    deepest = ".".join("a" * MAX_SEGMENTS)
    assert len(FQCN(deepest).path) == MAX_SEGMENTS == 16
    with pytest.raises(InvalidName, match="17 segments: 16 are allowed"):
        FQCN(deepest + ".a")
    widest = ".".join([longest] * 3 + ["a" * 63])
    assert len(widest) == MAX_NAME_BYTES == 255
    assert str(FQCN(widest)) == widest
    with pytest.raises(InvalidName, match="257 bytes is too long: 255 are allowed"):
        FQCN(widest + ".a")
    with pytest.raises(InvalidName, match="too long"):
        FQCN(widest).job("a")


def test_an_invalid_name_is_a_configuration_error_and_a_value_error() -> None:
    assert issubclass(InvalidName, ConfigurationError)
    assert issubclass(InvalidName, ValueError)


def test_names_are_frozen_case_sensitive_and_of_one_kind() -> None:
    name = FQCN("R1.C1")
    with pytest.raises(AttributeError):
        name.path = ()
    with pytest.raises(AttributeError):
        del name.path
    assert FQCN("r1.C1") != name
    assert FQSN("R1.C1") != name
    assert len({name, FQSN("R1.C1"), FQCN("R1.C1")}) == 2
    assert name != "R1.C1"


@given(st.lists(CELLS))
def test_names_sort_so_that_a_parent_comes_before_its_children(names: list[FQCN]) -> None:
    ordered = sorted(names)
    for index, name in enumerate(ordered):
        assert not any(name.is_ancestor_of(other) for other in ordered[:index])


# Patterns


def naive(pattern: list[str], name: list[str]) -> bool:
    """Match as one would say it aloud."""
    if not pattern or not name:
        return pattern == name
    if pattern == [">"]:
        return True
    return pattern[0] in ("*", name[0]) and naive(pattern[1:], name[1:])


def naive_match(pattern: str, name: str) -> bool:
    if name.split(".")[0] == ROOT and pattern.split(".")[0] != ROOT:
        return False
    return naive(pattern.split("."), name.split("."))


PATTERNS = st.tuples(
    st.lists(SHORT | st.just("*") | st.just(ROOT), max_size=5), st.sampled_from(["", ">", "*", "a"])
).map(lambda parts: ".".join([*parts[0], *([parts[1]] if parts[1] else [])]) or "*")


@given(PATTERNS, CELLS)
def test_a_pattern_matches_as_the_naive_reference_does(pattern: str, name: FQCN) -> None:
    assert Pattern(pattern).matches(name) == naive_match(pattern, str(name))


@given(NAMES)
def test_a_literal_pattern_matches_its_own_name_and_no_other(text: str) -> None:
    pattern = Pattern(text)
    assert pattern.is_literal
    assert str(pattern) == text
    assert pattern.matches(FQCN(text))
    assert not pattern.matches(FQCN("somewhere.else"))


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*", ["R1", "C1"], ["server", "server.j1", "R1.C1"]),
        (">", ["R1", "R1.C1", "R1.C1.j1"], ["server", "server.j1"]),
        ("R1.*", ["R1.C1"], ["R1", "R1.C1.j1", "R2.C1"]),
        ("R1.>", ["R1.C1", "R1.C1.j1"], ["R1", "R2.C1"]),
        ("*.*.j1", ["R1.C1.j1"], ["R1.C1.j2", "C1.j1", "server.j1"]),
        ("server", ["server"], ["server.j1", "R1"]),
        ("server.*", ["server.j1"], ["server", "R1.C1"]),
        ("server.>", ["server.j1"], ["server"]),
    ],
)
def test_a_wildcard_never_means_the_server(pattern: str, matching: list[str], other: list[str]) -> None:
    found = Pattern(pattern)
    assert not found.is_literal or pattern == ROOT
    assert [name for name in [*matching, *other] if found.matches(FQCN(name))] == matching


@pytest.mark.parametrize("text", ["", "a.>.b", "**", "a*", "a.", ">.a", "a b", "*." * 16 + "*", "a" * 64, "a>"])
def test_what_the_grammar_does_not_know_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidName):
        Pattern(text)
