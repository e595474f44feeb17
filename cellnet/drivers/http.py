"""The ``http`` driver: ``http://host:port``, a WebSocket at ``/cellnet``, clear or with TLS.

For networks in which only HTTP passes: through an ingress that ends TLS in front of the listener, and through the
forward proxy of the site that dials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.drivers.dial import listen
from cellnet.drivers.tls_link import link_over

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Security
    from cellnet.drivers.websocket import WsLink, WsListener

__all__ = ["HttpDriver"]


class HttpDriver:
    """Cells over HTTP."""

    alpn = "http/1.1"

    def __init__(self, proxy: str | None = None) -> None:
        """Say how to get out.

        :param proxy: the forward proxy to go through, such as ``http://user:password@proxy:3128``; empty for none;
            otherwise the environment says: ``https_proxy`` or ``http_proxy``, and ``no_proxy``
        """
        self._proxy = proxy

    async def connect(self, address: Address, security: Security) -> WsLink:
        """Connect to the host, or ask the proxy to."""
        # only here: a program that does without HTTP does not wait for it
        from cellnet.drivers.forward import proxy_for, reach
        from cellnet.drivers.websocket import WsLink

        sock = await reach(address, proxy_for(address, security, self._proxy))
        return WsLink(link_over(sock, "http", security, server_name=address.host), address)

    async def listen(self, address: Address, security: Security) -> WsListener:
        """Listen on the first address that the host name has."""
        from cellnet.drivers.websocket import WsListener

        return WsListener(await listen(address, security))
