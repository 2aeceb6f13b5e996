"""Constraints: after each step of the optimizer, weights are projected onto a set of allowed values.

A layer takes one for any of its parameters: ``Dense(10).constrained(W=MaxNorm(3.0))``. A constraint is a pure function
of the parameter, which has at least 32 bits. Norms are the Euclidean norms of columns: of the weights into one unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.special import clipped, euclidean
from dense_xp.support.checks import Checked, Ranges, real
from dense_xp.support.registry import Registry

Constraint: TypeAlias = Callable[[Array], Array]
"""A pure function from a parameter to the nearest one that is allowed, of the same shape."""


@dataclass(frozen=True)
class MaxNorm(Checked):
    """Limit the norm of each column: longer columns are scaled down.

    Parameters
    ----------
    limit : float, default 2.0
        The greatest norm.

    Raises
    ------
    ValueError
        If it is not a positive number.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple
       way to prevent neural networks from overfitting", JMLR 15 (2014), sec. 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> MaxNorm(1.0)(np.asarray([[3.0, 0.5], [4.0, 0.0]]))
    array([[0.6, 0.5],
           [0.8, 0. ]])
    """

    limit: float = 2.0
    ranges: ClassVar[Ranges] = {"limit": "(0, inf)"}

    def __call__(self, W: Array) -> Array:
        """Return the nearest allowed W."""
        return _with_norms_between(W, 0.0, self.limit)


@dataclass(frozen=True)
class MinMaxNorm(Checked):
    """Keep the norm of each column between two limits; a column of zeros stays as it is.

    Parameters
    ----------
    low, high : float, default 0.0 and 1.0
        The least and the greatest norm.

    Raises
    ------
    ValueError
        Unless they are numbers with 0 ≤ low ≤ high and high > 0.

    Examples
    --------
    >>> import numpy as np
    >>> MinMaxNorm(1.0, 2.5)(np.asarray([[3.0, 0.5, 0.0], [4.0, 0.0, 0.0]]))
    array([[1.5, 1. , 0. ],
           [2. , 0. , 0. ]])
    """

    low: float = 0.0
    high: float = 1.0

    ranges: ClassVar[Ranges] = {"low": "[0, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "high", real("high", self.high, f"[{self.low}, inf)" if self.low else "(0, inf)"))

    def __call__(self, W: Array) -> Array:
        """Return the nearest allowed W."""
        return _with_norms_between(W, self.low, self.high)


@dataclass(frozen=True)
class UnitNorm:
    """Scale each column to the norm 1; a column of zeros stays as it is.

    Examples
    --------
    >>> import numpy as np
    >>> UnitNorm()(np.asarray([[3.0, 0.5], [4.0, 0.0]]))
    array([[0.6, 1. ],
           [0.8, 0. ]])
    """

    def __call__(self, W: Array) -> Array:
        """Return the nearest allowed W."""
        return _with_norms_between(W, 1.0, 1.0)


@dataclass(frozen=True)
class NonNegative:
    """No weight is below zero.

    Examples
    --------
    >>> import numpy as np
    >>> NonNegative()(np.asarray([[3.0, -0.5]]))
    array([[3., 0.]])
    """

    def __call__(self, W: Array) -> Array:
        """Return the nearest allowed W."""
        return array_namespace(W).maximum(W, 0.0)


def _with_norms_between(W: Array, low: float, high: float) -> Array:
    xp = array_namespace(W)
    norm = euclidean(W, axis=0)
    norm = xp.where(norm > 0, norm, 1.0)  # a column of zeros stays zero under any scale
    return W * (clipped(norm, low, high) / norm)


CONSTRAINTS: Registry[Constraint] = Registry(
    "constraint",
    {"max_norm": MaxNorm, "min_max_norm": MinMaxNorm, "unit_norm": UnitNorm, "non_negative": NonNegative},
    "a pure function of the weights",
    callable,
)
