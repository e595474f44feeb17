"""What the pictures of a plan show, and that nothing in them overlaps, gets lost, or is taken for syntax."""

from __future__ import annotations

import itertools
import re
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cellnet.kit import Endpoint
from provisioning import read_plan
from provisioning.picture import as_mermaid, as_svg, as_text
from provisioning.plan import draw
from provisioning.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from provisioning import Plan

SVG = "{http://www.w3.org/2000/svg}"

GUIDE = """\
Communication hierarchy of mobile: cells by FQCN, each with its link
server     server              listens at grpc://localhost:8002 clear
├─ R1      R1      grpc clear  listens at grpc://localhost:18004 clear
│  ├─ C1   R1.C1   grpc clear
│  ├─ C11  R1.C11  grpc clear
│  └─ C12  R1.C12  grpc clear
└─ R2      R2      grpc clear  listens at grpc://localhost:28004 clear
   ├─ C2   R2.C2   grpc clear
   ├─ C21  R2.C21  grpc clear
   └─ C22  R2.C22  grpc clear
admin: admin@nvidia.com connects to server at grpc://127.0.0.1:8002 clear

Client hierarchy of mobile: sites by FQSN
server     server
├─ C1      C1
│  ├─ C11  C1.C11
│  └─ C12  C1.C12
└─ C2      C2
   ├─ C21  C2.C21
   └─ C22  C2.C22
"""

NESTED = """\
  - {name: fl_1.acme.example, type: server, org: a, default_host: www.acme.example}
  - {name: far@acme.example, type: admin, org: a, role: lead, connect_to: {host: gate.acme.example, port: 443}}
  - {name: end, type: client, org: a, parent: C-1_, connect_to: {name: R11}}
  - {name: near+x@acme.example, type: admin, org: a, role: lead}
  - {name: R11, type: relay, org: a, connect_to: {name: R1},
     listening_host: {default_host: '2001:db8::1', port: 5, scheme: tcp, connection_security: tls}}
  - {name: R1, type: relay, org: a, listening_host: {default_host: www.r1.example, port: 8002, scheme: http}}
  - {name: C-1_, type: client, org: a}
  - {name: C2, type: client, org: a, connect_to: {name: Gated}}
  - {name: Gated, type: relay, org: a, listening_host: {default_host: inside, port: 7},
     connect_to: {host: gate.acme.example, port: 443, connection_security: tls}}
  - {name: C3, type: client, org: a, parent: end, connect_to: {host: gate.acme.example, port: 443}}
"""

NESTED_TEXT = """\
Communication hierarchy of odd: cells by FQCN, each with its link
fl_1.acme.example  server                 listens at grpc://www.acme.example:8002 mtls
├─ R1              R1          grpc mtls  listens at http://www.r1.example:8002 mtls
│  └─ R11          R1.R11      http mtls  listens at tcp://[2001:db8::1]:5 tls
│     └─ end       R1.R11.end  tcp tls
└─ C-1_            C-1_        grpc mtls
behind an ingress at grpc://gate.acme.example:443, named as if below the server
├─ Gated           Gated       grpc tls   listens at grpc://inside:7 mtls
│  └─ C2           Gated.C2    grpc mtls
└─ C3              C3          grpc mtls
admin: near+x@acme.example connects to server at grpc://www.acme.example:8002 mtls
admin: far@acme.example connects to an ingress at grpc://gate.acme.example:443 mtls

Client hierarchy of odd: sites by FQSN
fl_1.acme.example  server
├─ C-1_            C-1_
│  └─ end          C-1_.end
│     └─ C3        C-1_.end.C3
└─ C2              C2
"""


def planned(participants: str) -> Plan:
    return draw(Source.parse(f"api_version: 3\nname: odd\nparticipants:\n{participants}".encode(), "project.yml"))


def crowd(clients: int) -> Plan:
    """Clients below ten relays; the first ten are parents of the others."""
    listens = "listening_host: {default_host: h, port: 1}"
    lines = ["{name: server, type: server, org: a}"]
    lines += [f"{{name: R{n}, type: relay, org: a, {listens}}}" for n in range(10)]
    for n in range(clients):
        parent = f", parent: C{n % 10}" if n > 9 else ""
        lines.append(f"{{name: C{n}, type: client, org: a, connect_to: {{name: R{n % 10}}}{parent}}}")
    return planned("".join(f"  - {line}\n" for line in lines))


@pytest.fixture(scope="module")
def plans(request: pytest.FixtureRequest) -> dict[str, Plan]:
    guide = read_plan(request.path.parent / "fixtures" / "guide-project.yml")
    alone = replace(planned("  - {name: server, type: server, org: a}\n"), project="W" * 63)
    return {"guide": guide, "nested": planned(NESTED), "crowd": crowd(1000), "alone": alone}


@pytest.fixture(params=["guide", "nested", "crowd", "alone"])
def any_plan(request: pytest.FixtureRequest, plans: dict[str, Plan]) -> Plan:
    return plans[request.param]


def pairs(plan: Plan) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Who connects to whom, and who is above whom among the clients, by name: the upper one first."""
    names: dict[str | None, str] = {node.base_name: node.name for node in plan.nodes} | {None: "ingress"}
    links = [(names[node.connect.parent], node.name) for node in plan.nodes if node.connect]
    return sorted(links), sorted((names[node.parent], node.name) for node in plan.nodes if node.parent)


def test_the_guides_example_is_drawn_as_two_trees_of_lines(guide: Path) -> None:
    assert as_text(read_plan(guide)) == GUIDE


def test_trees_follow_the_file_and_what_is_behind_an_ingress_has_its_own(plans: dict[str, Plan]) -> None:
    assert as_text(plans["nested"]) == NESTED_TEXT


def test_an_ingress_that_only_admins_use_is_named_in_their_lines_only() -> None:
    admin = "  - {name: a@b.c, type: admin, org: a, role: lead, connect_to: gate}\n"
    lines = as_text(planned("  - {name: server, type: server, org: a}\n" + admin)).splitlines()
    assert lines[2] == "admin: a@b.c connects to an ingress at grpc://gate:8002 mtls"


def test_no_tree_is_too_deep_although_real_ones_end_early(plans: dict[str, Plan]) -> None:
    server, *_, client, _ = plans["guide"].nodes
    chain = [server]
    for n in range(1500):
        above = Endpoint(url="tcp://a:1", security="tls", parent=chain[-1].base_name)
        chain.append(replace(client, name=f"D{n}", connect=above))
    deep = replace(plans["guide"], nodes=tuple(chain))
    assert as_text(deep).count("└─ D") == 1500
    assert as_mermaid(deep).count(" ---|") == 1500
    assert len(Drawing(as_svg(deep)).panels[0].lines) == 1500


@pytest.mark.measured
def test_ten_thousand_clients_are_drawn_in_seconds(plans: dict[str, Plan]) -> None:
    nodes = plans["crowd"].nodes
    clients = (replace(nodes[11 + n % 10], name=f"D{n}") for n in range(10_000))
    many = replace(plans["crowd"], nodes=(*nodes[:11], *clients))
    before = time.process_time()
    assert all("D9999" in picture(many) for picture in (as_text, as_mermaid, as_svg))
    assert time.process_time() - before < 20, "two seconds are usual"


LABEL = r'"((?:[A-Za-z0-9 .:/@_+-]|#\d+;|<br/>|<wbr/>)*)"'
NODE = re.compile(rf"    (n\d+)(?:\({LABEL}\):::(?:server|relay|client|admin)|\{{\{{{LABEL}\}}\}})")
EDGE = re.compile(rf"    (n\d+) (---|-\.-)(?:\|{LABEL}\|)? (n\d+)")
OTHER = re.compile(rf"flowchart TD|  subgraph [a-z]+\[{LABEL}\]|  end|  classDef [a-z]+ [a-z0-9#:,]+")


class Flowchart:
    """The nodes' labels, as Mermaid shows them, and the edges of both subgraphs; each line must be one that we know."""

    def __init__(self, text: str) -> None:
        self.labels: tuple[list[list[str]], ...] = ([], [])
        self.edges: tuple[list[tuple[str, str, str, str]], ...] = ([], [])
        names: dict[str, str] = {}
        assert re.findall(r"^  (subgraph|end)\b", text, re.MULTILINE) == ["subgraph", "end"] * 2
        half = -1
        for line in text.splitlines():
            half += "  subgraph" in line
            if found := NODE.fullmatch(line):
                assert found[1] not in names
                plain = (found[2] or found[3]).replace("<wbr/>", "")
                label = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), plain).split("<br/>")
                self.labels[half].append(label)
                names[found[1]] = label[0]
            elif found := EDGE.fullmatch(line):
                self.edges[half].append((names[found[1]], found[2], found[3] or "", names[found[4]]))
            else:
                assert OTHER.fullmatch(line), line


def test_a_flowchart_has_every_participant_and_every_connection(any_plan: Plan) -> None:
    chart = Flowchart(as_mermaid(any_plan))
    cells, sites = (sorted(label[0] for label in labels if label[0] != "ingress") for labels in chart.labels)
    assert cells == sorted(node.name for node in any_plan.nodes)
    assert sites == sorted(node.name for node in any_plan.nodes if node.fqsn)
    assert tuple(sorted((edge[0], edge[3]) for edge in edges) for edges in chart.edges) == pairs(any_plan)


def test_a_flowchart_says_names_links_and_listeners_and_has_dots_for_admins(plans: dict[str, Plan]) -> None:
    chart = Flowchart(as_mermaid(plans["nested"]))
    cells, sites = ({" ".join(label) for label in labels} for labels in chart.labels)
    assert cells > {"fl_1.acme.example server grpc://www.acme.example:8002 mtls", "end R1.R11.end", "far@acme.example"}
    assert cells > {"R11 R1.R11 tcp://[2001:db8::1]:5 tls", "ingress grpc://gate.acme.example:443"}
    assert sites > {"fl_1.acme.example server", "end C-1_.end"}
    assert ("R11", "---", "tcp tls", "end") in chart.edges[0]
    assert ("ingress", "-.-", "grpc mtls", "far@acme.example") in chart.edges[0]
    assert ("end", "---", "", "C3") in chart.edges[1]


def test_names_are_never_syntax_of_a_flowchart_and_addresses_never_links(plans: dict[str, Plan]) -> None:
    odd = ['a"]; b --> c["`x`', "<script>#quot;&amp;", "subgraph\nend", "%%{init}%%", "www.a.b@c.d http://e"]
    server, *others = plans["guide"].nodes
    above = Endpoint(url="tcp://a:1", security="tls", parent="server")
    nodes = [replace(node, name=name, connect=above) for node, name in zip(others, odd, strict=False)]
    text = as_mermaid(replace(plans["guide"], nodes=(server, *nodes)))
    assert [label[0] for label in Flowchart(text).labels[0]] == [server.name, *odd]
    assert not re.search(r"@\w|://\w|www\.\w", text), "some versions make a link of it, and refuse to draw links"


Sides = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Box(NamedTuple):
    kind: str
    name: str
    texts: list[str]
    sides: Sides
    left: tuple[float, float]
    right: tuple[float, float]
    """The middles of both sides, where lines begin and end."""


def points(path: ET.Element) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def covered(element: ET.Element, x: float = 0, y: float = 0, anchor: str = "start") -> Iterator[Sides]:
    """Return what every part of a drawing covers; a text, 0.6 of its size for each character."""
    moved = re.findall(r"\d+", element.get("transform", "translate(0 0)"))
    x, y, anchor = x + float(moved[0]), y + float(moved[1]), element.get("text-anchor", anchor)
    at = [float(element.get(key, 0)) for key in ("x", "y", "width", "height", "font-size")]
    left, top = x + at[0], y + at[1]
    if element.tag == f"{SVG}rect":
        yield left, top, left + at[2], top + at[3]
    elif element.tag == f"{SVG}text":
        width = len(element.text or "") * at[4] * 0.6
        left -= width if anchor == "end" else 0
        yield left, top - at[4] * 0.8, left + width, top + at[4] * 0.2
    elif element.tag == f"{SVG}path":
        yield from ((x + a, y + b, x + a, y + b) for a, b in points(element))
    for child in element:
        yield from covered(child, x, y, anchor)


def within(inner: Sides, outer: Sides) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def overlap(one: Sides, other: Sides) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def box_of(group: ET.Element) -> Box:
    """Read a box, whose texts must not be wider than it is."""
    sides, *inside = covered(group)
    assert all(within(one, sides) for one in inside)
    name = (group[0].text or "").split(", ")[0].partition(" ")[2]
    middle = (sides[1] + sides[3]) / 2
    texts = [text.text or "" for text in group.iter(f"{SVG}text")]
    return Box(group.attrib["class"], name, texts, sides, (sides[0], middle), (sides[2], middle))


class Panel:
    """One half of a drawing; places count from its corner."""

    def __init__(self, group: ET.Element) -> None:
        parts = {part.get("class"): part for part in group}
        self.boxes = list(map(box_of, parts["boxes"]))
        self.lines = list(map(points, parts["edges"]))
        self.dashed = ["stroke-dasharray" in line.attrib for line in parts["edges"]]
        self.labels = list(covered(parts["labels"]))
        self.words = [label.text for label in parts["labels"]]


class Drawing:
    """An SVG document with a legend and two panels."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)  # noqa: S314 - our own
        _, _, legend, *self.halves = self.root
        self.panels = list(map(Panel, self.halves))
        self.legend = [one.text for one in legend.iter(f"{SVG}text")]


@pytest.fixture
def drawing(any_plan: Plan) -> Drawing:
    return Drawing(as_svg(any_plan))


def test_a_drawing_has_a_box_for_every_cell_and_admin_and_one_for_every_site(drawing: Drawing, any_plan: Plan) -> None:
    cells, sites = ([box[:2] for box in panel.boxes if box.kind != "ingress"] for panel in drawing.panels)
    assert sorted(cells) == sorted((node.role, node.name) for node in any_plan.nodes)
    assert sorted(sites) == sorted((node.role, node.name) for node in any_plan.nodes if node.fqsn)


def test_no_box_or_label_of_a_drawing_lies_on_another(drawing: Drawing) -> None:
    for panel in drawing.panels:
        sides = [*(box.sides for box in panel.boxes), *panel.labels]
        assert not [pair for pair in itertools.combinations(sides, 2) if overlap(*pair)]


def test_every_line_goes_from_the_right_of_a_parent_to_the_left_of_its_child(drawing: Drawing, any_plan: Plan) -> None:
    for panel, expected in zip(drawing.panels, pairs(any_plan), strict=True):
        rights, lefts = ({getattr(box, side): box for box in panel.boxes} for side in ("right", "left"))
        found = [(rights[line[0]], lefts[line[-1]]) for line in panel.lines]
        assert sorted((one.kind if one.kind == "ingress" else one.name, other.name) for one, other in found) == expected
        heights: dict[tuple[float, float], list[float]] = defaultdict(list)
        for above, below in found:
            heights[above.right].append(below.left[1])
        for (_, middle), children in heights.items():
            assert middle == pytest.approx((min(children) + max(children)) / 2, abs=1)


def test_nothing_of_a_drawing_lies_outside(drawing: Drawing) -> None:
    left, top, width, height = map(float, drawing.root.attrib["viewBox"].split())
    assert [drawing.root.attrib[key] for key in ("width", "height")] == [f"{width:.0f}", f"{height:.0f}"]
    assert [one for one in covered(drawing.root) if not within(one, (left, top, width, height))] == []
    frames = [next(covered(half)) for half in drawing.halves]
    assert not overlap(*frames)
    for half, frame in zip(drawing.halves, frames, strict=True):
        assert [one for one in covered(half) if not within(one, frame)] == []


def test_a_drawing_stands_for_itself_and_can_be_read_aloud(drawing: Drawing, any_plan: Plan) -> None:
    tags = {f"{SVG}{tag}" for tag in ("svg", "title", "g", "rect", "path", "text")}
    assert {element.tag for element in drawing.root.iter()} <= tags
    for key, value in (pair for element in drawing.root.iter() for pair in element.attrib.items()):
        assert not re.match(r"on|style|.*href", key)
        assert "url(" not in value
    assert drawing.root.attrib["role"] == "img"
    assert (drawing.root[0].tag, drawing.root[0].text) == (f"{SVG}title", f"Project {any_plan.project}")


def test_boxes_say_full_names_and_addresses_and_the_legend_what_colours_mean(plans: dict[str, Plan]) -> None:
    drawing = Drawing(as_svg(plans["nested"]))
    cells, sites = ({" ".join(box.texts) for box in panel.boxes} for panel in drawing.panels)
    assert cells > {"fl_1.acme.example server · www.acme.example:8002", "end R1.R11.end", "far@acme.example no cell"}
    assert cells > {"R11 R1.R11 · [2001:db8::1]:5", "ingress gate.acme.example:443"}
    assert sites > {"fl_1.acme.example server", "end C-1_.end"}
    assert set(drawing.panels[0].words) == {"grpc mtls", "grpc tls", "http mtls", "tcp tls"}
    assert drawing.legend == ["server", "relay", "client", "admin", "ingress"]
    assert Drawing(as_svg(plans["crowd"])).legend == ["server", "relay", "client"]


def test_a_link_without_tls_is_dashed_and_no_other(plans: dict[str, Plan]) -> None:
    clear, safe = Drawing(as_svg(plans["guide"])), Drawing(as_svg(plans["nested"]))
    assert [panel.dashed for panel in clear.panels] == [[True] * 9, [False] * 6]
    assert clear.legend[-1] == "clear: a link without TLS"
    assert [set(panel.dashed) for panel in safe.panels] == [{False}, {False}]


def test_a_long_name_loses_its_middle_and_a_pointer_shows_it_whole() -> None:
    name = "a" * 31 + "-" + "z" * 31
    boxes = Drawing(as_svg(planned(NESTED.replace("C2", name)))).panels[0].boxes
    (texts,) = (box.texts for box in boxes if box.name == name)
    assert texts == ["a" * 17 + "…" + "z" * 17, "Gated." + "a" * 11 + "…" + "z" * 17]


def test_names_are_never_markup_of_a_drawing(plans: dict[str, Plan]) -> None:
    odd = """<b a="1">&amp;'"""
    server, first, *_ = plans["guide"].nodes
    drawing = Drawing(as_svg(replace(plans["guide"], project=odd, nodes=(server, replace(first, name=odd)))))
    assert (drawing.root[0].text, drawing.panels[0].boxes[1].texts[0]) == (f"Project {odd}", odd)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_all_text_has_enough_contrast_on_white_and_on_black_and_in_its_box(plans: dict[str, Plan]) -> None:
    drawing, page = Drawing(as_svg(plans["nested"])), ("#ffffff", "#000000")
    grey = drawing.root.attrib["fill"]
    assert {element.get("stroke", grey) for element in drawing.root.iter()} == {grey}
    assert all(contrast(grey, ground) >= 4.5 for ground in page)
    boxes = next(group for group in drawing.halves[0] if group.get("class") == "boxes")
    fills = {(group.attrib["fill"], group[1].attrib["fill"]) for group in boxes}
    assert (len(fills), (grey, "none") in fills) == (5, True), "four roles and an ingress"
    for colour, fill in fills - {(grey, "none")}:
        assert contrast(colour, fill) >= 4.5
        assert all(contrast(fill, ground) >= 3 for ground in page)
