"""Dialling over gRPC: a channel of its own with one call, and what went wrong if there is none.

gRPC says of most failures only that the host is unavailable. So whoever failed connects once more without it, as far
as the first bytes of the other side, and tells what is met there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import grpc
import grpc.aio

from cellnet.drivers.base import START_SECONDS, UNTOLD, place
from cellnet.drivers.crossing import Host
from cellnet.drivers.forward import proxy_for, reach
from cellnet.drivers.grpc_link import END, METHOD, OPTIONS, SERVICE, GrpcLink, deserialize, one_line, pump
from cellnet.drivers.tls_link import link_over
from cellnet.errors import ConnectError, HandshakeError
from cellnet.protocol.greeting import speaker
from cellnet.protocol.handshake import Transport
from cellnet.wakeup import Wakeup

if TYPE_CHECKING:
    from websockets.proxy import Proxy

    from cellnet.drivers.base import Address, Buffer, Security

__all__ = ["GrpcCall"]

CALL_SECONDS = START_SECONDS - 1.0
"""How long the call may take to be answered."""
ASK_SECONDS = 0.9
"""And how long it may take after that to find out what is wrong."""


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How HTTP/2 begins, with settings that set nothing (RFC 9113, section 3.4)."""
_CLOSED = {
    "clear": f"the other side closed the link {UNTOLD}",
    "tls": "the other side ended TLS without a word: does it want our certificate? compare connection_security",
    "mtls": "the peer refused our certificate, without a word: it has expired, or is from another authority",
}


class GrpcCall(GrpcLink):
    """The link of the side that dials."""

    def __init__(self, address: Address, security: Security, proxy: str | None, strangers: set[str]) -> None:
        """Prepare a call to *address*.

        :param proxy: what a setting says; None if none does
        :param strangers: places where our issuer has to be shown; noted here if this is one
        :raises ConfigurationError: if what is said there is no proxy that can be used
        """
        super().__init__(Transport("grpc", security.mode), Host())
        self._address = address
        self._security = security
        self._proxy = proxy_for(address, security, proxy)
        self._strangers = strangers
        self._host = Host()
        self._opened = Wakeup()
        self._refusal: tuple[grpc.StatusCode, str] | None = None
        self._is_open = False

    async def start(self) -> None:
        """Connect and make the call.

        :raises HandshakeError: if one side refused the other, or what answers is something else
        :raises ConnectError: if nobody answers
        """
        self.cancel = self.loop.start(self._run())
        with anyio.move_on_after(CALL_SECONDS):
            while not self._is_open and self._refusal is None:
                await self._opened.wait()
        if not self._is_open:
            self.abort()
            raise await self._explain()

    async def _explain(self) -> ConnectError:
        """Find out why there is no call."""
        code, details = self._refusal or (None, f"no answer within {CALL_SECONDS:.0f} s")
        told = one_line(details)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return HandshakeError(f"the other side speaks gRPC, but not of cells: {told}", "wrong-path")
        try:
            with anyio.move_on_after(ASK_SECONDS):
                await self._ask()
                # all was well when our issuer was shown, as it will be next time
                self._strangers.add(self._address.place)
                return ConnectError(f"the call was not answered: {told}")
        except ConnectError as error:
            return error
        return ConnectError(f"the other side said nothing, and of the call: {told}")

    async def _ask(self) -> None:
        """Connect without gRPC, say hello as it would, and raise what is wrong.

        :raises ConnectError: if something is
        """
        mode = self._security.mode
        sock = await reach(self._address, self._proxy)
        link = link_over(sock, "grpc", self._security, server_name=self._address.host)
        try:
            await link.start()
            await link.send([_PREFACE])
            first = memoryview(bytearray(64))
            count = await link.fill(first)
        finally:
            link.abort()
        if not count:
            # gRPC's server does not say that it did not like a certificate
            raise HandshakeError(_CLOSED[mode], "untrusted") if mode != "clear" else ConnectError(_CLOSED[mode])
        other = speaker(bytes(first[:count]))
        if other is not None and not other.startswith("HTTP/2"):
            told = f"the other side speaks {other}, not gRPC: compare the scheme, and connection_security"
            raise HandshakeError(told, "wrong-scheme")

    # In gRPC's loop.

    async def _run(self) -> None:
        channel = self._channel()
        try:
            connect: grpc.aio.StreamStreamMultiCallable[Buffer, Buffer]
            connect = channel.stream_stream(f"/{SERVICE}/{METHOD}", response_deserializer=deserialize)
            call = connect()
            try:
                if await self._is_answered(call):
                    await pump(self, call, call.done_writing)
            finally:
                call.cancel()
        except asyncio.CancelledError:
            pass  # aborted: no traceback may keep the call, which is what keeps the connection
        finally:
            await channel.close()
            self._host.post(self.over)

    async def _is_answered(self, call: grpc.aio.StreamStreamCall[Buffer, Buffer]) -> bool:
        try:
            await call.initial_metadata()
            self._is_open = not call.done()
            if not self._is_open:
                self._refusal = await call.code(), await call.details()
        except grpc.aio.AioRpcError as error:
            self._refusal = error.code(), error.details() or ""
        finally:
            self._host.post(self._opened.notify)
        return self._is_open

    def _channel(self) -> grpc.aio.Channel:
        target = f"dns:///{self._address.place}"
        options: list[tuple[str, int | str]] = [
            *OPTIONS,
            # a connection for each link: what happens to one, and its pauses, are no other's
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            # how long an attempt to connect lives at most, also after the channel was closed
            ("grpc.min_reconnect_backoff_ms", int(CALL_SECONDS * 1000)),
            ("grpc.enable_http_proxy", int(self._proxy is not None)),
        ]
        if self._proxy is not None:
            options.append(("grpc.http_proxy", _url(self._proxy)))
        security = self._security
        if security.files is None:
            return grpc.aio.insecure_channel(target, options)
        certificate, key, roots = (path.read_bytes() for path in security.files)
        # who listens keeps what it is shown, and mostly knows our issuer
        if self._address.place not in self._strangers:
            certificate = b"".join(certificate.partition(END)[:2])
        if security.ingress is not None:
            roots += b"\n" + security.ingress.authorities.read_bytes()
        shown = (key, certificate) if security.mode == "mtls" else (None, None)
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(roots, *shown), options)


def _url(proxy: Proxy) -> str:
    # what was decoded is encoded again: a password may hold what means something in a URL
    user = ":".join(quote(part, safe="") for part in proxy.user_info) + "@" if proxy.user_info else ""
    return f"http://{user}{place(proxy.host, proxy.port)}"
