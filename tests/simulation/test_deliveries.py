"""The checker of contents: what came is what was offered, and the rest failed for a reason that is true."""

from __future__ import annotations

import pytest

from cellnet.simulation.deliveries import AFTERMATH_SECONDS, Deliveries, Delivery, Offered
from cellnet.simulation.errand import text

CONTENT = b"c"


def begun(deliveries: Deliveries, size: int = 100, *, is_whole: bool = True) -> Delivery:
    deliveries.offered(CONTENT, Offered("x", "A", size, is_whole=is_whole))
    return deliveries.began(CONTENT, "B", 10.0)


def test_what_comes_as_it_was_offered_is_right() -> None:
    deliveries = Deliveries(is_hostile=False)
    deliveries.came(begun(deliveries), text("x", 100))
    stream = begun(deliveries)
    deliveries.read(stream, text("x", 60))
    deliveries.read(stream, text("x", 100)[60:])
    deliveries.read_to_end(stream)
    assert deliveries.violations() == []
    assert deliveries.counts == {"payloads": 1, "streams": 1}


@pytest.mark.parametrize(
    ("came", "said"),
    [
        (bytes(text("x", 99)), "ended after 99 of 100"),
        (bytes(text("x", 101)), "more bytes than were offered"),
        (bytes(text("x", 99)) + b"?", "differs from what was offered, between 0 and 100"),
        (bytes(text("another", 100)), "differs"),
    ],
)
def test_what_comes_otherwise_is_seen_whoever_is_in_between(came: bytes, said: str) -> None:
    deliveries = Deliveries(is_hostile=True)
    deliveries.came(begun(deliveries), came)
    assert said in deliveries.violations()[0]


def test_a_stream_whose_writer_did_not_end_it_has_no_end() -> None:
    deliveries = Deliveries(is_hostile=False)
    stream = begun(deliveries, is_whole=False)
    deliveries.read(stream, text("x", 100))
    assert deliveries.violations() == []
    deliveries.read_to_end(stream)
    assert "ended after 100 of 100" in deliveries.violations()[0]


@pytest.mark.parametrize(
    ("ended", "code", "is_true"),
    [
        ("", "gone", False),
        ("gone", "gone", True),
        ("died", "gone", True),
        ("done", "gone", True),
        ("", "reset", False),
        ("died", "reset", False),
        ("reset", "reset", True),
        ("", "altered", False),
    ],
)
def test_what_its_holder_has_is_not_gone_or_reset(ended: str, code: str, *, is_true: bool) -> None:
    deliveries = Deliveries(is_hostile=False)
    delivery = begun(deliveries)
    if ended == "died":
        deliveries.died("A")
    elif ended:
        deliveries.withdrawn(CONTENT, ended)
    deliveries.failed(delivery, code, 20.0)
    assert (deliveries.violations() == []) == is_true


@pytest.mark.parametrize(
    ("disturbed", "failed", "is_true"),
    [(15.0, 70.0, True), (15.0, 69.0, False), (10.0 - AFTERMATH_SECONDS - 1, 70.0, False)],
)
def test_a_content_is_lost_only_if_nothing_came_for_long_and_the_network_was_at_fault(
    disturbed: float, failed: float, *, is_true: bool
) -> None:
    deliveries = Deliveries(is_hostile=False)
    delivery = begun(deliveries)
    deliveries.disturbed(disturbed)
    deliveries.failed(delivery, "lost", failed)
    assert (deliveries.violations() == []) == is_true


def test_somebody_in_between_may_make_any_fail() -> None:
    deliveries = Deliveries(is_hostile=True)
    deliveries.failed(begun(deliveries), "altered", 11.0)
    assert deliveries.violations() == []
