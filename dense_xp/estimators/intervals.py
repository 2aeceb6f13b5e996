"""From the outputs of a regressor's network to a mean or quantiles, and an interval around them.

An interval is ``[low - width · unit, high + width · unit]``. The width comes from the distribution that the loss
assumes, or from rows that the network has not seen.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.distributions import GaussianNLL, LogLink, Quantile
from dense_xp.learning.losses import Loss


def units_of(
    loss: Loss, mean: np.ndarray[Any, Any], scale: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return shift and factor: ``output * factor + shift`` is in the units of the targets.

    Parameters
    ----------
    loss : Loss
        What the network minimises.
    mean, scale : numpy.ndarray, shape (n_targets,)
        The network learns ``(y - mean) / scale``, or ``y / mean`` if its outputs are logarithms.
    """
    if isinstance(loss, LogLink):
        return np.log(mean), np.ones_like(mean)
    if isinstance(loss, GaussianNLL):
        shift, factor = np.stack([mean, 2 * np.log(scale)], axis=1), np.stack([scale, np.ones_like(scale)], axis=1)
        return shift.reshape(-1), factor.reshape(-1)
    return np.repeat(mean, loss.outputs_per_target), np.repeat(scale, loss.outputs_per_target)


def values_of(loss: Loss, outputs: Array) -> Array:
    """Return for each target: a mean; a mean and the logarithm of a variance; or ordered quantiles.

    Parameters
    ----------
    loss : Loss
        What the network minimises.
    outputs : array, shape (n_samples, n_outputs)
        In the units of the targets.

    Returns
    -------
    array, shape (n_samples, n_targets, outputs_per_target)
        Quantiles that cross are sorted, which brings them nearer to the true ones.
    """
    xp, each = array_namespace(outputs), loss.outputs_per_target
    values = xp.reshape(outputs, (outputs.shape[0], outputs.shape[1] // each, each))
    if isinstance(loss, LogLink):
        return xp.exp(values)
    return xp.sort(values, axis=-1) if isinstance(loss, Quantile) else values


def band_of(loss: Loss, values: Array, coverage: float) -> tuple[Array, Array, Array]:
    """Return where an interval starts, below and above, and the unit of its width.

    Parameters
    ----------
    loss : Loss
        What the network minimises.
    values : array, shape (n_samples, n_targets, outputs_per_target)
        From :func:`values_of`.
    coverage : float
        The share of the targets that should be inside.

    Returns
    -------
    low, high, unit : array, shape (n_samples, n_targets)
        For quantiles, those for this coverage or else the outer two; the unit is 1. For a distribution, `low` and
        `high` are its mean; the unit is its standard deviation, up to a factor.
    """
    xp = array_namespace(values)
    if isinstance(loss, Quantile):
        first, last = _pair(loss, coverage) or (0, len(loss.quantiles) - 1)
        return values[..., first], values[..., last], xp.ones_like(values[..., first])
    mean = values[..., 0]
    if isinstance(loss, GaussianNLL):
        return mean, mean, xp.exp(0.5 * values[..., 1])
    return mean, mean, mean ** (0.5 * loss.power) if isinstance(loss, LogLink) else xp.ones_like(mean)


def _pair(loss: Quantile, coverage: float) -> tuple[int, int] | None:
    """Return the indices of the quantiles with this share between them and equal tails; None without them."""
    tail = 0.5 * (1.0 - coverage)
    wanted = [np.flatnonzero(np.isclose(loss.quantiles, q, rtol=0.0, atol=1e-9)) for q in (tail, 1.0 - tail)]
    return (int(wanted[0][0]), int(wanted[1][0])) if all(map(len, wanted)) else None


def assumed_width(loss: Loss, coverage: float) -> float:
    """Return the width by the distribution that the loss assumes; ValueError if it says nothing of an interval."""
    if isinstance(loss, GaussianNLL):
        return NormalDist().inv_cdf(0.5 * (1.0 + coverage))
    if isinstance(loss, Quantile) and _pair(loss, coverage):
        return 0.0
    tail = round(0.5 * (1.0 - coverage), 9)
    raise ValueError(
        f"{loss} says nothing of an interval with coverage {coverage}: call calibrate(X, y) with rows that were not "
        f"learned from, or fit with loss='gaussian', or with loss='quantile', quantiles=[{tail}, {round(1 - tail, 9)}]"
    )


def conformal_width(
    band: tuple[Array, Array, Array], target: np.ndarray[Any, Any], coverage: float
) -> np.ndarray[Any, Any]:
    """Return the width with which the target of a new row is inside with at least this probability.

    Parameters
    ----------
    band : tuple of array, shape (n_samples, n_targets)
        From :func:`band_of`, for rows that were not trained on.
    target : numpy.ndarray, shape (n_samples, n_targets)
        Their true targets.
    coverage : float
        The share of the targets that should be inside.

    Returns
    -------
    numpy.ndarray, shape (n_targets,)
        Negative if the band alone is too wide.

    Raises
    ------
    ValueError
        If there are too few rows.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. Candès, "Conformalized quantile regression", NeurIPS 2019,
       https://arxiv.org/abs/1905.03222
    """
    low, high, unit = band
    n, rank = len(target), math.ceil((len(target) + 1) * coverage - 1e-9)
    if rank > n:
        least = math.ceil(coverage / (1.0 - coverage) - 1e-9)
        raise ValueError(f"coverage {coverage} needs at least {least} rows in calibrate, and there were {n}")
    widths: np.ndarray[Any, Any] = np.sort(np.maximum(low - target, target - high) / unit, axis=0)[rank - 1]
    return widths
