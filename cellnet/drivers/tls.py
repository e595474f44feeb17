"""TLS contexts from credentials."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from cellnet.drivers.base import CLEAR, Security
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from cellnet.credentials import Credentials
    from cellnet.drivers.base import Address, Files, Ingress

__all__ = ["MODES", "for_connecting", "for_listening", "mode_for", "renew"]

MODES = ("clear", "tls", "mtls")


def mode_for(address: Address, credentials: Credentials | None, wanted: str | None) -> str:
    """Return how links are protected there: as is wanted, else as well as they can be where there is a network."""
    if wanted is not None:
        return wanted
    return "mtls" if credentials is not None and address.scheme not in ("unix", "memory") else "clear"


def for_connecting(mode: str, credentials: Credentials | None, alpn: str, ingress: Ingress | None = None) -> Security:
    """Return how to protect a link that we dial.

    :param alpn: what the driver's protocol is called; an ingress routes by it, and some refuse a name they do not know
    :param ingress: what ends TLS in front of the listener, if something does
    :raises ConfigurationError: if the mode needs credentials that are not there
    """
    if mode == "clear":
        return CLEAR
    files = _files(credentials, mode)
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files, alpn)
    context.check_hostname = True
    if ingress is not None:
        _trust(context, ingress.authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # some know no better
    if mode == "mtls":
        _show(context, files)
    return Security(mode, context, files, ingress=ingress)


def for_listening(mode: str, credentials: Credentials | None, alpn: str) -> Security:
    """Return how to protect links that others dial.

    :param alpn: what the driver's protocol is called
    :raises ConfigurationError: if the mode needs credentials that are not there
    """
    if mode == "clear":
        return CLEAR
    files = _files(credentials and (credentials.listening or credentials), mode)
    context = _context(ssl.PROTOCOL_TLS_SERVER, files, alpn)
    # Session tickets would let a peer come back without showing its certificate. And a peer that closes with a
    # ticket unread makes its kernel reset the connection, which loses what is still on its way.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if mode == "mtls" else ssl.CERT_NONE
    _show(context, files)
    return Security(mode, context, files)


def renew(security: Security, credentials: Credentials) -> None:
    """Let the next handshakes show the certificate that *credentials* have now.

    :param security: as :func:`for_listening` or :func:`for_connecting` made it of them
    :raises ConfigurationError: if it cannot be read
    """
    context = security.context
    if context is None:
        return
    listens = context.protocol == ssl.PROTOCOL_TLS_SERVER
    files = _files((credentials.listening if listens else None) or credentials, security.mode)
    if listens or security.mode == "mtls":
        _show(context, files)
    _trust(context, files[2])
    security.files = files
    security.renewals += 1


def _files(credentials: Credentials | None, mode: str) -> Files:
    if mode not in MODES:
        raise ConfigurationError(f"connection_security is {mode!r}: clear, tls or mtls is wanted")
    if credentials is None or credentials.files is None:
        raise ConfigurationError(f"{mode} needs credentials with certificate files")
    return credentials.files


def _context(protocol: int, files: Files, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    _trust(context, files[2])
    return context


def _show(context: ssl.SSLContext, files: Files) -> None:
    try:
        context.load_cert_chain(*files[:2])
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"cannot be shown with its key: {error}", str(files[0])) from None


def _trust(context: ssl.SSLContext, roots: Path) -> None:
    try:
        context.load_verify_locations(roots)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"holds no certificates that can be read: {error}", str(roots)) from None
