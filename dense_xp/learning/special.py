"""Mathematical functions that the Array API standard lacks, written with those that it has.

Arrays hold real floating numbers, and what is returned is of their dtype. Nothing overflows, and no result is a
difference of large numbers. An infinite argument gives the limit, where there is one.
"""

from __future__ import annotations

import functools
import math
import operator

from array_api_compat import array_namespace

from dense_xp.backend import Array

# array-api-compat's clip and sign for CuPy write through a boolean mask, for which the host waits for the device


def row_for(x: Array, like: Array) -> Array:
    """Reshape numbers for the last axis to as many axes as another array has, as some libraries require.

    Parameters
    ----------
    x : array, shape (n,) or (1, n)
        One number for each place of the last axis.
    like : array, shape (..., n)
        What it is to be combined with.

    Examples
    --------
    >>> import numpy as np
    >>> row_for(np.ones(3), np.ones((2, 4, 3))).shape
    (1, 1, 3)
    """
    if x.ndim == like.ndim:
        return x
    return array_namespace(x).reshape(x, (*(1 for _ in like.shape[:-1]), x.shape[-1]))


def clipped(x: Array, low: float, high: float) -> Array:
    """Return an array with its entries limited to an interval; a NaN stays one.

    Examples
    --------
    >>> import numpy as np
    >>> clipped(np.asarray([-3.0, 0.5, np.nan]), -1.0, 1.0)
    array([-1. ,  0.5,  nan])
    """
    xp = array_namespace(x)
    return xp.minimum(xp.maximum(x, low), high)


def euclidean(*arrays: Array, axis: int | None = None) -> Array:
    r"""Return the norm :math:`\sqrt{\sum x^2}` over all arrays, also where a square would overflow or vanish.

    Parameters
    ----------
    *arrays : array
        Real floating numbers.
    axis : int, optional
        The axis to sum over, kept with length 1; by default all, for a 0-d array.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(euclidean(np.asarray([3e200]), np.asarray([4e200, 0.0]))) / 1e200, 12)
    5.0
    """
    xp, kept = array_namespace(arrays[0]), axis is not None
    largest = functools.reduce(xp.maximum, (xp.max(xp.abs(x), axis=axis, keepdims=kept) for x in arrays))
    one = xp.ones_like(largest)
    small = xp.where(largest > 1e-15, one, xp.where(largest > 0.0, largest, one))
    unit = xp.where(largest > 1e15, largest, small)
    squares = (xp.sum(xp.square(x / unit), axis=axis, keepdims=kept) for x in arrays)
    return unit * xp.sqrt(functools.reduce(operator.add, squares))


def sign(x: Array) -> Array:
    """Return 1, -1 or 0; a NaN stays one.

    Examples
    --------
    >>> import numpy as np
    >>> sign(np.asarray([-3.0, 0.0, np.inf, np.nan]))
    array([-1.,  0.,  1., nan])
    """
    xp = array_namespace(x)
    one = xp.ones_like(x)
    return xp.where(x > 0.0, one, xp.where(x < 0.0, -one, x))


def counted(weight: Array, x: Array) -> Array:
    """Return weight · x, where a weight of zero gives zero, also times infinity or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> counted(np.asarray([0.0, 1.0, 2.0]), np.asarray([-np.inf, 3.0, np.inf]))
    array([ 0.,  3., inf])
    """
    xp = array_namespace(x)
    return weight * xp.where(weight == 0.0, xp.zeros_like(x), x)


def sigmoid(x: Array) -> Array:
    r"""Return :math:`1 / (1 + e^{-x})`, accurate also where it is close to 0.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.asarray([-800.0, 0.0, 800.0]))
    array([0. , 0.5, 1. ])
    """
    xp = array_namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x < 0, small, 1.0) / (1.0 + small)


def softplus(x: Array) -> Array:
    r"""Return :math:`\log(1 + e^x)` as :math:`\max(x, 0) + \log(1 + e^{-|x|})`, in the shape and dtype of x.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.asarray([800.0]))
    array([800.])
    """
    xp = array_namespace(x)
    return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))


def log_softmax(x: Array) -> tuple[Array, Array]:
    r"""Return :math:`\log p` and :math:`p = e^{x} / \sum e^{x}` along the last axis.

    Both are computed from one exponential, of differences to the largest entry.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax(np.asarray([1000.0, 1000.0]))[1]
    array([0.5, 0.5])
    """
    xp = array_namespace(x)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    exponential = xp.exp(shifted)
    total = xp.sum(exponential, axis=-1, keepdims=True)
    return shifted - xp.log(total), exponential / total


# With a = |x|/√2 and t = (a - k)/(a + k), the function (1 + 2a) exp(a²) erfc(a) is smooth in t on [-1, 1]
# and has no exponential in it. The substitution is that of Schonfelder (1978). The coefficients are the
# Chebyshev series of that function for k = 3.5, computed with 50 digits, cut after the degree at which
# what follows is below the unit round-off, and rewritten in powers of t, lowest first.
_K = 3.5
_FLOAT32 = (
    1.24234925, -0.140009226, -0.0105556216, 0.0975204033, -0.115089193, 0.0879724691,
    -0.0488257676, 0.0191371321, -0.00420799637, -0.000368675689, 0.000553971708, -6.2522395e-05,
    -3.50549293e-05,
)  # fmt: skip
_FLOAT64 = (
    1.2423492448711544, -0.1400091801376197, -0.010555596332221714, 0.09751909515328669,
    -0.11508959816002885, 0.08798315382404735, -0.04882332583091592, 0.01909933095313518,
    -0.00421501987950096, -0.00030226795246565143, 0.0005643842655120648, -0.0001215121251088646,
    -4.278173576710577e-05, 2.4260312586567814e-05, 2.327322676589192e-06, -3.8140335735240846e-06,
    -4.3081912998198325e-08, 6.015070648024647e-07, -8.619754808869734e-09, -9.641859465613658e-08,
    6.687964072376411e-10, 1.3632047352429838e-08, 5.971920727096933e-11, -1.167049262398907e-09,
)  # fmt: skip


def normal_cdf(x: Array) -> tuple[Array, Array]:
    r"""Return :math:`Φ(x)` and :math:`φ(x)`, the normal distribution and its density.

    .. math:: Φ(x) = \tfrac12 \operatorname{erfc}(-x/\sqrt 2), \qquad φ(x) = e^{-x^2/2} / \sqrt{2π}

    The relative error of both is below :math:`5 (1 + x^2)` unit round-offs, also far out on the left, where
    :math:`1 + \operatorname{erf}` would have no digit left.

    Parameters
    ----------
    x : array
        Of dtype float32 or float64.

    Returns
    -------
    cdf, density : array
        Of the same shape and dtype.

    References
    ----------
    .. [1] J. L. Schonfelder, "Chebyshev expansions for the error and related functions", Mathematics of
       Computation 32 (1978), pp. 1232–1240.

    Examples
    --------
    >>> import numpy as np
    >>> normal_cdf(np.asarray([-10.0, 0.0, 1.96]))[0]
    array([7.61985302e-24, 5.00000000e-01, 9.75002105e-01])
    """
    xp = array_namespace(x)
    coefficients = _FLOAT32 if xp.finfo(x.dtype).bits <= 32 else _FLOAT64
    size = xp.minimum(xp.abs(x), 40.0)  # beyond, both are 0 or 1 in every precision, and squares overflow
    a = size * math.sqrt(0.5)
    t = (a - _K) / (a + _K)
    series = t * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        series = (series + coefficient) * t
    exponential = xp.exp(-0.5 * size * size)
    tail = 0.5 * exponential * ((series + coefficients[0]) / (1.0 + 2.0 * a))
    return xp.where(x > 0, 1.0 - tail, tail), exponential * (1.0 / math.sqrt(2.0 * math.pi))
