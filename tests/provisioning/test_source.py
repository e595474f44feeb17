"""YAML with places: what is refused, where, and that nothing brings the reader down."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import ConfigurationError
from provisioning import ProjectError
from provisioning.plan import draw
from provisioning.problems import did_you_mean
from provisioning.source import Source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "f.yml:1:1: PRJ003: the file is empty"),
        (b"# nothing\n", "f.yml:1:1: PRJ003: the file is empty"),
        (b"a: 1\nb:\n\t- c\n", "f.yml:3:1: PRJ001: a tab may not indent a line: use spaces"),
        (b"a: 1\n---\nb: 2\n", "f.yml:2:1: PRJ001: a second document begins here: one is allowed"),
        (
            b"a: 1\nb: !!python/name:os.system x\n",
            "f.yml:2:4: PRJ001: the tag 'tag:yaml.org,2002:python/name:os",
        ),
        (b"a: !!python/object/apply:os.system [x]\n", "f.yml:1:4: PRJ001: the tag"),
        (b"a: !!set {x}\n", "f.yml:1:4: PRJ001: the tag"),
        (b"a: !!binary aGk=\n", "f.yml:1:4: PRJ001: the tag"),
        (b"name: x\nb: 1\n\nname: y\n", "f.yml:4:1: PRJ002: duplicate key 'name' (first at line 1)"),
        (b"a: {b: 1, b: 2}\n", "f.yml:1:11: PRJ002: duplicate key 'b' (first at line 1)"),
        (b"a: &x [*x]\n", "f.yml:1:8: PRJ001: an alias (*) may only stand for a plain text"),
        (b"a: &x {b: 1}\nc: *x\n", "f.yml:2:4: PRJ001: an alias (*) may only stand for a plain text"),
        (b"a:\n  b: 1\n  <<: {c: 1}\n", "f.yml:3:3: PRJ001: merge keys (<<) are not supported"),
        (b"? [a]\n: 1\n", "f.yml:1:3: PRJ001: a key must be a text"),
        (b"a: *nowhere\n", "f.yml:1:4: PRJ001: this is no YAML: found undefined alias"),
        (b"a: [1\n", "f.yml:2:1: PRJ001: this is no YAML"),
        (b"a: 1\nb: \xff\n", "f.yml:2:4: PRJ001: this byte is no UTF-8"),
        (b"\xef\xbb\xbfa: 1\nb: \xff\n", "f.yml:2:4: PRJ001: this byte is no UTF-8"),
        ("a: é\né: ".encode() + b"\xff\n", "f.yml:2:4: PRJ001: this byte is no UTF-8"),
        (b"a: 1\nbc: \x07\n", "f.yml:2:5: PRJ001: a character that YAML does not allow"),
        ("# é\nbc: \x07\n".encode(), "f.yml:2:5: PRJ001: a character that YAML does not allow"),
        (b"a: " + b"[" * 21 + b"]" * 21, "f.yml:1:23: PRJ001: this is nested too deeply"),
    ],
)
def test_a_text_that_is_no_plain_yaml_is_refused_at_the_place(text: bytes, message: str) -> None:
    with pytest.raises(ProjectError) as caught:
        Source.parse(text, "f.yml")
    assert str(caught.value).startswith(message)


def test_an_alias_of_a_plain_text_is_as_good_as_the_text() -> None:
    assert Source.parse(b"a: &org acme\nb: *org\n", "f").value == {"a": "acme", "b": "acme"}


def test_values_are_what_an_operator_meant_and_not_what_yaml_1_1_makes_of_them() -> None:
    value = Source.parse(b"day: 2026-01-02\nport: 8002\noctal: 010\ntime: 80:02\nname: 'no'\nempty:\n", "f").value
    assert (value["day"], value["port"], value["name"], value["empty"]) == ("2026-01-02", 8002, "no", None)
    assert (repr(value["octal"]), repr(value["time"])) == ("010", "80:02")
    assert not isinstance(value["octal"], int)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert Source.parse("\ufeffa: 1".encode(), "f").value == {"a": 1}


def test_every_duplicate_is_reported_at_once() -> None:
    with pytest.raises(ProjectError) as caught:
        Source.parse(b"a: 1\na: 2\nb: {c: 1, c: 2}\n", "f")
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_nesting_that_would_kill_the_c_parser_is_an_error_with_a_place() -> None:
    # in a process of its own: without the check, this is a segmentation fault
    script = (
        "from provisioning import ProjectError\nfrom provisioning.source import Source\n"
        "try:\n    Source.parse(b'[' * 500_000 + b']' * 500_000, 'f')\n"
        "except ProjectError as error:\n    raise SystemExit(str(error))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    # A C parser that has a limit of its own looks ahead, and is there before us.
    assert done.returncode == 1
    assert re.fullmatch(r"f:1:(21|1001): PRJ001: this is nested too deeply", done.stderr.strip())


def test_a_billion_laughs_cost_nothing() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    with pytest.raises(ProjectError, match="may only stand for a plain text"):
        Source.parse(text.encode(), "f")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yml", tmp_path):
        with pytest.raises(ConfigurationError) as caught:
            Source.read(path)
        assert str(caught.value).startswith(f"{path}:1:1: PRJ000: cannot be read: ")


@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t\x00é01.", max_size=120).map(str.encode))
def test_no_bytes_raise_anything_but_a_project_error(data: bytes) -> None:
    problems = None
    try:
        draw(Source.parse(data, "f"))
    except ProjectError as error:
        problems = error.problems
    assert problems, "none of these is a project"
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("shceme", "did you mean 'scheme'?"), ("SCHEME", "did you mean 'scheme'?"), ("xyz", ""), (7, "")],
)
def test_a_suggestion_is_made_when_one_comes_near(word: object, hint: str) -> None:
    assert did_you_mean(word, ["scheme", "port"]) == hint
