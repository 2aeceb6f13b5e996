"""Functions that the standard lacks, against references of more digits, to their stated accuracy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.special import log_softmax, normal_cdf, sigmoid, softplus
from dense_xp.support.dtypes import widened
from tests.comparing import UNIT_ROUNDOFF, assert_same_kind

POINTS = np.concatenate([np.linspace(-37.5, 9, 2001), [0.0, -0.0, 1e-10, -1e-10, 1e-30, -1e-30]])


def assert_relative(actual: Any, exact: Any, units: Any, backend: Backend, dtype: str) -> None:
    """Within so many unit round-offs of each entry; an entry below the normal range may become zero."""
    exact = np.asarray(exact, dtype="longdouble")
    assert_same_kind(actual, backend, dtype, exact.shape)
    error = np.abs(to_numpy(actual).astype("longdouble") - exact)
    bound = units * UNIT_ROUNDOFF[dtype] * np.abs(exact) + float(np.finfo(dtype).tiny)
    assert np.all(error <= bound), f"worst share of the bound: {float(np.max(error / bound)):.3g}"


@pytest.mark.parametrize(("dtype", "low"), [("float32", -12.5), ("float64", -37.5)])
def test_the_normal_distribution_far_into_its_tail(backend: Backend, dtype: str, low: float) -> None:
    x = POINTS[low <= POINTS].astype(dtype)
    cdf, density = normal_cdf(backend.asarray(x))
    exact = [0.5 * math.erfc(-value / math.sqrt(2)) for value in x.astype("float64")]
    wide = x.astype("longdouble")
    # the reference's own argument, -x/√2, is rounded: that moves its value by x² units of float64
    units = 5 * (1 + np.square(x.astype("float64"))) + (np.square(x.astype("float64")) if dtype == "float64" else 0)
    assert_relative(cdf, exact, units, backend, dtype)
    exact_density = np.exp(-np.square(wide) / 2) / np.sqrt(2 * np.longdouble(math.pi))
    assert_relative(density, exact_density, units, backend, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_the_exponential(backend: Backend, dtype: str) -> None:
    x = np.concatenate([np.linspace(-80, 80, 1001), [1e-20, -1e-20, 1e4, -1e4]]).astype(dtype)
    wide = x.astype("longdouble")
    with np.errstate(over="ignore", under="ignore"):
        exact = np.where(wide < 0, np.exp(-np.abs(wide)), 1) / (1 + np.exp(-np.abs(wide)))
        plus = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    # four units for each of exp and log1p, one for each of the other operations
    assert_relative(sigmoid(backend.asarray(x)), exact, 12, backend, dtype)
    assert_relative(softplus(backend.asarray(x)), plus, 12, backend, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_and_its_logarithm(backend: Backend, dtype: str) -> None:
    x = np.asarray([[0.0, 1.0, -2.0], [1e4, 1e4 - 1, 0.0], [-5e3, 5e3, 0], [3, 3, 3]], dtype)
    log_p, p = log_softmax(backend.asarray(x))
    shifted = x.astype("longdouble") - x.max(axis=-1, keepdims=True)
    total = np.sum(np.exp(shifted), axis=-1, keepdims=True)
    assert_relative(p, np.exp(shifted) / total, 16, backend, dtype)
    assert_same_kind(log_p, backend, dtype, (4, 3))
    error = np.abs(to_numpy(log_p).astype("longdouble") - (shifted - np.log(total)))
    assert np.all(error <= 16 * UNIT_ROUNDOFF[dtype] * np.maximum(1, np.abs(shifted)))


@pytest.mark.parametrize("function", [sigmoid, softplus, lambda x: normal_cdf(x)[0], lambda x: normal_cdf(x)[1]])
def test_nothing_overflows_and_nan_stays_nan(backend: Backend, function: Any) -> None:
    for dtype, huge in (("float32", 3e38), ("float64", 1e308)):
        values = to_numpy(function(backend.asarray(np.asarray([huge, -huge, np.nan]), dtype)))
        assert np.all(np.isfinite(values[:2]))
        assert values[1] == 0
        assert np.isnan(values[2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sixteen_bits_become_thirty_two(backend: Backend, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    x = backend.asarray(np.asarray([1.5, -2.0]), dtype)
    wide = widened(x)
    assert_same_kind(wide, backend, "float64" if dtype == "float64" else "float32", (2,))
    np.testing.assert_array_equal(to_numpy(wide), [1.5, -2.0])
    if dtype in ("float32", "float64"):
        assert wide is x
