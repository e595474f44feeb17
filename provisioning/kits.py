"""Write a plan's startup kits: a folder for each participant, beside the registry of the authority that issued them.

Everything is written into a temporary folder first and then renamed, so a failure leaves nothing behind. On a later
run only kits whose participants changed are made again, and of those only ``startup/``: ``local/`` and ``transfer/``
are the nodes' own.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import CONNECT, LISTEN
from cellnet.errors import ConfigurationError
from cellnet.kit import KitFile, sign_manifest
from cellnet.placement import Placement
from cellnet.roster import Roster
from provisioning.authority import certificates_pem, key_pem
from provisioning.files import replace_file, write_file
from provisioning.records import CERTIFIED, Record, facts_of
from provisioning.registry import FOLDER

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

    from provisioning.plan import Node, Plan
    from provisioning.records import Change
    from provisioning.registry import Registry

__all__ = ["write_kits"]

_MODES = {".key": 0o600, ".sh": 0o755}
_ROSTER = "roster.bin"

_START = b"""\
#!/bin/sh
# Starts the node whose kit this is, from wherever it is called.
set -eu
script=$(readlink -f -- "$0")
kit_dir=$(dirname -- "$(dirname -- "$script")")
if ! command -v cellnet >/dev/null 2>&1; then
    echo "start.sh: the command 'cellnet' was not found: install cellnet-fl, or put it on the PATH" >&2
    exit 127
fi
exec cellnet start "$kit_dir" "$@"
"""


def write_kits(plan: Plan, changes: Sequence[Change], registry: Registry, out: Path) -> None:
    """Write into the folder *out* the kits that *changes* calls added or changed, the roster, and the registry.

    :raises ConfigurationError: if *out* holds something else in a kit's place, or cannot be written
    """
    wanted = {change.name: change for change in changes if change.kind in ("added", "changed")}
    nodes = [node for node in plan.nodes if node.name in wanted]
    _check_places(nodes, out)
    try:
        # As a child of an existing folder, and else as its sibling: in both cases a rename away.
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out if out.exists() else out.parent
        stage = Path(tempfile.mkdtemp(prefix=".provisioning-", dir=beside))
        try:
            roster = _roster(plan, registry, out / FOLDER / _ROSTER)
            for node in nodes:
                _write_kit(plan, node, wanted[node.name], registry, roster, stage, out)
            if beside is out:
                registry.save(out / FOLDER)
                _replace(plan, nodes, roster, stage, out)
            else:
                write_file(stage / ".gitignore", b"# private keys\n*\n", 0o644)
                registry.save(stage / FOLDER)
                replace_file(stage / FOLDER / _ROSTER, roster, 0o600)
                stage.rename(out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", str(error.filename or out)) from None


def _roster(plan: Plan, registry: Registry, last: Path) -> bytes:
    """Return the signed roster; the last one, unless somebody came, went or moved since."""
    records = registry.records
    roster = Roster(project=plan.project, version=records.roster_version + 1, members=plan.members)
    digest = hashlib.sha256(roster.model_dump_json(exclude={"version"}).encode()).hexdigest()
    if digest == records.roster and last.is_file():
        return last.read_bytes()
    records.roster, records.roster_version = digest, roster.version
    return roster.issue(registry.issuer.certificate, registry.issuer.key)


def _write_kit(
    plan: Plan, node: Node, change: Change, registry: Registry, roster: bytes, stage: Path, out: Path
) -> None:
    startup = stage / node.name / "startup"
    for folder in (startup.parent, startup, startup.parent / "local", startup.parent / "transfer"):
        folder.mkdir(mode=0o700)
    old = registry.records.kits.get(node.name)
    facts = facts_of(node)
    keeps = old is not None and all(old.facts.get(key) == facts[key] for key in CERTIFIED) and not change.renewed
    files, not_after = _files(plan, node, registry, out / node.name / "startup" if keeps else None, change)
    if node.role == "server":
        files[_ROSTER] = roster
    files = sign_manifest(files, registry.issuer.key)
    for name, content in files.items():
        write_file(startup / name, content, _MODES.get(Path(name).suffix, 0o644))
    manifest = hashlib.sha256(files["manifest.json"]).hexdigest()
    registry.records.kits[node.name] = Record(facts=facts, manifest=manifest, not_after=not_after)


def _files(
    plan: Plan, node: Node, registry: Registry, keep: Path | None, change: Change
) -> tuple[dict[str, bytes], datetime.datetime]:
    """Return the files of a node's ``startup/``, and when the first of its certificates ends.

    :param keep: the folder with the pairs of key and certificate that still hold
    """
    config = KitFile(
        project=plan.project,
        name=node.base_name,
        role=node.role,
        listen=node.listen,
        connect=node.connect,
        control_port=node.control_port,
    )
    files = {
        "kit.json": config.model_dump_json(indent=1).encode() + b"\n",
        "rootCA.pem": certificates_pem(*registry.roots),
        "issuer.crt": certificates_pem(registry.issuer.certificate),
    }
    ends = []
    for stem, usage, hosts in (("server", LISTEN, node.hosts), ("client", CONNECT, ())):
        if not (node.hosts if usage == LISTEN else node.connect):
            continue
        pair = _kept_pair(keep, stem) or _new_pair(plan, node, registry, usage, hosts, change)
        files[f"{stem}.crt"], files[f"{stem}.key"] = pair
        ends.append(x509.load_pem_x509_certificate(pair[0]).not_valid_after_utc)
    if node.connect:
        placement = Placement(plan.project, node.role, node.base_name, node.parents, str(node.fqsn or ""))
        files["placement.bin"] = placement.issue(registry.issuer.key).signed
    if node.ingress_ca:
        files["ingressCA.pem"] = node.ingress_ca
    if node.role != "admin":  # an admin is a person, not a process
        files["start.sh"] = _START
    return files, min(ends)


def _kept_pair(folder: Path | None, stem: str) -> tuple[bytes, bytes] | None:
    """Return certificate and key, if they are there: a kit that was taken away is made with new ones."""
    if folder is None or not (folder / f"{stem}.key").is_file():
        return None
    return (folder / f"{stem}.crt").read_bytes(), (folder / f"{stem}.key").read_bytes()


def _new_pair(
    plan: Plan,
    node: Node,
    registry: Registry,
    usage: x509.ObjectIdentifier,
    hosts: Sequence[str],
    change: Change,
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = registry.issue(
        plan.identity(node),
        key.public_key(),
        usage,
        common_name=node.name,
        org=node.org,
        hosts=hosts,
        why="; ".join(change.reasons) or change.kind,
    )
    return certificates_pem(certificate, *registry.issuer.chain), key_pem(key)


def _check_places(nodes: Sequence[Node], out: Path) -> None:
    """Refuse a folder that holds something else in a kit's place."""
    if out.exists() and not out.is_dir():
        raise ConfigurationError("is no folder: give one for the kits", str(out))
    for node in nodes:
        place = out / node.name
        if place.is_symlink() or (place.exists() and not (place / "startup").is_dir()):
            raise ConfigurationError("is in the way of a kit, and is none: move it away", str(place))


def _replace(plan: Plan, nodes: Sequence[Node], roster: bytes, stage: Path, out: Path) -> None:
    """Move what is new from *stage* to *out*."""
    for node in nodes:
        new, old = stage / node.name, out / node.name
        if not old.exists():
            new.rename(old)
            continue
        (old / "startup").rename(new / "replaced")
        (new / "startup").rename(old / "startup")
        for name in ("local", "transfer"):
            if not (old / name).exists():
                (new / name).rename(old / name)
    server = next(node.name for node in plan.nodes if node.role == "server")
    for place, mode in ((out / FOLDER / _ROSTER, 0o600), (out / server / "startup" / _ROSTER, 0o644)):
        if place.parent.is_dir() and not (place.exists() and place.read_bytes() == roster):
            replace_file(place, roster, mode)
