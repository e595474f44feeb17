"""TLS contexts from credentials."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from cellnet.drivers.base import CLEAR, Security
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from cellnet.credentials import Credentials

__all__ = ["MODES", "for_connecting", "for_listening"]

MODES = ("clear", "tls", "mtls")


def for_connecting(mode: str, credentials: Credentials | None, alpn: str) -> Security:
    """Return how to protect a link that we dial.

    :param alpn: what the driver's protocol is called; an ingress routes by it, and some refuse a name they do not know
    :raises ConfigurationError: if the mode needs credentials that are not there
    """
    if mode == "clear":
        return CLEAR
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials, mode, alpn)
    context.check_hostname = True
    if mode == "mtls":
        _load_pair(context, credentials)
    return Security(mode, context, credentials.files if credentials else None)


def for_listening(mode: str, credentials: Credentials | None, alpn: str) -> Security:
    """Return how to protect links that others dial.

    :param alpn: what the driver's protocol is called
    :raises ConfigurationError: if the mode needs credentials that are not there
    """
    if mode == "clear":
        return CLEAR
    if credentials is not None and credentials.listening is not None:
        credentials = credentials.listening
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials, mode, alpn)
    # Session tickets would let a peer come back without showing its certificate. And a peer that closes with a
    # ticket unread makes its kernel reset the connection, which loses what is still on its way.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if mode == "mtls" else ssl.CERT_NONE
    _load_pair(context, credentials)
    return Security(mode, context, credentials.files if credentials else None)


def _context(protocol: int, credentials: Credentials | None, mode: str, alpn: str) -> ssl.SSLContext:
    if mode not in MODES:
        raise ConfigurationError(f"connection_security is {mode!r}: clear, tls or mtls is wanted")
    if credentials is None or credentials.files is None:
        raise ConfigurationError(f"{mode} needs credentials with certificate files")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    context.load_verify_locations(credentials.files[2])
    return context


def _load_pair(context: ssl.SSLContext, credentials: Credentials | None) -> None:
    if credentials is not None and credentials.files is not None:
        context.load_cert_chain(credentials.files[0], credentials.files[1])
