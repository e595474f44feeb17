"""The ``tcp`` driver: ``tcp://host:port``, clear or with TLS."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.base import Address
from cellnet.drivers.sock import SockLink, SockListener, connect_socket
from cellnet.errors import ConfigurationError, ConnectError

if TYPE_CHECKING:
    from cellnet.drivers.base import Security

__all__ = ["TcpDriver"]

BACKLOG = 4096


class TcpDriver:
    """Cells over TCP."""

    async def connect(self, address: Address, security: Security) -> SockLink:
        """Try the host's addresses in turn."""
        try:
            found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectError(f"the host {address.host!r} is not known: {error.strerror or error}") from None
        reason = "it has no address"
        for family, _type, _protocol, _name, target in found:
            try:
                sock = await connect_socket(family, target)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
            else:
                return SockLink(sock, "tcp", security, server_name=address.host)
        raise ConnectError(f"nobody answers at {address}: {reason}")

    async def listen(self, address: Address, security: Security) -> SockListener:
        """Listen on the first address that the host name has."""
        try:
            found = await anyio.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _type, _protocol, _name, target = found[0]
            sock = socket.create_server(target[:2], family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigurationError(f"cannot listen at {address}: {error.strerror or error}") from None
        bound = Address("tcp", address.host, sock.getsockname()[1], "")
        return SockListener(sock, str(bound), "tcp", security)
