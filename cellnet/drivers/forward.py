"""Going out through a site's forward proxy: which one, and how to ask it (RFC 9110, section 9.3.6)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import anyio
import h11
from websockets.exceptions import InvalidProxy
from websockets.headers import build_authorization_basic
from websockets.proxy import Proxy, parse_proxy

from cellnet.drivers.base import place
from cellnet.drivers.dial import dial
from cellnet.errors import ConfigurationError, ConnectError, HandshakeError

if TYPE_CHECKING:
    import socket

    from cellnet.drivers.base import Address, Security

__all__ = ["proxy_for", "reach"]

ANSWER_BYTES = 16 * 1024
"""Of a proxy's answer, at most."""


def proxy_for(address: Address, security: Security, chosen: str | None) -> Proxy | None:
    """Return the proxy to reach *address* through, if there is one.

    :param chosen: what a setting says; None if none does, then the environment is asked
    :raises ConfigurationError: if what is said there is no proxy that can be used
    """
    if chosen is None:
        if proxy_bypass(f"{address.host}:{address.port}"):
            return None
        known = getproxies()
        chosen = known.get("https") if security.mode != "clear" else known.get("http") or known.get("https")
    if not chosen:
        return None
    try:
        proxy = parse_proxy(chosen)
    except (InvalidProxy, ValueError):
        # the library's words would show the password
        raise ConfigurationError("the proxy is none: http://host:port or http://user:password@host:port") from None
    if proxy.scheme != "http":
        raise ConfigurationError(f"the proxy's scheme is {proxy.scheme}: only http can be used")
    if ":" in (proxy.username or ""):
        raise ConfigurationError("the proxy's user name has a colon: basic authentication knows none with it")
    return proxy


async def reach(address: Address, proxy: Proxy | None) -> socket.socket:
    """Return a socket on which the host of *address* is to be heard.

    :param proxy: what to go through; None to dial the host itself
    :raises HandshakeError: if the proxy refuses
    :raises ConnectError: if the proxy does not answer, or the host does not
    """
    if proxy is None:
        return await dial(address.host, address.port)
    where = place(proxy.host, proxy.port)
    try:
        sock = await dial(proxy.host, proxy.port)
    except ConnectError as error:
        raise ConnectError(f"the proxy {where} cannot be reached: {error}") from None
    try:
        status = await _ask(sock, proxy, address)
    except h11.RemoteProtocolError:
        sock.close()
        raise HandshakeError(f"what answers at {where} is no HTTP proxy", "no-proxy") from None
    except OSError as error:
        sock.close()
        raise ConnectError(f"the proxy {where} broke the link: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    if status // 100 == 2:
        return sock
    sock.close()
    if status in _NEVER:
        raise HandshakeError(f"the proxy {where} answered with status {status}: {_NEVER[status]}", f"proxy-{status}")
    raise ConnectError(f"the proxy {where} answered with status {status}: it could not reach {address}")


async def _ask(sock: socket.socket, proxy: Proxy, address: Address) -> int:
    """Ask for a way to *address*; return the status of the answer."""
    headers = [("Host", address.place)]
    if proxy.user_info is not None:
        headers.append(("Proxy-Authorization", build_authorization_basic(*proxy.user_info)))
    asking = h11.Connection(h11.CLIENT, max_incomplete_event_size=ANSWER_BYTES)
    request = asking.send(h11.Request(method="CONNECT", target=address.place, headers=headers)) or b""
    request += asking.send(h11.EndOfMessage()) or b""
    await _send(sock, request)
    while True:
        event = asking.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            asking.receive_data(await _receive(sock))


async def _send(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)


async def _receive(sock: socket.socket) -> bytes:
    while True:
        with suppress(BlockingIOError):
            # byte by byte: what follows the answer is for whoever takes the socket over
            return sock.recv(1)
        await anyio.wait_readable(sock)


_NEVER = {
    400: "it did not understand the request",
    401: "it wants a name and a password: http://user:password@host:port",
    403: "it forbids this host or port: ask who runs it",
    405: "it does not let CONNECT pass: ask who runs it",
    407: "it wants a name and a password, or others: http://user:password@host:port",
}
