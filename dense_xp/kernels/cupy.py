"""Kernels of CuPy, each with one launch and one pass over memory in place of several.

Nothing here waits for the device or depends on host values that change from step to step: learning rate, decay
and the count of steps may be numbers on the device. So all of it can be recorded as a CUDA graph.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from typing import Any, TypeAlias

import cupy

from dense_xp.kernels import cupy_graph, cupy_random

Array: TypeAlias = Any

NAME = "cupy"

THREADS = 256
"""The most threads of a block that works on one row; a power of two."""

COLUMNS, ROWS = 32, 32
"""Threads of a block that adds up columns: side by side, as many as one memory access serves, and rows at a time."""

LARGER_TILES = 16
"""Factor of the tile of a large gradient, computed at a time: 192 rows of 8192 would leave half of a device idle."""

BLOCKS, MOST_SHARES = 512, 64
"""The number of such blocks to aim at, some for each multiprocessor; and the most that share the rows of a column."""


def _elementwise(inputs: str, outputs: str, body: str, name: str) -> Any:
    return cupy.ElementwiseKernel(inputs, outputs, body, f"dense_xp_{name}")


# ------------------------------------------------------------------------------------- sums within a block

_BLOCKS = r"""
// Adds up over the threads of a row; every thread gets the sum.
template <typename S> __device__ S row_sum(S value, S* shared) {
    int width = blockDim.x, t = threadIdx.x;
    __syncthreads();  // what was here before has been read
    shared[t] = value;
    __syncthreads();
    for (int half = width / 2; half; half /= 2) {
        if (t < half) shared[t] += shared[t + half];
        __syncthreads();
    }
    return shared[0];
}

__device__ T row_max(T value, T* shared) {
    int width = blockDim.x, t = threadIdx.x;
    __syncthreads();
    shared[t] = value;
    __syncthreads();
    for (int half = width / 2; half; half /= 2) {
        if (t < half && shared[t + half] > shared[t]) shared[t] = shared[t + half];
        __syncthreads();
    }
    return shared[0];
}

// Adds up over the threads of one column of a block; its first thread gets the sum.
__device__ T column_sum(T value, T* shared) {
    int width = blockDim.x, t = threadIdx.y * width + threadIdx.x;
    __syncthreads();
    shared[t] = value;
    __syncthreads();
    for (int half = blockDim.y / 2; half; half /= 2) {
        if (threadIdx.y < half) shared[t] += shared[t + half * width];
        __syncthreads();
    }
    return shared[threadIdx.x];
}

// The sums of columns: each block adds up some columns over its share of the rows, and column_totals over the shares.
// A thread takes four rows at a time: it asks for the numbers of all before it waits for those of the first.
#define FOUR_ROWS                                                                                             \
    long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.y * blockDim.y; \
    for (long long i = blockIdx.y * blockDim.y + threadIdx.y; i < rows && j < columns; i += 4 * step)
#define EACH_ROW _Pragma("unroll") for (int k = 0; k < 4; ++k) if (i + k * step < rows)
#define AT (i + k * step) * columns + j

extern "C" __global__ void __launch_bounds__(1024) column_totals(
    const T* __restrict__ parts, T* __restrict__ sums, long long rows, long long columns
) {
    long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= columns) return;
    T sum = 0;
    for (long long i = 0; i < rows; ++i) sum += parts[i * columns + j];
    sums[j] = sum;
}

extern "C" __global__ void __launch_bounds__(1024) linear_backward(
    const T* grad, T* z, T* sums, long long rows, long long columns
) {
    __shared__ T shared[1024];
    T sum = 0, g[4];
    FOUR_ROWS {
        EACH_ROW g[k] = grad[AT];
        EACH_ROW {
            if (grad != z) z[AT] = g[k];
            sum += g[k];
        }
    }
    sum = column_sum(sum, shared);
    if (threadIdx.y == 0 && j < columns) sums[blockIdx.y * columns + j] = sum;
}

extern "C" __global__ void __launch_bounds__(1024) layer_norm(
    const T* X, const T* gamma, const T* beta, T* normed, T* inverse, T* Y, long long n, double epsilon
) {
    __shared__ T shared[1024];
    long long start = blockIdx.x * n;
    T sum = 0, squares = 0;
    for (long long j = threadIdx.x; j < n; j += blockDim.x) sum += X[start + j];
    T mean = row_sum(sum, shared) / T(n);
    for (long long j = threadIdx.x; j < n; j += blockDim.x) {
        T d = X[start + j] - mean;
        squares += d * d;
    }
    T scale = T(1) / sqrt(row_sum(squares, shared) / T(n) + T(epsilon));
    if (threadIdx.x == 0) inverse[blockIdx.x] = scale;
    for (long long j = threadIdx.x; j < n; j += blockDim.x) {
        T x = (X[start + j] - mean) * scale;
        normed[start + j] = x;
        Y[start + j] = x * gamma[j] + beta[j];
    }
}

extern "C" __global__ void __launch_bounds__(1024) layer_norm_backward(
    const T* grad, const T* gamma, const T* normed, const T* inverse, T* out, long long n
) {
    __shared__ T shared[1024];
    long long start = blockIdx.x * n;
    T sum = 0, along = 0;
    for (long long j = threadIdx.x; j < n; j += blockDim.x) {
        T g = grad[start + j] * gamma[j];
        sum += g;
        along += g * normed[start + j];
    }
    sum = row_sum(sum, shared) / T(n);
    along = row_sum(along, shared) / T(n);
    for (long long j = threadIdx.x; j < n; j += blockDim.x)
        out[start + j] = (grad[start + j] * gamma[j] - sum - normed[start + j] * along) * inverse[blockIdx.x];
}

extern "C" __global__ void __launch_bounds__(1024) layer_norm_sums(
    const T* __restrict__ grad, const T* __restrict__ normed, T* grad_gamma, T* grad_beta, long long rows,
    long long columns
) {
    __shared__ T shared[1024];
    T sum = 0, along = 0, g[4], x[4];
    FOUR_ROWS {
        EACH_ROW g[k] = grad[AT], x[k] = normed[AT];
        EACH_ROW sum += g[k], along += g[k] * x[k];
    }
    sum = column_sum(sum, shared);
    along = column_sum(along, shared);
    if (threadIdx.y == 0 && j < columns) {
        grad_beta[blockIdx.y * columns + j] = sum;
        grad_gamma[blockIdx.y * columns + j] = along;
    }
}

extern "C" __global__ void __launch_bounds__(1024) cross_entropy(
    T* Z, const long long* labels, T* losses, long long n, double smoothing, double share
) {
    __shared__ T shared[1024];
    T* z = Z + blockIdx.x * n;
    long long label = labels[blockIdx.x];
    T top = z[0], total = 0, sum = 0, off = T(smoothing / n), on = T(1.0 - smoothing + smoothing / n);
    for (long long j = threadIdx.x; j < n; j += blockDim.x) if (z[j] > top) top = z[j];
    top = row_max(top, shared);
    for (long long j = threadIdx.x; j < n; j += blockDim.x) {
        total += exp(z[j] - top);
        if (smoothing > 0) sum += z[j] - top;  // else it counts nothing, and may be infinite
    }
    total = row_sum(total, shared);
    sum = row_sum(sum, shared);
    if (threadIdx.x == 0)
        losses[blockIdx.x] = log(total) - T(1.0 - smoothing) * (z[label] - top) - T(smoothing / n) * sum;
    __syncthreads();  // the logit of the label has been read
    for (long long j = threadIdx.x; j < n; j += blockDim.x)
        z[j] = (exp(z[j] - top) / total - (j == label ? on : off)) * T(share);
}

// Each block adds up, times `scale`, its part of all numbers.
extern "C" __global__ void __launch_bounds__(1024) partial_sums(const T* x, T* sums, long long n, double scale) {
    __shared__ T shared[1024];
    T sum = 0;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) sum += x[i];
    sum = row_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum * T(scale);
}

// Each block adds up its part of the squares, which may be beyond the largest float.
extern "C" __global__ void __launch_bounds__(1024) partial_squares(const T* x, double* sums, long long n) {
    __shared__ double shared[1024];
    double sum = 0;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        sum += (double)x[i] * (double)x[i];
    sum = row_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
"""

_BACKWARD = r"""
// Overwrites the output of an activation, or its derivative, with the gradient.
extern "C" __global__ void __launch_bounds__(1024) NAME_backward(
    const T* __restrict__ grad, T* __restrict__ outputs, T* sums, long long rows, long long columns
) {
    __shared__ T shared[1024];
    T sum = 0, grads[4], ys[4];
    FOUR_ROWS {
        EACH_ROW grads[k] = grad[AT], ys[k] = outputs[AT];
        EACH_ROW {
            T g = grads[k], y = ys[k];
            sum += outputs[AT] = GRADIENT;
        }
    }
    sum = column_sum(sum, shared);
    if (threadIdx.y == 0 && j < columns) sums[blockIdx.y * columns + j] = sum;
}
"""
_GRADIENTS = {
    "relu": "y > T(0) ? g : T(0)",
    "tanh": "g * ((T(1) - y) * (T(1) + y))",
    "sigmoid": "g * (y * (T(1) - y))",
    "activation": "g * y",
}
_SOURCE = _BLOCKS + "".join(
    _BACKWARD.replace("NAME", name).replace("GRADIENT", gradient) for name, gradient in _GRADIENTS.items()
)


@functools.cache
def _module(dtype: str) -> Any:
    real = {"float32": "float", "float64": "double"}[dtype]
    return cupy.RawModule(code=f"typedef {real} T;\n{_SOURCE}")


@functools.cache
def _compiled(name: str, dtype: str) -> Any:
    return _module(dtype).get_function(name)


def _by_rows(name: str, n: int, rows: int, *arguments: Any) -> None:
    """Launch a kernel in which a block works on one row of n numbers."""
    threads = min(THREADS, max(32, 1 << (n - 1).bit_length()))
    _compiled(name, arguments[0].dtype.name)((rows,), (threads,), arguments)


def _by_columns(name: str, arrays: tuple[Array, ...], sums: tuple[Array, ...]) -> None:
    """Launch a kernel that adds up columns, and another for its partial sums if several blocks share the rows."""
    (rows, columns), dtype = arrays[0].shape, arrays[0].dtype
    blocks = -(-columns // COLUMNS)
    # enough blocks to fill the device, each with enough rows to be worth its launch
    shares = max(1, min(MOST_SHARES, BLOCKS // blocks, rows // (4 * ROWS)))
    parts = sums if shares == 1 else tuple(cupy.empty((shares, columns), dtype=dtype) for _ in sums)
    _compiled(name, dtype.name)((blocks, shares), (COLUMNS, ROWS), (*arrays, *parts, rows, columns))
    for part, total in zip(parts, sums, strict=True) if shares > 1 else ():
        _compiled("column_totals", dtype.name)((-(-columns // THREADS),), (THREADS,), (part, total, shares, columns))


def _partial_sums(x: Array, out: Array, scale: float = 1.0) -> None:
    """Write partial sums of x, one for each entry of `out`."""
    _compiled("partial_sums", x.dtype.name)((out.size,), (THREADS,), (x, out, x.size, scale))


def _parts(size: int) -> int:
    return max(1, min(512, size // (8 * THREADS)))


def _mean(x: Array) -> Array:
    """Return the mean of a contiguous array, as an array without dimensions."""
    if (parts := _parts(x.size)) > 1:
        sums = cupy.empty(parts, dtype=x.dtype)
        _partial_sums(x, sums)
    else:
        sums = x
    mean = cupy.empty((), dtype=x.dtype)
    _partial_sums(sums, mean, scale=1.0 / x.size)
    return mean


# ------------------------------------------------------------------------------------- products


@functools.cache
def blas() -> tuple[Any, str]:
    """Return the products that can be recorded, or None and why there are none."""
    try:
        module = importlib.import_module("dense_xp.kernels.cupy_blas")
        module.handle()
    except Exception as error:  # not installed, or it finds no cuBLAS
        return None, (
            "the products of CuPy itself cannot be recorded, and those of cuBLAS cannot be used "
            f'({type(error).__name__}: {error}): pip install "dense-xp[cuda13]" or "dense-xp[cuda12]" brings it'
        )
    return module, ""


def product(A: Array, B: Array, out: Array) -> None:
    """Write A B."""
    module, _ = blas()
    if module is None:
        cupy.dot(A, B, out=out)
    else:
        module.product(A, B, out)


columns_product = product


@functools.cache
def blas_lt() -> Any:
    """Return the products of cuBLASLt, which need what :func:`blas` has."""
    if blas()[0] is None:
        raise RuntimeError(blas()[1])
    module = importlib.import_module("dense_xp.kernels.cupy_epilogues")
    module.library()
    return module


def epilogues() -> Any:
    """Return the products with epilogues, if ``DENSE_XP_CUBLASLT=1`` asks for them; else None."""
    return None if os.environ.get("DENSE_XP_CUBLASLT", "0") in ("", "0") else blas_lt()


# ------------------------------------------------------------------------------------- layers

_linear = _elementwise("T bias", "T z", "z += bias", "linear")
_relu = _elementwise("T bias", "T z", "T y = z + bias; z = y < T(0) ? T(0) : y", "relu")  # a NaN stays one
_tanh = _elementwise("T bias", "T z", "z = tanh(z + bias)", "tanh")
_sigmoid = _elementwise(
    "T bias", "T z", "T x = z + bias, e = exp(x < T(0) ? x : -x); z = (x < T(0) ? e : T(1)) / (T(1) + e)", "sigmoid"
)


def _curve(name: str, value: str, slope: str, first: str = "", constants: str = "") -> Any:
    body = f"T x = z + bias; {first} y = {value}; z = {slope};"
    return _elementwise(f"T bias{constants}", "T z, T y", body, name)


_S = "T e = exp(-fabs(x)), s = (x < T(0) ? e : T(1)) / (T(1) + e);"
_CURVES = {  # a NaN stays one: no condition holds for it
    "leaky_relu": _curve("leaky_relu", "x > T(0) ? x : a * x", "x > T(0) ? T(1) : a", constants=", T a"),
    "elu": _curve(
        "elu", "x > T(0) ? b * x : a * expm1(x)", "x > T(0) ? b : a * exp(x)", constants=", T a, T b"
    ),
    "gelu": _curve(
        "gelu", "x * cdf", "cdf + x * density",
        "T cdf = T(0.5) * erfc(T(-0.7071067811865476) * x), density = T(0.3989422804014327) * exp(T(-0.5) * x * x);",
    ),
    "silu": _curve("silu", "x * s", "s * (T(1) + x * ((x < T(0) ? T(1) : e) / (T(1) + e)))", _S),
    "mish": _curve(
        "mish", "x * t", "t + x * s * (rest / (above + rest) * (T(1) + t))",
        _S + "T above = x < T(0) ? e * (e + T(2)) : T(1) + T(2) * e, rest = x < T(0) ? T(2) : T(2) * e * e;"
        "T t = above / (above + rest);",
    ),
    "softplus": _curve("softplus", "(x < T(0) ? T(0) : x) + log1p(e)", "s", _S),
}  # fmt: skip
_dropout = _elementwise("T x, bool keep, T scale", "T y", "y = keep ? x * scale : T(0)", "dropout")


def linear(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear`."""
    _linear(bias, Z)


def linear_backward(grad: Array, Z: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.linear_backward`."""
    _by_columns("linear_backward", (cupy.ascontiguousarray(grad), Z), (grad_bias,))


def relu(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu`."""
    _relu(bias, Z)


def relu_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.relu_backward`."""
    _by_columns("relu_backward", (cupy.ascontiguousarray(grad), Y), (grad_bias,))


def tanh(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh`."""
    _tanh(bias, Z)


def tanh_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.tanh_backward`."""
    _by_columns("tanh_backward", (cupy.ascontiguousarray(grad), Y), (grad_bias,))


def sigmoid(Z: Array, bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid`."""
    _sigmoid(bias, Z)


def sigmoid_backward(grad: Array, Y: Array, grad_bias: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.sigmoid_backward`."""
    _by_columns("sigmoid_backward", (cupy.ascontiguousarray(grad), Y), (grad_bias,))


def activation(name: str, constants: tuple[float, ...], Z: Array, bias: Array, Y: Array) -> None:
    """Write an activation of Z + bias into Y, and its derivative there into Z.

    See :mod:`dense_xp.layers.activations`; here ``leaky_relu`` has the slope for negative numbers as its constant, and
    ``elu`` the factors for negative and for positive ones.
    """
    _CURVES[name](bias, *constants, Z, Y)


def activation_backward(grad: Array, slope: Array, grad_bias: Array) -> None:
    """Multiply the derivative `slope` by the gradient, in place, and sum over the rows."""
    _by_columns("activation_backward", (cupy.ascontiguousarray(grad), slope), (grad_bias,))


def uniform_at_least(bound: float, shape: tuple[int, ...], words: tuple[int, int, int, int]) -> Array:
    """Return where random numbers are at least `bound`; see :mod:`dense_xp.kernels.cupy_random`."""
    return cupy_random.uniform_at_least(bound, shape, words)


def dropout(X: Array, keep: Array, scale: float, out: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.dropout`."""
    _dropout(X, keep, scale, out)


def layer_norm(X: Array, gamma: Array, beta: Array, epsilon: float, normed: Array, inverse: Array, Y: Array) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm`."""
    rows, n = X.shape
    _by_rows("layer_norm", n, rows, cupy.ascontiguousarray(X), gamma, beta, normed, inverse, Y, n, epsilon)


def layer_norm_backward(
    grad: Array, gamma: Array, normed: Array, inverse: Array, grad_gamma: Array, grad_beta: Array, out: Array
) -> None:
    """As :func:`dense_xp.kernels.numpy.layer_norm_backward`; x̂ stays."""
    grad = cupy.ascontiguousarray(grad)
    rows, n = grad.shape
    _by_columns("layer_norm_sums", (grad, normed), (grad_gamma, grad_beta))
    _by_rows("layer_norm_backward", n, rows, grad, gamma, normed, inverse, out, n)


# ------------------------------------------------------------------------------------- losses

_squared_error = _elementwise(
    "T target, T share", "T y, T square", "T d = y - target; y = d * share; square = d * d", "squared_error"
)


def softmax_cross_entropy(Z: Array, labels: Array, smoothing: float) -> Array:
    """As :func:`dense_xp.kernels.numpy.softmax_cross_entropy`; the loss stays on the device."""
    rows, n = Z.shape
    labels = cupy.ascontiguousarray(labels, dtype=cupy.int64)
    losses = cupy.empty(rows, dtype=Z.dtype)
    _by_rows("cross_entropy", n, rows, Z, labels, losses, n, float(smoothing), 1.0 / rows)
    return _mean(losses)


def squared_error(Y: Array, target: Array) -> Array:
    """As :func:`dense_xp.kernels.numpy.squared_error`; the loss stays on the device."""
    squares = cupy.empty_like(Y)
    _squared_error(target, 2.0 / Y.size, Y, squares)
    return _mean(squares)


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
_rmsprop_momentum = _elementwise(
    "T g, T rate, T decay, T old, T fresh, T epsilon, T mu",
    "T p, T s, T v",
    "s = old * s + fresh * (g * g); v = mu * v + g / (sqrt(s) + epsilon); p = p * decay - rate * v",
    "rmsprop_momentum",
)
_adam = _elementwise(  # 1 - βᵗ is -expm1(t log β), without cancellation
    "T g, T rate, T decay, T old_1, T new_1, T log_1, T old_2, T new_2, T log_2, T epsilon, T steps",
    "T p, T m, T v",
    "m = old_1 * m + new_1 * g; v = old_2 * v + new_2 * (g * g);"
    "T mean = m / -expm1(steps * log_1), square = v / -expm1(steps * log_2);"
    "p = p * decay - rate * (mean / (sqrt(square) + epsilon))",
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
    """As :func:`dense_xp.kernels.numpy.rmsprop_momentum`."""
    _rmsprop_momentum(grad, rate, decay, rho, 1.0 - rho, epsilon, mu, param, mean_square, velocity)


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
    first, second = ((beta, 1.0 - beta, math.log(beta) if beta else -math.inf) for beta in (beta_1, beta_2))
    _adam(grad, rate, decay, *first, *second, epsilon, steps, param, mean, mean_square)


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


_scale_down = _elementwise(
    "float64 squares, T allowed",
    "T g",
    "T norm = sqrt(squares); g *= allowed / (allowed >= norm ? allowed : norm)",  # a NaN stays one
    "scale_down",
)


def clip_norm(grads: list[Array], allowed: float) -> None:
    """As :func:`dense_xp.kernels.numpy.clip_norm`; nothing waits for the device."""
    parts = [_parts(grad.size) for grad in grads]
    sums = cupy.empty(sum(parts), dtype=cupy.float64)
    start = 0
    for grad, n in zip(grads, parts, strict=True):
        _compiled("partial_squares", grad.dtype.name)((n,), (THREADS,), (grad, sums[start : start + n], grad.size))
        start += n
    squares = cupy.empty((), dtype=sums.dtype)
    _partial_sums(sums, squares)
    for grad in grads:
        _scale_down(squares, allowed, grad)


# ------------------------------------------------------------------------------------- the whole step


class Recorder(cupy_graph.Recorder):
    """Records a step; see :class:`dense_xp.kernels.cupy_graph.Recorder`."""

    def __init__(self, count: int, dtype: Any) -> None:
        super().__init__(count, dtype, *blas())
