"""A YAML text as plain values, where each of them stands, and everything that is wrong with it.

PyYAML builds the nodes, we the values: only plain texts, integers, truth values, lists and mappings exist here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from provisioning.problems import Code, Problem, ProjectError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_BYTES", "Source", "YamlPath"]

YamlPath = tuple[str | int, ...]
"""Keys and positions from the top of the file to a value."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is six times as fast, but not built everywhere
_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 20
_TOO_DEEP = "this is nested too deeply"
MAX_BYTES = 16 * 1024 * 1024
"""Of a project file; one with 100,000 participants has about as many."""


@dataclass(slots=True)
class Source:
    """A YAML file that was read, and what was found about it."""

    file: str
    value: Any = None
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    _values: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)
    _keys: dict[YamlPath, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a file.

        :raises ProjectError: if it cannot be read, is no YAML, has a duplicate key, or what has no plain value
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            problem = Problem(1, 1, Code.UNREADABLE, "", f"cannot be read: {error.strerror}", "", str(path))
            raise ProjectError([problem]) from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, file: str) -> Source:
        """Read a text; *file* is what messages call it.

        :raises ProjectError: as :meth:`read`
        """
        source = cls(file)
        root = source._compose(data)
        if root is None:
            source._add(source.errors, (1, 1), Code.EMPTY_FILE, "the file is empty")
            source.stop_if_wrong()
        source.value = source._build(root, ())
        source.stop_if_wrong()
        return source

    def error(self, path: YamlPath, code: Code, message: str, hint: str = "", *, key: bool = False) -> None:
        """Note what is wrong with the value at *path*, or with its key."""
        self._add(self.errors, self.place(path, key=key), code, message, hint, self._about(path))

    def warning(self, path: YamlPath, code: Code, message: str, hint: str = "", *, key: bool = False) -> None:
        """Note what is worth a second look at *path*."""
        self._add(self.warnings, self.place(path, key=key), code, message, hint, self._about(path))

    def stop_if_wrong(self) -> None:
        """Raise all errors so far, if there are any.

        :raises ProjectError: naming every one of them
        """
        if self.errors:
            raise ProjectError(self.errors, self.warnings)

    def place(self, path: YamlPath, *, key: bool = False) -> tuple[int, int]:
        """Return line and column of the value at *path*, or of the nearest one around it."""
        path = self._as_written(path)
        marks = self._keys if key and path in self._keys else self._values
        while path and path not in marks:
            path = path[:-1]
        return marks.get(path, (1, 1))

    def _as_written(self, path: YamlPath) -> YamlPath:
        """Leave out each first place of a list that the file has not: one alone may stand without it."""
        value, written = self.value, list[str | int]()
        for step in path:
            if step == 0 and not isinstance(value, list):
                continue
            written.append(step)
            if isinstance(value, list):
                value = value[step] if isinstance(step, int) and step < len(value) else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return tuple(written)

    def _about(self, path: YamlPath) -> str:
        """Name the participant that *path* lies in."""
        if len(path) < 2 or path[0] != "participants" or not isinstance(path[1], int):
            return ""
        entry = self.value["participants"][path[1]] if isinstance(self.value, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        return name if isinstance(name, str) and re.fullmatch(r"[^\s:]+", name) else f"participants[{path[1]}]"

    def _add(
        self,
        problems: list[Problem],
        place: tuple[int, int],
        code: Code,
        message: str,
        hint: str = "",
        participant: str = "",
    ) -> None:
        problems.append(Problem(*place, code, participant, message, hint, self.file))

    def _compose(self, data: bytes) -> Any:
        if len(data) > MAX_BYTES:
            self._add(self.errors, (1, 1), Code.UNREADABLE, f"the file is larger than {MAX_BYTES // 2**20} MiB")
            self.stop_if_wrong()
        try:
            text = data.decode("utf-8-sig")
            self._check_shape(text)
            return yaml.compose(text, Loader=_LOADER)
        except UnicodeDecodeError as error:
            head = error.object[: error.start].decode()  # its object has no byte order mark, our data may have one
            self._add(self.errors, _end(head), Code.NOT_YAML, "this byte is no UTF-8")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._add(self.errors, _place(mark), Code.NOT_YAML, _explain(error, text))
        except yaml.reader.ReaderError as error:
            # not by its position: the C loader counts bytes
            head = text.partition(chr(error.character))[0]
            self._add(self.errors, _end(head), Code.NOT_YAML, "a character that YAML does not allow")
        except yaml.YAMLError as error:
            self._add(self.errors, (1, 1), Code.NOT_YAML, f"this is no YAML: {error}")
        raise ProjectError(self.errors)

    def _check_shape(self, text: str) -> None:
        """Refuse deep nesting and nested aliases before nodes are built.

        PyYAML's C composer recurses until the process dies, and an alias makes a small text a large or endless value.
        """
        depth = 0
        collections: set[str | None] = set()
        for event in yaml.parse(text, Loader=_LOADER):
            match event:
                case yaml.CollectionStartEvent():
                    depth += 1
                    collections.add(event.anchor)
                case yaml.CollectionEndEvent():
                    depth -= 1
                case yaml.ScalarEvent():
                    collections.discard(event.anchor)
                case yaml.AliasEvent() if event.anchor in collections:
                    message = "an alias (*) may only stand for a plain text: write the list or mapping out"
                    self._add(self.errors, _place(event.start_mark), Code.NOT_YAML, message)
            if depth > _MAX_DEPTH:
                self._add(self.errors, _place(event.start_mark), Code.NOT_YAML, _TOO_DEEP)
                break
        self.stop_if_wrong()

    def _build(self, node: yaml.Node, path: YamlPath) -> Any:
        place = _place(node.start_mark)
        self._values[path] = place
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._add(self.errors, place, Code.NOT_YAML, f"the tag {node.tag!r} is not allowed here")
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*path, position)) for position, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: YamlPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(self.errors, place, Code.NOT_YAML, "a key must be a text")
                continue
            key = str(key_node.value)
            if key_node.tag == _TAG + "merge":
                self._add(self.errors, place, Code.NOT_YAML, "merge keys (<<) are not supported: write the keys out")
            elif key in mapping:
                first = self._keys[(*path, key)][0]
                self._add(self.errors, place, Code.DUPLICATE_KEY, f"duplicate key {key!r} (first at line {first})")
            else:
                self._keys[(*path, key)] = place
                mapping[key] = self._build(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode, place: tuple[int, int]) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind == "float":
            return _Number(text)
        if kind == "int":
            # YAML 1.1 also reads 010 as eight and 80:02 as 4802: nobody who writes a port means that
            return int(text) if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,17})", text) else _Number(text)
        if kind not in ("str", "timestamp"):
            self._add(self.errors, place, Code.NOT_YAML, f"the tag {node.tag!r} is not allowed here")
        return text


class _Number(float):
    """A number that is no plain integer, shown as it was written."""

    text: str

    def __new__(cls, text: str) -> _Number:
        """Keep *text*: a schema that wants no such number only shows it."""
        number = super().__new__(cls)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def _place(mark: Any) -> tuple[int, int]:
    """Return line and column as people count them."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _end(head: str) -> tuple[int, int]:
    """Return line and column of what comes after *head*."""
    return head.count("\n") + 1, len(head) - head.rfind("\n")


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = str(error.problem or "this is no YAML")
    lines = text.splitlines()
    mark = error.problem_mark
    if mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return "a tab may not indent a line: use spaces"
    if "another document" in problem:
        return "a second document begins here: one is allowed"
    if "nesting depth" in problem:  # newer versions of the C parser have a limit of their own, and look ahead
        return _TOO_DEEP
    return f"this is no YAML: {problem}" + (f" ({error.context})" if error.context else "")
