"""What the outputs of a regressor's network say: a mean or quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.distributions import GaussianNLL, LogLink, Quantile
from dense_xp.learning.losses import Loss


def units_of(
    loss: Loss, mean: np.ndarray[Any, Any], scale: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return what to add to each output of the network, and by what to multiply it first, for the units of the targets.

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
    """Return what the outputs say of each target: a mean; a mean and the logarithm of a variance; ordered quantiles.

    Parameters
    ----------
    loss : Loss
        What the network minimises.
    outputs : array, shape (n_samples, n_outputs)
        In the units of the targets.

    Returns
    -------
    array, shape (n_samples, n_targets, outputs_per_target)
        Where quantiles cross, they are exchanged, which brings them nearer to the true ones.
    """
    xp, each = array_namespace(outputs), loss.outputs_per_target
    values = xp.reshape(outputs, (outputs.shape[0], outputs.shape[1] // each, each))
    if isinstance(loss, LogLink):
        return xp.exp(values)
    return xp.sort(values, axis=-1) if isinstance(loss, Quantile) else values
