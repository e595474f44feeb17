"""Ways to reach a URL. A driver is found by the scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.drivers.grpc import GrpcDriver
from cellnet.drivers.http import HttpDriver
from cellnet.drivers.tcp import TcpDriver
from cellnet.drivers.unix import UnixDriver
from cellnet.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cellnet.drivers.base import Driver

__all__ = ["built_in", "find"]


def built_in() -> dict[str, Driver]:
    """Return the drivers that come with cellnet, by scheme."""
    return {"tcp": TcpDriver(), "http": HttpDriver(), "grpc": GrpcDriver(), "unix": UnixDriver()}


def find(scheme: str, drivers: Mapping[str, Driver]) -> Driver:
    """Return the driver for *scheme*.

    :raises ConfigurationError: if there is none
    """
    driver = drivers.get(scheme)
    if driver is None:
        raise ConfigurationError(f"there is no driver for {scheme!r}: {', '.join(sorted(drivers))} can be used")
    return driver
