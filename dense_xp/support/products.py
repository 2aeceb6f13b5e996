"""Matrix products in pure functions: by ``@``, or by a kernel while a step is recorded as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from array_api_compat import array_namespace, device

from dense_xp.backend import Array

_taken_by: ContextVar[Callable[..., None] | None] = ContextVar("product", default=None)


def matmul(A: Array, B: Array) -> Array:
    """Return A B.

    Parameters
    ----------
    A : array, shape (m, k)
        Real floating numbers.
    B : array, shape (k, n)
        Of the same dtype.

    Examples
    --------
    >>> import numpy as np
    >>> matmul(np.ones((1, 3)), np.ones((3, 1)))
    array([[3.]])
    """
    product = _taken_by.get()
    if product is None or A.dtype != B.dtype:
        return A @ B
    out = array_namespace(A).empty((A.shape[0], B.shape[1]), dtype=A.dtype, device=device(A))
    product(A, B, out=out)
    return out


@contextlib.contextmanager
def taken_by(product: Callable[..., None]) -> Iterator[None]:
    """Compute products by a kernel, within the block: CuPy's own operator cannot be recorded.

    Parameters
    ----------
    product : callable
        ``product`` of a set of :mod:`dense_xp.kernels`.

    Examples
    --------
    >>> import numpy as np
    >>> with taken_by(lambda A, B, out: np.copyto(out, 7.0)):
    ...     matmul(np.ones((1, 3)), np.ones((3, 1)))
    array([[7.]])
    """
    token = _taken_by.set(product)
    try:
        yield
    finally:
        _taken_by.reset(token)


def stacked_matmul(A: Array, B: Array) -> Array:
    """Return the products of pairs of matrices.

    Parameters
    ----------
    A : array, shape (n, m, k)
        Real floating numbers.
    B : array, shape (n, k, l)
        Of the same dtype.

    Examples
    --------
    >>> import numpy as np
    >>> stacked_matmul(np.ones((2, 1, 3)), np.ones((2, 3, 1))).shape
    (2, 1, 1)
    """
    product = _taken_by.get()
    if product is None or A.dtype != B.dtype:
        return A @ B
    out = array_namespace(A).empty((*A.shape[:2], B.shape[2]), dtype=A.dtype, device=device(A))
    for i in range(A.shape[0]):  # a recorded step has no batched product, and cannot stack more than eight arrays
        product(A[i, ...], B[i, ...], out=out[i, ...])
    return out
