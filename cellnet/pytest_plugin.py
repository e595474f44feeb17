"""Fixtures for tests of programs that use cellnet."""

from __future__ import annotations

import pytest

__all__ = ["network"]


@pytest.fixture
def network() -> object:
    """Return an empty :class:`cellnet.testing.Network`."""
    # The plugin is loaded in every pytest run of whoever installed cellnet: it imports nothing before it is used.
    from cellnet.testing import Network

    return Network()
