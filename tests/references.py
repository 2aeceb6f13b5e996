"""What a model gives in exact arithmetic, and the bounds for those who compute it by formulas of their own.

:mod:`dense_xp.evidence.rounding` bounds the errors of the formulas in this package. Another library may use others,
whose rounding errors are other ones: x σ + (β - μ σ) loses digits where the two parts cancel. Its results are held
against the bound of *its* formula, computed by the same calculus.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dense_xp import Dense, Layer, Sequential, to_numpy
from dense_xp.evidence.parity import share_of_bound
from dense_xp.evidence.rounding import ELEMENTARY, PRECISIONS, Bounded, bounded, xp
from dense_xp.support.trees import unflatten

Formulas = Mapping[type[Layer], Callable[[Layer, Any, Bounded], Bounded]]


def check(actual: Any, model: Layer, X: Any, dtype: str, formulas: Formulas | None = None) -> None:
    """Raise unless every number that was computed for a model is within its bound, and in that dtype."""
    actual = np.asarray(actual)
    assert actual.dtype == dtype
    precision = PRECISIONS[dtype]
    host = {name: to_numpy(value) for name, value in model.weights.items()}
    params = {
        name: bounded(value if value.dtype.kind == "i" else value.astype(dtype), precision)
        for name, value in host.items()
    }
    with np.errstate(all="ignore"):  # infinite bounds say that there is none
        reference = _forward(model, unflatten(params), bounded(X, precision), formulas or {})
    share, compared = share_of_bound(actual, reference)
    assert compared == actual.size
    assert share <= 1, f"{share:.3g} times its bound away"


def _forward(layer: Layer, params: Any, X: Bounded, formulas: Formulas) -> Bounded:
    if isinstance(layer, Sequential):
        for key, inner in layer.children.items():
            X = _forward(inner, params.get(key, {}), X, formulas)
        return X
    if type(layer) in formulas:
        return formulas[type(layer)](layer, params, X)
    if type(layer) is Dense and layer.activation is not None:
        linear = copy.copy(layer)
        linear.activation = None
        return _forward(layer.activation, {}, linear.forward(params, X)[0], formulas)
    return layer.forward(params, X)[0]


def folded_batch_norm(layer: Any, params: Any, X: Bounded) -> Bounded:
    """x s + (β - μ s) with s = γ / √(σ² + ε), in float32 at least."""
    gamma, beta, mean, variance, wide = (
        xp.astype(value, xp.float32) if value.dtype.bits < 32 else value
        for value in (*(params[key] for key in ("gamma", "beta", "running_mean", "running_variance")), X)
    )
    scale = gamma * (1.0 / xp.sqrt(variance + layer.epsilon))
    return xp.astype(wide * scale + (beta - mean * scale), X.dtype)


def erf_gelu(layer: Any, params: Any, X: Bounded) -> Bounded:
    """x / 2 · (1 + erf(x / √2)): of Φ, what is far out on the left is lost."""
    wide = xp.astype(X, xp.float32) if X.dtype.bits < 32 else X
    inner = wide * math.sqrt(0.5)
    value = np.vectorize(math.erf, otypes=[np.longdouble])(inner.value.astype("float64"))
    error = inner.error * 2 / math.sqrt(math.pi) + 2.0**-51  # the slope is largest at 0; math.erf is in float64
    erf = inner._rounded(value, error, ELEMENTARY)
    return xp.astype(wide * 0.5 * (erf + 1.0), X.dtype)


def plain_softplus(layer: Any, params: Any, X: Bounded) -> Bounded:
    """log(1 + exp(x)), for x that are not large."""
    wide = xp.astype(X, xp.float32) if X.dtype.bits < 32 else X
    return xp.astype(xp.log1p(xp.exp(wide)), X.dtype)


def randomized(model: Layer, rng: np.random.Generator) -> Layer:
    """Give every weight of a model a value of its own; variances stay positive."""
    model.set_weights(
        {
            name: abs(to_numpy(value) + 0.2 * rng.normal(size=value.shape))
            if name.endswith("variance")
            else to_numpy(value) + 0.2 * rng.normal(size=value.shape)
            for name, value in model.weights.items()
        }
    )
    return model
