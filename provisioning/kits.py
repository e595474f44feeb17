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

from cellnet.denial import Denial
from cellnet.errors import ConfigurationError
from cellnet.kit import KitFile, sign_manifest
from cellnet.placement import Placement
from cellnet.roster import Roster
from provisioning.authority import certificates_pem
from provisioning.deployment import deployment_files
from provisioning.files import replace_file, write_file
from provisioning.pairs import Pair, PublicKeys, pairs_of
from provisioning.records import Record, facts_of
from provisioning.registry import FOLDER, publish
from provisioning.revocation import DENIED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provisioning.plan import Node, Plan
    from provisioning.records import Change
    from provisioning.registry import Registry

__all__ = ["ROSTER", "write_kits"]

_MODES = {".key": 0o600, ".sh": 0o755}
ROSTER = "roster.bin"

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


def write_kits(
    plan: Plan,
    changes: Sequence[Change],
    registry: Registry,
    out: Path,
    requested: Mapping[str, PublicKeys] | None = None,
) -> None:
    """Write into the folder *out* the kits that *changes* calls added or changed, the roster, and the registry.

    :param requested: public keys that sites asked to have certified, by the sites' base names
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
            roster = _roster(plan, registry, out / FOLDER / ROSTER)
            denied = _denied(registry, out / FOLDER / DENIED)
            for node in nodes:
                startup = out / node.name / "startup"
                pairs = pairs_of(plan, node, registry, wanted[node.name], startup, requested or {})
                _write_kit(plan, node, registry, pairs, roster, denied, stage)
            if beside is out:
                registry.save(out / FOLDER)
                _replace(registry, nodes, roster, stage, out)
            else:
                write_file(stage / ".gitignore", b"# private keys\n*\n", 0o644)
                registry.save(stage / FOLDER)
                replace_file(stage / FOLDER / ROSTER, roster, 0o600)
                replace_file(stage / FOLDER / DENIED, denied, 0o600)
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


def _denied(registry: Registry, last: Path) -> bytes:
    """Return the signed list of who was revoked; one with nobody on it, if there is none yet."""
    if last.is_file():
        return last.read_bytes()
    empty = Denial(project=registry.project, version=0)
    return empty.issue(registry.issuer.certificate, registry.issuer.key)


def _write_kit(
    plan: Plan, node: Node, registry: Registry, pairs: dict[str, Pair], roster: bytes, denied: bytes, stage: Path
) -> None:
    startup = stage / node.name / "startup"
    for folder in (startup.parent, startup, startup.parent / "local", startup.parent / "transfer"):
        folder.mkdir(mode=0o700)
    files = _files(plan, node, registry, pairs)
    if node.role == "server":
        files |= {ROSTER: roster, DENIED: denied}
    signed = sign_manifest(files, registry.issuer.key)
    for name, content in signed.items():
        write_file(startup / name, content, _MODES.get(Path(name).suffix, 0o644))
    for name, content in deployment_files(plan, node).items():
        write_file(startup.parent / name, content, 0o644)
    registry.records.kits[node.name] = Record(
        facts=facts_of(node, plan),
        manifest=hashlib.sha256(signed["manifest.json"]).hexdigest(),
        issued=min(pair.issued for pair in pairs.values()),
        not_after=min(pair.not_after for pair in pairs.values()),
        keys={stem: pair.public_key for stem, pair in pairs.items() if pair.key is None},
    )


def _files(plan: Plan, node: Node, registry: Registry, pairs: dict[str, Pair]) -> dict[str, bytes | None]:
    """Return the files of a node's ``startup/``; None for a key that is at its site."""
    config = KitFile(
        project=plan.project,
        name=node.base_name,
        role=node.role,
        listen=node.listen,
        connect=node.connect,
        others=node.others,
        control_port=node.control_port,
        allow_error_sending=plan.allow_error_sending and node.role in ("server", "client"),
    )
    files: dict[str, bytes | None] = {
        "kit.json": config.model_dump_json(indent=1).encode() + b"\n",
        "rootCA.pem": certificates_pem(*registry.roots),
        "issuer.crt": certificates_pem(registry.issuer.certificate),
    }
    for stem, pair in pairs.items():
        files[f"{stem}.crt"], files[f"{stem}.key"] = pair.certificates, pair.key
    if node.connect:
        placement = Placement(plan.project, node.role, node.base_name, node.parents, str(node.fqsn or ""))
        files["placement.bin"] = placement.issue(registry.issuer.key).signed
    if node.ingress_ca:
        files["ingressCA.pem"] = node.ingress_ca
    if node.role != "admin":  # an admin is a person, not a process
        files["start.sh"] = _START
    return files


def _check_places(nodes: Sequence[Node], out: Path) -> None:
    """Refuse a folder that holds something else in a kit's place."""
    if out.exists() and not out.is_dir():
        raise ConfigurationError("is no folder: give one for the kits", str(out))
    for node in nodes:
        place = out / node.name
        if place.is_symlink() or (place.exists() and not (place / "startup").is_dir()):
            raise ConfigurationError("is in the way of a kit, and is none: move it away", str(place))


def _replace(registry: Registry, nodes: Sequence[Node], roster: bytes, stage: Path, out: Path) -> None:
    """Move what is new from *stage* to *out*."""
    for node in nodes:
        new, old = stage / node.name, out / node.name
        if not old.exists():
            new.rename(old)
            continue
        (old / "startup").rename(new / "replaced")
        (new / "startup").rename(old / "startup")
        for path in new.iterdir():
            if path.is_file():
                path.replace(old / path.name)
        for name in ("local", "transfer"):
            if not (old / name).exists():
                (new / name).rename(old / name)
    publish(out, registry.server, {ROSTER: roster})
