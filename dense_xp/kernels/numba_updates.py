"""Updates of the optimizers, compiled by numba: one pass over memory each.

Subnormal numbers are slow: the mean of a dead unit decays to them, and the square of a gradient of 1e-20 is one. So
they are zero here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from dense_xp.kernels import one_minus_power
from dense_xp.kernels.numba_pieces import in_pieces
from dense_xp.kernels.numba_team import flush_to_zero, pointer, put_back
from dense_xp.kernels.numpy import Array

# division by zero gives infinity as in NumPy; other threads may run meanwhile
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


@in_pieces(0, 1)
@_compiled  # type: ignore[untyped-decorator]
def sgd(param: Array, grad: Array, rate: float, decay: float) -> None:
    """As :func:`dense_xp.kernels.numpy.sgd`."""
    kind = param.dtype.type
    eta, keep = kind(rate), kind(decay)
    before = flush_to_zero()
    for i in range(param.size):
        param[i] = param[i] * keep - eta * grad[i]
    put_back(before)


@in_pieces(0, 1, 2)
@_compiled  # type: ignore[untyped-decorator]
def momentum(param: Array, grad: Array, velocity: Array, rate: float, decay: float, mu: float, nesterov: bool) -> None:
    """As :func:`dense_xp.kernels.numpy.momentum`."""
    kind = param.dtype.type
    eta, keep, part = kind(rate), kind(decay), kind(mu)
    ahead = part if nesterov else kind(1)
    now = kind(1) if nesterov else kind(0)
    before = flush_to_zero()
    for i in range(param.size):
        v = part * velocity[i] + grad[i]
        velocity[i] = v
        param[i] = param[i] * keep - eta * (now * grad[i] + ahead * v)
    put_back(before)


@in_pieces(0, 1, 2)
@_compiled  # type: ignore[untyped-decorator]
def rmsprop(
    param: Array, grad: Array, mean_square: Array, rate: float, decay: float, rho: float, epsilon: float
) -> None:
    """As :func:`dense_xp.kernels.numpy.rmsprop`."""
    kind = param.dtype.type
    eta, keep, old, new, small = kind(rate), kind(decay), kind(rho), kind(1.0 - rho), kind(epsilon)
    before = flush_to_zero()
    for i in range(param.size):
        g = grad[i]
        s = old * mean_square[i] + new * (g * g)
        mean_square[i] = s
        param[i] = param[i] * keep - eta * (g / (np.sqrt(s) + small))
    put_back(before)


@in_pieces(0, 1, 2, 3)
@_compiled  # type: ignore[untyped-decorator]
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
    kind = param.dtype.type
    eta, keep, old, new, small = kind(rate), kind(decay), kind(rho), kind(1.0 - rho), kind(epsilon)
    part = kind(mu)
    before = flush_to_zero()
    for i in range(param.size):
        g = grad[i]
        s = old * mean_square[i] + new * (g * g)
        mean_square[i] = s
        v = part * velocity[i] + g / (np.sqrt(s) + small)
        velocity[i] = v
        param[i] = param[i] * keep - eta * v
    put_back(before)


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
    _adam(param, grad, mean, mean_square, *_corrected(rate, decay, beta_1, beta_2, epsilon, steps))


def _corrected(rate: float, decay: float, beta_1: float, beta_2: float, epsilon: float, steps: int) -> Sequence[float]:
    first, second = one_minus_power(beta_1, steps), one_minus_power(beta_2, steps)
    return rate / first, decay, beta_1, beta_2, epsilon, 1.0 / second


@in_pieces(0, 1, 2, 3)
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
    before = flush_to_zero()
    for i in range(param.size):
        g = grad[i]
        m = old_1 * mean[i] + new_1 * g
        v = old_2 * mean_square[i] + new_2 * (g * g)
        mean[i] = m
        mean_square[i] = v
        param[i] = param[i] * keep - eta * (m / (np.sqrt(v * inverse) + small))
    put_back(before)


@in_pieces(0, 1, 2)
@_compiled  # type: ignore[untyped-decorator]
def adagrad(param: Array, grad: Array, total: Array, rate: float, decay: float, epsilon: float) -> None:
    """As :func:`dense_xp.kernels.numpy.adagrad`."""
    kind = param.dtype.type
    eta, keep, small = kind(rate), kind(decay), kind(epsilon)
    before = flush_to_zero()
    for i in range(param.size):
        g = grad[i]
        s = total[i] + g * g
        total[i] = s
        param[i] = param[i] * keep - eta * (g / (np.sqrt(s) + small))
    put_back(before)


@in_pieces(0, 1, 2)
@_compiled  # type: ignore[untyped-decorator]
def lion(param: Array, grad: Array, momentum: Array, rate: float, decay: float, beta_1: float, beta_2: float) -> None:
    """As :func:`dense_xp.kernels.numpy.lion`."""
    kind = param.dtype.type
    eta, keep = kind(rate), kind(decay)
    old_1, new_1, old_2, new_2 = kind(beta_1), kind(1.0 - beta_1), kind(beta_2), kind(1.0 - beta_2)
    before = flush_to_zero()
    for i in range(param.size):
        m, g = momentum[i], grad[i]
        direction = old_1 * m + new_1 * g
        sign = kind(direction > 0) - kind(direction < 0)
        momentum[i] = old_2 * m + new_2 * g
        param[i] = param[i] * keep - eta * sign
    put_back(before)


# ------------------------------------------------------------------------------------- for compiled callers

_NUMBERS: dict[Any, int] = {
    kernel: i for i, kernel in enumerate((sgd, momentum, rmsprop, rmsprop_momentum, adam, adagrad, lion))
}

_sgd: Any = sgd.__wrapped__  # type: ignore[attr-defined]
_momentum: Any = momentum.__wrapped__  # type: ignore[attr-defined]
_rmsprop: Any = rmsprop.__wrapped__  # type: ignore[attr-defined]
_rmsprop_momentum: Any = rmsprop_momentum.__wrapped__  # type: ignore[attr-defined]
_whole_adam: Any = _adam.__wrapped__  # type: ignore[attr-defined]
_adagrad: Any = adagrad.__wrapped__  # type: ignore[attr-defined]
_lion: Any = lion.__wrapped__  # type: ignore[attr-defined]


def numbers_of(kernel: Callable[..., None], constants: Sequence[float]) -> Array:
    """Return the constants of an update as :func:`address_of` wants them."""
    own = _corrected(*constants) if kernel is adam else constants  # type: ignore[arg-type]
    return np.array(own, dtype=np.float64)


def address_of(kernel: Callable[..., None], dtype: Any) -> int:
    """Return the address of an update as a C function.

    Its arguments are integers: the addresses of parameters, gradient, first and second state (any, if it has fewer),
    the count of parameters, and the address of the constants.
    """
    return int(_compiled_for(_NUMBERS[kernel], dtype).address)


@functools.cache
def _compiled_for(number: int, dtype: Any) -> Any:
    kind = dtype.type(0)

    @cfunc(types.void(*[types.int64] * 6), cache=True)  # type: ignore[untyped-decorator]
    def update(param: int, grad: int, first: int, second: int, size: int, numbers: int) -> None:
        p, g = carray(pointer(kind, param), size), carray(pointer(kind, grad), size)
        a, b = carray(pointer(kind, first), size), carray(pointer(kind, second), size)
        c = carray(pointer(0.0, numbers), 6)
        if number == 0:  # the number is a constant here: only one of them is compiled
            _sgd(p, g, c[0], c[1])
        elif number == 1:
            _momentum(p, g, a, c[0], c[1], c[2], c[3] != 0)
        elif number == 2:
            _rmsprop(p, g, a, c[0], c[1], c[2], c[3])
        elif number == 3:
            _rmsprop_momentum(p, g, a, b, c[0], c[1], c[2], c[3], c[4])
        elif number == 4:
            _whole_adam(p, g, a, b, c[0], c[1], c[2], c[3], c[4], c[5])
        elif number == 5:
            _adagrad(p, g, a, c[0], c[1], c[2])
        else:
            _lion(p, g, a, c[0], c[1], c[2], c[3])

    return update
