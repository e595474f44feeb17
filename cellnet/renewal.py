"""Renewal: a node's certificates are made anew at two thirds of their life, while it runs.

The node asks the server, over its link, for certificates for the keys that it has. The server cannot issue any: it
hands the request on to the issuer, which believes only what the old certificates and keys prove. What comes back lies
in ``local/renewed`` of the kit and is used from then on, and by the next start. So do the project's roots, if they have
changed since the kit was made.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import anyio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cellnet.clock import wall_time
from cellnet.credentials import SKEW, Credentials
from cellnet.enrolment import STEMS, Enrolment
from cellnet.errors import CellError, ConfigurationError
from cellnet.roots import extends, follow

if TYPE_CHECKING:
    import datetime
    import random
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from cellnet.kit import Kit

__all__ = ["RENEW_TOPIC", "keep_renewed", "renewal_request", "renewed_credentials"]

RENEW_TOPIC = "cellnet.renew"
LOOK_SECONDS = 60.0
"""At most this long nothing is looked at: clocks are set, and machines sleep."""
AGAIN_SECONDS = 600.0
"""After a failure, at most."""

_HISTORY = "roots.bin"
_ROOTS = "roots.pem"

logger = logging.getLogger("cellnet.node")


async def keep_renewed(
    kit: Kit, ask: Callable[[dict[str, Any]], Awaitable[Any]], renewed: Callable[[], None], rng: random.Random
) -> None:
    """Renew the certificates of a node whenever it is time; to be cancelled.

    :param ask: asks for certificates, see :func:`renewal_request`
    :param renewed: told that the kit's credentials have others now
    """
    credentials = kit.credentials
    due = _due(credentials, rng)
    while True:
        left = (due - wall_time()).total_seconds()
        if left > 0:
            await anyio.sleep(min(left, LOOK_SECONDS))
            continue
        try:
            _keep(kit, await ask(renewal_request(credentials)))
            newer = renewed_credentials(kit.path, credentials)
            if newer is None or newer.chain[0] == credentials.chain[0]:
                raise ConfigurationError("the issuer gave no newer certificates", str(kit.path))
            credentials.renew(newer)
            renewed()
            due = _due(credentials, rng)
            logger.info(
                "%s: certificates renewed, until %s UTC", kit.name, _end(credentials).strftime("%Y-%m-%d %H:%M")
            )
        except (CellError, TimeoutError) as error:
            pause = min(AGAIN_SECONDS, _life(credentials.chain[0]).total_seconds() / 20)
            logger.warning("%s: certificates could not be renewed, next try in %.0f s: %s", kit.name, pause, error)
            await anyio.sleep(pause)


def renewal_request(credentials: Credentials) -> dict[str, Any]:
    """Return what a holder of certificates asks for new ones with: the old ones, and proof of their keys."""
    pairs = _pairs(credentials)
    keys = {stem: pair.key for stem, pair in pairs.items()}
    return {
        "request": Enrolment.of_keys(credentials.identity, keys),
        "chains": {stem: pair.chain_der for stem, pair in pairs.items()},
    }


def renewed_credentials(path: Path, old: Credentials) -> Credentials | None:
    """Return the credentials of the kit at *path* with what was renewed, if that is there, and newer, and holds."""
    folder = path / "local" / "renewed"
    if not folder.is_dir():
        return None
    newer: Credentials | None = None
    try:
        roots = _roots_in(folder, old)
        for stem, pair in _pairs(old).items():  # the connecting one comes last, and has the other
            placement = (folder / "placement.bin").read_bytes() if stem == "client" else b""
            if pair.files is None:
                return None
            _certificate, key, before = pair.files
            newer = Credentials.load(folder / f"{stem}.crt", key, roots or before, placement=placement, listening=newer)
            newer.verify_chain(newer.chain_der, STEMS[stem], wall_time())
    except (OSError, CellError) as error:
        logger.warning("%s: what was renewed cannot be used: %s", folder, error)
        return None
    return newer if newer is not None and _end(newer) > _end(old) else None


def _keep(kit: Kit, answer: Any) -> None:
    """Write what came, so that there is always the old or the new."""
    match answer:
        case {"placement": bytes() as placement, "certificates": dict() as certificates}:
            history = answer.get("roots")
        case _:
            raise ConfigurationError("the issuer's answer is malformed", str(kit.path))
    new, folder, old = (kit.local / name for name in ("renewed.new", "renewed", "renewed.old"))
    try:
        roots = _followed(history, folder, kit.credentials)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for stem in ("server", "client"):
            if isinstance(content := certificates.get(stem), bytes):
                (new / f"{stem}.crt").write_bytes(content)
        (new / "placement.bin").write_bytes(placement)
        for name, content in roots.items():
            (new / name).write_bytes(content)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ConfigurationError(f"cannot be read, or written: {error.strerror}", str(error.filename or new)) from None


def _followed(history: object, folder: Path, credentials: Credentials) -> dict[str, bytes]:
    """Return the files that say which roots are trusted from now on; none, if that is as the kit says.

    :raises HandshakeError: if a document among them is malformed
    :raises ConfigurationError: if this is not how what is known here goes on
    """
    known = (folder / _HISTORY).read_bytes() if (folder / _HISTORY).is_file() else b""
    if history is None and not known:
        return {}
    if not isinstance(history, bytes) or (known and not extends(history, known)):
        message = "the issuer does not know how the project's roots changed: its registry is an old copy"
        raise ConfigurationError(message, str(folder))
    roots = follow(history, credentials.identity.project, credentials.roots)
    return {_HISTORY: history, _ROOTS: b"".join(root.public_bytes(serialization.Encoding.PEM) for root in roots)}


def _roots_in(folder: Path, credentials: Credentials) -> Path | None:
    """Return the file with the roots that are trusted by now; None, if these are those of the kit.

    :raises HandshakeError: if the history that it came from is malformed
    :raises ConfigurationError: if the file does not say what the history says
    """
    if not (folder / _HISTORY).exists():
        return None
    roots = follow((folder / _HISTORY).read_bytes(), credentials.identity.project, credentials.roots)
    try:
        said = x509.load_pem_x509_certificates((folder / _ROOTS).read_bytes())
    except ValueError:
        said = []
    if tuple(said) != roots:
        raise ConfigurationError(f"is not what {_HISTORY} says", str(folder / _ROOTS))
    return folder / _ROOTS


def _pairs(credentials: Credentials) -> Mapping[str, Credentials]:
    if credentials.identity.role == "server":
        return {"server": credentials}
    if credentials.listening is not None:
        return {"server": credentials.listening, "client": credentials}
    return {"client": credentials}


def _due(credentials: Credentials, rng: random.Random) -> datetime.datetime:
    """Return when two thirds of a life are over, a little sooner or later, so that not all ask at once."""
    leaf = min((pair.chain[0] for pair in _pairs(credentials).values()), key=lambda leaf: leaf.not_valid_after_utc)
    return leaf.not_valid_after_utc - _life(leaf) / 3 * rng.uniform(0.8, 1.2)


def _life(leaf: x509.Certificate) -> datetime.timedelta:
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc - SKEW


def _end(credentials: Credentials) -> datetime.datetime:
    return min(pair.chain[0].not_valid_after_utc for pair in _pairs(credentials).values())
