"""The network that is trained: 64 inputs, 32 hidden units, 10 outputs; 2,410 weights in float64, 19 KB.

To show that models of any size travel, it may be given ballast: weights that are averaged like all others, but that
no image ever reaches.

float64 from end to end, although float32 would do for learning: so the sum over a tree and the flat sum differ by
rounding in the sixteenth digit only, and a mistake in the tree cannot hide in it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from cellnet.jobs.digits.dataset import CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cellnet.jobs.digits.dataset import Images

__all__ = ["Model", "difference", "evaluated", "initial_model", "local_rng", "trained"]

Model = dict[str, "NDArray[np.float64]"]
"""``hidden`` and ``output``: a matrix each, whose last row is the bias; and ``ballast``, if there is any."""

PIXELS = 64
HIDDEN = 32
BATCH = 16
WEIGHTS_PER_MIB = 1024 * 1024 // 8


def initial_model(seed: int, ballast_mib: int = 0) -> Model:
    """Draw the weights that training begins with (He's initialisation; biases are zero)."""
    rng = np.random.default_rng(seed)
    model = {"hidden": _layer(rng, PIXELS, HIDDEN), "output": _layer(rng, HIDDEN, CLASSES)}
    if ballast_mib:
        model["ballast"] = rng.random(ballast_mib * WEIGHTS_PER_MIB)  # last: the others are the same without it
    return model


def local_rng(seed: int, site: str, number: int) -> np.random.Generator:
    """Return the randomness of *site* in round *number*: the same on every machine, another for each of the three."""
    return np.random.default_rng([seed, zlib.crc32(site.encode()), number])


def trained(
    model: Mapping[str, NDArray[np.float64]], images: Images, rng: np.random.Generator, *, epochs: int, rate: float
) -> Model:
    """Return *model* after *epochs* of local gradient descent; the one given stays as it is."""
    weights = {name: np.array(array, dtype=np.float64) for name, array in model.items()}
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images), BATCH):
            _step(weights, images[order[start : start + BATCH]], rate)
    return weights


def evaluated(model: Mapping[str, NDArray[np.float64]], images: Images) -> tuple[float, float]:
    """Return the accuracy of *model* on *images*, and its loss (mean cross-entropy)."""
    _, probabilities = _forward(model, images.pixels)
    right = probabilities.argmax(axis=1) == images.digits
    likelihood = probabilities[np.arange(len(images)), images.digits]
    return float(right.mean()), float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def difference(one: Mapping[str, NDArray[np.float64]], other: Mapping[str, NDArray[np.float64]]) -> float:
    """Return ||one - other|| / ||other|| over all weights."""
    mine, theirs = (np.concatenate([model[name].ravel() for name in sorted(model)]) for model in (one, other))
    return float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float64]:
    weights = rng.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs))
    return np.vstack([weights, np.zeros(outputs)])


def _forward(
    model: Mapping[str, NDArray[np.float64]], pixels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    hidden = np.maximum(pixels @ model["hidden"][:-1] + model["hidden"][-1], 0.0)
    scores = hidden @ model["output"][:-1] + model["output"][-1]
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)


def _step(weights: Model, batch: Images, rate: float) -> None:
    """Move *weights* down the gradient of the mean cross-entropy of one batch."""
    hidden, slope = _forward(weights, batch.pixels)
    slope[np.arange(len(batch)), batch.digits] -= 1.0
    slope *= rate / len(batch)
    below = (slope @ weights["output"][:-1].T) * (hidden > 0.0)
    weights["output"][:-1] -= hidden.T @ slope
    weights["output"][-1] -= slope.sum(axis=0)
    weights["hidden"][:-1] -= batch.pixels.T @ below
    weights["hidden"][-1] -= below.sum(axis=0)
