"""Kernels compiled by numba: one pass over memory each, vectorised, and on several threads if the arrays are large.

The loops run over slices that start at 0, because LLVM vectorises only where no index can be negative. Compiled code is
kept on disk, beside this file or in numba's cache directory. The exponential is NumPy's: numba's is not vectorised.
"""

from __future__ import annotations

import glob
import importlib.util
import os
from typing import Any

import numpy as np
from numba import njit

from dense_xp.kernels import numpy as plain
from dense_xp.kernels.numba_few import few_product, few_rows, learn
from dense_xp.kernels.numba_int8 import int8_product
from dense_xp.kernels.numba_panels import Panels
from dense_xp.kernels.numba_pieces import in_pieces, total
from dense_xp.kernels.numba_team import flush_to_zero, put_back
from dense_xp.kernels.numba_updates import adagrad, adam, lion, momentum, rmsprop, rmsprop_momentum, sgd
from dense_xp.kernels.numpy import Array, clip, clip_norm, columns_product, empty, product

__all__ = [
    "NAME", "Panels", "adagrad", "adam", "clip", "clip_norm", "columns_product", "compiles_first", "dropout", "empty",
    "few_product", "few_rows", "int8_product", "layer_norm", "layer_norm_backward", "learn", "linear",
    "linear_backward", "lion", "momentum", "product", "relu", "relu_backward", "rmsprop", "rmsprop_momentum", "sgd",
    "sigmoid", "sigmoid_backward", "softmax_cross_entropy", "squared_error", "tanh", "tanh_backward",
]  # fmt: skip

NAME = "numba"

# division by zero gives infinity as in NumPy; other threads may run meanwhile
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")

# a sum may be taken in any order, with the same error bound: otherwise LLVM does not vectorise it
_sums: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})


@_sums  # type: ignore[untyped-decorator]
def _total(x: Array) -> Any:
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j]
    return total


@_sums  # type: ignore[untyped-decorator]
def _dot(x: Array, y: Array) -> Any:
    total = x.dtype.type(0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total


def compiles_first() -> bool:
    """Return whether no compiled code of this file is on the disk: then the first step takes seconds."""
    stats = getattr(_total, "stats", None)  # None under NUMBA_DISABLE_JIT
    made = glob.glob(os.path.join(glob.escape(stats.cache_path), "numba.*.nbi")) if stats else [__file__]
    return not any(os.path.getmtime(path) >= os.path.getmtime(__file__) for path in made)


# ------------------------------------------------------------------------------------- layers


@in_pieces(0)
@_compiled  # type: ignore[untyped-decorator]
def linear(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear`."""
    b = bias[0]
    for i in range(Z.shape[0]):
        z = Z[i]
        for j in range(z.size):
            z[j] += b[j]


@in_pieces(0, 1, sums=(2,))
@_compiled  # type: ignore[untyped-decorator]
def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear_backward`."""
    sums = grad_bias[0]
    sums[:] = 0
    elsewhere = grad.ctypes.data != Z.ctypes.data
    for i in range(grad.shape[0]):
        g, z = grad[i], Z[i]
        if elsewhere:
            for j in range(z.size):
                z[j] = g[j]
        for j in range(z.size):
            sums[j] += z[j]


@in_pieces(0)
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


@in_pieces(0, 1, sums=(2,))
@_compiled  # type: ignore[untyped-decorator]
def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu_backward`."""
    sums = grad_bias[0]
    sums[:] = 0
    zero = Y.dtype.type(0)
    for i in range(Y.shape[0]):
        g, y = grad[i], Y[i]
        for j in range(y.size):
            y[j] = g[j] if y[j] > zero else zero
            sums[j] += y[j]


@in_pieces(0)
def tanh(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh`."""
    linear(Z, bias)
    np.tanh(Z, out=Z)


@in_pieces(0)
def sigmoid(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid`."""
    plain.sigmoid(Z, bias)


@in_pieces(0, 1, 3)
def dropout(X: Array, keep: Array, scale: float, out: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.dropout`."""
    plain.dropout(X, keep, scale, out)


@in_pieces(0, 1, sums=(2,))
@_compiled  # type: ignore[untyped-decorator]
def tanh_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh_backward`."""
    sums = grad_bias[0]
    sums[:] = 0
    one = Y.dtype.type(1)
    for i in range(Y.shape[0]):
        g, y = grad[i], Y[i]
        for j in range(y.size):
            y[j] = g[j] * ((one - y[j]) * (one + y[j]))
            sums[j] += y[j]


@in_pieces(0, 1, sums=(2,))
@_compiled  # type: ignore[untyped-decorator]
def sigmoid_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid_backward`."""
    sums = grad_bias[0]
    sums[:] = 0
    one = Y.dtype.type(1)
    for i in range(Y.shape[0]):
        g, y = grad[i], Y[i]
        for j in range(y.size):
            y[j] = g[j] * (y[j] * (one - y[j]))
            sums[j] += y[j]


@in_pieces(0, 4, 5, 6)
@_compiled  # type: ignore[untyped-decorator]
def layer_norm(X: Array, gamma: Array, beta: Array, epsilon: float, normed: Array, inverse: Array, Y: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm`."""
    kind = X.dtype.type
    scale, shift, count = gamma[0], beta[0], kind(X.shape[1])
    for i in range(X.shape[0]):
        x, h, y = X[i], normed[i], Y[i]
        mean = _total(x) / count
        for j in range(x.size):
            h[j] = x[j] - mean
        each = kind(1) / np.sqrt(_dot(h, h) / count + kind(epsilon))
        inverse[i, 0] = each
        for j in range(x.size):
            h[j] *= each
        for j in range(x.size):
            y[j] = h[j] * scale[j] + shift[j]


@in_pieces(0, 2, 3, 6, sums=(4, 5))
@_compiled  # type: ignore[untyped-decorator]
def layer_norm_backward(
    grad: Array, gamma: Array, normed: Array, inverse: Array, grad_gamma: Array, grad_beta: Array, out: Array
) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm_backward`."""
    scale, of_gamma, of_beta, count = gamma[0], grad_gamma[0], grad_beta[0], grad.dtype.type(grad.shape[1])
    of_gamma[:] = 0
    of_beta[:] = 0
    for i in range(grad.shape[0]):
        g, h, o, each = grad[i], normed[i], out[i], inverse[i, 0]
        for j in range(g.size):
            of_gamma[j] += g[j] * h[j]
            of_beta[j] += g[j]
        for j in range(g.size):
            o[j] = g[j] * scale[j]
        mean, along = _total(o) / count, _dot(o, h) / count
        for j in range(g.size):
            o[j] = (o[j] - mean - h[j] * along) * each


# ------------------------------------------------------------------------------------- chains
#
# Dense layers in a row, each W above its w0 in one flat array, all outputs in another. Layer i has widths[i] inputs
# and widths[i + 1] units, and a ReLU if rectified[i].

_linear: Any = linear.__wrapped__  # type: ignore[attr-defined]
_linear_backward: Any = linear_backward.__wrapped__  # type: ignore[attr-defined]
_relu: Any = relu.__wrapped__  # type: ignore[attr-defined]
_relu_backward: Any = relu_backward.__wrapped__  # type: ignore[attr-defined]


if importlib.util.find_spec("scipy") is not None:  # through which numba reaches BLAS

    def chain(X: Array, params: Array, widths: Array, rectified: Array, outputs: Array) -> None:
        """Write the output of each layer."""
        _chain(_plain(X), params, widths, rectified, outputs)

    def chain_backward(
        X: Array,
        grad: Array,
        params: Array,
        widths: Array,
        rectified: Array,
        outputs: Array,
        grads: Array,
        scratch: Array,
        wanted: bool,
    ) -> None:
        """Overwrite each output with its gradient; write those of the parameters, and X's into `scratch` if wanted."""
        _chain_backward(_plain(X), _plain(grad), params, widths, rectified, outputs, grads, scratch, wanted)

    __all__ += ["chain", "chain_backward"]


def _plain(array: Array) -> Array:
    """Return an array of the one layout that the loops are compiled for."""
    return array if array.flags.carray else np.array(array, order="C")


@_compiled  # type: ignore[untyped-decorator]
def _chain(X: Array, params: Array, widths: Array, rectified: Array, outputs: Array) -> None:
    n, at, start = X.shape[0], 0, 0
    for i in range(rectified.size):
        W, w0 = _layer(params, at, widths[i], widths[i + 1])
        Y = _matrix(outputs, start, n, widths[i + 1])
        np.dot(X, W, Y)
        if rectified[i]:
            _relu(Y, w0)
        else:
            _linear(Y, w0)
        at, start, X = at + W.size + w0.size, start + Y.size, Y


@_compiled  # type: ignore[untyped-decorator]
def _chain_backward(
    X: Array,
    grad: Array,
    params: Array,
    widths: Array,
    rectified: Array,
    outputs: Array,
    grads: Array,
    scratch: Array,
    wanted: bool,
) -> None:
    n, at, start = X.shape[0], params.size, X.shape[0] * widths[1:].sum()
    for i in range(rectified.size - 1, -1, -1):
        at, start = at - (widths[i] + 1) * widths[i + 1], start - n * widths[i + 1]
        Y = _matrix(outputs, start, n, widths[i + 1])
        grad_W, grad_w0 = _layer(grads, at, widths[i], widths[i + 1])
        if rectified[i]:
            _relu_backward(grad, Y, grad_w0)
        else:
            _linear_backward(grad, Y, grad_w0)
        np.dot((_matrix(outputs, start - n * widths[i], n, widths[i]) if i else X).T, Y, grad_W)
        if i or wanted:
            grad = _matrix(scratch, 0, n, widths[i])
            np.dot(Y, _layer(params, at, widths[i], widths[i + 1])[0].T, grad)


@_compiled  # type: ignore[untyped-decorator]
def _matrix(array: Array, start: int, rows: int, columns: int) -> Array:
    return array[start : start + rows * columns].reshape(rows, columns)


@_compiled  # type: ignore[untyped-decorator]
def _layer(params: Array, at: int, n_in: int, n_units: int) -> tuple[Array, Array]:
    return _matrix(params, at, n_in, n_units), _matrix(params, at + n_in * n_units, 1, n_units)


# ------------------------------------------------------------------------------------- losses

WIDE = 32
"""From so many numbers in a row on, NumPy finds the maximum faster: LLVM does not vectorise one that may meet NaN."""


@_compiled  # type: ignore[untyped-decorator]
def _shift(Z: Array, largest: Array, labels: Array, share: float) -> float:
    """Subtract the maximum of each row, found here if not given; return minus the sum of the logits of the labels."""
    loss = 0.0
    for i in range(Z.shape[0]):
        z = Z[i]
        top = z[0]
        if largest.size:
            top = largest[i]
        else:
            for j in range(z.size):
                top = z[j] if z[j] > top else top
        for j in range(z.size):
            z[j] -= top
        loss -= (1.0 - share * z.size) * z[labels[i]]
        if share:
            loss -= share * _total(z)
    return loss


@_compiled  # type: ignore[untyped-decorator]
def _normalize(Z: Array, labels: Array, share: float, rows: int) -> float:
    """Turn exponentials into the gradient; return the sum of the logarithms of the row sums."""
    loss = 0.0
    kind = Z.dtype.type
    each = kind(1.0 / rows)
    less = kind(share / rows)
    before = flush_to_zero()
    for i in range(Z.shape[0]):
        z = Z[i]
        total = _total(z)
        loss += np.log(total)
        factor = each / total
        for j in range(z.size):
            z[j] = z[j] * factor - less
        z[labels[i]] -= kind((1.0 - share * z.size) / rows)
    put_back(before)
    return loss


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> float:
    """As :func:`dense_xp.kernels.numpy.softmax_cross_entropy`."""
    n, share = len(Z), smoothing / Z.shape[1]

    def part(rows: slice) -> float:
        z, own = Z[rows], labels[rows]
        largest = np.max(z, axis=1) if z.shape[1] >= WIDE else z[0, :0]
        loss = _shift(z, largest, own, share)
        np.exp(z, out=z)
        return float(loss + _normalize(z, own, share, n))

    return total(part, Z) / n


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
