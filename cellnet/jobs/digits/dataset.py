"""The handwritten digits, split into a test set and one unequal shard a site; every process computes the same split.

The images are shipped with the package and never travel. LICENSE.md says where they come from.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["CLASSES", "CONCENTRATION", "SMALLEST_SHARD", "TEST_IMAGES", "Images", "load", "shards", "split"]

CLASSES = 10
TEST_IMAGES = 360
"""A fifth of the 1,797 images."""
CONCENTRATION = 0.5
"""Of the Dirichlet distribution that deals each digit out to the sites: the smaller, the more unequal."""
SMALLEST_SHARD = 20
_BRIGHTEST = 16.0
_SPLIT_SEED = 1797
"""Fixed, so that no choice of a run's seed moves an image from the test set to a site."""
_DRAWS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Some images, one a row."""

    pixels: NDArray[np.float64]
    """64 a row, from 0 to 1."""
    digits: NDArray[np.int64]
    """What each image shows."""

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        return Images(self.pixels[rows], self.digits[rows])


@cache
def load() -> Images:
    """Read all images that are shipped; they are read-only, as all callers share them."""
    packed = resources.files(__package__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    pixels, digits = table[:, :-1] / _BRIGHTEST, table[:, -1].astype(np.int64)
    pixels.flags.writeable = digits.flags.writeable = False
    return Images(pixels, digits)


def split() -> tuple[Images, Images]:
    """Return the training set and the test set, which are the same in every process and every run."""
    images = load()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    return images[order[TEST_IMAGES:]], images[order[:TEST_IMAGES]]


def shards(names: Iterable[str], seed: int) -> dict[str, Images]:
    """Deal the training set out to the sites *names*, unequal in size and in digits; the order of names is no matter.

    :raises ValueError: if there are more sites than there are images to give each some
    """
    sites = sorted(set(names))
    train, _ = split()
    if not sites or len(sites) * SMALLEST_SHARD > len(train):
        raise ValueError(f"{len(train)} images cannot be dealt out to {len(sites)} sites")
    rng = np.random.default_rng(seed)
    owner = np.empty(len(train), dtype=np.int64)
    for _ in range(_DRAWS):
        for digit in range(CLASSES):
            rows = rng.permutation(np.flatnonzero(train.digits == digit))
            shares = rng.dirichlet(np.full(len(sites), CONCENTRATION))
            bounds = np.round(np.cumsum(shares) * len(rows)).astype(np.int64)[:-1]
            for site, part in enumerate(np.split(rows, bounds)):
                owner[part] = site
        if np.bincount(owner, minlength=len(sites)).min() >= SMALLEST_SHARD:
            return {name: train[np.flatnonzero(owner == site)] for site, name in enumerate(sites)}
    raise ValueError(f"no draw gave each of {len(sites)} sites {SMALLEST_SHARD} images")
