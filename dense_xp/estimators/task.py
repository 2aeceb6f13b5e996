"""What a network shall learn, and in which units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dense_xp.backend import to_numpy
from dense_xp.learning.losses import Loss
from dense_xp.training.sequential import Sequential


@dataclasses.dataclass
class Task:
    """What a network shall learn.

    Attributes
    ----------
    target, weight : numpy.ndarray
        In the form and the units in which it trains.
    loss : Loss
        What is minimised.
    learned : dict
        The attributes that ``fit`` sets once all went well.
    scaling : tuple of arrays, or None
        Mean and scale of the targets; the outputs that it learns are (target - mean) / scale.
    """

    target: Any
    weight: Any
    loss: Loss
    learned: dict[str, Any]
    scaling: tuple[Any, Any] | None = None


@contextmanager
def in_units_of_training(model: Sequential, scaling: tuple[Any, Any] | None) -> Iterator[None]:
    """Bring the last layer from the units of the targets to those in which it trains, and in the end back."""
    if scaling is None:
        yield
        return
    mean, scale = scaling
    rescale(model, 1.0 / scale, -mean / scale)
    try:
        yield
    finally:
        rescale(model, scale, mean)


def rescale(model: Sequential, scale: Any, shift: Any) -> None:
    """Let the last layer say scale · z + shift where it said z."""
    if model.backend is not None:
        weights = model.layers[-1].weights
        W, w0 = (to_numpy(weights[name]).astype(np.float64) for name in ("W", "w0"))
        model.layers[-1].set_weights({"W": W * scale, "w0": w0 * scale + shift})
