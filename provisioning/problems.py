"""What can be wrong with a project.yml: every kind has a code that people can look up, and that never changes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Code", "Problem", "ProjectError", "Wrong", "did_you_mean", "in_order"]


class Code(StrEnum):
    """Kinds of problems, by what they are about. ``docs/project-file.md`` says what to do about each."""

    UNREADABLE = "PRJ000"
    NOT_YAML = "PRJ001"
    DUPLICATE_KEY = "PRJ002"
    EMPTY_FILE = "PRJ003"
    NOT_SUPPORTED = "PRJ004"
    API_VERSION = "PRJ005"

    UNKNOWN_KEY = "PRJ101"
    MISSING_KEY = "PRJ102"
    WRONG_KIND = "PRJ103"
    NOT_AN_OPTION = "PRJ104"
    IGNORED_KEY = "PRJ105"
    EMPTY_KEY = "PRJ106"

    NAME = "PRJ201"
    DUPLICATE_NAME = "PRJ202"
    NAMES_DIFFER_IN_CASE = "PRJ203"
    RESERVED_NAME = "PRJ204"
    NO_SERVER = "PRJ205"
    SECOND_SERVER = "PRJ206"
    TOO_DEEP = "PRJ207"
    UNKNOWN_ROLE = "PRJ208"

    HOST = "PRJ301"
    PORT = "PRJ302"
    ADMIN_PORT = "PRJ303"
    SHARED_ADDRESS = "PRJ304"
    CLEAR_LISTENER = "PRJ305"

    NAME_OR_HOST = "PRJ401"
    UNKNOWN_NODE = "PRJ402"
    CONNECTS_TO_ITSELF = "PRJ403"
    CONNECTION_CIRCLE = "PRJ404"
    AMBIGUOUS_HOST = "PRJ405"
    HOST_IS_A_NODE = "PRJ406"
    INGRESS = "PRJ407"
    SECURITY_DIFFERS = "PRJ408"
    CROWD = "PRJ409"
    CA_FILE = "PRJ410"
    PARENTS = "PRJ411"

    UNKNOWN_PARENT = "PRJ501"
    OWN_PARENT = "PRJ502"
    PARENT_CIRCLE = "PRJ503"

    UNKNOWN_BUILDER = "PRJ601"
    UNKNOWN_SETTING = "PRJ602"
    TWO_SCHEMES = "PRJ603"
    NO_BUILDERS = "PRJ604"


class Wrong(ValueError):
    """Say, from a rule about one value, what is wrong with it."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        self.code, self.hint = code, hint
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file, or that is worth a second look."""

    line: int
    column: int
    code: Code
    participant: str
    """Who it is about; empty if it is about nobody in particular."""
    message: str
    hint: str
    """What may have been meant, or empty."""
    file: str

    def __str__(self) -> str:
        about = f" {self.participant}" if self.participant else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.code}{about}: {self.message}{hint}"

    def as_json(self) -> dict[str, Any]:
        """Return what programs read."""
        return {
            "code": str(self.code),
            "line": self.line,
            "col": self.column,
            "participant": self.participant or None,
            "message": self.message,
            "hint": self.hint or None,
        }


class ProjectError(ConfigurationError):
    """Say all that is wrong with a project file, a line for each problem."""

    def __init__(self, problems: Iterable[Problem], warnings: Iterable[Problem] = ()) -> None:
        self.problems = in_order(problems)
        self.warnings = in_order(warnings)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return *problems* in the order of the file."""
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """Return a suggestion, or nothing if no option comes near *word*."""
    folded = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(word).lower(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]!r}?" if close else ""
