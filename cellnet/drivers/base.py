"""What a driver is: a way to reach a URL, and links that carry bytes once it is reached.

The interface is as small as the hot path allows. ``fill`` reads into a buffer that the caller owns and uses again,
which no byte stream of anyio's offers; ``send`` takes buffers and returns when all of them have left.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from cellnet.protocol.handshake import Transport

__all__ = [
    "CLEAR",
    "START_SECONDS",
    "UNTOLD",
    "Address",
    "Buffer",
    "Driver",
    "Ingress",
    "Link",
    "Listener",
    "Security",
    "cut",
    "place",
    "pour",
]

Buffer = bytes | memoryview

START_SECONDS = 4.0
"""What a driver may take to shake hands for itself. Less than cells have for theirs, so that it says what was wrong."""
UNTOLD = "before it said what it is: compare the scheme, and connection_security (does it expect TLS?)"
"""How to go on after ``the other side closed the link``, when nothing came."""


@dataclass(frozen=True, slots=True)
class Ingress:
    """What may end TLS in front of the cell that we dial. The cell is authenticated all the same, by its handshake.

    One that only routes by name shows the cell's own certificate, which is as good.
    """

    roots: Path | None = None
    """The authorities of the ingress's certificate, in PEM; those that this machine trusts otherwise."""

    @property
    def authorities(self) -> Path:
        """Where they are."""
        return self.roots or Path(ssl.get_default_verify_paths().openssl_cafile)


Files = tuple[Path, Path, Path]
"""Certificate, key and roots, in PEM."""


@dataclass(slots=True, eq=False)
class Security:
    """How links are protected on their way to the next cell; it changes when certificates are renewed."""

    mode: str
    """``clear``, ``tls`` (the listener shows a certificate) or ``mtls`` (both do)."""
    context: ssl.SSLContext | None = None
    files: Files | None = None
    """For a driver that does TLS by itself."""
    renewals: int = 0
    """How often they were renewed: they may be called as before."""
    ingress: Ingress | None = None
    """What may show us a certificate of its own, which says nothing of the cell behind it."""


CLEAR = Security("clear")


class Link(Protocol):
    """Bytes to and from one neighbour, in order."""

    @property
    def transport(self) -> Transport:
        """What lies below: driver, security, and the peer's certificate once :meth:`start` is done."""
        ...

    async def start(self) -> None:
        """Complete what the driver needs before bytes can flow, such as TLS, within ``START_SECONDS``.

        :raises HandshakeError: if one side refused the other
        :raises ConnectError: if the link broke, or it took too long
        """
        ...

    async def fill(self, buffer: memoryview) -> int:
        """Wait for bytes and write them into *buffer*; return how many, 0 at the end.

        *buffer* is only touched right before the return, without an await in between, so that links may share it.

        :raises ConnectError: if the link broke
        """
        ...

    @property
    def waited(self) -> bool:
        """Whether the last :meth:`fill` had to wait, as far as that can be told: nothing had come before it."""
        ...

    def try_send(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send what can be taken at once; return the rest, in order.

        Never called while :meth:`send` runs. A link that broke takes nothing: :meth:`send` or :meth:`fill` tells.
        """
        ...

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Return when all bytes were taken. If it is cancelled in between, the link is no longer usable.

        :raises ConnectError: if the link broke
        """
        ...

    async def aclose(self) -> None:
        """Close, giving what was sent a moment to arrive, also if the caller is cancelled."""
        ...

    def abort(self) -> None:
        """Close at once. Safe to repeat."""
        ...


def place(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cut(buffers: deque[Buffer], size: int) -> list[Buffer]:
    """Take *size* bytes off the front of *buffers*, or what there is: for drivers that send messages."""
    parts: list[Buffer] = []
    while buffers and size:
        part = memoryview(buffers.popleft())
        if len(part) > size:
            buffers.appendleft(part[size:])
            part = part[:size]
        parts.append(part)
        size -= len(part)
    return parts


def pour(pieces: list[memoryview], buffer: memoryview) -> int:
    """Move bytes off the front of *pieces* into *buffer*, as far as there is room; return how many."""
    count = done = 0
    for piece in pieces:
        part = piece[: len(buffer) - count]
        buffer[count : count + len(part)] = part
        count += len(part)
        if len(part) < len(piece):
            pieces[done] = piece[len(part) :]
            break
        done += 1
    del pieces[:done]
    return count


class Listener(Protocol):
    """A place where neighbours arrive."""

    @property
    def url(self) -> str:
        """Where it can be reached; a port 0 is replaced by the real one."""
        ...

    async def accept(self) -> Link:
        """Wait for the next neighbour. Its link is not started yet."""
        ...

    def close(self) -> None:
        """Accept no more. Safe to repeat."""
        ...


class Driver(Protocol):
    """One scheme of URLs."""

    alpn: str
    """What its protocol is called within TLS, where it has any."""

    async def connect(self, address: Address, security: Security) -> Link:
        """Reach *address*; the link is not started yet.

        :raises ConnectError: if nobody answers there
        """
        ...

    async def listen(self, address: Address, security: Security) -> Listener:
        """Accept neighbours at *address*.

        :raises ConfigurationError: if that is not possible here
        """
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, parsed."""

    scheme: str
    host: str
    """Empty for ``unix``."""
    port: int
    path: str
    """Only for ``unix``: the socket's path."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``tcp://host:port``, ``unix:///path`` or ``memory://name``.

        :raises ConfigurationError: if *url* is none of them
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url!r} is no address: {error}") from None
        if parts.scheme == "unix" and parts.path and not host:
            return cls("unix", "", 0, parts.path)
        if parts.scheme == "memory" and host and port is None:
            return cls("memory", host, 0, "")
        if host and port is not None and parts.path in ("", "/"):
            return cls(parts.scheme, host, port, "")
        raise ConfigurationError(f"{url!r} is no address: tcp://host:port or unix:///path is wanted")

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        return f"{self.scheme}://{self.host if self.scheme == 'memory' else self.place}"

    @property
    def place(self) -> str:
        """The host and the port."""
        return place(self.host, self.port)
