"""A derivative held against differences of its own function, along a random direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dense_xp.backend import to_numpy

STEP = 2.0**-13


def directional_error(function: Callable[[Any], Any], gradient: Any, at: Any, rng: np.random.Generator) -> float:
    """Return how far ⟨gradient, v⟩ is from the derivative of a scalar function along a random unit v.

    The derivative is a central difference with one Richardson extrapolation, (4 D(h) - D(2h)) / 3. Its error
    is about h⁴ f⁽⁵⁾/7.5 + u |f|/h, for h = 2⁻¹³ and u = 2⁻⁵³ about 1e-12 of the function's size: what is
    wrong by a factor, a sign, a transpose or a missing term shows as an error of the size of the derivative.

    Returns
    -------
    float
        The error, relative to the larger of 1, the function's value and the gradient's norm.
    """
    at = np.asarray(at, dtype="float64")
    gradient = to_numpy(gradient)
    assert gradient.shape == at.shape, f"the gradient has shape {gradient.shape}, and its argument {at.shape}"
    v = rng.normal(size=at.shape)
    v /= max(float(np.linalg.norm(v)), 1e-300)

    def difference(h: float) -> float:
        return (float(function(at + h * v)) - float(function(at - h * v))) / (2 * h)

    numeric = (4 * difference(STEP) - difference(2 * STEP)) / 3
    analytic = float(np.sum(gradient * v))
    scale = max(1.0, abs(float(function(at))), float(np.linalg.norm(gradient)))
    return abs(analytic - numeric) / scale
