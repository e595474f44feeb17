"""What round trips over gRPC are compared with is measured, and leaves nothing."""

from __future__ import annotations

import psutil
import pytest

from tests.faults.raw_grpc import PING_SECONDS, grpc_pings

CHILDREN = 3
RATE = 24 << 20


@pytest.mark.anyio
@pytest.mark.timeout(60)
async def test_pings_pass_a_relay_of_nothing_but_grpc_while_messages_do() -> None:
    before = psutil.Process().children()
    pings = await grpc_pings(CHILDREN, RATE, seconds=1.0)
    assert 1.0 / PING_SECONDS / 5 < len(pings) <= 1.0 / PING_SECONDS + 1
    assert all(0.0 < took < 1.0 for took in pings)
    assert psutil.Process().children() == before
