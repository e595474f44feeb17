"""The digits: data, shards, model and federated averaging, all in one process."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from functools import cache
from importlib import resources

import numpy as np
import pytest

from cellnet.jobs import Weighted, weighted_mean
from cellnet.jobs.bundle import Bundle
from cellnet.jobs.digits.dataset import SMALLEST_SHARD, TEST_IMAGES, Images, load, shards, split
from cellnet.jobs.digits.model import Model, difference, evaluated, initial_model, local_rng, trained

SITES = ("C1", "C1.C11", "C1.C12", "C2", "C2.C21", "C2.C22")
TREE = (("C1", "C1.C11", "C1.C12"), ("C2", "C2.C21", "C2.C22"))


def test_the_package_ships_the_images_and_names_their_authors_and_licence() -> None:
    folder = resources.files("cellnet.jobs.digits")
    assert len(gzip.decompress(folder.joinpath("digits.csv.gz").read_bytes()).splitlines()) == 1797
    licence = folder.joinpath("LICENSE.md").read_text(encoding="utf-8")
    assert "Alpaydin" in licence
    assert "CC BY 4.0" in licence
    assert folder.joinpath("bundle", "job.py").is_file()


def test_there_are_1797_images_of_64_pixels_between_zero_and_one() -> None:
    images = load()
    assert images.pixels.shape == (1797, 64)
    assert images.pixels.min() == 0.0
    assert images.pixels.max() == 1.0
    assert set(images.digits.tolist()) == set(range(10))


def test_nobody_can_alter_the_images_that_all_share() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load().pixels[0, 0] = 1.0


def test_every_image_is_in_the_test_set_or_in_one_shard() -> None:
    train, test = split()
    dealt = shards(SITES, seed=1)
    assert len(test) == TEST_IMAGES
    assert sum(map(len, dealt.values())) == len(train) == 1797 - TEST_IMAGES
    assert _rows(*dealt.values()) == _rows(train)
    assert _rows(train, test) == _rows(load())


def test_every_process_deals_the_same_shards_and_trains_with_the_same_randomness() -> None:
    code = (
        "from cellnet.jobs.digits.dataset import shards\n"
        "from cellnet.jobs.digits.model import local_rng\n"
        f"print([len(shard) for _, shard in sorted(shards({SITES}, seed=1).items())], local_rng(1, 'C1', 0).random())"
    )
    command = [sys.executable, "-P", "-c", code]
    one, other = (
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, timeout=30, check=True)
        for seed in "12"
    )
    assert one.stdout == other.stdout


def test_shards_are_the_same_for_every_order_of_names_and_others_for_another_seed() -> None:
    one, other = shards(SITES, seed=1), shards(reversed(SITES), seed=1)
    assert all(np.array_equal(one[name].pixels, other[name].pixels) for name in SITES)
    different = shards(SITES, seed=2)
    assert any(len(one[name]) != len(different[name]) for name in SITES)


@pytest.mark.parametrize("seed", range(5))
def test_shards_are_unequal_in_size_and_in_digits(seed: int) -> None:
    dealt = shards(SITES, seed)
    sizes = [len(shard) for shard in dealt.values()]
    assert min(sizes) >= SMALLEST_SHARD
    assert max(sizes) >= 2 * min(sizes)
    counts = np.array([np.bincount(shard.digits, minlength=10) for shard in dealt.values()])
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert shares.max(axis=1).mean() > 0.2, "with equal shards every digit would be a tenth of each"


@pytest.mark.parametrize("sites", [[], [f"C{number}" for number in range(1000)]])
def test_a_number_of_sites_that_cannot_all_have_images_is_refused(sites: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot be dealt out"):
        shards(sites, seed=1)


def test_training_is_a_function_of_seed_site_and_round() -> None:
    model, images = initial_model(1), shards(SITES, 1)["C1"]

    def weights(seed: int, site: str, number: int) -> bytes:
        after = trained(model, images, local_rng(seed, site, number), epochs=1, rate=0.3)
        return b"".join(array.tobytes() for array in after.values())

    assert weights(1, "C1", 0) == weights(1, "C1", 0)
    assert len({weights(1, "C1", 0), weights(2, "C1", 0), weights(1, "C2", 0), weights(1, "C1", 1)}) == 4


def test_training_leaves_the_model_it_was_given_untouched() -> None:
    model = initial_model(1)
    for array in model.values():
        array.flags.writeable = False
    after = trained(model, shards(SITES, 1)["C1"], local_rng(1, "C1", 0), epochs=1, rate=0.3)
    assert difference(after, model) > 0.01


def test_a_step_follows_the_slope_of_the_loss() -> None:
    images = split()[0][np.arange(16)]
    before = initial_model(1)
    after = trained(before, images, local_rng(1, "C1", 0), epochs=1, rate=1e-6)
    for name, array in before.items():
        slope = np.zeros(array.size)
        for place in range(0, array.size, 97):
            losses = []
            for step in (1e-5, -1e-5):
                moved = {key: value.copy() for key, value in before.items()}
                moved[name].flat[place] += step
                losses.append(evaluated(moved, images)[1])
            slope[place] = (losses[0] - losses[1]) / 2e-5
        measured = ((before[name] - after[name]) / 1e-6).ravel()[::97]
        assert measured == pytest.approx(slope[::97], abs=1e-6)


def test_the_bundle_is_small_and_holds_no_data() -> None:
    bundle = Bundle.read(str(resources.files("cellnet.jobs.digits").joinpath("bundle")))
    assert list(bundle.files) == ["job.py"]
    assert len(bundle.pack()) < 4096


def test_a_model_fits_the_inline_limit_with_room_to_spare() -> None:
    assert sum(array.nbytes for array in initial_model(1).values()) == 2410 * 8


def test_ballast_is_drawn_beside_the_model_and_comes_back_as_it_was() -> None:
    plain, heavy = initial_model(1), initial_model(1, ballast_mib=2)
    assert heavy.pop("ballast").nbytes == 2 * 1024 * 1024
    assert difference(plain, heavy) == 0.0
    heavy = initial_model(1, ballast_mib=2)
    images = shards(SITES, 1)["C1"]
    after = trained(heavy, images, local_rng(1, "C1", 0), epochs=1, rate=0.3)
    light = trained(plain, images, local_rng(1, "C1", 0), epochs=1, rate=0.3)
    assert np.array_equal(after["ballast"], heavy["ballast"])
    assert evaluated(after, split()[1]) == evaluated(light, split()[1])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_federated_averaging_learns_the_digits(seed: int) -> None:
    accuracy, loss = evaluated(_federated(seed, tree=False), split()[1])
    assert accuracy >= 0.955
    assert loss < 0.25


def test_the_sum_over_the_tree_is_the_flat_sum() -> None:
    assert difference(_federated(1, tree=True), _federated(1, tree=False)) <= 1e-9


@cache
def _federated(seed: int, *, tree: bool, rounds: int = 25) -> Model:
    dealt = shards(SITES, seed)
    model = initial_model(seed)
    for number in range(rounds):
        parts = {
            name: weighted_mean.lift(
                Weighted(trained(model, images, local_rng(seed, name, number), epochs=4, rate=0.3), len(images))
            )
            for name, images in dealt.items()
        }
        if tree:
            parts = {branch[0]: weighted_mean.add((name, parts[name]) for name in branch) for branch in TREE}
        model = weighted_mean.finish(weighted_mean.add(parts.items())).mean
    return model


def _rows(*parts: Images) -> list[bytes]:
    return sorted(
        row.tobytes() + bytes([digit]) for part in parts for row, digit in zip(part.pixels, part.digits, strict=True)
    )
