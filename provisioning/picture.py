"""Pictures of a plan: the communication and the client hierarchy, as text, as Mermaid and as SVG.

Pure: a Plan goes in, a text comes out. Everything is linear in the number of participants, and nothing calls itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cellnet.kit import Endpoint
from provisioning.drawing import FILLS, Box, Panel, draw_panels
from provisioning.endpoints import url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provisioning.plan import Node, Plan

__all__ = ["as_mermaid", "as_svg", "as_text"]

LONGEST = 34
"""Characters of a name that a box shows; a longer one loses its middle, and a pointer shows it whole."""


def as_text(plan: Plan) -> str:
    """Draw both hierarchies as trees of lines: name, full name, link, and where the node listens."""
    places = _cells(plan)
    admins = [place.node for place in places if place.node and place.node.role == "admin"]
    lines = [f"Communication hierarchy of {plan.project}: cells by FQCN, each with its link", *_tree(places)]
    lines += [f"admin: {admin.name} connects to {_target(admin.connect)}" for admin in admins if admin.connect]
    lines += ["", f"Client hierarchy of {plan.project}: sites by FQSN", *_tree(_sites(plan))]
    return "\n".join(lines) + "\n"


def as_mermaid(plan: Plan) -> str:
    """Draw both hierarchies as one Mermaid flowchart; ids are made up, and names are labels only.

    Mermaid refuses more than 500 edges, or 50,000 characters, unless the page that shows it allows more.
    """
    cells, sites = _cells(plan), _sites(plan)
    lines = ["flowchart TD"]
    lines += _subgraph("communication", "Cells by FQCN", cells, 0)
    lines += _subgraph("clients", "Sites by FQSN", sites, len(cells))
    kinds = dict.fromkeys(place.kind for place in cells if place.node)
    lines += [f"  classDef {kind} fill:{FILLS[kind]},stroke:{FILLS[kind]},color:#ffffff" for kind in kinds]
    return "\n".join(lines) + "\n"


def as_svg(plan: Plan) -> str:
    """Draw both hierarchies side by side as one SVG document without scripts and references."""
    panels = [
        Panel("Communication hierarchy: cells by FQCN", [_box(place) for place in _cells(plan)]),
        Panel("Client hierarchy: sites by FQSN", [_box(place) for place in _sites(plan)]),
    ]
    return draw_panels(f"Project {plan.project}", panels, dashed="clear: a link without TLS")


@dataclass(frozen=True, slots=True)
class _Place:
    """A participant, or an ingress, in one of the hierarchies."""

    name: str
    node: Node | None
    """None for an ingress, whose name is its address."""
    above: int | None
    """Where its parent is among the places; None for a root."""
    full_name: str = ""
    link: Endpoint | None = None
    """How it connects to its parent; None in the client hierarchy, which has no links."""
    listener: Endpoint | None = None
    """Where its children reach it, by a name that it may not be able to bind."""

    @property
    def kind(self) -> str:
        """What it is, in one word."""
        return self.node.role if self.node else "ingress"

    @property
    def link_words(self) -> str:
        """Scheme and security of its link; empty without one."""
        return f"{urlsplit(self.link.url).scheme} {self.link.security}" if self.link else ""


def _cells(plan: Plan) -> list[_Place]:
    """Return the communication hierarchy: the server's tree first, then one tree for each ingress.

    Admins are no cells, but connect to the server or an ingress too: they come after all cells there.
    """
    roots: dict[str, Node | None] = {node.base_name: node for node in plan.nodes if node.role == "server"}
    below: dict[str, list[Node]] = defaultdict(list)
    for node in sorted(plan.nodes, key=lambda node: node.role == "admin"):
        if node.connect:
            below[node.connect.parent or node.connect.url].append(node)
            if node.connect.parent is None:
                roots[node.connect.url] = None
    return [
        _Place(name, node, above, str(node.fqcn or ""), node.connect, _listener(node))
        if node
        else _Place(name, None, above)
        for name, node, above in _in_order(roots, below)
    ]


def _sites(plan: Plan) -> list[_Place]:
    """Return the client hierarchy."""
    roots = {node.base_name: node for node in plan.nodes if node.role == "server"}
    below: dict[str, list[Node]] = defaultdict(list)
    for node in plan.nodes:
        if node.parent is not None:
            below[node.parent].append(node)
    return [
        _Place(name, node, above, str(node.fqsn or "") if node else "") for name, node, above in _in_order(roots, below)
    ]


def _in_order(
    roots: Mapping[str, Node | None], below: Mapping[str, Sequence[Node]]
) -> Iterator[tuple[str, Node | None, int | None]]:
    """Walk trees, each node before those below it: its name, itself, and how many came before its parent."""
    stack: list[tuple[str, Node | None, int | None]] = [(key, node, None) for key, node in reversed([*roots.items()])]
    count = 0
    while stack:
        key, node, above = stack.pop()
        yield node.name if node else key, node, above
        stack.extend((child.base_name, child, count) for child in reversed(below.get(key, ())))
        count += 1


def _listener(node: Node) -> Endpoint | None:
    if node.listen is None:
        return None
    bound = urlsplit(node.listen.url)
    return Endpoint(url=url(bound.scheme, node.hosts[0], bound.port or 0), security=node.listen.security)


def _tree(places: Sequence[_Place]) -> list[str]:
    """Return a line for each place, but none for admins, with columns below each other."""
    last = {place.above: index for index, place in enumerate(places) if place.kind != "admin"}
    rows: list[str | tuple[str, ...]] = []
    trunks: list[str] = []
    for index, place in enumerate(places):
        branch = trunk = ""
        if place.above is not None:
            is_last = last.get(place.above) == index
            branch = trunks[place.above] + ("└─ " if is_last else "├─ ")
            trunk = trunks[place.above] + ("   " if is_last else "│  ")
        trunks.append(trunk)
        if place.node is None and index in last:
            rows.append(f"behind an ingress at {place.name}, named as if below the server")
        elif place.node and place.node.role != "admin":
            listens = f"listens at {_words(place.listener)}" if place.listener else ""
            rows.append((branch + place.name, place.full_name, place.link_words, listens))
    widths = [max(map(len, column)) for column in zip(*(row for row in rows if isinstance(row, tuple)), strict=True)]
    return [row if isinstance(row, str) else "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _target(link: Endpoint) -> str:
    return f"{link.parent or 'an ingress'} at {_words(link)}"


def _words(endpoint: Endpoint | None) -> str:
    return f"{endpoint.url} {endpoint.security}" if endpoint else ""


def _subgraph(key: str, heading: str, places: Sequence[_Place], start: int) -> Iterator[str]:
    """Return a subgraph whose nodes are numbered from *start*: first all nodes, then all edges."""
    yield f"  subgraph {key}[{_quoted(heading)}]"
    for index, place in enumerate(places, start):
        words = dict.fromkeys(filter(None, (place.name, place.full_name, _words(place.listener))))
        if place.node:
            yield f"    n{index}({_quoted(*words)}):::{place.kind}"
        else:
            yield f"    n{index}{{{{{_quoted(place.kind, *words)}}}}}"
    for index, place in enumerate(places, start):
        if place.above is not None:
            line = "-.-" if place.kind == "admin" else "---"
            label = f"|{_quoted(place.link_words)}|" if place.link else ""
            yield f"    n{start + place.above} {line}{label} n{index}"
    yield "  end"


def _quoted(*lines: str) -> str:
    """Return a label that Mermaid shows as it is.

    Some versions take addresses for links of Markdown, and refuse to draw them: a place to break the line, which
    nobody sees, makes them texts.
    """
    texts = [re.sub(r"[^A-Za-z0-9 .:/@_+-]", lambda found: f"#{ord(found[0])};", line) for line in lines]
    return '"' + "<br/>".join(re.sub(r"(?i)(@|://|www\.)", r"\1<wbr/>", text) for text in texts) + '"'


def _box(place: _Place) -> Box:
    if place.node is None:
        return Box(place.kind, place.kind, _cut(urlsplit(place.name).netloc), f"ingress at {place.name}", place.above)
    address = urlsplit(place.listener.url).netloc if place.listener else ""
    detail = " · ".join(map(_cut, filter(None, (place.full_name, address)))) or "no cell"
    hints = [f"{place.kind} {place.name}", place.full_name]
    if place.link:
        hints.append(f"connects to {_target(place.link)}")
    if place.listener:
        hints.append(f"listens at {_words(place.listener)}")
    is_clear = place.link is not None and place.link.security == "clear"
    hint = ", ".join(filter(None, hints))
    return Box(place.kind, _cut(place.name), detail, hint, place.above, place.link_words, dashed=is_clear)


def _cut(text: str) -> str:
    """Return a text that fits a box."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}…{text[-half:]}"
