"""Arrays that carry a bound on their rounding error: an Array API namespace for error analysis.

The layers are written against the standard, so they run on this namespace too. It computes in a higher
precision and bounds, operation by operation, how far a computation in the precision under test may be
from that, for any order of sums and any device. Every operation follows the standard model,

    fl(a ∘ b) = (a ∘ b)(1 + δ) + η,    |δ| ≤ u,    |η| ≤ the smallest normal number,

u being the unit round-off; η covers underflow, also on devices that flush subnormal numbers to zero. A
sum of n numbers has γₙ₋₁ in the place of u, and a product of matrices γₖ, with γₖ = k u / (1 - k u) and k
the inner dimension: for a layer X W + w0, element by element, that stays below γₖ₊₁ (|X||W| + |w0|).

What the standard model does not cover:

- Quotients and square roots count two roundings: compilers turn them into products with a reciprocal.
- exp, expm1, log, log1p and tanh count `ELEMENTARY` units of round-off; no library documents more.
- 16-bit numbers are multiplied and summed in matrix products with float32 inside, and rounded at the end.
- With TF32, the factors of a matrix product are first rounded to 11 bits.
- If rounding can flip a condition, the result is bounded by both branches.

References
----------
N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002: sec. 2.2 (the model),
2.8 (underflow), 3.1 (γ), 3.3 (running error analysis), 3.5 (matrix products), 4.2 (sums in any order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

ELEMENTARY = 4
"""Units of round-off granted to exp, expm1, log, log1p and tanh."""

_Host = np.ndarray[Any, Any]

_WIDE = np.longdouble
_U_WIDE = float(np.finfo(_WIDE).eps) / 2  # 2⁻⁶⁴ on x86; where it is 2⁻⁵³, the bounds are a little larger


@dataclass(frozen=True)
class Precision:
    """A dtype of this namespace.

    Attributes
    ----------
    name : str
        ``"float32"`` …; also ``"bool"`` and ``"int64"``, which are exact.
    bits : int
        Its size.
    u : float
        Its unit round-off; 0 for exact ones.
    tiny : float
        Its smallest normal number.
    largest : float
        Its largest number.
    inner : float
        The unit round-off of sums inside a matrix product.
    factor : float
        The relative error of a factor as it enters a matrix product: TF32.
    """

    name: str
    bits: int
    u: float = 0.0
    tiny: float = 0.0
    largest: float = math.inf
    inner: float = 0.0
    factor: float = 0.0

    @property
    def smallest_normal(self) -> float:
        """Its smallest normal number, as the standard calls it."""
        return self.tiny


_TF32 = 2.0**-11
bool_ = Precision("bool", 8)
int64 = Precision("int64", 64)
float16 = Precision("float16", 16, 2.0**-11, 2.0**-14, 65504.0, 2.0**-24)
bfloat16 = Precision("bfloat16", 16, 2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-24)
float32 = Precision("float32", 32, 2.0**-24, 2.0**-126, float(np.finfo("float32").max), 2.0**-24)
float64 = Precision("float64", 64, 2.0**-53, 2.0**-1022, float(np.finfo("float64").max), 2.0**-53)
tf32 = Precision("float32", 32, 2.0**-24, 2.0**-126, float(np.finfo("float32").max), 2.0**-24, _TF32)

PRECISIONS = {p.name: p for p in (float16, bfloat16, float32, float64)}


def gamma(k: float, u: float) -> float:
    """Return γₖ = k u / (1 - k u), infinite where the analysis says nothing.

    Examples
    --------
    >>> gamma(2, 0.125), gamma(8, 0.125)
    (0.3333333333333333, inf)
    """
    return k * u / (1.0 - k * u) if k * u < 1 else math.inf


class Bounded:
    """Exact numbers, each with a bound on the error of a computation in this precision.

    Parameters
    ----------
    value : array_like
        The numbers: what exact arithmetic gives, to the higher precision of this namespace.
    error : array_like
        The bound for each of them; for booleans, 1 where rounding may flip them.
    dtype : Precision
        The precision whose computation is bounded.
    """

    device = "cpu"

    def __init__(self, value: Any, error: Any, dtype: Precision) -> None:
        self.value = np.asarray(value, dtype=_WIDE if dtype.u else None)
        self.error = np.broadcast_to(np.asarray(error, dtype=_WIDE), self.value.shape)
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    @property
    def T(self) -> Bounded:
        """The transposed matrix."""
        return self._same(lambda part: part.T)

    def __getitem__(self, key: Any) -> Bounded:
        return self._same(lambda part: part[key])

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return xp

    def __repr__(self) -> str:
        return f"Bounded({self.value!r} ± {self.error!r}, {self.dtype.name})"

    def _same(self, function: Callable[[_Host], _Host]) -> Bounded:
        """Apply a function that moves numbers without arithmetic."""
        return Bounded(function(self.value), function(self.error), self.dtype)

    def _rounded(self, value: _Host, error: _Host, units: float = 1.0) -> Bounded:
        """Add the rounding error of this operation to the error from its arguments."""
        size = np.abs(value) + error
        return Bounded(value, error + gamma(units, self.dtype.u + _U_WIDE) * size + self.dtype.tiny, self.dtype)

    def _other(self, other: Any) -> Bounded:
        """Return a Python number as an array, rounded to this precision."""
        if isinstance(other, Bounded):
            return other
        exact = float(other) == 0 or math.frexp(float(other))[0] * 2.0 ** round(-math.log2(self.dtype.u)) % 1 == 0
        return Bounded(other, 0.0 if exact else abs(float(other)) * self.dtype.u, self.dtype)

    def __add__(self, other: Any) -> Bounded:
        other = self._other(other)
        return self._rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Any) -> Bounded:
        other = self._other(other)
        return self._rounded(self.value - other.value, self.error + other.error)

    def __mul__(self, other: Any) -> Bounded:
        other = self._other(other)
        error = np.abs(self.value) * other.error + self.error * np.abs(other.value) + self.error * other.error
        return self._rounded(self.value * other.value, error)

    def __truediv__(self, other: Any) -> Bounded:
        other = self._other(other)
        value = self.value / other.value
        room = np.abs(other.value) - other.error
        error = np.where(room > 0, (self.error + np.abs(value) * other.error) / np.where(room > 0, room, 1), np.inf)
        return self._rounded(value, error, 2)

    def __radd__(self, other: Any) -> Bounded:
        return self._other(other) + self

    def __rsub__(self, other: Any) -> Bounded:
        return self._other(other) - self

    def __rmul__(self, other: Any) -> Bounded:
        return self._other(other) * self

    def __rtruediv__(self, other: Any) -> Bounded:
        return self._other(other) / self

    def __neg__(self) -> Bounded:
        return Bounded(-self.value, self.error, self.dtype)

    def __matmul__(self, other: Bounded) -> Bounded:
        A, B, precision = self, other, self.dtype
        k = self.shape[-1]
        # products with errors that are all zero are skipped
        error = np.abs(A.value) @ B.error if np.any(B.error) else np.zeros(())
        if np.any(A.error):
            error = error + A.error @ (np.abs(B.value) + B.error)
        size = np.abs(A.value) @ np.abs(B.value) + error
        inner = gamma(k, precision.inner + _U_WIDE) + gamma(2, precision.factor) * (1 + gamma(k, precision.inner))
        value = A.value @ B.value
        error = error + inner * size + k * precision.tiny
        if precision.inner < precision.u:  # the result is rounded once more
            return self._rounded(value, error)
        return Bounded(value, error, precision)

    def _compared(self, other: Any, compare: Callable[[Any, Any], Any]) -> Bounded:
        if isinstance(other, Bounded) and not self.dtype.u:
            return Bounded(compare(self.value, other.value), 0, bool_)
        other = self._other(other)
        near = np.abs(self.value - other.value) <= self.error + other.error
        unsure = near & (self.error + other.error > 0)
        return Bounded(compare(self.value, other.value), unsure, bool_)

    def __gt__(self, other: Any) -> Bounded:
        return self._compared(other, np.greater)

    def __lt__(self, other: Any) -> Bounded:
        return self._compared(other, np.less)

    def __eq__(self, other: object) -> Bounded:  # type: ignore[override]
        return self._compared(other, np.equal)

    __hash__ = None  # type: ignore[assignment]


def bounded(host: Any, dtype: Precision) -> Bounded:
    """Return host numbers, exact in that precision, as arrays of this namespace.

    Subnormal numbers may be read as zero by a device, and have their size as their error.

    Parameters
    ----------
    host : array_like
        Numbers that the precision holds; booleans and integers stay what they are.
    dtype : Precision
        That precision.

    Examples
    --------
    >>> layer_input = bounded([[1.0, 2.0]], float32)
    >>> product = layer_input @ bounded([[1.0], [3.0]], float32)
    >>> float(product.value[0, 0]), float(product.error[0, 0]) < 1e-6
    (7.0, True)
    """
    host = np.asarray(host)
    if host.dtype.kind in "biu":
        return Bounded(host, 0.0, bool_ if host.dtype.kind == "b" else int64)
    value = host.astype(_WIDE)
    return Bounded(value, np.where(np.abs(value) < dtype.tiny, np.abs(value), 0), dtype)


# ---------------------------------------------------------------------------------- the functions


def _elementary(x: Bounded, value: _Host, error: _Host) -> Bounded:
    return x._rounded(value, error, ELEMENTARY)


def _exp(x: Bounded) -> Bounded:
    value = np.exp(x.value)
    return _elementary(x, value, value * np.expm1(x.error))


def _expm1(x: Bounded) -> Bounded:
    return _elementary(x, np.expm1(x.value), np.exp(x.value) * np.expm1(x.error))


def _away(x: _Host, error: _Host) -> _Host:
    """Return how far log x can move when x moves by that error."""
    share = np.where(x > 0, error / np.where(x > 0, x, 1), np.inf)
    return np.where(share < 1, -np.log1p(-np.minimum(share, 0.5)) + np.where(share > 0.5, np.inf, 0), np.inf)


def _log(x: Bounded) -> Bounded:
    return _elementary(x, np.log(x.value), _away(x.value, x.error))


def _log1p(x: Bounded) -> Bounded:
    return _elementary(x, np.log1p(x.value), _away(1 + x.value, x.error))


def _tanh(x: Bounded) -> Bounded:
    steepest = 1 - np.square(np.tanh(np.maximum(np.abs(x.value) - x.error, 0)))
    return _elementary(x, np.tanh(x.value), x.error * steepest)


def _sqrt(x: Bounded) -> Bounded:
    value = np.sqrt(x.value)
    # the root falls faster than it rises; where it can reach zero, it can also rise from there
    error = np.maximum(value - np.sqrt(np.maximum(x.value - x.error, 0)), np.sqrt(x.value + x.error) - value)
    return x._rounded(value, error, 2)


def _sign(x: Bounded) -> Bounded:
    unsure = (np.abs(x.value) <= x.error) & (x.error > 0)
    return Bounded(np.sign(x.value), np.where(unsure, 2.0, 0.0), x.dtype)


def _extreme(choose: Callable[[Any, Any], Any]) -> Callable[[Bounded, Any], Bounded]:
    def function(x: Bounded, y: Any) -> Bounded:
        y = x._other(y)
        return Bounded(choose(x.value, y.value), np.maximum(x.error, y.error), x.dtype)

    return function


def _clip(x: Bounded, low: Any = None, high: Any = None) -> Bounded:
    x = x if low is None else xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


def _where(condition: Bounded, x: Any, y: Any) -> Bounded:
    like = x if isinstance(x, Bounded) else y
    x, y = like._other(x), like._other(y)
    value = np.where(condition.value, x.value, y.value)
    error = np.where(condition.value, x.error, y.error)
    either = np.abs(x.value - y.value) + np.maximum(x.error, y.error)
    return Bounded(value, np.where(condition.error > 0, either, error), like.dtype)


def _astype(x: Bounded, dtype: Precision, copy: bool = True) -> Bounded:
    if x.dtype.u <= dtype.u and x.dtype.u and x.dtype != dtype:
        return Bounded(x.value, 0, dtype)._rounded(x.value, x.error)
    return Bounded(x.value, x.error, dtype)


def _count(x: Bounded, axis: Any) -> int:
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return math.prod(x.shape[i] for i in axes)


def _sum(x: Bounded, axis: Any = None, dtype: Precision | None = None, keepdims: bool = False) -> Bounded:
    x = x if dtype is None else _astype(x, dtype)
    value = np.sum(x.value, axis=axis, keepdims=keepdims)
    error = np.sum(x.error, axis=axis, keepdims=keepdims)
    size = np.sum(np.abs(x.value), axis=axis, keepdims=keepdims) + error
    n = _count(x, axis)
    return Bounded(value, error + gamma(max(n - 1, 0), x.dtype.u + _U_WIDE) * size + n * x.dtype.tiny, x.dtype)


def _mean(x: Bounded, axis: Any = None, keepdims: bool = False) -> Bounded:
    return _sum(x, axis, keepdims=keepdims) / float(_count(x, axis))


def _max(x: Bounded, axis: Any = None, keepdims: bool = False) -> Bounded:
    return x._same(lambda part: np.asarray(np.max(part, axis=axis, keepdims=keepdims)))


def _stack(arrays: Sequence[Bounded], axis: int = 0) -> Bounded:
    values, errors = (np.stack(parts, axis) for parts in zip(*((x.value, x.error) for x in arrays), strict=True))
    return Bounded(values, errors, arrays[0].dtype)


def _asarray(values: Any, dtype: Precision | None = None, device: Any = None, copy: bool | None = None) -> Bounded:
    if isinstance(values, Bounded):
        return values if dtype is None else _astype(values, dtype)
    exact = Bounded(0.0, 0.0, dtype or float64)
    parts = [exact._other(value) for value in values]
    return Bounded([part.value for part in parts], [part.error for part in parts], exact.dtype)


class _Namespace(SimpleNamespace):
    """A hashable namespace: array-api-compat 1.12 puts namespaces in a set."""

    __hash__ = object.__hash__  # type: ignore[assignment]


xp = _Namespace(
    __name__="dense_xp.evidence.rounding",
    bool=bool_,
    int64=int64,
    **PRECISIONS,
    abs=lambda x: x._same(lambda part: np.abs(part)),
    arange=lambda n, device=None: Bounded(np.arange(n), 0, int64),
    asarray=_asarray,
    astype=_astype,
    broadcast_to=lambda x, shape: x._same(lambda part: np.broadcast_to(part, shape)),
    clip=_clip,
    exp=_exp,
    expand_dims=lambda x, axis: x._same(lambda part: np.expand_dims(part, axis)),
    expm1=_expm1,
    finfo=lambda dtype: dtype,
    isfinite=lambda x: Bounded(np.isfinite(x.value), 0, bool_),
    log=_log,
    log1p=_log1p,
    max=_max,
    maximum=_extreme(np.maximum),
    mean=_mean,
    minimum=_extreme(np.minimum),
    permute_dims=lambda x, axes: x._same(lambda part: np.transpose(part, axes)),
    ones_like=lambda x: Bounded(np.ones(x.shape), 0, x.dtype),
    reshape=lambda x, shape: x._same(lambda part: np.reshape(part, shape)),
    sign=_sign,
    sqrt=_sqrt,
    square=lambda x: x * x,
    stack=_stack,
    sum=_sum,
    take=lambda x, indices, axis: x._same(lambda part: np.take(part, indices.value, axis=axis)),
    tanh=_tanh,
    where=_where,
    zeros_like=lambda x: Bounded(np.zeros(x.shape), 0, x.dtype),
)
"""The namespace: what the layers, losses and optimizers use of the standard."""
