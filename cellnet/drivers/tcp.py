"""The ``tcp`` driver: ``tcp://host:port``, clear or with TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.drivers.dial import dial, listen
from cellnet.drivers.tls_link import link_over

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Security
    from cellnet.drivers.sock import SockLink
    from cellnet.drivers.sock_listener import SockListener
    from cellnet.drivers.tls_link import TlsLink

__all__ = ["TcpDriver"]


class TcpDriver:
    """Cells over TCP."""

    alpn = "cellnet/1"

    async def connect(self, address: Address, security: Security) -> TlsLink | SockLink:
        """Connect to the host."""
        return link_over(await dial(address.host, address.port), "tcp", security, server_name=address.host)

    async def listen(self, address: Address, security: Security) -> SockListener:
        """Listen on the first address that the host name has."""
        return await listen(address, security)
