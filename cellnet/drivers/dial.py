"""Reaching a host and port over TCP, and listening there: what all drivers over TCP share.

A host name may have several addresses, of which some do not answer. They are tried as RFC 8305 says: one after the
other, a quarter of a second apart, IPv6 and IPv4 in turn; the first that answers is taken.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import anyio

from cellnet.drivers.base import CLEAR, place
from cellnet.drivers.sock import connect_socket
from cellnet.drivers.sock_listener import SockListener
from cellnet.errors import ConfigurationError, ConnectError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellnet.drivers.base import Address, Security

__all__ = ["dial", "listen"]

HEAD_START_SECONDS = 0.25
"""How long an address is tried alone before the next is tried beside it."""
MAX_ADDRESSES = 16
"""Of one host; further ones are not tried."""
BACKLOG = 4096

_Target = tuple[int, tuple[str | int, ...]]


async def dial(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to one of the host's addresses.

    :raises ConnectError: if the host is not known, or none of its addresses answers
    """
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(f"the host {host!r} is not known: {error.strerror or error}") from None
    targets = _in_turn([(family, target) for family, _type, _protocol, _name, target in found])[:MAX_ADDRESSES]
    sock, reasons = await _first(targets)
    if sock is None:
        tried = f" ({len(targets)} addresses were tried)" if len(targets) > 1 else ""
        raise ConnectError(f"nobody answers at {place(host, port)}: {reasons[-1]}{tried}")
    return sock


async def listen(address: Address, security: Security = CLEAR) -> SockListener:
    """Listen on the first address that the host name has.

    :raises ConfigurationError: if that is not possible here
    """
    try:
        found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _type, _protocol, _name, target = found[0]
        sock = socket.create_server(target[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen at {address}: {error.strerror or error}") from None
    bound = replace(address, port=sock.getsockname()[1])
    return SockListener(sock, str(bound), address.scheme, security)


async def _first(targets: Sequence[_Target]) -> tuple[socket.socket | None, list[str]]:
    won: list[socket.socket] = []
    reasons = ["it has no address"]

    async def attempt(family: int, target: object, failed: anyio.Event) -> None:
        try:
            sock = await connect_socket(family, target)
        except OSError as error:
            reasons.append(os.strerror(error.errno) if error.errno else str(error))
            failed.set()
            return
        if won:
            sock.close()
        else:
            won.append(sock)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for family, target in targets:
                failed = anyio.Event()
                tasks.start_soon(attempt, family, target, failed)
                with anyio.move_on_after(HEAD_START_SECONDS):
                    await failed.wait()
    except BaseException:
        for sock in won:
            sock.close()
        raise
    return (won[0] if won else None), reasons


def _in_turn(targets: Sequence[_Target]) -> list[_Target]:
    """Return the addresses with their families in turn, beginning with the family of the first."""
    first = [target for target in targets if target[0] == targets[0][0]]
    others = [target for target in targets if target[0] != targets[0][0]]
    return [target for target in chain.from_iterable(zip_longest(first, others)) if target is not None]
