r"""Piecewise-linear encoding: several numbers for each feature, from which networks learn more easily than from one.

A feature with the edges :math:`b_0 < … < b_T` becomes T numbers, one for each of its bins,

    e_t(x) = (x - b_{t-1}) / (b_t - b_{t-1})

clipped to at least 0 except in the first bin, and to at most 1 except in the last. So the bins below x are 1, those
above it 0, and no information is lost. A dense layer after it is a piecewise-linear function of each feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace, device

from dense_xp.backend import Array, to_numpy
from dense_xp.layers.dense import product
from dense_xp.layers.fitted import FromData, check_finite, rows_to_learn_from
from dense_xp.support.checks import integer, real, several
from dense_xp.support.dtypes import in_dtype
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params

IDENTITY = (0.0, 1.0)
"""The edges of a single bin, which leaves every number as it is."""


class PiecewiseLinear(FromData):
    r"""Piecewise-linear encoding of numbers, a first layer; :meth:`PiecewiseLinear.from_data` learns its bins.

    Each feature becomes as many numbers as it has bins. They rise from 0 to 1 one after the other, as the feature rises
    from edge to edge; below the first edge and above the last, the outer bins extrapolate linearly.

    .. math:: e_t(x) = \frac{x - b_{t-1}}{b_t - b_{t-1}}, \quad
       e_t ≥ 0 \text{ if } t > 1, \quad e_t ≤ 1 \text{ if } t < T

    Its arrays are buffers: saved and moved to devices like weights, but without a gradient.

    Parameters
    ----------
    edges : sequence of sequences of float
        For each feature the edges of its bins, two or more, ascending. ``(0, 1)`` lets a feature pass as it is.
    **kwargs
        See :class:`Layer`.

    Raises
    ------
    ValueError
        If the edges of a feature are fewer than two, do not ascend, or are not finite.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features in tabular deep learning",
       NeurIPS 2022, sec. 3.2, https://arxiv.org/abs/2203.05556

    Examples
    --------
    >>> layer = PiecewiseLinear([(0, 1, 3), (0, 1)])
    >>> layer.initialize()
    >>> layer.forward_pass([[2.0, 7.0], [-1.0, 0.5]])
    array([[ 1. ,  0.5,  7. ],
           [-1. ,  0. ,  0.5]], dtype=float32)
    """

    buffers = ("column", "start", "width", "least", "most")
    integers = ("column",)
    does = "has edges for"

    def __init__(self, edges: Sequence[Sequence[float]], **kwargs: Any) -> None:
        self.edges = tuple(_checked(i, own) for i, own in enumerate(several("edges", edges)))
        if not self.edges:
            raise ValueError("edges must have those of at least one feature, and is empty")
        super().__init__(len(self.edges), **kwargs)

    @classmethod
    def from_data(
        cls, X: Any, n_bins: int = 48, *, columns: Sequence[int] | None = None, sample_weight: Any = None, **kwargs: Any
    ) -> Self:
        """Make a layer whose bins hold about equally many rows; see :func:`quantile_edges`.

        Parameters
        ----------
        X, n_bins, columns, sample_weight
            As in :func:`quantile_edges`.
        **kwargs
            See :class:`Layer`.

        Returns
        -------
        PiecewiseLinear
            Not yet initialized.

        Raises
        ------
        ValueError
            As in :func:`quantile_edges`.

        Examples
        --------
        >>> layer = PiecewiseLinear.from_data([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [4.0, 1.0]], n_bins=2)
        >>> layer.edges
        ((1.0, 2.0, 4.0), (0.0, 1.0))
        """
        return cls(quantile_edges(X, n_bins, columns=columns, sample_weight=sample_weight), **kwargs)

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_bins,)``, those of all features."""
        return (sum(self._bins()),)

    # ------------------------------------------------------------------ the mathematics

    def param_shapes(self) -> dict[str, Any]:
        """Return one number for each bin."""
        return dict.fromkeys(self.buffers, self.output_shape())

    def init_params(self, rng: Rng) -> Params:
        """Return, for each bin, its feature, start and width, and the limits that it is clipped to."""
        bins = self._bins()
        last = np.cumsum(bins) - 1
        first = last + 1 - bins
        least, most = np.zeros(sum(bins)), np.ones(sum(bins))
        least[first], most[last] = -np.inf, np.inf
        return {
            "column": self._column(),
            "start": np.concatenate([own[:-1] for own in self.edges]),
            "width": np.concatenate([np.diff(own) for own in self.edges]),
            "least": least,
            "most": most,
        }

    def _bins(self) -> list[int]:
        return [len(own) - 1 for own in self.edges]

    def _column(self) -> np.ndarray[Any, Any]:
        return np.repeat(np.arange(len(self.edges), dtype="int64"), self._bins())

    def check_params(self, params: Params) -> None:
        """Raise ValueError if the bins belong to other features: a file could name any."""
        if not np.array_equal(to_numpy(params["column"]), self._column()):
            raise ValueError(f"the weight 'column' of {self.layer_name()} does not fit its edges")

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the encoded numbers and where each lies in its bin; see :meth:`Layer.forward`."""
        xp = array_namespace(X)
        column, matrix = params["column"], X.ndim == 2
        # a matrix by its columns, which takes NumPy a third of the time
        place = xp.take(X.T, column, axis=0).T if matrix else xp.take(X, column, axis=-1)
        place -= params["start"]  # place is ours
        place /= params["width"]
        return xp.minimum(xp.maximum(place, params["least"]), params["most"]), place

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X, and no gradients; an edge has the slope of the bin above it. See :meth:`Layer.backward`."""
        xp = array_namespace(grad_Y)
        slope = grad_Y / params["width"]
        slope = xp.where(cache < params["least"], xp.zeros_like(slope), slope)
        slope = xp.where(cache < params["most"], slope, xp.zeros_like(slope))
        columns = xp.arange(len(self.edges), device=device(grad_Y))
        belongs = xp.expand_dims(in_dtype(params["column"], columns.dtype), axis=1) == xp.expand_dims(columns, axis=0)
        return product(slope, in_dtype(belongs, slope.dtype)), {}

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return no gradients."""
        return {}

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"edges": [list(own) for own in self.edges], **super().get_config()}

    def __repr__(self) -> str:
        return f"PiecewiseLinear({len(self.edges)} features, {self.output_shape()[0]} bins)"


def quantile_edges(
    X: Any, n_bins: int = 48, *, columns: Sequence[int] | None = None, sample_weight: Any = None
) -> list[tuple[float, ...]]:
    """Return edges for each feature, with about equally many rows between them.

    All edges are values of the data. A feature with few distinct values has an edge at each of them; so one with only
    0 and 1 passes as it is, and one with two other values becomes 0 and 1.

    Parameters
    ----------
    X : array or sparse matrix, shape (n_samples, n_features)
        The training rows, on any device.
    n_bins : int, default 48
        How many bins a feature has at most.
    columns : sequence of int, optional
        The features that are encoded; the others get the edges (0, 1) and so pass as they are. By default all are.
    sample_weight : array_like, shape (n_samples,), optional
        How much each row counts: one of weight two counts as two rows.

    Returns
    -------
    list of tuple of float
        What :class:`PiecewiseLinear` takes.

    Raises
    ------
    ValueError
        If X has no rows or has numbers that are not finite, or a column does not exist.

    Examples
    --------
    >>> quantile_edges([[1.0], [2.0], [2.0], [9.0], [10.0], [11.0]], n_bins=3)
    [(1.0, 2.0, 9.0, 11.0)]
    """
    n_bins = integer("n_bins", n_bins)
    read, weight, (_, n) = rows_to_learn_from(X, sample_weight, "bins")
    wanted = range(n) if columns is None else [integer("columns", column, 0) for column in columns]
    if missing := [column for column in wanted if column >= n]:
        raise ValueError(f"X has {n} columns, and these are not there: {missing}")
    edges: list[tuple[float, ...]] = [IDENTITY] * n
    for column in wanted:
        values = read(column)
        check_finite(values, column)
        edges[column] = _quantiles(values, n_bins, weight)
    return edges


def _quantiles(values: Any, n_bins: int, weight: Any) -> tuple[float, ...]:
    """Return the edges of one feature: quantiles of its empirical distribution."""
    if weight is None:
        distinct, counts = np.unique(values, return_counts=True)
    else:
        distinct, which = np.unique(values[weight > 0], return_inverse=True)
        counts = np.bincount(which, weights=weight[weight > 0])
    if len(distinct) == 1:  # a constant becomes 0
        value = float(distinct[0])
        return value, value + max(1.0, abs(value))
    if len(distinct) > n_bins + 1:
        mass = np.cumsum(counts)
        at = np.searchsorted(mass, mass[-1] * np.linspace(0.0, 1.0, n_bins + 1))
        distinct = distinct[np.unique(np.minimum(at, len(distinct) - 1))]
    return tuple(map(float, distinct))


def _checked(i: int, edges: Any) -> tuple[float, ...]:
    own = tuple(real(f"each of edges[{i}]", edge) for edge in several(f"edges[{i}]", edges))
    with np.errstate(over="ignore"):
        widths = np.diff(own)
    if len(own) < 2 or not (widths > 0).all() or not np.isfinite(widths).all():
        raise ValueError(f"edges[{i}] must be two or more finite numbers that ascend, and is {own!r:.60}")
    return own
