"""Write a plan's startup kits: a folder for each participant, and one for the authority that issued them.

Everything is written into a temporary folder first and then renamed, so a failure leaves nothing behind. On a
later run the authority stays, and so do ``local/`` and ``transfer/`` of every kit: only ``startup/`` is replaced.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet.credentials import CONNECT, LISTEN
from cellnet.errors import ConfigurationError
from cellnet.kit import KitFile, Roster, sign_manifest
from cellnet.placement import Placement
from provisioning.authority import Authority, key_pem
from provisioning.files import write_file

if TYPE_CHECKING:
    from cryptography import x509

    from provisioning.plan import Node, Plan

__all__ = ["AUTHORITY", "kit_files", "open_authority", "write_kits"]

AUTHORITY = "authority"
"""The folder beside the kits that never leaves the machine where the project is provisioned."""

_MODES = {".key": 0o600, ".sh": 0o755}

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


def open_authority(project: str, out: Path) -> Authority:
    """Return the authority whose kits are in *out*, or a new one, which is not yet saved.

    :raises ConfigurationError: if there is one that cannot be read, or is another project's
    """
    folder = out / AUTHORITY
    if not folder.exists():
        return Authority.create(project)
    authority = Authority.load(folder)
    if authority.project != project:
        message = f"is the authority of project {authority.project!r}, not {project!r}: give another folder"
        raise ConfigurationError(message, str(folder))
    return authority


def write_kits(plan: Plan, authority: Authority, out: Path) -> tuple[str, ...]:
    """Write the kits of *plan*, and *authority*, into the folder *out*.

    :return: names of kits that lie in *out* already and are no longer in the plan
    :raises ConfigurationError: if *out* holds something else in a kit's place, or cannot be written
    """
    known = _known_kits(plan, out)
    try:
        # As a child of an existing folder, and else as its sibling: in both cases a rename away.
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out if out.exists() else out.parent
        stage = Path(tempfile.mkdtemp(prefix=".provisioning-", dir=beside))
        try:
            _write_all(plan, authority, stage)
            if beside is out:
                _replace(plan, stage, out)
            else:
                stage.rename(out)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"cannot be written: {error.strerror}", str(error.filename or out)) from None
    return tuple(sorted(known - {node.name for node in plan.nodes}))


def kit_files(plan: Plan, node: Node, authority: Authority) -> dict[str, bytes]:
    """Return the files of a node's ``startup/``, with new keys and certificates."""
    identity = plan.identity(node)
    config = KitFile(
        project=plan.project, name=node.base_name, role=node.role, listen=node.listen, connect=node.connect
    )
    files = {"kit.json": config.model_dump_json(indent=1).encode() + b"\n", "rootCA.pem": authority.certificate_pem}
    for stem, usage, hosts, wanted in (
        ("server", LISTEN, node.hosts, node.listen),
        ("client", CONNECT, (), node.connect),
    ):
        if wanted:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = authority.issue(
                identity, key.public_key(), usage, common_name=node.name, org=node.org, hosts=hosts
            )
            files[f"{stem}.key"] = key_pem(key)
            files[f"{stem}.crt"] = _pem(certificate)
    if node.connect:
        fqsn = str(node.fqsn or "")
        placement = Placement(plan.project, node.role, node.base_name, node.parents, fqsn)
        files["placement.bin"] = placement.issue(authority.key).signed
    if node.role == "server":
        files["roster.json"] = Roster(plan.roster).model_dump_json(indent=1).encode() + b"\n"
    if node.role != "admin":  # an admin is a person, not a process
        files["start.sh"] = _START
    return sign_manifest(files, authority.key)


def _known_kits(plan: Plan, out: Path) -> set[str]:
    """Return the kits in *out*; refuse a folder that is something else in a kit's place."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise ConfigurationError("is no folder: give one for the kits", str(out))
    known = {entry.name for entry in out.iterdir() if (entry / "startup").is_dir()}
    for node in plan.nodes:
        place = out / node.name
        if (place.exists() or place.is_symlink()) and (node.name not in known or place.is_symlink()):
            raise ConfigurationError("is in the way of a kit, and is none: move it away", str(place))
    return known


def _write_all(plan: Plan, authority: Authority, stage: Path) -> None:
    authority.save(stage / AUTHORITY)
    write_file(stage / ".gitignore", b"# private keys\n*\n", 0o644)
    for node in plan.nodes:
        startup = stage / node.name / "startup"
        for folder in (startup.parent, startup, startup.parent / "local", startup.parent / "transfer"):
            folder.mkdir(mode=0o700)
        for name, content in kit_files(plan, node, authority).items():
            write_file(startup / name, content, _MODES.get(Path(name).suffix, 0o644))


def _replace(plan: Plan, stage: Path, out: Path) -> None:
    """Move what is new from *stage* to *out*: the authority first, since kits without it could never be renewed."""
    for name in (AUTHORITY, ".gitignore"):
        if not (out / name).exists():
            (stage / name).rename(out / name)
    for node in plan.nodes:
        new, old = stage / node.name, out / node.name
        if not old.exists():
            new.rename(old)
            continue
        (old / "startup").rename(new / "replaced")
        (new / "startup").rename(old / "startup")
        for name in ("local", "transfer"):
            if not (old / name).exists():
                (new / name).rename(old / name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
