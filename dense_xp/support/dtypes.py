"""Which dtype numbers are computed in."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array


def in_dtype(x: Array, dtype: Any) -> Array:
    """Return an array in a dtype; the array itself if it has that dtype.

    Examples
    --------
    >>> import numpy as np
    >>> in_dtype(np.asarray([True, False]), np.dtype("float32"))
    array([1., 0.], dtype=float32)
    """
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype)


def widened(x: Array) -> Array:
    """Return 16-bit numbers as float32, so that sums and squares keep their digits; others as they are.

    Examples
    --------
    >>> import numpy as np
    >>> widened(np.ones(2, dtype="float16")).dtype, widened(np.ones(2)).dtype
    (dtype('float32'), dtype('float64'))
    """
    xp = array_namespace(x)
    return xp.astype(x, xp.float32) if xp.finfo(x.dtype).bits < 32 else x


def wide(dtype: str) -> str:
    """Return the dtype in which a model of this dtype keeps sums, rates and losses: at least float32.

    Examples
    --------
    >>> wide("bfloat16"), wide("float64")
    ('float32', 'float64')
    """
    return "float64" if dtype == "float64" else "float32"


def total(x: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
    """Return sums; 16-bit numbers are summed in float32, without a float32 copy of the array.

    Parameters
    ----------
    x : array
        Real floating numbers.
    axis : int or tuple of int
        Along which.
    keepdims : bool
        Whether these axes stay, with the length 1.

    Examples
    --------
    >>> import numpy as np
    >>> total(np.full(4096, 1.5, dtype="float16"), 0)
    np.float32(6144.0)
    """
    xp = array_namespace(x)
    return xp.sum(x, axis=axis, dtype=xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype, keepdims=keepdims)


def is_floating(x: Array) -> bool:
    """Whether an array holds real floating numbers, and not integers.

    Examples
    --------
    >>> import numpy as np
    >>> is_floating(np.ones(2)), is_floating(np.ones(2, dtype="int8"))
    (True, False)
    """
    return bool(array_namespace(x).isdtype(x.dtype, "real floating"))
