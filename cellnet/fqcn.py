"""Names in the two hierarchies: FQCN for cells, FQSN for sites, patterns over both.

Grammar, for both kinds::

    name    = "server" | "server." segment | segment *("." segment)
    segment = [A-Za-z0-9] then at most 62 of [A-Za-z0-9_-]

Names are case-sensitive, hold at most 16 segments and 255 bytes, and are written without their root: the
parent of ``R1`` is ``server``. Only the server and its job cells, ``server.<job>``, begin with ``server``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import ClassVar, Self

from cellnet.errors import InvalidName

__all__ = ["FQCN", "FQSN", "MAX_HOPS", "MAX_NAME_BYTES", "MAX_SEGMENTS", "ROOT", "Pattern", "check_segment"]

ROOT = "server"
MAX_SEGMENTS = 16
MAX_NAME_BYTES = 255
MAX_HOPS = 32
"""Two walks over the deepest tree: up from a leaf, and down to another."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def check_segment(text: str) -> str:
    """Return *text* if it is one valid segment of a name.

    :raises InvalidName: if it is not
    """
    if not isinstance(text, str):
        raise InvalidName(f"a {type(text).__name__} is no name: a text is wanted")
    if _SEGMENT.fullmatch(text) is None:
        raise InvalidName(
            f"{text!r} is no name: a letter or digit, then at most 62 letters, digits, '_' or '-' are allowed"
        )
    return text


class _TreeName:
    """A frozen path below an implicit root; equal only to a name of the same kind."""

    __slots__ = ("_hash", "_text", "path")
    _hash: int
    _text: str
    path: tuple[str, ...]
    """The steps from the root; empty for the root. ``server.<job>`` is a single step, as its parent is the root."""
    _kind: ClassVar[str]

    def __new__(cls, text: str | Self) -> Self:
        """Parse *text*.

        :raises InvalidName: if the grammar refuses it
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            raise InvalidName(f"a {type(text).__name__} is no {cls._kind}: a text is wanted")
        return cls._parsed(text)

    @classmethod
    @lru_cache(maxsize=16384)
    def _parsed(cls, text: str) -> Self:
        # The same few names arrive in every frame: they are parsed once, and compared as one object mostly.
        return cls._of(_parse(cls._kind, text))

    @classmethod
    def _of(cls, path: tuple[str, ...]) -> Self:
        name = object.__new__(cls)
        object.__setattr__(name, "path", path)
        object.__setattr__(name, "_text", ".".join(path) or ROOT)
        object.__setattr__(name, "_hash", hash((cls._kind, path)))
        return name

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"a {self._kind} is frozen")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(f"a {self._kind} is frozen")

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (str(self),)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{self._kind}({str(self)!r})"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.path == other.path)

    def __lt__(self, other: Self) -> bool:
        return self.path < other.path

    @property
    def is_root(self) -> bool:
        """Whether this is the server itself."""
        return not self.path

    @property
    def depth(self) -> int:
        """The number of links between this name and the root."""
        return len(self.path)

    @property
    def base_name(self) -> str:
        """The last segment: ``C1`` of ``R1.C1``, ``server`` of the root."""
        return self.path[-1].rpartition(".")[2] if self.path else ROOT

    @property
    def parent(self) -> Self | None:
        """The name one step nearer to the root; None for the root."""
        return self._of(self.path[:-1]) if self.path else None

    def child(self, segment: str) -> Self:
        """Return the name one step further from the root.

        :raises InvalidName: if *segment* is no segment, or the result would be too deep or too long
        """
        if self.path:
            return type(self)(f"{self}.{check_segment(segment)}")
        if segment == ROOT:
            raise InvalidName(f"'{ROOT}' is the root: nothing below it may have that name")
        return type(self)(check_segment(segment))

    def job(self, segment: str) -> Self:
        """Return the name of this site's job cell; unlike :meth:`child`, the server's own is ``server.<job>``.

        :raises InvalidName: as :meth:`child`
        """
        return type(self)(f"{self}.{check_segment(segment)}")

    def is_ancestor_of(self, other: Self) -> bool:
        """Whether *other* lies below this name; no name is its own ancestor."""
        depth = len(self.path)
        return len(other.path) > depth and other.path[:depth] == self.path

    def next_hop(self, destination: Self) -> Self | None:
        """Return the neighbour on the tree path to *destination*; None if this is the destination.

        The path goes up to the lowest common ancestor, never higher, and then down.
        """
        if destination.path == self.path:
            return None
        if self.is_ancestor_of(destination):
            return self._of(destination.path[: len(self.path) + 1])
        return self._of(self.path[:-1])

    def common_ancestor(self, other: Self) -> Self:
        """Return the deepest name that is *self* or above it, and also *other* or above it."""
        shared = 0
        for mine, theirs in zip(self.path, other.path, strict=False):
            if mine != theirs:
                break
            shared += 1
        return self._of(self.path[:shared])


class FQCN(_TreeName):
    """The fully qualified name of a cell: its path in the communication hierarchy, such as ``R1.C11``."""

    __slots__ = ()
    _kind = "FQCN"


class FQSN(_TreeName):
    """The fully qualified name of a site: its path in the client hierarchy, such as ``C1.C11``."""

    __slots__ = ()
    _kind = "FQSN"


def _parse(kind: str, text: str) -> tuple[str, ...]:
    if len(text) > MAX_NAME_BYTES:
        raise InvalidName(f"a {kind} of {len(text)} bytes is too long: {MAX_NAME_BYTES} are allowed")
    if text == ROOT:
        return ()
    segments = text.split(".")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidName(f"{text!r} has {len(segments)} segments: {MAX_SEGMENTS} are allowed")
    for segment in segments:
        if _SEGMENT.fullmatch(segment) is None:
            raise InvalidName(f"{text!r} is no {kind}: {segment!r} is no valid segment")
    if segments[0] != ROOT:
        return tuple(segments)
    if len(segments) > 2:
        raise InvalidName(f"{text!r} is no {kind}: only 'server' and 'server.<job>' begin with 'server'")
    return (text,)


class Pattern:
    """A set of names: ``*`` stands for one segment, a last ``>`` for one or more, anything else for itself.

    A wildcard never stands for ``server``: the server and its job cells are only meant when they are named,
    as in ``server`` or ``server.*``.
    """

    __slots__ = ("segments", "text")

    def __init__(self, text: str) -> None:
        """Parse *text*.

        :raises InvalidName: if the grammar refuses it
        """
        segments = tuple(text.split("."))
        if len(text) > MAX_NAME_BYTES or len(segments) > MAX_SEGMENTS:
            raise InvalidName(f"the pattern {text[:40]!r}... is too long")
        for position, segment in enumerate(segments):
            if segment == "*" or (segment == ">" and position == len(segments) - 1):
                continue
            if _SEGMENT.fullmatch(segment) is None:
                raise InvalidName(f"{text!r} is no pattern: {segment!r} is neither a segment, '*' nor a last '>'")
        self.text = text
        self.segments = segments

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    @property
    def is_literal(self) -> bool:
        """Whether the pattern means exactly one name."""
        return not {"*", ">"} & set(self.segments)

    def matches(self, name: FQCN | FQSN) -> bool:
        """Whether *name* is in the set."""
        segments = str(name).split(".")
        if segments[0] == ROOT and self.segments[0] != ROOT:
            return False
        if self.segments[-1] == ">":
            head = self.segments[:-1]
            if len(segments) <= len(head):
                return False
            segments = segments[: len(head)]
        else:
            head = self.segments
            if len(segments) != len(head):
                return False
        return all(wanted in ("*", segment) for wanted, segment in zip(head, segments, strict=True))
