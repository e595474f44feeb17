"""Drawings of trees side by side, as one SVG that reads as well on a dark page as on a light one.

A tidy layout in linear time: the root left, its children in the column to the right, leaves in consecutive rows, and
every parent in the middle between its first child and its last. All measures are whole pixels.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FILLS", "Box", "Panel", "draw_panels"]

FILLS = {"server": "#1f6feb", "relay": "#8250df", "client": "#1a7f37", "admin": "#9a6700"}
"""The colour of each kind of box, for white text. Other kinds have an outline only."""

GREY = "#767676"
"""The one grey that text can have on white and on black: its contrast is 4.5 to both."""
SANS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
"""Widths of text are known in advance only where every character has the same one."""

HEIGHT, ROW, GROUP = 38, 48, 12
"""Of a box, from one to the next, and what is added between children of different parents."""
PAD, MARGIN, RADIUS = 10, 20, 8
TITLE, HEADING, NAME, SMALL = 18, 14, 13, 11
"""Sizes of text."""
TRUNK = 24
"""From a box to the line along its children, and from there on without a label."""


@dataclass(frozen=True, slots=True)
class Box:
    """A node of a tree."""

    kind: str
    """Decides the colour, and is explained in the legend."""
    name: str
    detail: str
    """What stands below the name."""
    hint: str
    """What a pointer shows."""
    above: int | None
    """Where its parent is in the panel; None for a root."""
    label: str = ""
    """What stands at the line to its parent."""
    dashed: bool = False
    """Whether that line is dashed."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A forest with a heading."""

    heading: str
    boxes: Sequence[Box]
    """Every parent before its children, and what is below a box right after it."""


def draw_panels(title: str, panels: Sequence[Panel], dashed: str) -> str:
    """Draw panels side by side; *dashed* says what dashed lines mean."""
    layouts = [_Layout(panel) for panel in panels]
    signs = [_Sign(kind) for kind in dict.fromkeys(box.kind for panel in panels for box in panel.boxes)]
    if any(box.dashed for panel in panels for box in panel.boxes):
        signs.append(_Sign(dashed, is_line=True))
    top = MARGIN + TITLE + MARGIN + SMALL + MARGIN
    across = sum(layout.width + MARGIN for layout in layouts) + MARGIN
    width = max(across, 2 * MARGIN + len(title) * TITLE, 2 * MARGIN + sum(sign.width for sign in signs))
    height = max(layout.height for layout in layouts)
    root = _svg(width, top + height + MARGIN)
    ET.SubElement(root, "title").text = title
    _text(root, MARGIN, MARGIN + TITLE, title, TITLE, bold=True)
    _draw_legend(root, MARGIN + TITLE + MARGIN + SMALL, signs)
    left = MARGIN
    for layout in layouts:
        _draw_panel(root, layout, left, top, height)
        left += layout.width + MARGIN
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


@dataclass(frozen=True, slots=True)
class _Sign:
    """What the legend explains: a kind of box, or dashed lines."""

    text: str
    is_line: bool = False

    @property
    def width(self) -> int:
        return 3 * SMALL + _wide(self.text, SMALL) + MARGIN


class _Layout:
    """Where the boxes of a panel are, from the panel's upper left corner."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        depths: list[int] = []
        for box in panel.boxes:
            depths.append(0 if box.above is None else depths[box.above] + 1)
        self._depths = depths
        self._spans = self._columns()
        self.middles = self._rows()
        self.width = max(self._spans[-1][1] + PAD, _wide(panel.heading, HEADING) + 2 * PAD) + PAD
        self.height = max(self.middles) + ROW // 2 + PAD

    def span(self, index: int) -> tuple[int, int]:
        """Return where a box begins and ends from left to right: all of a column are equally wide."""
        return self._spans[self._depths[index]]

    def _columns(self) -> list[tuple[int, int]]:
        columns = 1 + max(self._depths)
        widths, gaps = [0] * columns, [0] * columns
        for depth, box in zip(self._depths, self.panel.boxes, strict=True):
            widths[depth] = max(widths[depth], _mono(box.name, NAME), _mono(box.detail, SMALL))
            gaps[depth] = max(gaps[depth], TRUNK + max(TRUNK, _mono(box.label, SMALL) + RADIUS + PAD))
        spans = [(2 * PAD, 4 * PAD + widths[0])]
        for width, gap in zip(widths[1:], gaps[1:], strict=True):
            start = spans[-1][1] + gap
            spans.append((start, start + width + 2 * PAD))
        return spans

    def _rows(self) -> list[int]:
        boxes = self.panel.boxes
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index, box in enumerate(boxes):
            if box.above is not None:
                first.setdefault(box.above, index)
                last[box.above] = index
        leaves = [index for index in range(len(boxes)) if index not in first]
        middles, middle = [0] * len(boxes), 2 * PAD + HEADING + ROW // 2
        for index, following in zip(leaves, [*leaves[1:], leaves[-1]], strict=True):
            middles[index] = middle
            middle += ROW if boxes[following].above == boxes[index].above else ROW + GROUP
        for index in reversed(range(len(boxes))):
            if index in first:
                middles[index] = (middles[first[index]] + middles[last[index]]) // 2
        return middles


def _svg(width: int, height: int) -> ET.Element:
    return ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "font-family": SANS,
            "fill": GREY,
        },
    )


def _draw_legend(root: ET.Element, y: int, signs: Sequence[_Sign]) -> None:
    legend = ET.SubElement(root, "g", {"class": "legend"})
    x = MARGIN
    for sign in signs:
        if sign.is_line:
            _line(legend, f"M{x} {y - SMALL // 2}L{x + 2 * SMALL} {y - SMALL // 2}", dashed=True)
        else:
            _rect(legend, x, y - SMALL, 2 * SMALL, SMALL, 3, **_paint(sign.text))
        _text(legend, x + 3 * SMALL, y - 1, sign.text, SMALL)
        x += sign.width


def _draw_panel(root: ET.Element, layout: _Layout, left: int, top: int, height: int) -> None:
    panel = ET.SubElement(root, "g", {"class": "panel", "transform": f"translate({left} {top})"})
    _rect(panel, 0, 0, layout.width, height, PAD, fill="none", stroke=GREY).set("stroke-opacity", "0.4")
    _text(panel, 2 * PAD, PAD + HEADING, layout.panel.heading, HEADING, bold=True)
    edges = ET.SubElement(panel, "g", {"class": "edges"})
    labels = ET.SubElement(panel, "g", {"class": "labels", "font-family": MONO, "text-anchor": "end"})
    boxes = ET.SubElement(panel, "g", {"class": "boxes", "font-family": MONO})
    for index, box in enumerate(layout.panel.boxes):
        x, middle = layout.span(index)[0], layout.middles[index]
        if box.above is not None:
            _line(edges, _elbow(layout.span(box.above)[1], layout.middles[box.above], x, middle), dashed=box.dashed)
        if box.label:
            _text(labels, x - PAD // 2, middle - 5, box.label, SMALL)
        _draw_box(boxes, box, layout.span(index), middle)


def _draw_box(boxes: ET.Element, box: Box, span: tuple[int, int], middle: int) -> None:
    group = ET.SubElement(boxes, "g", {"class": box.kind, "fill": "#ffffff" if box.kind in FILLS else GREY})
    ET.SubElement(group, "title").text = box.hint
    _rect(group, span[0], middle - HEIGHT // 2, span[1] - span[0], HEIGHT, RADIUS, **_paint(box.kind))
    _text(group, span[0] + PAD, middle - 3, box.name, NAME, bold=True)
    _text(group, span[0] + PAD, middle + 12, box.detail, SMALL)


def _paint(kind: str) -> dict[str, str]:
    return {"fill": FILLS[kind]} if kind in FILLS else {"fill": "none", "stroke": GREY}


def _elbow(x: int, y: int, to_x: int, to_y: int) -> str:
    """Return a line that goes right, then up or down along the children, and right again, with round corners."""
    radius = min(RADIUS, abs(to_y - y) // 2)
    along, turn = x + TRUNK, radius if to_y > y else -radius
    bends = f"L{along - radius} {y}Q{along} {y} {along} {y + turn}L{along} {to_y - turn}"
    bends += f"Q{along} {to_y} {along + radius} {to_y}"
    return f"M{x} {y}{bends if radius else ''}L{to_x} {to_y}"


def _line(parent: ET.Element, path: str, *, dashed: bool) -> None:
    dashes = {"stroke-dasharray": "5 4"} if dashed else {}
    ET.SubElement(parent, "path", {"d": path, "fill": "none", "stroke": GREY, "stroke-width": "1.5", **dashes})


def _rect(parent: ET.Element, x: int, y: int, width: int, height: int, radius: int, **paint: str) -> ET.Element:
    place = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
    return ET.SubElement(parent, "rect", {**{key: str(value) for key, value in place.items()}, **paint})


def _text(parent: ET.Element, x: int, y: int, text: str, size: int, *, bold: bool = False) -> None:
    weight = {"font-weight": "bold"} if bold else {}
    ET.SubElement(parent, "text", {"x": str(x), "y": str(y), "font-size": str(size), **weight}).text = text


def _mono(text: str, size: int) -> int:
    """Return how wide a text is at most in a font whose characters have one width."""
    return len(text) * size * 62 // 100 + 1


def _wide(text: str, size: int) -> int:
    """Return about how wide a text in small letters is in the other font."""
    return len(text) * size * 64 // 100
