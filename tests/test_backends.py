"""The suite's promise that asynchronous tests run on asyncio and on trio is itself tested."""

from __future__ import annotations

import inspect

import pytest
import sniffio

from tests.conftest import DESELECTED


@pytest.mark.anyio
async def test_the_backend_is_the_one_that_the_test_is_named_after(request: pytest.FixtureRequest) -> None:
    assert sniffio.current_async_library() in request.node.name


def test_every_asynchronous_test_runs_on_both_backends_or_in_virtual_time(request: pytest.FixtureRequest) -> None:
    backends: dict[str, set[str]] = {}
    for item in [*request.session.items, *request.session.stash.get(DESELECTED, [])]:
        function = getattr(item, "function", None)
        if not inspect.iscoroutinefunction(inspect.unwrap(function) if function else None):
            continue
        callspec = getattr(item, "callspec", None)
        backend = callspec.params.get("anyio_backend") if callspec else None
        if backend is None:
            assert "virtual_time" in getattr(item, "fixturenames", ()), f"{item.nodeid} names no backend"
            continue
        name = f"{item.location[0]}::{item.originalname}"  # type: ignore[attr-defined]  # a Function
        backends.setdefault(name, set()).add(backend[0])
    lonely = sorted(name for name, found in backends.items() if found != {"asyncio", "trio"})
    assert len(request.session.items) == 1 or not lonely, f"these run on one backend only: {lonely}"
