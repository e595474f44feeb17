"""Ways to reach a URL. A driver is found by the scheme: built in, or of another distribution that is asked for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from cellnet.drivers.grpc import GrpcDriver
from cellnet.drivers.http import HttpDriver
from cellnet.drivers.tcp import TcpDriver
from cellnet.drivers.unix import UnixDriver
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellnet.drivers.base import Driver

__all__ = ["GROUP", "built_in", "find", "load", "through"]

GROUP = "cellnet.drivers"
"""Of the entry points by which distributions offer drivers, each named by its scheme."""


def built_in() -> dict[str, Driver]:
    """Return the drivers that come with cellnet, by scheme."""
    return {"tcp": TcpDriver(), "http": HttpDriver(), "grpc": GrpcDriver(), "unix": UnixDriver()}


def through(proxy: str | None) -> dict[str, Driver]:
    """Return the drivers that can go through a forward proxy, told which.

    :param proxy: such as ``http://user:password@proxy:3128``; empty for none; None if the environment says
    """
    return {"http": HttpDriver(proxy), "grpc": GrpcDriver(proxy)}


def find(scheme: str, drivers: Mapping[str, Driver]) -> Driver:
    """Return the driver for *scheme*.

    :raises ConfigurationError: if there is none
    """
    driver = drivers.get(scheme)
    if driver is None:
        raise ConfigurationError(f"there is no driver for {scheme!r}: {', '.join(sorted(drivers))} can be used")
    return driver


def load(scheme: str) -> Driver:
    """Return the driver that an installed distribution offers for *scheme*, to be given to a cell.

    Nothing is loaded that a program, or its operator, did not ask for by name.

    :raises ConfigurationError: if none offers it, several do, or it cannot be loaded
    """
    found = entry_points(group=GROUP, name=scheme)
    if scheme in built_in():
        raise ConfigurationError(f"the driver for {scheme!r} is built in: no other can take its place by name")
    if len(found) != 1:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        told = "no installed distribution offers" if not found else "several installed distributions offer"
        raise ConfigurationError(f"{told} a driver for {scheme!r} (offered: {known})")
    (entry,) = found
    try:
        return cast("Driver", entry.load()())
    except Exception as error:
        raise ConfigurationError(f"the driver for {scheme!r} ({entry.value}) cannot be loaded: {error}") from error
