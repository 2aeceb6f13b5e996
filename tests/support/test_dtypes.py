"""Sums of 16-bit numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dense_xp.backend import Backend, to_numpy
from dense_xp.support.dtypes import total


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sums_keep_their_digits(backend: Backend, dtype: str) -> None:
    """Of numbers in 16 bits the sum would stop at 4096, or at 256."""
    try:
        x = backend.asarray(np.ones((5000, 3)), dtype)
    except TypeError:
        pytest.skip("the library has no such numbers")
    for axis, kept, shape in ((0, True, (1, 3)), (0, False, (3,)), ((0, 1), False, ())):
        sums = total(x, axis, kept)
        assert tuple(sums.shape) == shape
        assert sums.dtype == backend.dtype("float64" if dtype == "float64" else "float32")
        np.testing.assert_array_equal(to_numpy(sums), np.full(shape, 15000.0 if axis == (0, 1) else 5000.0))


def test_sums_without_a_copy_of_all_numbers() -> None:
    x = np.ones((1000, 1000), dtype="float16")
    total(x, 0)
    tracemalloc.start()
    total(x, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes
