"""Change the project's root while its nodes run, in three steps, between which every node is renewed once.

First the new root is trusted beside the old one. Then, as every node knows of it, the issuer is one below the new root.
In the end, as no certificate below the old root holds any longer, the new root alone is trusted. Nodes hear of it with
their renewed certificates, see :mod:`cellnet.roots`, and kits that are made meanwhile have what is trusted that day.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cellnet.denial import Denial
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.roster import Roster
from provisioning.kits import ROSTER
from provisioning.registry import FOLDER, Registry, held, publish
from provisioning.revocation import DENIED

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509

    from provisioning.lock import Lock
    from provisioning.records import Records

__all__ = ["Rotation", "Step", "rotate"]


class Step(StrEnum):
    """What is to be done next."""

    ADD = "make a new root, which is trusted beside the old one"
    MOVE = "issue below the new root"
    DROP = "trust the new root alone"


@dataclass(frozen=True, slots=True)
class Rotation:
    """How far the change of a root has come."""

    step: Step
    waits_for: tuple[str, ...]
    """Participants whose certificates are from before the last step, and hold."""
    until: datetime.datetime | None
    """When the last of these has ended, whatever happens; None if there are none."""

    @classmethod
    def of(
        cls, roots: Sequence[x509.Certificate], issuer: x509.Certificate, records: Records, now: datetime.datetime
    ) -> Rotation:
        """Find out how far it has come by what is in the registry."""
        if len(roots) == 1:
            return cls(Step.ADD, (), None)
        since = records.rotated or now
        late = {name: kit for name, kit in records.kits.items() if kit.issued < since and kit.not_after > now}
        until = max((kit.not_after for kit in late.values()), default=None)
        return cls(Step.DROP if issuer.issuer == roots[-1].subject else Step.MOVE, tuple(late), until)


def rotate(out: Path, lock: Lock) -> Rotation:
    """Do the next step for the kits in *out*, if nothing speaks against it, and return how far it has come then.

    :raises ConfigurationError: if a participant's certificates are from before the last step, naming all of them, if
        the key of a root is missing, or if the registry cannot be read or written
    """
    folder = out / FOLDER
    if not folder.is_dir():
        raise ConfigurationError("there is no authority here: give the folder with the kits", str(out))
    with held(folder):
        registry = Registry.load(folder, lock)
        found = _progress(registry)
        if found.until is not None:
            raise ConfigurationError(_why_not(found))
        try:
            _do(found.step, registry, out)
        except OSError as error:
            message = f"cannot be read, or written: {error.strerror}"
            raise ConfigurationError(message, str(error.filename or out)) from None
        return _progress(registry)


def _progress(registry: Registry) -> Rotation:
    return Rotation.of(registry.roots, registry.issuer.certificate, registry.records, registry.now)


def _why_not(found: Rotation) -> str:
    names = ", ".join(found.waits_for)
    return (
        f"it is too early to {found.step}: {names} would be cut off. Each has to be renewed by the issuer first, to "
        f"get a new kit, or to be revoked; by {found.until:%Y-%m-%d %H:%M} UTC all will have expired"
    )


def _do(step: Step, registry: Registry, out: Path) -> None:
    folder = out / FOLDER
    registry.records.rotated = registry.now
    registry.save(folder)  # before the rest: who breaks off in the middle may have to wait, and cuts nobody off
    match step:
        case Step.ADD:
            registry.add_root(folder)
        case Step.MOVE:
            registry.move_below_new_root(folder)
        case Step.DROP:
            registry.drop_old_roots(folder)
    documents = {} if step is Step.ADD else _signed_again(registry, folder)
    registry.save(folder)
    publish(out, registry.server, documents)


def _signed_again(registry: Registry, folder: Path) -> dict[str, bytes]:
    """Return the documents that an issuer below the old root signed, signed by the one of today."""
    issuer, newest, before = registry.issuer, registry.roots[-1:], Registry.roots_in(folder)
    documents = {}
    signed = (folder / DENIED).read_bytes()
    if not _is_below(newest, Denial, signed):
        denial = Denial.verify(signed, before)
        denial = dataclasses.replace(denial, version=denial.version + 1)
        documents[DENIED] = denial.issue(issuer.certificate, issuer.key)
    signed = (folder / ROSTER).read_bytes()
    if not _is_below(newest, Roster, signed):
        roster = Roster.verify(signed, before)
        roster = roster.model_copy(update={"version": roster.version + 1})
        registry.records.roster_version = roster.version
        documents[ROSTER] = roster.issue(issuer.certificate, issuer.key)
    return documents


def _is_below(roots: tuple[x509.Certificate, ...], kind: type[Denial | Roster], signed: bytes) -> bool:
    try:
        kind.verify(signed, roots)
    except HandshakeError:
        return False
    return True
