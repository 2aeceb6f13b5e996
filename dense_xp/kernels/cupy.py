"""Kernels of CuPy: one launch, and one pass over memory, for what would be several.

There is none for layer normalization; the pure functions of the layer serve.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cupy

from dense_xp.kernels import one_minus_power

Array: TypeAlias = Any

NAME = "cupy"


def _elementwise(inputs: str, outputs: str, body: str, name: str) -> Any:
    return cupy.ElementwiseKernel(inputs, outputs, body, f"dense_xp_{name}")


# ------------------------------------------------------------------------------------- products


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B."""
    cupy.dot(A, B, out=out)


columns_product = product

# ------------------------------------------------------------------------------------- layers

_linear = _elementwise("T bias", "T z", "z += bias", "linear")
_relu = _elementwise("T bias", "T z", "T y = z + bias; z = y < T(0) ? T(0) : y", "relu")  # a NaN stays one
_relu_backward = _elementwise("T grad", "T y", "y = y > T(0) ? grad : T(0)", "relu_backward")
_dropout = _elementwise("T x, bool keep, T scale", "T y", "y = keep ? x * scale : T(0)", "dropout")


def linear(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear`."""
    _linear(bias, Z)


def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear_backward`."""
    if grad is not Z:
        Z[...] = grad
    cupy.sum(Z, axis=0, keepdims=True, out=grad_bias)


def relu(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu`."""
    _relu(bias, Z)


def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu_backward`."""
    _relu_backward(grad, Y)
    cupy.sum(Y, axis=0, keepdims=True, out=grad_bias)


def dropout(X: Array, keep: Array, scale: float, out: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.dropout`."""
    _dropout(X, keep, scale, out)


# ------------------------------------------------------------------------------------- losses

# a row's logits less the largest of them, before (z) and after the exponential (e): its loss, and the gradient
_row_losses = _elementwise(
    "raw T z, T total, int64 label, T sum, int64 n_classes, T smoothing",
    "T loss",
    "loss = log(total) - (T(1) - smoothing) * z[i * n_classes + label] - smoothing / n_classes * sum",
    "cross_entropy",
)
_row_gradients = _elementwise(
    "T total, int64 label, int64 column, T off, T on, T share",
    "T e",
    "e = (e / total - (label == column ? on : off)) * share",
    "cross_entropy_gradient",
)


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> Array:
    """As :func:`dense_xp.kernels.numpy.softmax_cross_entropy`; the loss stays on the device."""
    n, n_classes = Z.shape
    labels = labels.astype(cupy.int64, copy=False)
    Z -= Z.max(axis=1, keepdims=True)
    exponential = cupy.exp(Z)
    total = exponential.sum(axis=1)
    sums = Z.sum(axis=1) if smoothing else cupy.zeros_like(total)
    losses = cupy.empty_like(total)
    _row_losses(Z, total, labels, sums, n_classes, smoothing, losses)
    Z[...] = exponential
    off = smoothing / n_classes
    columns = cupy.arange(n_classes, dtype=cupy.int64)
    _row_gradients(total[:, None], labels[:, None], columns, off, 1.0 - smoothing + off, 1.0 / n, Z)
    return losses.mean()


def squared_error(Y: Array, target: Array) -> Array:
    """As :func:`dense_xp.kernels.numpy.squared_error`; the loss stays on the device."""
    Y -= target
    loss = cupy.mean(cupy.square(Y))
    Y *= 2.0 / Y.size
    return loss


# ------------------------------------------------------------------------------------- optimizers

_sgd = _elementwise("T g, T rate, T decay", "T p", "p = p * decay - rate * g", "sgd")
_momentum = _elementwise(
    "T g, T rate, T decay, T mu, T now, T ahead",
    "T p, T v",
    "v = mu * v + g; p = p * decay - rate * (now * g + ahead * v)",
    "momentum",
)
_rmsprop = _elementwise(
    "T g, T rate, T decay, T old, T fresh, T epsilon",
    "T p, T s",
    "s = old * s + fresh * (g * g); p = p * decay - rate * (g / (sqrt(s) + epsilon))",
    "rmsprop",
)
_adam = _elementwise(
    "T g, T rate, T decay, T old_1, T new_1, T old_2, T new_2, T epsilon, T inverse",
    "T p, T m, T v",
    "m = old_1 * m + new_1 * g; v = old_2 * v + new_2 * (g * g);"
    "p = p * decay - rate * (m / (sqrt(v * inverse) + epsilon))",
    "adam",
)
_adagrad = _elementwise(
    "T g, T rate, T decay, T epsilon",
    "T p, T s",
    "s += g * g; p = p * decay - rate * (g / (sqrt(s) + epsilon))",
    "adagrad",
)
_lion = _elementwise(
    "T g, T rate, T decay, T old_1, T new_1, T old_2, T new_2",
    "T p, T m",
    "T d = old_1 * m + new_1 * g; m = old_2 * m + new_2 * g;p = p * decay - rate * (T(d > T(0)) - T(d < T(0)))",
    "lion",
)


def sgd(param: Array, grad: Array, rate: float, decay: float) -> None:
    """As :func:`dense_xp.kernels.numpy.sgd`."""
    _sgd(grad, rate, decay, param)


def momentum(param: Array, grad: Array, velocity: Array, rate: float, decay: float, mu: float, nesterov: bool) -> None:
    """As :func:`dense_xp.kernels.numpy.momentum`."""
    now, ahead = (1.0, mu) if nesterov else (0.0, 1.0)
    _momentum(grad, rate, decay, mu, now, ahead, param, velocity)


def rmsprop(
    param: Array, grad: Array, mean_square: Array, rate: float, decay: float, rho: float, epsilon: float
) -> None:
    """As :func:`dense_xp.kernels.numpy.rmsprop`."""
    _rmsprop(grad, rate, decay, rho, 1.0 - rho, epsilon, param, mean_square)


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
    _adam(grad, rate, decay, beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, epsilon, inverse, param, mean, mean_square)


def adagrad(param: Array, grad: Array, total: Array, rate: float, decay: float, epsilon: float) -> None:
    """As :func:`dense_xp.kernels.numpy.adagrad`."""
    _adagrad(grad, rate, decay, epsilon, param, total)


def lion(param: Array, grad: Array, momentum: Array, rate: float, decay: float, beta_1: float, beta_2: float) -> None:
    """As :func:`dense_xp.kernels.numpy.lion`."""
    _lion(grad, rate, decay, beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, param, momentum)


# ------------------------------------------------------------------------------------- clipping


def clip(grad: Array, limit: float) -> None:
    """As :func:`dense_xp.kernels.numpy.clip`."""
    cupy.clip(grad, -limit, limit, out=grad)


def clip_norm(grads: list[Array], allowed: float) -> None:
    """As :func:`dense_xp.kernels.numpy.clip_norm`; nothing waits for the device."""
    squares = cupy.stack([cupy.dot(grad, grad) for grad in grads])
    scale = allowed / cupy.maximum(cupy.sqrt(squares.sum()), allowed)
    for grad in grads:
        grad *= scale
