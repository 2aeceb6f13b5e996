"""Both gradients of a layer, its input's and its parameters', held against differences of its forward."""

from __future__ import annotations

from typing import Any

import numpy as np

from dense_xp.backend import Backend, to_numpy
from dense_xp.layers.layer import Layer
from dense_xp.support.trees import flatten, unflatten
from tests.gradients import directional_error


def assert_gradient(layer: Layer, backend: Backend, X: Any, *, training: bool = False, noise: Any = None) -> None:
    """⟨v, backward(u)⟩ is the change of ⟨u, forward⟩ along v, for random u and v, in float64.

    The layer is initialized, in float64. The bound is that of `directional_error`.
    """
    rng = np.random.default_rng(12345)
    host = {name: to_numpy(value) for name, value in flatten(layer.params).items()}

    def output(X: Any, weights: Any) -> Any:
        params = unflatten(
            {n: backend.asarray(v, None if v.dtype.kind == "i" else "float64") for n, v in weights.items()}
        )
        return layer.forward(params, backend.asarray(X, "float64"), training=training, noise=noise)

    Y, cache = output(X, host)
    u = rng.normal(size=tuple(Y.shape))
    grad_X, grads = layer.backward(layer.params, cache, backend.asarray(u, "float64"))

    def projected(X: Any, weights: Any) -> float:
        return float(np.sum(u * to_numpy(output(X, weights)[0])))

    assert directional_error(lambda x: np.asarray(projected(x, host)), grad_X, X, rng) < 1e-8
    for name, grad in flatten(grads).items():
        value = lambda w, name=name: np.asarray(projected(X, {**host, name: w}))  # noqa: E731
        assert directional_error(value, grad, host[name], rng) < 1e-8, name
