"""Kernels of NumPy alone: in place, and in blocks that stay in the cache from one operation to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from dense_xp.kernels import one_minus_power

Array: TypeAlias = np.ndarray[Any, Any]

NAME = "numpy"

BLOCK = 16384
"""Numbers in a block: with gradient, state and scratch, half of a second-level cache."""

LINE = 64
"""Bytes in a cache line."""

TILE = 1024
"""Rows that pass through all layers together in a prediction."""


def empty(shape: tuple[int, ...], dtype: Any, device: Any) -> Array:
    """Return new memory that starts on a cache line; NumPy's usually starts 16 bytes after one.

    Products of 128 × 784 × 512 then take 1 to 3 % less time, and ReLU a third.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, dtype=np.uint8)
    start = -raw.ctypes.data % LINE
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    return array


# ------------------------------------------------------------------------------------- products

product = np.dot  # (A, B, out=): A B


def columns_product(A: Array, B: Array, out: Array) -> None:
    """Write A B where A is a part of a larger array, of which numpy.dot would make a copy."""
    np.matmul(A, B, out=out)


# ------------------------------------------------------------------------------------- layers


def linear(Z: Array, bias: Array) -> None:
    """Add the bias, of shape (1, n), to each row of Z."""
    np.add(Z, bias, out=Z)


def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """Write the gradient into Z, unless it is there already, and its sum over the rows into `grad_bias`."""
    if grad is not Z:
        np.copyto(Z, grad)
    np.sum(Z, axis=0, keepdims=True, out=grad_bias)


def relu(Z: Array, bias: Array) -> None:
    """Replace Z by max(Z + bias, 0)."""
    np.add(Z, bias, out=Z)
    np.maximum(Z, 0.0, out=Z)


def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """Replace the output Y by the gradient where Y is positive, else by 0, and sum over the rows."""
    np.greater(Y, 0.0, out=Y)
    np.multiply(grad, Y, out=Y)
    np.sum(Y, axis=0, keepdims=True, out=grad_bias)


def tanh(Z: Array, bias: Array) -> None:
    """Replace Z by tanh(Z + bias)."""
    np.add(Z, bias, out=Z)
    np.tanh(Z, out=Z)


def tanh_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """Replace the output Y by the gradient times (1 - Y) (1 + Y), and sum that over the rows."""
    sums = 1.0 + Y
    np.subtract(1.0, Y, out=Y)
    Y *= sums
    Y *= grad
    np.sum(Y, axis=0, keepdims=True, out=grad_bias)


def sigmoid(Z: Array, bias: Array) -> None:
    """Replace Z by the sigmoid of Z + bias; where the exponential overflows, that is 0."""
    np.add(Z, bias, out=Z)
    np.negative(Z, out=Z)
    with np.errstate(over="ignore"):
        np.exp(Z, out=Z)
    Z += 1.0
    np.reciprocal(Z, out=Z)


def sigmoid_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """Replace the output Y by the gradient times Y (1 - Y), and sum that over the rows."""
    Y *= 1.0 - Y
    Y *= grad
    np.sum(Y, axis=0, keepdims=True, out=grad_bias)


def dropout(X: Array, keep: Array, scale: float, out: Array) -> None:
    """Write X times `scale` where `keep` is true, and 0 elsewhere, into `out`, which may be X."""
    np.multiply(X, scale, out=out)
    out[~keep] = 0.0


def layer_norm(X: Array, gamma: Array, beta: Array, epsilon: float, normed: Array, inverse: Array, Y: Array) -> None:
    """Write x̂, 1/√(variance + ε), of shape (rows, 1), and γ x̂ + β."""
    np.subtract(X, np.mean(X, axis=1, keepdims=True), out=normed)
    np.multiply(normed, normed, out=Y)
    np.mean(Y, axis=1, keepdims=True, out=inverse)
    np.divide(1.0, np.sqrt(inverse + epsilon), out=inverse)
    np.multiply(normed, inverse, out=normed)
    np.multiply(normed, gamma, out=Y)
    np.add(Y, beta, out=Y)


def layer_norm_backward(
    grad: Array, gamma: Array, normed: Array, inverse: Array, grad_gamma: Array, grad_beta: Array, out: Array
) -> None:
    """Write (g γ - mean(g γ) - x̂ mean(g γ x̂))/√(variance + ε) and the two sums over the rows; overwrite x̂."""
    np.multiply(grad, normed, out=out)
    np.sum(out, axis=0, keepdims=True, out=grad_gamma)
    np.sum(grad, axis=0, keepdims=True, out=grad_beta)
    np.multiply(out, gamma, out=out)
    normed *= np.mean(out, axis=1, keepdims=True)
    np.multiply(grad, gamma, out=out)
    normed += np.mean(out, axis=1, keepdims=True)
    out -= normed
    out *= inverse


# ------------------------------------------------------------------------------------- losses


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> float:
    """Return the mean cross-entropy of logits and labels, and replace the logits by their gradient."""
    n, n_classes = Z.shape
    rows = np.arange(n)
    share = smoothing / n_classes
    Z -= np.max(Z, axis=1, keepdims=True)
    loss = -(1.0 - smoothing) * np.sum(Z[rows, labels], dtype="float64")
    if smoothing:
        loss -= share * np.sum(Z, dtype="float64")
    np.exp(Z, out=Z)
    total = np.sum(Z, axis=1, keepdims=True)
    loss += np.sum(np.log(total), dtype="float64")
    Z /= total
    Z[rows, labels] -= 1.0 - smoothing
    if smoothing:
        Z -= share
    Z *= 1.0 / n
    return float(loss / n)


def squared_error(Y: Array, target: Array) -> float:
    """Return the mean squared error, and replace the prediction by its gradient."""
    np.subtract(Y, target, out=Y)
    loss = np.mean(np.square(Y), dtype="float64")
    Y *= 2.0 / Y.size
    return float(loss)


# ------------------------------------------------------------------------------------- optimizers
#
# All arrays are flat. `decay` is 1 - η λ, the factor of weight decay.


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    scratch = np.empty(min(BLOCK, arrays[0].size), dtype=arrays[0].dtype)
    for start in range(0, arrays[0].size, BLOCK):
        block = [array[start : start + BLOCK] for array in arrays]
        yield (*block, scratch[: block[0].size])


def _decayed(param: Array, decay: float) -> None:
    if decay != 1.0:
        param *= decay


def sgd(param: Array, grad: Array, rate: float, decay: float) -> None:
    """θ ← θ decay - η g."""
    for p, g, t in _blocks(param, grad):
        _decayed(p, decay)
        np.multiply(g, rate, out=t)
        p -= t


def momentum(param: Array, grad: Array, velocity: Array, rate: float, decay: float, mu: float, nesterov: bool) -> None:
    """V ← μ v + g; then θ ← θ decay - η v, or - η (g + μ v)."""
    for p, g, v, t in _blocks(param, grad, velocity):
        v *= mu
        v += g
        _decayed(p, decay)
        if nesterov:
            np.multiply(v, mu, out=t)
            t += g
            t *= rate
        else:
            np.multiply(v, rate, out=t)
        p -= t


def rmsprop(
    param: Array, grad: Array, mean_square: Array, rate: float, decay: float, rho: float, epsilon: float
) -> None:
    """S ← ρ s + (1 - ρ) g²; θ ← θ decay - η g/(√s + ε)."""
    for p, g, s, t in _blocks(param, grad, mean_square):
        np.multiply(g, g, out=t)
        t *= 1.0 - rho
        s *= rho
        s += t
        np.sqrt(s, out=t)
        t += epsilon
        np.divide(g, t, out=t)
        t *= rate
        _decayed(p, decay)
        p -= t


def rmsprop_momentum(
    param: Array,
    grad: Array,
    mean_square: Array,
    velocity: Array,
    rate: float,
    decay: float,
    rho: float,
    epsilon: float,
    mu: float,
) -> None:
    """S ← ρ s + (1 - ρ) g²; v ← μ v + g/(√s + ε); θ ← θ decay - η v."""
    for p, g, s, v, t in _blocks(param, grad, mean_square, velocity):
        np.multiply(g, g, out=t)
        t *= 1.0 - rho
        s *= rho
        s += t
        np.sqrt(s, out=t)
        t += epsilon
        np.divide(g, t, out=t)
        v *= mu
        v += t
        np.multiply(v, rate, out=t)
        _decayed(p, decay)
        p -= t


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
    """Make a step of Adam; `steps` counts this one too."""
    rate, inverse = rate / one_minus_power(beta_1, steps), 1.0 / one_minus_power(beta_2, steps)
    for p, g, m, v, t in _blocks(param, grad, mean, mean_square):
        np.multiply(g, g, out=t)
        t *= 1.0 - beta_2
        v *= beta_2
        v += t
        np.multiply(g, 1.0 - beta_1, out=t)
        m *= beta_1
        m += t
        np.multiply(v, inverse, out=t)
        np.sqrt(t, out=t)
        t += epsilon
        np.divide(m, t, out=t)
        t *= rate
        _decayed(p, decay)
        p -= t


def adagrad(param: Array, grad: Array, total: Array, rate: float, decay: float, epsilon: float) -> None:
    """S ← s + g²; θ ← θ decay - η g/(√s + ε)."""
    for p, g, s, t in _blocks(param, grad, total):
        np.multiply(g, g, out=t)
        s += t
        np.sqrt(s, out=t)
        t += epsilon
        np.divide(g, t, out=t)
        t *= rate
        _decayed(p, decay)
        p -= t


def lion(param: Array, grad: Array, momentum: Array, rate: float, decay: float, beta_1: float, beta_2: float) -> None:
    """θ ← θ decay - η sign(β₁ m + (1 - β₁) g); m ← β₂ m + (1 - β₂) g."""
    for p, g, m, t in _blocks(param, grad, momentum):
        np.multiply(g, 1.0 - beta_1, out=t)
        t += beta_1 * m
        np.sign(t, out=t)
        t *= rate
        _decayed(p, decay)
        p -= t
        np.multiply(g, 1.0 - beta_2, out=t)
        m *= beta_2
        m += t


# ------------------------------------------------------------------------------------- clipping


def clip(grad: Array, limit: float) -> None:
    """Limit each entry to ± limit."""
    np.clip(grad, -limit, limit, out=grad)


def clip_norm(grads: list[Array], allowed: float) -> None:
    """Scale gradients down so that their Euclidean norm, over all of them, is at most what is allowed."""
    norm = math.sqrt(sum(float(np.dot(grad, grad)) for grad in grads))
    if norm == math.inf:  # the squares overflow
        largest = max(float(np.max(np.abs(grad))) for grad in grads)
        norm = largest * math.sqrt(sum(float(np.sum(np.square(grad / largest))) for grad in grads))
    scale = allowed / max(norm, allowed)
    for grad in grads:
        grad *= scale


# ------------------------------------------------------------------ prediction


class Panels:
    """Dense layers in a row: called with rows, it returns their output.

    Any number of threads may call it at the same time. The weights are not copied.

    Parameters
    ----------
    layers : sequence of (W, w0 or None, bool)
        Weights and bias, float32 or float64, and whether a ReLU follows.
    """

    def __init__(self, layers: Sequence[tuple[Array, Array | None, bool]]) -> None:
        self.layers, self.dtype = list(layers), layers[0][0].dtype
        self.n_in, self.units = int(layers[0][0].shape[0]), int(layers[-1][0].shape[1])
        self._widest = max([W.shape[1] for W, _, _ in layers[:-1]], default=0)
        self._free: list[list[Array]] = []  # memory that no call is using

    def __call__(self, X: Array) -> Array:
        """Return the output for contiguous rows."""
        out = np.empty((X.shape[0], self.units), dtype=self.dtype)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = [empty((TILE * self._widest,), self.dtype, None) for _ in range(2)]
        with np.errstate(all="ignore"):
            for first in range(0, len(X), TILE):
                self._tile(X[first : first + TILE], out[first : first + TILE], memory)
        self._free.append(memory)
        return out

    now = __call__  # no copies of weights are kept

    def _tile(self, X: Array, out: Array, memory: list[Array]) -> None:
        n, last = len(X), len(self.layers) - 1
        for i, (W, w0, rectified) in enumerate(self.layers):
            units = W.shape[1]
            Y = out if i == last else memory[i % 2][: n * units].reshape(n, units)
            np.dot(X, W, out=Y)
            if w0 is not None:
                np.add(Y, w0, out=Y)
            if rectified:
                np.maximum(Y, 0.0, out=Y)
            X = Y
