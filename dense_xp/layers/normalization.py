"""Normalization: bring features to mean 0 and variance 1, over the sample or over the batch.

Both compute x̂ = (x - mean)/√(variance + ε) and γ x̂ + β, and differ in the axes of mean and variance.
Pulling a gradient g through x̂, with means over the same axes, gives

    (g - mean(g) - x̂ mean(g x̂)) / √(variance + ε).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.learning.special import row_for
from dense_xp.support.batches import batch_means, batch_rows, means
from dense_xp.support.checks import real
from dense_xp.support.dtypes import in_dtype, total, widened
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params

Means: TypeAlias = Callable[..., list[Array]]
"""A function of an axis and arrays that returns their means, over one sample or over the whole batch."""


class _Normalization(Layer):
    def __init__(self, *, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = real("epsilon", epsilon, "(0, inf)")

    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return (1, n_features) for each array."""
        return dict.fromkeys(("gamma", "beta", *self.buffers), (1, *self.known_input_shape()))

    def init_params(self, rng: Rng) -> Params:
        """Return zeros, and ones for ``gamma`` and the running variance."""
        ones = ("gamma", "running_variance")
        return {name: (np.ones if name in ones else np.zeros)(shape) for name, shape in self.param_shapes().items()}

    def _normalized(self, params: Params, X: Array, mean: Array, variance: Array) -> tuple[Array, Array, Array]:
        """Return the output, and x̂ and 1/√(variance + ε) for the way back."""
        xp = array_namespace(X)
        inverse = 1.0 / xp.sqrt(variance + self.epsilon)
        normed = (widened(X) - mean) * inverse
        gamma, beta = (row_for(widened(params[key]), normed) for key in ("gamma", "beta"))
        return in_dtype(normed * gamma + beta, X.dtype), normed, inverse

    def _gradients(self, normed: Array, grad_Y: Array) -> Params:
        """Return the gradients of ``gamma`` and ``beta``: sums over all but the last axis."""
        xp = array_namespace(grad_Y)
        axes = tuple(range(grad_Y.ndim - 1))
        shape = (1, grad_Y.shape[-1])
        return {
            "gamma": in_dtype(xp.reshape(total(widened(grad_Y) * normed, axes), shape), grad_Y.dtype),
            "beta": in_dtype(xp.reshape(total(grad_Y, axes), shape), grad_Y.dtype),
        }

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"epsilon": self.epsilon, **super().get_config()}


class LayerNorm(_Normalization):
    r"""Layer normalization: each sample has mean 0 and variance 1 over its features.

    .. math:: y = γ\,(x - \bar x)/\sqrt{s^2 + ε} + β

    Parameters
    ----------
    epsilon : float, default 1e-5
        Added to the variance.
    **kwargs
        See :class:`Layer`.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. Hinton, "Layer normalization", 2016,
       https://arxiv.org/abs/1607.06450

    Examples
    --------
    >>> layer = LayerNorm(input_shape=(2,))
    >>> layer.initialize()
    >>> layer.forward_pass([[0.0, 20.0]]).round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Normalize each sample; see :meth:`Layer.forward`."""
        mean, variance = _moments(widened(X), -1, means)
        Y, *cache = self._normalized(params, X, mean, variance)
        return Y, tuple(cache)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of ``gamma`` and ``beta``; see :meth:`Layer.backward`."""
        normed, inverse = cache
        return _back(params, normed, inverse, grad_Y, -1, means), self._gradients(normed, grad_Y)


class BatchNorm(_Normalization):
    r"""Batch normalization: each feature has mean 0 and variance 1 over the batch in training.

    Outside of training, running averages of mean and variance take their place. They are buffers: saved
    with the weights, but without a gradient. As in torch, the running variance is the unbiased one.

    Parameters
    ----------
    momentum : float, default 0.1
        Weight of a new batch in the running averages: 0 < momentum ≤ 1.
    epsilon : float, default 1e-5
        Added to the variance.
    **kwargs
        See :class:`Layer`.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing
       internal covariate shift", ICML 2015, https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> layer = BatchNorm(input_shape=(1,))
    >>> layer.initialize()
    >>> layer.forward_pass([[0.0], [20.0]]).round(3)
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> layer.weights["running_mean"]
    array([[1.]], dtype=float32)
    """

    buffers: ClassVar[tuple[str, ...]] = ("running_mean", "running_variance")

    def __init__(self, *, momentum: float = 0.1, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.momentum = real("momentum", momentum, "(0, 1]")

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Normalize each feature; see :meth:`Layer.forward`."""
        wide = widened(X)
        if not training:
            mean, variance = (row_for(widened(params[key]), wide) for key in self.buffers)
            Y, normed, inverse = self._normalized(params, X, mean, variance)
            return Y, (normed, inverse, None)
        mean, variance = _moments(wide, tuple(range(X.ndim - 1)), batch_means)
        Y, normed, inverse = self._normalized(params, X, mean, variance)
        return Y, (normed, inverse, self._averaged(params, mean, variance, batch_rows(math.prod(X.shape[:-1]))))

    def _averaged(self, params: Params, mean: Array, variance: Array, n: int) -> Params:
        # the variance of a single row is 0 whatever it is divided by
        new = {"running_mean": mean, "running_variance": variance * (n / max(n - 1, 1))}
        xp = array_namespace(mean)
        averaged = {}
        for key, value in new.items():
            old = params[key]
            value = xp.reshape(value, tuple(old.shape))
            mixed = (1.0 - self.momentum) * widened(old) + self.momentum * value
            averaged[key] = in_dtype(mixed, old.dtype)
        return averaged

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of ``gamma`` and ``beta``; see :meth:`Layer.backward`."""
        normed, inverse, updated = cache
        grads = self._gradients(normed, grad_Y)
        if updated is None:  # the statistics were constants
            wide = widened(grad_Y) * row_for(widened(params["gamma"]), normed) * inverse
            return in_dtype(wide, grad_Y.dtype), grads
        return _back(params, normed, inverse, grad_Y, tuple(range(grad_Y.ndim - 1)), batch_means), grads

    def updated_buffers(self, cache: Any) -> Params:
        """Return the running averages after this batch."""
        return cache[2] or {}

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"momentum": self.momentum, **super().get_config()}


def _moments(X: Array, axis: int | tuple[int, ...], means: Means) -> tuple[Array, Array]:
    """Return mean and variance, in two passes, which avoids cancellation in the variance."""
    (mean,) = means(axis, X)
    (variance,) = means(axis, array_namespace(X).square(X - mean))
    return mean, variance


def _back(
    params: Params, normed: Array, inverse: Array, grad_Y: Array, axis: int | tuple[int, ...], means: Means
) -> Array:
    grad = widened(grad_Y) * row_for(widened(params["gamma"]), normed)
    along, mean = means(axis, grad * normed, grad)
    grad_X = (grad - mean - normed * along) * inverse
    return in_dtype(grad_X, grad_Y.dtype)
