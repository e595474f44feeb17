"""The ``unix`` driver: ``unix:///path/to/socket``, for the processes of one site."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cellnet.drivers.sock import SockLink, connect_socket
from cellnet.drivers.sock_listener import SockListener
from cellnet.errors import ConfigurationError, ConnectError

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Security

__all__ = ["MAX_PATH_BYTES", "UnixDriver"]

MAX_PATH_BYTES = 100
"""Systems allow 104 to 108 bytes for the path of a socket."""
BACKLOG = 128


class UnixDriver:
    """Cells over a socket in the file system. There is no TLS here: the file's mode decides who may connect."""

    alpn = "cellnet/1"

    async def connect(self, address: Address, security: Security) -> SockLink:
        """Connect to the socket's file."""
        _check(address, security)
        try:
            sock = await connect_socket(socket.AF_UNIX, address.path)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectError(f"nobody answers at {address}: {reason}") from None
        return SockLink(sock, "unix")

    async def listen(self, address: Address, security: Security) -> UnixListener:
        """Create the socket's file, in place of one that nobody listens at any more."""
        _check(address, security)
        path = Path(address.path)
        await _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(address.path)
            path.chmod(0o600)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise ConfigurationError(f"cannot listen at {address}: {error.strerror}") from None
        return UnixListener(sock, path)


class UnixListener(SockListener):
    """A listening socket that removes its file."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        super().__init__(sock, f"unix://{path}", "unix")
        self._path = path

    def close(self) -> None:
        """Close the socket and remove its file."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        super().close()


def _check(address: Address, security: Security) -> None:
    if security.context is not None:
        raise ConfigurationError("unix sockets are always clear: leave connection_security out")
    if len(os.fsencode(address.path)) > MAX_PATH_BYTES:
        raise ConfigurationError(f"the socket's path is longer than {MAX_PATH_BYTES} bytes: {address.path}")


async def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigurationError("is in the way of a socket", str(path))
    except FileNotFoundError:
        return
    try:
        (await connect_socket(socket.AF_UNIX, str(path))).close()
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise ConfigurationError("another process listens at this socket", str(path))
