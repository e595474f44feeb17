"""The issuer: a process of its own that holds the issuing key, and makes certificates anew for who proves the old ones.

It listens on a local socket, to which the server's node hands on what nodes ask. It believes nobody's word: a request
has the old certificates, which must hold and not be revoked, and is signed by their keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from cellnet.credentials import CONNECT, LISTEN, Credentials
from cellnet.denial import Denied
from cellnet.enrolment import STEMS, Enrolment
from cellnet.errors import ConfigurationError, HandshakeError
from cellnet.placement import Placement
from provisioning.authority import certificates_pem
from provisioning.registry import Registry, held
from provisioning.revocation import DENIED

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping
    from pathlib import Path

    from provisioning.lock import Lock
    from provisioning.records import Record

__all__ = ["Issuer"]

_SHARE = 20
"""Of a life: certificates are not renewed twice in that part of it."""


class Issuer:
    """Makes certificates anew."""

    def __init__(self, folder: Path, lock: Lock, life: datetime.timedelta) -> None:
        """Open the registry once, so that a wrong key file is told at the start.

        :param folder: the registry
        :param life: of the certificates
        :raises ConfigurationError: if the registry cannot be read
        """
        self._folder = folder
        self._lock = lock
        self._life = life
        self.project = Registry.load(folder, lock).project
        self._busy = anyio.Lock()

    async def renew(self, asked: Any) -> dict[str, Any]:
        """Answer a request for renewal; one at a time.

        :raises HandshakeError: if the old certificates do not hold, or do not prove the request
        :raises ConfigurationError: if it is malformed, or for somebody who is no participant any longer
        """
        async with self._busy:
            return await anyio.to_thread.run_sync(self._renew, asked)

    def _renew(self, asked: Any) -> dict[str, Any]:
        match asked:
            case {"request": bytes() as request, "chains": dict() as chains}:
                enrolment = Enrolment.parse(request)
            case _:
                raise ConfigurationError("a request for renewal has a 'request' and 'chains'")
        with held(self._folder):
            registry = Registry.load(self._folder, self._lock)
            registry.life = self._life
            _check_proof(registry, enrolment, chains, self._folder / DENIED)
            name, record = _participant(registry, enrolment)
            if registry.now - record.issued < self._life / _SHARE and record.was_renewed:
                raise ConfigurationError(f"{name} was renewed a moment ago: the log is not to grow without end")
            certificates = {
                stem: registry.issue(
                    enrolment.identity,
                    key,
                    STEMS[stem],
                    common_name=name,
                    org=record.facts["org"],
                    hosts=record.facts["hosts"] if stem == "server" else (),
                    why="renewed",
                )
                for stem, key in enrolment.keys.items()
            }
            end = min(certificate.not_valid_after_utc for certificate in certificates.values())
            registry.records.kits[name] = record.model_copy(
                update={"issued": registry.now, "not_after": end, "was_renewed": True}
            )
            registry.save(self._folder)
        parents = record.facts["parents"]
        placement = Placement(
            registry.project,
            enrolment.identity.role,
            enrolment.identity.name,
            tuple(parents),
            record.facts["fqsn"] or "",
        )
        return {
            "certificates": {
                stem: certificates_pem(certificate, *registry.issuer.chain)
                for stem, certificate in certificates.items()
            },
            "placement": placement.issue(registry.issuer.key).signed,
            **({"roots": registry.history} if registry.history else {}),
        }


def _check_proof(registry: Registry, enrolment: Enrolment, chains: Mapping[Any, Any], denied_file: Path) -> None:
    """See that for each key there is an old certificate that holds, of the same participant, for the same use."""
    denied = Denied()
    if denied_file.is_file():
        denied.take(denied_file.read_bytes(), registry.project, registry.roots)
    judge = Credentials(registry.issuer.key, (registry.issuer.certificate,), registry.roots, denied=denied)
    for stem, key in enrolment.keys.items():
        chain = chains.get(stem)
        if not isinstance(chain, list) or not all(isinstance(one, bytes) for one in chain) or not 1 <= len(chain) <= 4:
            raise ConfigurationError(f"there is no old certificate for {stem}")
        peer = judge.verify_chain(chain, LISTEN if stem == "server" else CONNECT, registry.now)
        if peer.identity != enrolment.identity or peer.key != key:
            raise HandshakeError(
                "the old certificate is another participant's, or for another key", "identity-mismatch"
            )


def _participant(registry: Registry, enrolment: Enrolment) -> tuple[str, Record]:
    for name, record in registry.records.kits.items():
        if (record.facts["type"], record.facts["name"]) == (enrolment.identity.role, enrolment.identity.name):
            return name, record
    raise ConfigurationError(f"{enrolment.identity.name} is no participant of this project any longer")
