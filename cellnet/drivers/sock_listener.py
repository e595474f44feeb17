"""A listening socket, whose arrivals are links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.base import CLEAR, Security
from cellnet.drivers.tls_link import link_over

if TYPE_CHECKING:
    import socket

    from cellnet.drivers.sock import SockLink
    from cellnet.drivers.tls_link import TlsLink

__all__ = ["SockListener"]


class SockListener:
    """A listening socket."""

    def __init__(self, sock: socket.socket, url: str, driver: str, security: Security = CLEAR) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._url = url
        self._driver = driver
        self._security = security

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._url

    async def accept(self) -> TlsLink | SockLink:
        """Wait for the next connection.

        :raises anyio.ClosedResourceError: after :meth:`close`
        """
        while True:
            if self._sock.fileno() < 0:
                raise anyio.ClosedResourceError
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
            except ConnectionError:
                continue  # it was gone before it was accepted
            except OSError:
                if self._sock.fileno() < 0:
                    raise anyio.ClosedResourceError from None
                await anyio.sleep(0.1)  # out of descriptors: live links go on, and new ones wait
            else:
                return link_over(sock, self._driver, self._security)

    def close(self) -> None:
        """Close the socket and wake whoever waits for it."""
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()
