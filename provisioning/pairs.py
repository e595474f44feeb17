"""The pairs of certificate and key in a kit: which of them still hold, and where new ones come from.

A key is made here, or it was made at the site and only its public half is known; then the kit has no key for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import SKEW
from cellnet.enrolment import STEMS
from cellnet.errors import ConfigurationError
from provisioning.authority import certificates_pem, key_pem
from provisioning.records import CERTIFIED, facts_of

if TYPE_CHECKING:
    import datetime
    from pathlib import Path

    from provisioning.plan import Node, Plan
    from provisioning.records import Change
    from provisioning.registry import Registry

__all__ = ["Pair", "PublicKeys", "pairs_of"]

PublicKeys = Mapping[str, ec.EllipticCurvePublicKey]


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with what goes with it, in PEM, and its key, unless that never left the site."""

    certificates: bytes
    key: bytes | None
    public_key: str
    """In PEM."""
    issued: datetime.datetime
    not_after: datetime.datetime

    @classmethod
    def of(cls, certificates: bytes, key: bytes | None) -> Pair:
        """Read from the certificate what else is to be known."""
        leaf = x509.load_pem_x509_certificate(certificates)
        public = leaf.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(certificates, key, public.decode(), leaf.not_valid_before_utc + SKEW, leaf.not_valid_after_utc)


def pairs_of(
    plan: Plan, node: Node, registry: Registry, change: Change, startup: Path, requested: Mapping[str, PublicKeys]
) -> dict[str, Pair]:
    """Return a node's pairs by the names of their files: those in its last kit, if they hold, else new ones.

    :param startup: where its last kit may be
    :param requested: public keys that sites asked to have certified, by the sites' base names
    :raises ConfigurationError: if a request has no key for something that the node needs
    """
    stems = [stem for stem, wanted in (("server", node.hosts), ("client", node.connect)) if wanted]
    if node.base_name in requested:
        return _certified(plan, node, registry, change, stems, requested[node.base_name])
    record = registry.records.kits.get(node.name)
    facts = facts_of(node, plan)
    holds = record is not None and not change.renewed and all(record.facts[key] == facts[key] for key in CERTIFIED)
    if record is not None and record.keys:
        if holds and all((startup / f"{stem}.crt").is_file() for stem in stems):
            return {stem: Pair.of((startup / f"{stem}.crt").read_bytes(), None) for stem in stems}
        return _certified(plan, node, registry, change, stems, record.public_keys())
    if holds and all((startup / f"{stem}.key").is_file() for stem in stems):
        return {
            stem: Pair.of((startup / f"{stem}.crt").read_bytes(), (startup / f"{stem}.key").read_bytes())
            for stem in stems
        }
    keys = {stem: ec.generate_private_key(ec.SECP256R1()) for stem in stems}
    return {
        stem: Pair.of(_issue(plan, node, registry, change, stem, key.public_key()), key_pem(key))
        for stem, key in keys.items()
    }


def _certified(
    plan: Plan, node: Node, registry: Registry, change: Change, stems: list[str], keys: PublicKeys
) -> dict[str, Pair]:
    """Certify keys that were made at the site."""
    for stem in stems:
        if stem not in keys:
            raise ConfigurationError(f"{node.name} listens, and its request has no key for that: make it with --listen")
    return {stem: Pair.of(_issue(plan, node, registry, change, stem, keys[stem]), None) for stem in stems}


def _issue(
    plan: Plan, node: Node, registry: Registry, change: Change, stem: str, key: ec.EllipticCurvePublicKey
) -> bytes:
    certificate = registry.issue(
        plan.identity(node),
        key,
        STEMS[stem],
        common_name=node.name,
        org=node.org,
        hosts=node.hosts if stem == "server" else (),
        why="; ".join(change.reasons) or change.kind,
    )
    return certificates_pem(certificate, *registry.issuer.chain)
