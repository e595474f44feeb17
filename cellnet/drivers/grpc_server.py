"""Listening for gRPC: every stream that a peer opens is an arrival."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import grpc
import grpc.aio

from cellnet.drivers.base import START_SECONDS
from cellnet.drivers.crossing import Host
from cellnet.drivers.dial import listen
from cellnet.drivers.grpc_link import END, METHOD, OPTIONS, SERVICE, GrpcLink, deserialize, pump
from cellnet.drivers.grpc_loop import GrpcLoop
from cellnet.errors import ConfigurationError
from cellnet.protocol.handshake import Transport
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from cellnet.drivers.base import Address, Buffer, Files, Security

__all__ = ["GrpcListener"]

MAX_WAITING = 128
"""Streams that wait to be accepted; one more is ended."""
MAX_STREAMS = 1024
"""Of one connection: an ingress may carry many cells over one."""
DRAIN_SECONDS = 10.0
"""How long streams may go on after their listener closed."""


class GrpcListener:
    """A gRPC server, in gRPC's loop; its arrivals are accepted in the cell's."""

    def __init__(self, security: Security) -> None:
        """Make one that does not listen yet, for the loop that runs now."""
        self._security = security
        self._host = Host()
        self._loop = GrpcLoop.of_process()
        self._arrived: deque[GrpcLink] = deque()
        self._came = Wakeup()
        self._server: grpc.aio.Server
        self._url = ""
        self._is_closed = False

    @classmethod
    async def open(cls, address: Address, security: Security) -> GrpcListener:
        """Listen at *address*.

        :raises ConfigurationError: if that is not possible here
        """
        listener = cls(security)
        opened = anyio.Event()
        port = 0
        failure: Exception | None = None

        async def serve() -> None:
            nonlocal port, failure
            try:
                port = await listener._serve(address)
            except Exception as error:  # whatever it is, who waits is told
                failure = error
            finally:
                listener._host.post(opened.set)

        listener._loop.start(serve())
        with anyio.CancelScope(shield=True):  # it takes no time, and there is a server to close afterwards
            await opened.wait()
        if failure is not None:
            (await listen(address)).close()  # says why, as gRPC does not
            raise ConfigurationError(f"cannot listen at {address}: {failure}")
        listener._url = str(replace(address, port=port))
        return listener

    @property
    def url(self) -> str:
        """Return where it listens."""
        return self._url

    async def accept(self) -> GrpcLink:
        """Wait for the next stream.

        :raises anyio.ClosedResourceError: after :meth:`close`
        """
        while not self._arrived:
            if self._is_closed:
                raise anyio.ClosedResourceError
            await self._came.wait()
        return self._arrived.popleft()

    def close(self) -> None:
        """Accept no more; streams that were accepted go on."""
        if not self._is_closed:
            self._is_closed = True
            self._came.notify()
            while self._arrived:
                self._arrived.popleft().abort()
            self._loop.start(self._server.stop(DRAIN_SECONDS))

    # In gRPC's loop.

    async def _serve(self, address: Address) -> int:
        options = [
            *OPTIONS,
            ("grpc.so_reuseport", 0),
            # each connection keeps a buffer of this size; the default is twice as much
            ("grpc.tsi.max_frame_size", 8192),
            # and a record of what happened to it, for a service that is not offered here
            ("grpc.enable_channelz", 0),
            ("grpc.max_channel_trace_event_memory_per_node", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", int(START_SECONDS * 1000)),
            # a connection is closed without a stream on it, and when its peer is gone: cells only end their streams
            ("grpc.max_connection_idle_ms", 5_000),
            ("grpc.keepalive_time_ms", 5_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        self._server = server = grpc.aio.server(options=options)
        handler: grpc.RpcMethodHandler[Buffer, Buffer] = grpc.stream_stream_rpc_method_handler(self._link, deserialize)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        security = self._security
        if security.files is None:
            port = server.add_insecure_port(address.place)
        else:
            port = server.add_secure_port(address.place, _credentials(security, security.files))
        await server.start()
        return port

    async def _link(self, _requests: object, context: grpc.aio.ServicerContext[Buffer, Buffer]) -> None:
        # such as ipv4:127.0.0.1:8002
        address = context.peer().partition(":")[2].rpartition(":")[0]
        link = GrpcLink(Transport("grpc", self._security.mode, _certificate(context), address), self._host)
        await context.send_initial_metadata(())
        self._host.post(lambda: self._arrive(link))
        pumping = asyncio.create_task(pump(link, context, _done))
        link.cancel = pumping.cancel
        try:
            await pumping
        except asyncio.CancelledError:
            if context.cancelled() or context.done():
                return
            await context.abort(grpc.StatusCode.CANCELLED, "the other side closed the link")
        finally:
            pumping.cancel()
            self._host.post(link.over)

    def _arrive(self, link: GrpcLink) -> None:
        if self._is_closed or len(self._arrived) >= MAX_WAITING:
            link.abort()
        else:
            self._arrived.append(link)
            self._came.notify()


async def _done() -> None:
    """Do nothing: what the server has sent is over when its handler returns."""


def _certificate(context: grpc.aio.ServicerContext[Buffer, Buffer]) -> bytes | None:
    pem = context.auth_context().get("x509_pem_cert")
    return ssl.PEM_cert_to_DER_cert(next(iter(pem)).decode()) if pem else None


def _credentials(security: Security, files: Files) -> grpc.ServerCredentials:
    """Return what gRPC shows; at each handshake it asks whether there is something newer."""
    is_mutual, shown = security.mode == "mtls", security.renewals

    def read() -> grpc.ServerCertificateConfiguration:
        certificate, key, roots = (path.read_bytes() for path in security.files or files)
        roots += b"\n" + certificate.partition(END)[2]  # as connectors leave their issuer out
        return grpc.ssl_server_certificate_configuration([(key, certificate)], roots if is_mutual else None)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        if shown == security.renewals:
            return None
        shown = security.renewals
        return read()

    # gRPC takes None for "as before", which its stub does not say.
    return grpc.dynamic_ssl_server_credentials(read(), fetch, is_mutual)  # type: ignore[arg-type]
