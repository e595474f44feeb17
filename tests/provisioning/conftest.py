"""What the provisioning tests share: small projects as text, and what comes of them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING

import pytest

from provisioning import Lock, Plan, ProjectError, Provisioned, provision
from provisioning.plan import draw
from provisioning.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

LOCK = Lock("key file", b"k" * 64)
BUILDERS = "builders: [{path: a.StaticFileBuilder}]"
GUIDE = Path(__file__).parent / "fixtures" / "guide-project.yml"
EXAMPLE = Path(__file__).parents[2] / "project.yml.example"


@pytest.fixture
def guide() -> Path:
    return GUIDE


@pytest.fixture
def example() -> Path:
    return EXAMPLE


@pytest.fixture
def project() -> Callable[..., str]:
    """Return the text of a project: a server, and the participants given; further keys for the top."""

    def write(*participants: str, server: str = "default_host: localhost", top: str = BUILDERS) -> str:
        first = f"name: server\ntype: server\norg: acme\n{dedent(server)}"
        entries = [indent(dedent(entry).strip(), "    ") for entry in (first, *participants)]
        listed = "\n".join("  - " + entry[4:] for entry in entries)
        return f"api_version: 3\nname: lab\n{dedent(top)}\nparticipants:\n{listed}\n"

    return write


@pytest.fixture
def plan() -> Callable[[str], Plan]:
    return lambda text: draw(Source.parse(text.encode(), "project.yml"))


@pytest.fixture
def errors(plan: Callable[[str], Plan]) -> Callable[[str], list[str]]:
    """Return the errors in a project's text, as an operator would see them."""

    def find(text: str) -> list[str]:
        with pytest.raises(ProjectError) as caught:
            plan(text)
        return str(caught.value).splitlines()

    return find


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the user's settings are, which is not where those of who runs the tests are."""
    folder = tmp_path / "settings"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture
def kits(example: Path, tmp_path: Path) -> Path:
    """Provision the example, and return the folder of its kits."""
    out = tmp_path / "kits"
    done = provision(example, out, LOCK)
    assert isinstance(done, Provisioned)
    return out
