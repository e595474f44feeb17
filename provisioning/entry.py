"""Add a participant to the text of a project.yml, whose comments and order stay as somebody wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["with_participant"]


def with_participant(text: str, entry: Mapping[str, Any], file: str) -> str:
    """Return *text*, which is a project, with one participant more at the end of the list.

    :param file: what messages call it
    :raises ConfigurationError: if the participants are written in one line, with brackets
    """
    listed = _participants(yaml.compose(text, Loader=yaml.SafeLoader))
    if listed.flow_style:
        place = f"{file}:{listed.start_mark.line + 1}:{listed.start_mark.column + 1}"
        raise ConfigurationError("the participants are written with brackets: add this one by hand", place)
    written = yaml.safe_dump([dict(entry)], sort_keys=False, allow_unicode=True, width=1000)
    indent = " " * int(listed.start_mark.column)
    added = [indent + line for line in written.splitlines()]
    lines = text.splitlines()
    end = _last_line(listed) + 1
    return "\n".join([*lines[:end], *added, *lines[end:]]) + "\n"


def _participants(root: Any) -> Any:
    return next(value for key, value in root.value if key.value == "participants")


def _last_line(node: Any) -> int:
    """Return the line on which a value's text ends: a block's own end is where the next thing begins."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.line) - (
            1 if node.end_mark.column == 0 and node.end_mark.line > node.start_mark.line else 0
        )
    last = node.value[-1]
    return max(_last_line(last[0]), _last_line(last[1])) if isinstance(last, tuple) else _last_line(last)
