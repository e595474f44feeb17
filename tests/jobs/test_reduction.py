"""Reductions: sums on the way up, and one mean at the top."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from cellnet.errors import JobError
from cellnet.jobs.reduction import REDUCTIONS, Partial, Weighted, weighted_mean
from cellnet.payload import decode, encode


def part(seed: int, weight: float, dtype: str = "float64") -> Partial:
    rng = np.random.default_rng(seed)
    arrays = {"w": rng.normal(size=(4, 3)).astype(dtype), "b": rng.normal(size=3).astype(dtype)}
    return weighted_mean.lift(Weighted(arrays, weight))


def test_the_mean_counts_each_site_by_its_weight() -> None:
    one = weighted_mean.lift(Weighted({"x": np.array([0.0])}, 1))
    other = weighted_mean.lift(Weighted({"x": np.array([4.0])}, 3))
    update = weighted_mean.finish(weighted_mean.add([("A", one), ("B", other)]))
    assert update.mean["x"] == 3.0
    assert (update.weight, update.count) == (4.0, 2)


def test_the_order_of_arrival_changes_not_a_single_bit() -> None:
    parts = [(f"S{number:02}", part(number, 1 + number / 7)) for number in range(20)]
    expected = weighted_mean.add(parts)
    for seed in range(10):
        random.Random(seed).shuffle(parts)
        total = weighted_mean.add(parts)
        assert all(np.array_equal(total.sums[name], expected.sums[name]) for name in expected.sums)


def test_a_tree_and_a_flat_run_differ_by_rounding_only() -> None:
    parts = {f"S{number:02}": part(number, 1 + number / 7, "float32") for number in range(30)}
    flat = weighted_mean.finish(weighted_mean.add(parts.items()))
    names = sorted(parts)
    groups = [weighted_mean.add((name, parts[name]) for name in names[start::3]) for start in range(3)]
    tree = weighted_mean.finish(weighted_mean.add([(f"G{number}", group) for number, group in enumerate(groups)]))
    assert tree.count == flat.count == 30
    for name, array in flat.mean.items():
        assert np.linalg.norm(tree.mean[name] - array) <= 1e-14 * np.linalg.norm(array)


def test_adding_leaves_the_parts_as_they_were() -> None:
    one, other = part(1, 1.0), part(2, 1.0)
    before = one.sums["w"].copy()
    weighted_mean.add([("A", one), ("B", other)])
    assert np.array_equal(one.sums["w"], before)


def test_sums_are_float64_whatever_the_task_returns() -> None:
    for dtype in ("float32", "int64", "bool"):
        assert weighted_mean.lift(Weighted({"x": np.ones(2, dtype)}, 2)).sums["x"].dtype == np.float64


def test_a_partial_result_survives_the_journey() -> None:
    sent = weighted_mean.add([("A", part(1, 2.5)), ("B", part(2, 1.0))])
    packed = encode(sent.to_value())
    received = Partial.from_value(decode(packed.encoding, packed.joined()))
    assert (received.weight, received.count) == (3.5, 2)
    assert np.array_equal(received.sums["w"], sent.sums["w"])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"sums": {}, "weight": 1, "count": 1},
        {"sums": {}, "weight": 1.0, "count": 0},
        {"sums": {}, "weight": float("nan"), "count": 1},
        {"sums": {"x": [1.0]}, "weight": 1.0, "count": 1},
        {"sums": {"x": np.ones(1, "float32")}, "weight": 1.0, "count": 1},
        {"sums": {"x": np.ones(1), 1: np.ones(1)}, "weight": 1.0, "count": 1},
    ],
)
def test_a_malformed_partial_result_is_refused(value: Any) -> None:
    with pytest.raises(JobError, match="no partial result"):
        Partial.from_value(value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned nothing"),
        ({"x": np.ones(1)}, "returned a value of type dict"),
        (Weighted(np.ones(1), 1), "arrays by name"),  # type: ignore[arg-type]  # what a user may do
        (Weighted({"x": np.ones(1)}, float("inf")), "the weight inf"),
        (Weighted({"x": np.ones(1)}, -1), "the weight -1"),
        (Weighted({"x": np.array(["a"])}, 1), "arrays of real numbers"),
        (Weighted({"x": np.array([1j])}, 1), "arrays of real numbers"),
    ],
)
def test_what_a_task_must_not_return_is_said(result: object, message: str) -> None:
    with pytest.raises(JobError, match=message):
        weighted_mean.lift(result)


def test_a_site_with_other_shapes_is_named() -> None:
    one = weighted_mean.lift(Weighted({"x": np.ones(2)}, 1))
    other = weighted_mean.lift(Weighted({"x": np.ones(3)}, 1))
    with pytest.raises(JobError, match=r"C2 returned arrays .*\(3,\).*C1 returned .*\(2,\)"):
        weighted_mean.add([("C2", other), ("C1", one)])


def test_no_mean_is_made_of_nothing() -> None:
    with pytest.raises(JobError, match="there is no mean"):
        weighted_mean.finish(weighted_mean.lift(Weighted({"x": np.ones(1)}, 0)))


def test_reductions_are_found_by_name_only() -> None:
    assert REDUCTIONS["weighted_mean"] is weighted_mean
    with pytest.raises(TypeError):
        REDUCTIONS["os.system"] = weighted_mean  # type: ignore[index]  # that it is frozen is the point
