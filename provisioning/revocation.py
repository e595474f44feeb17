"""Revoke participants: put their certificates on the list that the issuer signs, and forget their kits."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cellnet.credentials import Identity
from cellnet.denial import MAX_DENIED, Denial
from cellnet.errors import ConfigurationError
from provisioning.issuance import read_issued
from provisioning.problems import did_you_mean
from provisioning.registry import FOLDER, Registry, held, publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from provisioning.issuance import Issuance
    from provisioning.lock import Lock

__all__ = ["DENIED", "revoke"]

DENIED = "denied.bin"


def revoke(names: Sequence[str], out: Path, lock: Lock) -> tuple[Issuance, ...]:
    """Put all certificates of these participants on the list, in the registry and in the server's kit.

    Their names stay theirs: whoever is still in the project gets a new kit in the next run.

    :return: the certificates, of which none holds any longer
    :raises ConfigurationError: if a participant never had a kit, or the registry cannot be read or written
    """
    folder = out / FOLDER
    if not folder.is_dir():
        raise ConfigurationError("there is no authority here: give the folder with the kits", str(out))
    with held(folder):
        registry = Registry.load(folder, lock)
        identities = {_identity(name, registry) for name in names}
        valid = [one for one in read_issued(folder / "issued.jsonl") if _holds(one, registry.now)]
        last = Denial.verify((folder / DENIED).read_bytes(), registry.roots)
        found = tuple(one for one in valid if one.identity in identities and one.serial not in last.serials)
        # what has expired is refused anyhow, so the list does not grow for ever
        kept = [one for one in valid if one.serial in last.serials]
        if len(kept) + len(found) > MAX_DENIED:
            message = f"more than {MAX_DENIED} certificates would be revoked, and no node takes so long a list"
            raise ConfigurationError(f"{message}: wait until some expire")
        denial = Denial(
            project=registry.project,
            version=last.version + 1,
            serials=tuple(one.serial for one in (*kept, *found)),
            keys=tuple(sorted({one.key for one in (*kept, *found)})),
        )
        signed = denial.issue(registry.issuer.certificate, registry.issuer.key)
        server = registry.server  # which may be one of them
        for name in names:
            registry.records.kits.pop(name, None)
        try:
            registry.save(folder)
            publish(out, server, {DENIED: signed})
        except OSError as error:
            raise ConfigurationError(f"cannot be written: {error.strerror}", str(error.filename or out)) from None
    return found


def _identity(name: str, registry: Registry) -> str:
    record = registry.records.kits.get(name)
    if record is None:
        hint = did_you_mean(name, registry.records.kits)
        raise ConfigurationError(f"{name!r} has no kit of this project{f' ({hint})' if hint else ''}")
    return Identity(registry.project, record.facts["type"], record.facts["name"]).uri


def _holds(one: Issuance, now: datetime.datetime) -> bool:
    return datetime.datetime.fromisoformat(one.not_after) > now
