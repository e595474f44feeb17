"""What a site says of the network around its node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellnet import ConfigurationError
from cellnet.surroundings import Surroundings


def said(path: Path, text: str, mode: int = 0o600) -> Surroundings:
    path.write_text(text)
    path.chmod(mode)
    return Surroundings.load(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.yml"


@pytest.mark.parametrize("text", [None, "", "# nothing\n"])
def test_a_site_need_not_say_anything(path: Path, text: str | None) -> None:
    if text is not None:
        path.write_text(text)
    assert Surroundings.load(path) == Surroundings(None, None)


def test_a_proxy_and_the_authority_of_an_ingress_are_taken(path: Path) -> None:
    found = said(path, "proxy: http://u:p@proxy:3128\ningress_ca: ingress.pem\n")
    assert found == Surroundings("http://u:p@proxy:3128", path.parent / "ingress.pem")


def test_an_authority_may_lie_elsewhere(path: Path) -> None:
    assert said(path, "ingress_ca: /etc/ssl/corporate.pem").ingress_ca == Path("/etc/ssl/corporate.pem")


@pytest.mark.parametrize("text", ["proxy:\n", "proxy: ''\n"])
def test_no_proxy_is_not_the_same_as_nothing_said(path: Path, text: str) -> None:
    assert said(path, text).proxy == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\nproxi: x\n", ":2:1: 'proxi' is not known: there are proxy, ingress_ca, issuer"),
        ("proxy: a\nproxy: b\n", ":2:1: proxy is there twice"),
        ("ingress_ca: [a, b]\n", ":1:1: ingress_ca is to be one text"),
        ("- proxy\n", ": says nothing that is known"),
        ("a: [\n", ":2:1: is no YAML: "),
        ("a: b: c\n", ":1:5: is no YAML: "),
    ],
)
def test_what_is_wrong_is_told_with_its_place(path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        said(path, text)
    assert str(caught.value).startswith(f"{path}{told}")


def test_a_password_that_others_can_read_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run chmod 600"):
        said(path, "proxy: http://u:p@proxy:3128\n", mode=0o644)
    assert said(path, "proxy: http://proxy:3128\n", mode=0o644).proxy == "http://proxy:3128"


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Surroundings.load(path)
