"""Bundles: what may travel as a job's code, and what is refused."""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from cellnet.errors import ConfigurationError, JobError
from cellnet.jobs import bundle as limits
from cellnet.jobs.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path


def archive(*entries: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as writing:
        for name, content in entries:
            writing.writestr(name, content)
    return buffer.getvalue()


def test_a_folder_survives_the_journey(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "parts").mkdir(parents=True)
    (source / "job.py").write_text("tasks = {}\n")
    (source / "parts" / "more.py").write_text("x = 1\n")
    Bundle.unpack(Bundle.read(source).pack()).write(tmp_path / "target")
    assert (tmp_path / "target" / "job.py").read_text() == "tasks = {}\n"
    assert (tmp_path / "target" / "parts" / "more.py").read_text() == "x = 1\n"


def test_the_same_files_give_the_same_bytes_whatever_their_order_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Bundle({"job.py": b"a", "b.py": b"b"}).pack()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert Bundle({"b.py": b"b", "job.py": b"a"}).pack() == one


def test_hidden_files_and_compiled_python_stay_at_home(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("")
    (tmp_path / ".secret").write_text("")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "job.pyc").write_text("")
    assert list(Bundle.read(tmp_path).files) == ["job.py"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"nowhere: there is no such folder: give the folder with the job's job\.py"
    ):
        Bundle.read(tmp_path / "nowhere")


def test_a_bundle_without_job_py_is_refused() -> None:
    with pytest.raises(JobError, match=r"has no job\.py"):
        Bundle({"other.py": b""})


def test_a_link_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("")
    (tmp_path / "shortcut.py").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match=r"shortcut\.py: is a link"):
        Bundle.read(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../up.py",
        "a/../../up.py",
        "a//b.py",
        "a\\b.py",
        "C:/x",
        "",
        ".hidden",
        "x\0.py",
        "a/",
        "a" * 300,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(JobError, match="is no name for a file of a bundle"):
        Bundle({"job.py": b"", name: b""})


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.py", "a/../../up.py"])
def test_a_name_in_an_archive_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(JobError, match="is no name for a file of a bundle"):
        Bundle.unpack(archive(("job.py", b""), (zipfile.ZipInfo(name), b"")))


def test_a_link_in_an_archive_is_refused() -> None:
    link = zipfile.ZipInfo("link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(JobError, match="is a link or no plain file"):
        Bundle.unpack(archive(("job.py", b""), (link, b"/etc/passwd")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_in_an_archive_is_refused() -> None:
    with pytest.raises(JobError, match="is in the bundle twice"):
        Bundle.unpack(archive(("job.py", b"a"), ("job.py", b"b")))


def test_an_archive_that_grows_beyond_the_limit_when_unpacked_is_refused() -> None:
    bomb = archive(("job.py", b""), ("zeros", bytes(limits.MAX_BUNDLE_BYTES + 1)))
    assert len(bomb) < limits.MAX_PACKED_BYTES
    with pytest.raises(JobError, match=f"more than {limits.MAX_BUNDLE_BYTES} bytes"):
        Bundle.unpack(bomb)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_may_take_any_memory_to_unpack_is_refused(method: int) -> None:
    with pytest.raises(JobError, match="compressed in a way that is not ours"):
        Bundle.unpack(archive(("job.py", b"a"), compression=method))


def test_an_archive_whose_file_is_said_to_lie_beyond_all_bounds_is_refused() -> None:
    entry = zipfile.ZipInfo("job.py")
    entry.extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    data = bytearray(archive((entry, b"a")))
    at = data.rindex(b"PK\x01\x02")
    data[at + 42 : at + 46] = b"\xff" * 4
    with pytest.raises(JobError, match="no archive that this version reads"):
        Bundle.unpack(bytes(data))


def test_an_archive_that_lies_about_a_size_is_refused() -> None:
    honest = archive(("job.py", bytes(100)), compression=zipfile.ZIP_STORED)
    lying = honest.replace((100).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    with pytest.raises(JobError, match="no archive that this version reads"):
        Bundle.unpack(lying)


def test_too_many_files_are_refused() -> None:
    files = {"job.py": b"", **{f"f{number}.py": b"" for number in range(limits.MAX_FILES)}}
    with pytest.raises(JobError, match=f"has {limits.MAX_FILES + 1} files"):
        Bundle(files)
    with pytest.raises(JobError, match=f"has {limits.MAX_FILES + 1} files"):
        Bundle.unpack(archive(*files.items()))


def test_too_many_files_in_a_folder_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for number in range(limits.MAX_FILES + 1):
        (tmp_path / f"f{number}.py").touch()
    with pytest.raises(JobError, match=f"more than {limits.MAX_FILES} files"):
        Bundle.read(tmp_path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "data.bin").open("wb") as data:
        data.truncate(10**12)
    with pytest.raises(JobError, match="data stays at the sites"):
        Bundle.read(tmp_path)


def test_whatever_a_bundle_may_hold_may_travel() -> None:
    import random

    each = limits.MAX_BUNDLE_BYTES // limits.MAX_FILES
    names = [limits.ENTRY, *(f"{number:0>200}" for number in range(1, limits.MAX_FILES))]
    bundle = Bundle({name: random.Random(name).randbytes(each) for name in names})
    assert limits.MAX_BUNDLE_BYTES < len(bundle.pack()) <= limits.MAX_PACKED_BYTES
    assert Bundle.unpack(bundle.pack()) == bundle


def test_an_archive_that_is_larger_than_any_bundle_is_refused_before_it_is_read() -> None:
    with pytest.raises(JobError, match=f"{limits.MAX_PACKED_BYTES} are allowed"):
        Bundle.unpack(bytes(limits.MAX_PACKED_BYTES + 1))


@pytest.mark.parametrize("garbage", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"no archive at all"])
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(JobError, match="no archive that this version reads"):
        Bundle.unpack(garbage)


def test_damaged_archives_raise_nothing_but_job_errors() -> None:
    import random

    rng = random.Random(2)
    good = Bundle({"job.py": b"tasks = {}\n" * 50, "more.py": b"x = 1\n"}).pack()
    for _ in range(3000):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with suppress(JobError):
            Bundle.unpack(bytes(damaged))


def test_job_py_is_loaded_by_its_path_and_finds_its_neighbours_but_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "from __future__ import annotations\n"  # dataclasses look such annotations up in the module
        "import dataclasses, json, neighbour\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "answer = (neighbour.value, Point(1).x, json.dumps([]))\n"
    )
    (tmp_path / "neighbour.py").write_text("value = 7\n")
    (tmp_path / "json.py").write_text("raise ImportError('shadowed')\n")
    code = (
        "from pathlib import Path; from cellnet.jobs.bundle import load_module; "
        f"print(load_module(Path({str(tmp_path)!r})).answer)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "(7, 1, '[]')"
