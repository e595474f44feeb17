"""What holds for the project as a whole: layers, public names, sizes."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cellnet

ROOT = Path(__file__).parents[1]
PACKAGES = ("cellnet", "relays", "provisioning")
TOUR = ("cell.py", "protocol/endpoint.py", "link.py", "protocol/connection.py", "drivers/tcp.py")


def test_no_module_imports_against_the_layers() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is in the group lint, which `make lint` installs")
    found = subprocess.run(
        [program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_every_public_name_of_the_library_is_reexported_and_exists() -> None:
    assert cellnet.__all__ == sorted(cellnet.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(cellnet, name) for name in cellnet.__all__)
    errors = importlib.import_module("cellnet.errors")
    assert set(errors.__all__) <= set(cellnet.__all__)


def test_every_error_stands_in_the_tree_at_the_head_of_its_file() -> None:
    errors = importlib.import_module("cellnet.errors")
    assert [name for name in errors.__all__ if f"{name} " not in f"{errors.__doc__} ".replace("\n", " ")] == []


def test_a_request_is_followed_through_five_files_of_readable_size() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    for name in TOUR:
        assert f"cellnet/{name}" in architecture
        assert len((ROOT / "cellnet" / name).read_text().splitlines()) < 400


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_is_under_four_hundred_lines(package: str) -> None:
    sizes = {str(path): len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert {path: size for path, size in sizes.items() if size >= 400} == {}


def test_a_program_that_uses_the_library_does_not_pay_for_what_it_does_not_use() -> None:
    unwanted = "('click', 'rich', 'pydantic', 'numpy', 'yaml', 'websockets', 'h11', 'grpc')"
    check = f"import sys, cellnet; print([name for name in {unwanted} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-P", "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_first_program_of_the_readme_runs_as_it_stands() -> None:
    program = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1] == "C1 {'site': 'C1', 'loss': 0.25, 'round': 2}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/protocol.md"])
def test_every_link_in_the_documents_leads_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
