"""What every kit was made from, so that a later run makes again only what changed, and can say why."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pathlib import Path

    from provisioning.plan import Node, Plan

__all__ = ["CERTIFIED", "Change", "Record", "Records", "compare", "facts_of"]

CERTIFIED = ("name", "type", "org", "hosts")
"""The facts that stand in certificates; while they and the dates hold, keys are kept."""


class Record(BaseModel):
    """One kit, as it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: dict[str, Any]
    manifest: str
    """The SHA-256 of its ``manifest.json``."""
    issued: datetime.datetime
    """When its certificates were issued, or last renewed."""
    was_renewed: bool = False
    """Whether the node has newer ones than are in the kit."""
    not_after: datetime.datetime
    """When the first of them ends."""
    keys: dict[str, str] = {}
    """Public keys, in PEM, whose other halves were made at the site and stay there."""

    def public_keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        """Return :attr:`keys` as keys."""
        loaded = {stem: serialization.load_pem_public_key(pem.encode()) for stem, pem in self.keys.items()}
        return {stem: key for stem, key in loaded.items() if isinstance(key, ec.EllipticCurvePublicKey)}


class Records(BaseModel):
    """All kits by the names of their participants."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    roster: str = ""
    """The SHA-256 of what the last roster said."""
    roster_version: int = 0
    rotated: datetime.datetime | None = None
    """When the last step of a change of the root was done."""
    kits: dict[str, Record] = {}


class Change(NamedTuple):
    """What a run does, or would do, with one participant's kit."""

    name: str
    kind: Literal["added", "changed", "unchanged", "removed"]
    reasons: tuple[str, ...] = ()
    renewed: bool = False
    """Whether its keys and certificates are made anew, whatever else changed."""


def facts_of(node: Node, plan: Plan) -> dict[str, Any]:
    """Return everything that a node's kit is made from, as it is compared later."""
    return {
        "name": node.base_name,
        "type": node.role,
        "org": node.org,
        "hosts": list(node.hosts),
        "listen": [node.listen.url, node.listen.security] if node.listen else None,
        "connect_to": [node.connect.parent, node.connect.url, node.connect.security] if node.connect else None,
        "others": [text for end in node.others for text in (end.parent, end.url, end.security)],
        "parents": list(node.parents),
        "fqsn": str(node.fqsn) if node.fqsn else None,
        "custom_ca_cert": hashlib.sha256(node.ingress_ca).hexdigest() if node.ingress_ca else None,
        "admin_port": node.control_port,
        "allow_error_sending": plan.allow_error_sending and node.role in ("server", "client"),
    }


def compare(plan: Plan, records: Records, out: Path, now: datetime.datetime) -> tuple[Change, ...]:
    """Say what differs between a plan and the kits that were made before, in the order of the plan.

    A kit that is no longer in *out* was taken to its node: it is none the worse for that.
    """
    changes = []
    for node in plan.nodes:
        record = records.kits.get(node.name)
        if record is None:
            changes.append(Change(node.name, "added"))
        else:
            urgent = (*_age(record, now), *_damage(record, out / node.name))
            reasons = (*_differences(record.facts, facts_of(node, plan)), *urgent)
            changes.append(Change(node.name, "changed" if reasons else "unchanged", reasons, bool(urgent)))
    names = {node.name for node in plan.nodes}
    changes += [Change(name, "removed") for name in records.kits if name not in names]
    return tuple(changes)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    # What a file of an earlier release does not say was empty.
    changed = [key for key, value in new.items() if (old.get(key) or None) != (value or None)]
    return [f"{key}: {_shown(old.get(key))} -> {_shown(new[key])}" for key in changed]


def _age(record: Record, now: datetime.datetime) -> list[str]:
    left = record.not_after - now
    if left >= (record.not_after - record.issued) / 3:
        return []
    return [f"its certificates expire in {left.days} days" if left.days >= 0 else "its certificates have expired"]


def _damage(record: Record, kit: Path) -> list[str]:
    manifest = kit / "startup" / "manifest.json"
    if not kit.exists():
        return []
    if not manifest.is_file() or hashlib.sha256(manifest.read_bytes()).hexdigest() != record.manifest:
        return ["its kit was altered"]
    return []


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join("-" if item is None else str(item) for item in value) or "-"
    return "-" if value is None else str(value)
