"""A checkup of a kit: everything that must be right before its node works, tried one after the other, on its machine.

A node that "registers but never connects" mostly has one of few things wrong: a host that does not resolve, a port that
is closed, a certificate that does not name the host, a clock, a place that the project did not give it. Each is a step
here. The steps stop where the next ones could not be right.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from cellnet.cell import Cell
from cellnet.clock import wall_time
from cellnet.directory import MEMBERS_TOPIC
from cellnet.drivers import through
from cellnet.errors import CellError, ConfigurationError, DeliveryError, HandshakeError
from cellnet.inspection import certificates_below, verify_kit
from cellnet.kit import Kit
from cellnet.node import parents_of

if TYPE_CHECKING:
    import datetime
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cellnet.kit import Endpoint
    from cellnet.uplink import Parent

__all__ = ["Finding", "check_kit"]

CONNECT_SECONDS = 15.0
"""What joining the parent may take."""
SOON_DAYS = 30
"""A certificate that holds for fewer days is mentioned."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found."""

    step: str
    text: str
    is_fine: bool = True


async def check_kit(path: Path) -> AsyncIterator[Finding]:
    """Try everything that the node of the kit at *path* needs; yield what each step found.

    The node is joined to its parent for a moment, unless it runs: then its parent says so.
    """
    try:
        kit = Kit.load(path)
    except ConfigurationError as error:
        yield Finding("kit", str(error), is_fine=False)
        return
    yield Finding("kit", f"{kit.role} {kit.name} of project {kit.project}: whole and unaltered")
    steps = [partial(_certificates, kit), partial(_surroundings, kit)]
    if kit.listen:
        steps.append(partial(_listening, kit.listen))
    for step in steps:
        finding = await step()
        yield finding
        if not finding.is_fine:
            return
    for parent in parents_of(kit):
        for reach in (_host, _joining):
            finding = await reach(kit, parent)
            yield finding
            if not finding.is_fine:
                return


async def _certificates(kit: Kit) -> Finding:
    try:
        verify_kit(kit, wall_time())
    except ConfigurationError as error:
        return Finding("certificates", str(error), is_fine=False)
    left = (min(_ends(kit)) - wall_time()).days
    warning = "" if left >= SOON_DAYS else ": renew them soon"
    return Finding("certificates", f"hold for {left} days{warning}")


async def _surroundings(kit: Kit) -> Finding:
    try:
        said = kit.surroundings
    except ConfigurationError as error:
        return Finding("local/network.yml", str(error), is_fine=False)
    if said.proxy:
        return Finding("local/network.yml", f"goes through the proxy at {urlsplit(said.proxy).hostname}")
    return Finding("local/network.yml", "is fine")


async def _listening(listen: Endpoint) -> Finding:
    """See whether the address can be bound; if it is taken, something answers there, which may be the node itself."""
    parts = urlsplit(listen.url)
    host, port = str(parts.hostname), int(parts.port or 0)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        message = f"{listen.url} cannot be used: {error.strerror}. Does the node run already, or another program?"
        return Finding("listening", message, is_fine=False)
    return Finding("listening", f"{listen.url} is free")


async def _host(kit: Kit, parent: Parent) -> Finding:
    host = str(urlsplit(parent.url).hostname)
    if kit.surroundings.proxy:
        return Finding("host", f"{host} is the proxy's to find")
    try:
        found = await anyio.to_thread.run_sync(socket.getaddrinfo, host, None)
    except OSError as error:
        message = f"{host} is unknown here ({error.strerror}): ask who runs the network, or see /etc/hosts"
        return Finding("host", message, is_fine=False)
    addresses = sorted({str(entry[4][0]) for entry in found})
    return Finding("host", f"{host} is {', '.join(addresses)}")


async def _joining(kit: Kit, parent: Parent) -> Finding:
    """Join a parent, and ask the server something, so that all of the way is known to work."""
    where = parent.url
    if kit.role == "admin":
        return Finding("joining", f"{where} is for nodes: an admin's kit joins nobody")
    async with Cell(kit.name, drivers=through(kit.surroundings.proxy)) as cell:
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                await cell.connect(
                    where, kit.credentials, security=parent.security, ingress=parent.ingress, reconnect=False
                )
        except CellError as error:
            if isinstance(error.__cause__, HandshakeError) and error.__cause__.code == "name-taken":
                return Finding("joining", f"the node runs, and its parent at {where} knows it")
            return Finding("joining", str(error), is_fine=False)
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                await cell.request("server", MEMBERS_TOPIC, [str(cell.fqcn), ""])
        except DeliveryError as error:
            message = f"joined as {cell.fqcn}, but the server does not answer: {error}"
            return Finding("joining", message, is_fine=False)
        return Finding("joining", f"joined at {where} as {cell.fqcn}, and the server answers")


def _ends(kit: Kit) -> list[datetime.datetime]:
    return [one.not_after for one in certificates_below([kit.path])]
