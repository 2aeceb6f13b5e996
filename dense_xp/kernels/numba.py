"""Kernels compiled by numba: one pass over memory each, vectorised, on one thread.

One thread is enough: such a loop waits for memory, not for arithmetic, and a second pool of threads beside
that of the matrix products slows those down. The loops run over slices that start at 0, because LLVM
vectorises only where no index can be negative. Compiled code is kept on disk, beside this file or in numba's cache
directory. The exponential stays NumPy's, which is vectorised and numba's is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from dense_xp.kernels import one_minus_power
from dense_xp.kernels.numpy import (
    Array,
    clip,
    clip_norm,
    columns_product,
    dropout,
    layer_norm,
    layer_norm_backward,
    product,
)

__all__ = [
    "NAME", "adagrad", "adam", "clip", "clip_norm", "columns_product", "dropout", "layer_norm", "layer_norm_backward",
    "linear", "linear_backward", "lion", "momentum", "product", "relu", "relu_backward", "rmsprop", "sgd",
    "softmax_cross_entropy", "squared_error",
]  # fmt: skip

NAME = "numba"

# division by zero gives infinity as in NumPy; other threads may run meanwhile
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


# ------------------------------------------------------------------------------------- layers


@_compiled  # type: ignore[untyped-decorator]
def linear(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear`."""
    b = bias[0]
    for i in range(Z.shape[0]):
        z = Z[i]
        for j in range(z.size):
            z[j] += b[j]


@_compiled  # type: ignore[untyped-decorator]
def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear_backward`."""
    total = grad_bias[0]
    total[:] = 0
    for i in range(grad.shape[0]):
        g, z = grad[i], Z[i]
        for j in range(g.size):
            z[j] = g[j]
            total[j] += g[j]


@_compiled  # type: ignore[untyped-decorator]
def relu(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu`."""
    b = bias[0]
    zero = Z.dtype.type(0)
    for i in range(Z.shape[0]):
        z = Z[i]
        for j in range(z.size):
            y = z[j] + b[j]
            z[j] = zero if y < zero else y  # a NaN stays one


@_compiled  # type: ignore[untyped-decorator]
def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu_backward`."""
    total = grad_bias[0]
    total[:] = 0
    zero = Y.dtype.type(0)
    for i in range(Y.shape[0]):
        g, y = grad[i], Y[i]
        for j in range(y.size):
            y[j] = g[j] if y[j] > zero else zero
            total[j] += y[j]


# ------------------------------------------------------------------------------------- losses


@_compiled  # type: ignore[untyped-decorator]
def _shift(Z: Array, labels: Array, share: float) -> float:
    """Subtract the largest entry of each row; return the sum of the wanted logits, negated."""
    loss = 0.0
    for i in range(Z.shape[0]):
        z = Z[i]
        largest = z[0]
        for j in range(z.size):
            largest = z[j] if z[j] > largest else largest
        for j in range(z.size):
            z[j] -= largest
        loss -= (1.0 - share * z.size) * z[labels[i]]
        if share:
            loss -= share * z.sum()
    return loss


@_compiled  # type: ignore[untyped-decorator]
def _normalize(Z: Array, labels: Array, share: float) -> float:
    """Turn exponentials into the gradient; return the sum of the logarithms of their totals."""
    loss = 0.0
    kind = Z.dtype.type
    each = kind(1.0 / Z.shape[0])
    less = kind(share / Z.shape[0])
    for i in range(Z.shape[0]):
        z = Z[i]
        total = z.sum()
        loss += np.log(total)
        factor = each / total
        for j in range(z.size):
            z[j] = z[j] * factor - less
        z[labels[i]] -= kind((1.0 - share * z.size) / Z.shape[0])
    return loss


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> float:
    """As :func:`dense_xp.kernels.numpy.softmax_cross_entropy`."""
    share = smoothing / Z.shape[1]
    loss = _shift(Z, labels, share)
    np.exp(Z, out=Z)
    loss += _normalize(Z, labels, share)
    return float(loss / Z.shape[0])


def squared_error(Y: Array, target: Array) -> float:
    """As :func:`dense_xp.kernels.numpy.squared_error`."""
    return float(_squared_error(Y, target))


@_compiled  # type: ignore[untyped-decorator]
def _squared_error(Y: Array, target: Array) -> float:
    loss = 0.0
    share = Y.dtype.type(2.0 / Y.size)
    for i in range(Y.shape[0]):
        y, t = Y[i], target[i]
        part = Y.dtype.type(0)
        for j in range(y.size):
            d = y[j] - t[j]
            part += d * d
            y[j] = d * share
        loss += part
    return loss / Y.size


# ------------------------------------------------------------------------------------- optimizers


@_compiled  # type: ignore[untyped-decorator]
def sgd(param: Array, grad: Array, rate: float, decay: float) -> None:
    """As :func:`dense_xp.kernels.numpy.sgd`."""
    kind = param.dtype.type
    eta, keep = kind(rate), kind(decay)
    for i in range(param.size):
        param[i] = param[i] * keep - eta * grad[i]


@_compiled  # type: ignore[untyped-decorator]
def momentum(param: Array, grad: Array, velocity: Array, rate: float, decay: float, mu: float, nesterov: bool) -> None:
    """As :func:`dense_xp.kernels.numpy.momentum`."""
    kind = param.dtype.type
    eta, keep, part = kind(rate), kind(decay), kind(mu)
    ahead = part if nesterov else kind(1)
    now = kind(1) if nesterov else kind(0)
    for i in range(param.size):
        v = part * velocity[i] + grad[i]
        velocity[i] = v
        param[i] = param[i] * keep - eta * (now * grad[i] + ahead * v)


@_compiled  # type: ignore[untyped-decorator]
def rmsprop(
    param: Array, grad: Array, mean_square: Array, rate: float, decay: float, rho: float, epsilon: float
) -> None:
    """As :func:`dense_xp.kernels.numpy.rmsprop`."""
    kind = param.dtype.type
    eta, keep, old, new, small = kind(rate), kind(decay), kind(rho), kind(1.0 - rho), kind(epsilon)
    for i in range(param.size):
        g = grad[i]
        s = old * mean_square[i] + new * (g * g)
        mean_square[i] = s
        param[i] = param[i] * keep - eta * (g / (np.sqrt(s) + small))


def adam(
    param: Array,
    grad: Array,
    mean: Array,
    mean_square: Array,
    rate: float,
    decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    steps: int,
) -> None:
    """As :func:`dense_xp.kernels.numpy.adam`."""
    rate, inverse = rate / one_minus_power(beta_1, steps), 1.0 / one_minus_power(beta_2, steps)
    _adam(param, grad, mean, mean_square, rate, decay, beta_1, beta_2, epsilon, inverse)


@_compiled  # type: ignore[untyped-decorator]
def _adam(
    param: Array,
    grad: Array,
    mean: Array,
    mean_square: Array,
    rate: float,
    decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    correction: float,
) -> None:
    kind = param.dtype.type
    old_1, new_1, old_2, new_2 = kind(beta_1), kind(1.0 - beta_1), kind(beta_2), kind(1.0 - beta_2)
    eta, keep, small, inverse = kind(rate), kind(decay), kind(epsilon), kind(correction)
    for i in range(param.size):
        g = grad[i]
        m = old_1 * mean[i] + new_1 * g
        v = old_2 * mean_square[i] + new_2 * (g * g)
        mean[i] = m
        mean_square[i] = v
        param[i] = param[i] * keep - eta * (m / (np.sqrt(v * inverse) + small))


@_compiled  # type: ignore[untyped-decorator]
def adagrad(param: Array, grad: Array, total: Array, rate: float, decay: float, epsilon: float) -> None:
    """As :func:`dense_xp.kernels.numpy.adagrad`."""
    kind = param.dtype.type
    eta, keep, small = kind(rate), kind(decay), kind(epsilon)
    for i in range(param.size):
        g = grad[i]
        s = total[i] + g * g
        total[i] = s
        param[i] = param[i] * keep - eta * (g / (np.sqrt(s) + small))


@_compiled  # type: ignore[untyped-decorator]
def lion(param: Array, grad: Array, momentum: Array, rate: float, decay: float, beta_1: float, beta_2: float) -> None:
    """As :func:`dense_xp.kernels.numpy.lion`."""
    kind = param.dtype.type
    eta, keep = kind(rate), kind(decay)
    old_1, new_1, old_2, new_2 = kind(beta_1), kind(1.0 - beta_1), kind(beta_2), kind(1.0 - beta_2)
    for i in range(param.size):
        m, g = momentum[i], grad[i]
        direction = old_1 * m + new_1 * g
        sign = kind(direction > 0) - kind(direction < 0)
        momentum[i] = old_2 * m + new_2 * g
        param[i] = param[i] * keep - eta * sign
