"""A bundle: the code of a job, as a folder with ``job.py``, as values, and as the bytes that travel.

The law of this file: a bundle comes from another machine, so names and sizes are checked before anything is
unpacked, and nothing is ever imported by a name that travelled. A job process loads ``job.py`` by its path.
"""

from __future__ import annotations

import importlib.util
import io
import re
import stat
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from cellnet.errors import ConfigurationError, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

__all__ = ["ENTRY", "MAX_BUNDLE_BYTES", "MAX_FILES", "MAX_PACKED_BYTES", "Bundle", "load_module", "own_frames"]

ENTRY = "job.py"
MAX_FILES = 64
MAX_BUNDLE_BYTES = 1024 * 1024
"""Of all files together, unpacked."""
MAX_PACKED_BYTES = MAX_BUNDLE_BYTES + 64 * 1024
"""Of the archive: names, and what cannot be compressed, make it larger than its files."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_MAX_NAME = 200
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others make hundreds of megabytes of a small archive before the first byte can be counted."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Hold the files of a job by their relative names, in order."""

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Check names and sizes.

        :raises JobError: saying what is not allowed
        """
        for name in self.files:
            _check_name(name)
        if ENTRY not in self.files:
            raise JobError(f"the bundle has no {ENTRY}: a job's tasks and its server function are looked up there")
        if len(self.files) > MAX_FILES:
            raise JobError(f"the bundle has {len(self.files)} files: {MAX_FILES} are allowed")
        _check_total(sum(map(len, self.files.values())))
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))

    @classmethod
    def read(cls, folder: Path | str) -> Bundle:
        """Read the bundle in *folder*; hidden files and compiled Python are left out.

        :raises ConfigurationError: if the folder or a file cannot be read, or is no plain file
        :raises JobError: if it breaks a rule for bundles
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ConfigurationError(f"there is no such folder: give the folder with the job's {ENTRY}", str(folder))
        files: dict[str, bytes] = {}
        total = 0
        for path in _plain_files(folder, folder):
            if len(files) == MAX_FILES:
                raise JobError(
                    f"{folder} holds more than {MAX_FILES} files: a bundle holds code, data stays at the sites"
                )
            total += path.stat().st_size
            _check_total(total)
            try:
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"cannot be read: {error.strerror}", str(path)) from None
        return cls(files)

    def pack(self) -> bytes:
        """Return the bundle as a zip archive; the same files give the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in self.files.items():
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.create_system = 3
                entry.external_attr = (stat.S_IFREG | 0o600) << 16
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Bundle:
        """Read what :meth:`pack` made, wherever it comes from.

        :raises JobError: if it is no such archive, or breaks a rule for bundles
        """
        if len(packed) > MAX_PACKED_BYTES:
            raise JobError(f"the bundle has {len(packed)} bytes, packed: {MAX_PACKED_BYTES} are allowed")
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                return cls(_unpacked(archive))
        except JobError:
            raise
        except Exception as error:  # the library has many words for a damaged archive, and no common one
            raise JobError(f"the bundle is no archive that this version reads: {error}") from None

    def write(self, folder: Path) -> None:
        """Write the files below *folder*, which must not exist yet."""
        folder.mkdir(mode=0o700)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)


def load_module(folder: Path) -> ModuleType:
    """Run the bundle's ``job.py`` as a module named ``job``; it may import its neighbours.

    The folder comes last in the search path, so a bundle cannot shadow an installed module. What the module
    raises passes through: it is the job's own fault, and its traceback belongs into the job's log.

    :raises JobError: if there is no such file
    """
    path = folder / ENTRY
    spec = importlib.util.spec_from_file_location("job", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise JobError(f"the bundle has no {ENTRY}")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(folder))
    sys.modules["job"] = module  # before it runs, as the import system does: dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def own_frames(error: BaseException) -> BaseException:
    """Return *error* with a traceback that begins in the job's own code, if it passed through any.

    What lies before is the library's and the event loop's, and would fill the end of a log that goes into an error.
    """
    module = sys.modules.get("job")
    folder = str(Path(module.__file__).parent) if module and module.__file__ else "no folder"
    trace = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(folder):
        trace = trace.tb_next
    return error.with_traceback(trace) if trace is not None else error


def _plain_files(folder: Path, top: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", str(folder)) from None
    for path in entries:
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _plain_files(path, top)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise ConfigurationError("is a link or no plain file: a bundle holds copies", str(path))


def _unpacked(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Read an archive's files, never more bytes than a bundle may have, whatever its directory promises."""
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise JobError(f"the bundle has {len(entries)} files: {MAX_FILES} are allowed")
    files: dict[str, bytes] = {}
    total = 0
    for entry in entries:
        _check_name(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise JobError(f"{entry.filename!r} in the bundle is a link or no plain file")
        if entry.compress_type not in _METHODS:
            raise JobError(f"{entry.filename!r} in the bundle is compressed in a way that is not ours")
        if entry.filename in files:
            raise JobError(f"{entry.filename!r} is in the bundle twice")
        with archive.open(entry) as stream:
            files[entry.filename] = stream.read(MAX_BUNDLE_BYTES + 1 - total)
        total += len(files[entry.filename])
        _check_total(total)
    return files


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or ".." in PurePosixPath(name).parts or len(name) > _MAX_NAME:
        raise JobError(
            f"{name[:_MAX_NAME]!r} is no name for a file of a bundle: letters, digits, '_', '-', '.', and '/' between "
            f"folders are allowed, at most {_MAX_NAME}"
        )


def _check_total(size: int) -> None:
    if size > MAX_BUNDLE_BYTES:
        raise JobError(f"the bundle's files have more than {MAX_BUNDLE_BYTES} bytes: data stays at the sites")
