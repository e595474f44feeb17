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
    at_site = record is not None and bool(record.keys)
    if holds and (kept := _kept(startup, stems, registry, at_site=at_site)):
        return kept
    if record is not None and at_site:
        return _certified(plan, node, registry, change, stems, record.public_keys())
    keys = {stem: ec.generate_private_key(ec.SECP256R1()) for stem in stems}
    return {
        stem: Pair.of(_issue(plan, node, registry, change, stem, key.public_key()), key_pem(key))
        for stem, key in keys.items()
    }


def _kept(startup: Path, stems: list[str], registry: Registry, *, at_site: bool) -> dict[str, Pair] | None:
    """Return the pairs in the last kit, if all are there, not near their end, and from who signs the rest of it."""
    issuer, pairs = certificates_pem(*registry.issuer.chain), {}
    for stem in stems:
        certificate, key = startup / f"{stem}.crt", startup / f"{stem}.key"
        if not certificate.is_file() or not (at_site or key.is_file()):
            return None
        pair = Pair.of(certificate.read_bytes(), None if at_site else key.read_bytes())
        is_old = pair.not_after - registry.now < (pair.not_after - pair.issued) / 3
        if is_old or not pair.certificates.endswith(issuer):
            return None
        pairs[stem] = pair
    return pairs


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
