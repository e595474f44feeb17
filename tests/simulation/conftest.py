"""What all simulations have in common."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY_OBJECTS = 50_000


@pytest.fixture(autouse=True, scope="module")
def _few_collections() -> Iterator[None]:
    """Let the collector pass over what the test runner holds, and come less often: it took a tenth of all time."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(MANY_OBJECTS, *before[1:])
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
