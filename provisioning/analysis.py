"""An analysis of a plan: how large and how deep its hierarchies are, and how well they fit each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cellnet.fqcn import ROOT
from provisioning.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioning.plan import Node, Plan

__all__ = ["Analysis", "Largest", "analyze"]


@dataclass(frozen=True, slots=True)
class Largest:
    """The node with the most children in a hierarchy: the first such in the file."""

    name: str
    """Its base name: ``server`` for the server."""
    children: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a plan's hierarchies mean for the traffic of a round, in which every client sends its parent one result.

    Who connects through an ingress counts as directly below the server, as in the plan. Admins do not count.
    """

    relays: int
    clients: int
    cell_levels: int
    """How many levels of relays and clients are below the server in the communication hierarchy."""
    site_levels: int
    """How many levels are below the server in the client hierarchy."""
    most_connected: Largest
    """Who has the most relays and clients connected to it."""
    most_clients_below: Largest
    """Who is the parent of the most clients."""
    mean_hops: float
    """Links between a client's cell and its parent's, which is the server for a top client; 0 without clients."""
    most_hops: int
    aligned: int
    """How many clients reach their parent without passing the server.

    All top clients do, as the server is their parent; of the others, those that have a relay above them which is also
    above their parent, at whatever depth: the path between two cells turns at the deepest node that is above both.
    """
    top_clients: int
    """How many results of a round are the server's to combine, because their sender's parent is the server."""

    @property
    def passing(self) -> int:
        """How many results of a round the server only passes on, because their sender is not aligned."""
        return self.clients - self.aligned

    @property
    def results_at_server(self) -> int:
        """How many results of a round reach the server: those that it combines, and those that it passes on."""
        return self.top_clients + self.passing

    @property
    def results_without_hierarchy(self) -> int:
        """How many results of a round would reach the server if it were every client's parent."""
        return self.clients

    def lines(self) -> list[str]:
        """Return what people read."""
        connected, below = self.most_connected, self.most_clients_below
        passing = f", {self.passing} of them only on their way to another client" if self.passing else ""
        return [
            f"communication   {counted(self.relays, 'relay')}, {counted(self.clients, 'client')}, "
            f"{counted(self.cell_levels, 'level')}; at most {connected.children} at one node ({connected.name})",
            f"clients         {counted(self.site_levels, 'level')}; "
            f"at most {below.children} below one node ({below.name})",
            f"to the parent   {self.mean_hops:.1f} hops on average, at most {self.most_hops}",
            f"aligned         {self.aligned} of {counted(self.clients, 'client')}",
            f"at the server   {counted(self.results_at_server, 'result')} per round{passing}; "
            f"without a client hierarchy {self.results_without_hierarchy}",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what programs read."""
        return {
            "relays": self.relays,
            "clients": self.clients,
            "communication": {"levels": self.cell_levels, "largest": asdict(self.most_connected)},
            "client_hierarchy": {"levels": self.site_levels, "largest": asdict(self.most_clients_below)},
            "hops_to_parent": {"mean": self.mean_hops, "most": self.most_hops},
            "aligned": self.aligned,
            "results_per_round": {
                "at_server": self.results_at_server,
                "combined": self.top_clients,
                "passing": self.passing,
                "without_client_hierarchy": self.results_without_hierarchy,
            },
        }


def analyze(plan: Plan) -> Analysis:
    """Return the figures about the hierarchies of any plan, in time linear in the number of its nodes."""
    cells = {node.base_name: node.fqcn for node in plan.nodes if node.fqcn is not None}
    clients = [(node.fqcn, node.parent) for node in plan.nodes if node.role == "client" and node.fqcn]
    hops: list[int] = []
    top = aligned = 0
    for cell, parent in clients:
        parent_cell = cells[parent or ROOT]
        shared = cell.common_ancestor(parent_cell).depth
        hops.append(cell.depth + parent_cell.depth - 2 * shared)
        top += parent_cell.is_root
        aligned += parent_cell.is_root or shared > 0
    above = Counter(cell.parent.base_name for cell in cells.values() if cell.parent)
    return Analysis(
        relays=sum(node.role == "relay" for node in plan.nodes),
        clients=len(clients),
        cell_levels=max((cell.depth for cell in cells.values()), default=0),
        site_levels=max((node.fqsn.depth for node in plan.nodes if node.fqsn), default=0),
        most_connected=_largest(plan.nodes, above),
        most_clients_below=_largest(plan.nodes, Counter(parent or ROOT for _, parent in clients)),
        mean_hops=sum(hops) / len(hops) if hops else 0.0,
        most_hops=max(hops, default=0),
        aligned=aligned,
        top_clients=top,
    )


def _largest(nodes: Iterable[Node], children: Counter[str]) -> Largest:
    names = [node.base_name for node in nodes if node.role != "admin"]
    name = max(names, key=lambda name: children[name], default=ROOT)
    return Largest(name, children[name])
