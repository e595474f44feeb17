"""The ``grpc`` driver: ``grpc://host:port``, one stream of real gRPC, clear or with TLS.

Any ingress that knows gRPC carries it. It needs the package grpcio, which is loaded only when it is used.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Link, Listener, Security

__all__ = ["GrpcDriver"]


class GrpcDriver:
    """Cells over gRPC."""

    alpn = "h2"

    def __init__(self, proxy: str | None = None) -> None:
        """Say how to get out.

        :param proxy: as for :class:`~cellnet.drivers.http.HttpDriver`
        """
        self._proxy = proxy
        self._strangers: set[str] = set()
        """Places where our issuer was not known, so that it is shown there: as many as are ever dialled."""

    async def connect(self, address: Address, security: Security) -> Link:
        """Prepare a call: gRPC connects when it is made."""
        _check()
        from cellnet.drivers.grpc_call import GrpcCall

        return GrpcCall(address, security, self._proxy, self._strangers)

    async def listen(self, address: Address, security: Security) -> Listener:
        """Serve calls on all addresses that the host name has."""
        _check()
        from cellnet.drivers.grpc_server import GrpcListener

        return await GrpcListener.open(address, security)


def _check() -> None:
    if find_spec("grpc") is None or find_spec("google") is None:
        raise ConfigurationError("the grpc driver needs grpcio, which is not installed: pip install 'cellnet-fl[grpc]'")
    # A job's process is started by fork and exec. What gRPC does in between, to go on after a fork, aborts the child
    # when calls are under way; and nothing is to go on there. It is read when gRPC starts.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # what it would log is told by errors, in words for operators
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
