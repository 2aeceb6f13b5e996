r"""Robust scaling of features to about unit size, with smooth clipping of outliers.

Standardisation by mean and standard deviation depends on outliers, and leaves them far out. Median and quartiles are
robust, and values that are still far out are mapped below a limit by a smooth, increasing function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.fitted import FromData, check_finite, rows_to_learn_from
from dense_xp.learning.special import clipped, row_for
from dense_xp.support.checks import real, several
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params

_FARTHEST = 100.0
"""The largest t/c that is computed: there, y is within 1/10,000 of the limit, and the square fits float16."""


class RobustScale(FromData):
    r"""Robust scaling with smooth clipping, a first layer; :meth:`RobustScale.from_data` learns center and scale.

    .. math:: t = \frac{x - m}{s}, \quad y = \frac{t}{\sqrt{1 + (t/c)^2}}

    with the median m and the interquartile range s of each feature, and the limit c, which no output reaches.
    Center and scale are buffers: saved and moved to devices like weights, but without a gradient.

    Parameters
    ----------
    center : sequence of float
        For each feature, the value that becomes 0.
    scale : sequence of float
        For each feature, the difference that becomes 1 before clipping; positive.
    limit : float, default 3.0
        The absolute values of outputs stay below it.
    **kwargs
        See :class:`Layer`.

    Raises
    ------
    ValueError
        If center and scale are not equally many finite numbers, or a scale or the limit is not positive.

    References
    ----------
    .. [1] D. Holzmüller, L. Grinsztajn and I. Steinwart, "Better by default: Strong pre-tuned MLPs and boosted trees on
       tabular data", NeurIPS 2024, sec. 3, https://arxiv.org/abs/2407.04491

    Examples
    --------
    >>> layer = RobustScale([10.0], [2.0])
    >>> layer.initialize()
    >>> layer.forward_pass([[10.0], [12.0], [1e9]]).round(2)
    array([[0.  ],
           [0.95],
           [3.  ]], dtype=float32)
    """

    buffers = ("center", "scale")
    does = "scales"

    def __init__(self, center: Sequence[float], scale: Sequence[float], *, limit: float = 3.0, **kwargs: Any) -> None:
        self.center = tuple(real("each of center", value) for value in several("center", center))
        self.scale = tuple(real("each of scale", value, "(0, inf)") for value in several("scale", scale))
        self.limit = real("limit", limit, "(0, inf)")
        if not self.center or len(self.center) != len(self.scale):
            raise ValueError(
                f"center has {len(self.center)} numbers and scale {len(self.scale)}: give both one for each feature"
            )
        super().__init__(len(self.center), **kwargs)

    @classmethod
    def from_data(cls, X: Any, *, sample_weight: Any = None, **kwargs: Any) -> Self:
        """Make a layer with the medians and interquartile ranges of data.

        If the two quartiles are equal, the scale is half of the range; if that is 0 too, 1.

        Parameters
        ----------
        X : array or sparse matrix, shape (n_samples, n_features)
            The training rows, on any device.
        sample_weight : array_like, shape (n_samples,), optional
            How much each row counts: one of weight two counts as two rows.
        **kwargs
            ``limit``, and see :class:`Layer`.

        Returns
        -------
        RobustScale
            Not yet initialized.

        Raises
        ------
        ValueError
            If X has no rows or has numbers that are not finite, or the weights do not fit.

        Examples
        --------
        >>> RobustScale.from_data([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 1.0]]).scale
        (2.0, 0.5)
        """
        read, weight, (n, n_features) = rows_to_learn_from(X, sample_weight, "units")
        weight = np.ones(n) if weight is None else weight
        rows = np.flatnonzero(weight > 0)
        center, scale = [], []
        for column in range(n_features):
            middle, unit = _units(read(column)[rows].astype("float64"), weight[rows], column)
            center.append(middle)
            scale.append(unit)
        return cls(center, scale, **kwargs)

    def edges_of(self, column: int, edges: Sequence[float]) -> list[float]:
        """Return the bin edges of one feature after scaling: ascending, and at least two.

        Parameters
        ----------
        column : int
            Which feature.
        edges : sequence of float
            Ascending, in the units of the data.

        Examples
        --------
        >>> RobustScale([1.0], [2.0]).edges_of(0, [1.0, 1e300, 1e301])
        [0.0, 2.99...]
        """
        unit = self.limit * self.scale[column]
        out = np.clip(np.asarray(edges) / unit - self.center[column] / unit, -_FARTHEST, _FARTHEST)
        within = np.unique(self.limit * out / np.sqrt(1.0 + out * out)).tolist()
        return within if len(within) > 1 else [within[0], within[0] + 1.0]

    # ------------------------------------------------------------------ the mathematics

    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return (1, n_features) for each array."""
        return dict.fromkeys(self.buffers, (1, len(self.center)))

    def init_params(self, rng: Rng) -> Params:
        """Return what was given."""
        return {"center": np.asarray([self.center]), "scale": np.asarray([self.scale])}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the scaled numbers, and t/c for the way back; see :meth:`Layer.forward`."""
        xp = array_namespace(X)
        unit = self.limit * row_for(params["scale"], X)
        out = clipped((X - row_for(params["center"], X)) / unit, -_FARTHEST, _FARTHEST)
        return self.limit * out / xp.sqrt(1.0 + out * out), out

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X, and no gradients; see :meth:`Layer.backward`."""
        xp = array_namespace(grad_Y)
        inverse = 1.0 / (1.0 + cache * cache)
        slope = grad_Y * inverse * xp.sqrt(inverse) / row_for(params["scale"], grad_Y)
        return xp.where(xp.abs(cache) < _FARTHEST, slope, xp.zeros_like(slope)), {}

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return no gradients."""
        return {}

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {
            "center": list(self.center), "scale": list(self.scale), "limit": self.limit, **super().get_config()
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"RobustScale({len(self.center)} features, limit={self.limit!r})"


def _units(values: np.ndarray[Any, Any], weight: np.ndarray[Any, Any], column: int) -> tuple[float, float]:
    """Return median and interquartile range of one feature, or what replaces the latter."""
    check_finite(values, column)
    distinct, which = np.unique(values, return_inverse=True)
    mass = np.cumsum(np.bincount(which, weights=weight))
    # each quantile is the mean of its left and right values, as usual for the median
    share = mass[-1] * np.asarray([0.25, 0.5, 0.75])
    sides = [np.minimum(np.searchsorted(mass, share, side), len(distinct) - 1) for side in ("left", "right")]
    low, middle, high = 0.5 * distinct[sides[0]] + 0.5 * distinct[sides[1]]
    unit = high - low or 0.5 * distinct[-1] - 0.5 * distinct[0]
    return float(middle), float(unit) if 0 < unit < np.inf else 1.0
