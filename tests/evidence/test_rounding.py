"""The calculus of error bounds itself: it bounds, it is not loose, and it knows where it knows nothing."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import example, given, settings, strategies as st

from dense_xp import Dense
from dense_xp.evidence import rounding
from dense_xp.evidence.parity import exact, layer_case
from dense_xp.evidence.rounding import Bounded, bounded, float16, float32, float64, gamma

XP = rounding.xp
RNG = np.random.default_rng(0)

# name: function of a namespace and one or two arrays, and the interval its arguments are drawn from
FUNCTIONS: dict[str, tuple[Any, float, float]] = {
    "+": (lambda xp, x, y: x + y, -9, 9),
    "-": (lambda xp, x, y: x - y, -9, 9),
    "*": (lambda xp, x, y: x * y, -9, 9),
    "/": (lambda xp, x, y: x / y, 0.5, 9),
    "- (one)": (lambda xp, x, y: -x, -9, 9),
    "1 -": (lambda xp, x, y: 1.0 - x, -9, 9),
    "0.1 +": (lambda xp, x, y: 0.1 + x, -9, 9),
    "0.1 *": (lambda xp, x, y: 0.1 * x, -9, 9),
    "1 /": (lambda xp, x, y: 1.0 / x, 0.5, 9),
    "@": (lambda xp, x, y: x.T @ y, -9, 9),
    "abs": (lambda xp, x, y: xp.abs(x), -9, 9),
    "clip": (lambda xp, x, y: xp.clip(x, -2, 3), -9, 9),
    "exp": (lambda xp, x, y: xp.exp(x), -9, 9),
    "expm1": (lambda xp, x, y: xp.expm1(x), -3, 3),
    "log": (lambda xp, x, y: xp.log(x), 0.2, 9),
    "log1p": (lambda xp, x, y: xp.log1p(x), -0.7, 9),
    "max": (lambda xp, x, y: xp.max(x, axis=-1, keepdims=True), -9, 9),
    "maximum": (lambda xp, x, y: xp.maximum(x, y), -9, 9),
    "mean": (lambda xp, x, y: xp.mean(x, axis=0), -9, 9),
    "minimum": (lambda xp, x, y: xp.minimum(x, 0.5), -9, 9),
    "sign": (lambda xp, x, y: xp.sign(x), -9, 9),
    "sqrt": (lambda xp, x, y: xp.sqrt(x), 0.1, 9),
    "square": (lambda xp, x, y: xp.square(x), -9, 9),
    "sum": (lambda xp, x, y: xp.sum(x), -9, 9),
    "tanh": (lambda xp, x, y: xp.tanh(x), -4, 4),
    "where": (lambda xp, x, y: xp.where(x > y, x, 7.0), -9, 9),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("precision", [float16, float32, float64])
@pytest.mark.parametrize("error", [0.0, 1e-2, 0.3])
def test_every_operation_is_bounded(name: str, precision: Any, error: float) -> None:
    """Arguments anywhere within their errors, computed by NumPy in the precision, end up within the bound."""
    function, low, high = FUNCTIONS[name]
    x, y = (RNG.uniform(low, high, (40, 6)).astype(precision.name) for _ in "ab")
    # an argument that is within `error` of x; its own rounding is part of the error
    slack = error + 8 * precision.u if error else 0.0
    one, two = (Bounded(part.astype("longdouble"), slack, precision) for part in (x, y))
    result = function(XP, one, two)
    for direction in (-1, 1, 0, None):
        shift = RNG.uniform(-1, 1, (2, 40, 6)) if direction is None else np.full((2, 40, 6), direction)
        moved = [
            (part + error * part_shift).astype(precision.name) for part, part_shift in zip((x, y), shift, strict=True)
        ]
        with np.errstate(all="ignore"):
            actual = np.asarray(function(array_namespace(x), *moved))
        assert actual.dtype == precision.name
        assert actual.shape == result.shape
        good = np.isfinite(actual.astype("longdouble"))
        gap = np.abs(actual.astype("longdouble") - result.value)
        assert np.all(gap[good] <= result.error[good]), f"{float(np.max(gap[good] - result.error[good])):.3g} too far"


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if name not in ("@", "sum", "mean", "where", "sign", "0.1 +")]
)
def test_without_errors_in_the_arguments_the_bound_is_a_few_units(name: str) -> None:
    function, low, high = FUNCTIONS[name]
    x, y = (bounded(RNG.uniform(low, high, (40, 6)).astype("float32"), float32) for _ in "ab")
    result = function(XP, x, y)
    assert np.all(result.error <= (rounding.ELEMENTARY + 0.01) * float32.u * np.abs(result.value) + 2 * float32.tiny)


def rationals(array: Any) -> list[list[Fraction]]:
    return [[Fraction(float(value)) for value in row] for row in array]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dense_layer_is_exact_and_bounded_as_in_the_textbook(dtype: str) -> None:
    """Values against exact rational arithmetic; bounds below γₖ₊₁ (|X||W| + |w0|), and above half of γₖ |X||W|."""
    rng = np.random.default_rng(1)
    case = layer_case(Dense(3), rng.normal(size=(5, 11)), rng)
    inputs = {key: np.asarray(value).astype(dtype) for key, value in case.inputs.items()}
    precision = rounding.PRECISIONS[dtype]
    reference = exact(case, inputs, precision)
    X, G, W = (inputs[key] for key in ("X", "grad_Y", "param.W"))
    w0 = inputs["param.w0"]
    one = np.ones((1, 5), dtype)
    products = {"Y": (X, W, w0), "grad_X": (G, W.T, None), "grad_W": (X.T, G, None), "grad_w0": (one, G, None)}
    for output, (A, B, c) in products.items():
        sums = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in rationals(B.T)] for row in rationals(A)
        ]
        if c is not None:
            sums = [[value + add for value, add in zip(row, rationals(c)[0], strict=True)] for row in sums]
        # the reference is computed with 11 bits more than float64 has, where the machine has them
        wide = max(float(np.finfo("longdouble").eps), 2.0**-63)
        value = reference[output].value
        off = [
            [abs(Fraction(*v.as_integer_ratio()) - s) for v, s in zip(a, b, strict=True)]
            for a, b in zip(value, sums, strict=True)
        ]
        size = np.abs(A.astype("longdouble")) @ np.abs(B.astype("longdouble"))
        assert np.all(np.asarray(off, dtype="longdouble") <= 12 * wide * (size + 10))
        k, u = A.shape[1], precision.u
        total = size + (0 if c is None else np.abs(c.astype("longdouble")))
        bits = 3e-3 * k  # of the wide precision, beside float64's own
        assert np.all(reference[output].error <= (gamma(k + 1 + bits, u)) * total + 3 * k * precision.tiny)
        # 16-bit products are summed in float32, and rounded at the end
        inner = gamma(k - 1, u) * size if dtype != "float16" or output == "grad_w0" else u * np.abs(value)
        if dtype != "float16" or output != "grad_w0":
            assert np.all(reference[output].error >= 0.5 * inner)


def test_tf32_rounds_the_factors() -> None:
    A, B = RNG.normal(size=(4, 7)).astype("float32"), RNG.normal(size=(7, 3)).astype("float32")

    def cut(x: Any) -> Any:
        return (x.view("uint32") & np.uint32(0xFFFFE000)).view("float32")  # 10 explicit bits, truncated

    loose = bounded(A, rounding.tf32) @ bounded(B, rounding.tf32)
    tight = bounded(A, float32) @ bounded(B, float32)
    gap = np.abs(cut(A).astype("longdouble") @ cut(B).astype("longdouble") - loose.value)
    # truncation errs by up to twice the rounding that the bound is for
    assert np.all(gap <= 2 * loose.error)
    assert np.any(gap > tight.error)


def test_what_rounding_can_turn_over_is_bounded_by_both_branches() -> None:
    x = Bounded([1e-9, 1.0, 0.0], [1e-8, 1e-8, 0.0], float32)
    chosen = XP.where(x > 0, x + 5.0, 0.0)
    assert chosen.error[0] >= 5
    assert chosen.error[1] < 1e-5
    assert chosen.error[2] == 0
    assert XP.sign(x).error.tolist() == [2, 0, 0]
    np.testing.assert_array_equal(XP.astype(x > 0, float32).error, [1, 0, 0])
    np.testing.assert_array_equal((x == 0.0).value, [False, False, True])
    np.testing.assert_array_equal((x < 0.5).value, [True, False, True])


def test_where_nothing_is_known_the_bound_is_infinite() -> None:
    near_zero = Bounded([0.1, 2.0], [0.2, 0.2], float32)
    with np.errstate(all="ignore"):
        assert np.isinf((1.0 / near_zero).error[0])
        assert np.isfinite((1.0 / near_zero).error[1])
        assert np.isinf(XP.log(near_zero).error[0])
        assert np.isfinite(XP.log(near_zero).error[1])
        assert np.isinf(XP.log1p(near_zero - 1.0).error[0])
    assert math.isinf(gamma(2**11, 2.0**-11))
    assert gamma(3, 2.0**-11) == pytest.approx(3 * 2.0**-11 / (1 - 3 * 2.0**-11))


def test_subnormal_numbers_may_be_flushed() -> None:
    x = bounded(np.asarray([1e-40, 1.0], "float32"), float32)
    assert x.error[0] >= x.value[0] > 0
    assert x.error[1] == 0
    assert (x * 0.5).error[1] >= float32.tiny


def test_narrowing_rounds_and_widening_does_not() -> None:
    x = bounded(np.asarray([1.0, math.pi]), float64)
    assert np.all(XP.astype(x, float32).error >= float32.u * np.abs(x.value))
    y = bounded(np.asarray([1.0, 3.0], "float32"), float32)
    assert np.all(XP.astype(y, float64).error == 0)
    assert XP.astype(y, float64).dtype == float64
    assert XP.astype(bounded(np.asarray([True]), float32), float32).error[0] == 0


def test_python_numbers_that_the_precision_lacks_are_rounded() -> None:
    x = bounded(np.zeros(1, "float32"), float32)
    assert (x + 0.5).error[0] == pytest.approx(0.5 * float32.u, rel=1e-3)  # the addition's own
    assert (x + 0.1).error[0] == pytest.approx(2 * 0.1 * float32.u, rel=1e-3)
    weights = XP.asarray([0.5, 0.1], dtype=float32)
    assert weights.error[0] == 0
    assert weights.error[1] == pytest.approx(0.1 * float32.u)
    assert XP.asarray(x, dtype=float64).dtype == float64
    assert "float32" in repr(x)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(["+", "-", "*", "tanh", "abs", "maximum", "square", "0.1 *", "1 -"]), min_size=1, max_size=8
    ),
    st.integers(0, 2**32 - 1),
)
@example(["1 -", "+", "+", "+", "square", "square", "square"], 0)
def test_whole_computations_are_bounded(names: list[str], seed: int) -> None:
    """Any chain of operations in float32 and in float16 stays within the bound that was carried along, or overflows."""
    rng = np.random.default_rng(seed)
    for precision in (float32, float16):
        x, y = (rng.uniform(-1, 1, 5).astype(precision.name) for _ in "ab")
        host, wide = x, bounded(x, precision)
        other = bounded(y, precision)
        in_range = np.ones(5, dtype=bool)
        with np.errstate(over="ignore", invalid="ignore"):
            for name in names:
                function = FUNCTIONS[name][0]
                host, wide = function(array_namespace(host), host, y), function(XP, wide, other)
                in_range &= np.abs(wide.value) + wide.error <= precision.largest
            assert host.dtype == precision.name
            assert np.all((np.abs(host.astype("longdouble") - wide.value) <= wide.error)[in_range])
