"""What a person reads off a prediction, computed where the prediction is; nothing here has a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.names import by_name

Metric: TypeAlias = Callable[[Array, Array], Array]


def accuracy(prediction: Array, target: Array) -> Array:
    """Return the share of samples whose largest output is the right class.

    Parameters
    ----------
    prediction : array, shape (..., n_outputs)
        Logits or probabilities; with a single output a logit, whose sign is the class.
    target : array
        Class labels of shape (...), or one-hot rows of the prediction's shape. For a single output:
        0 or 1, of the prediction's shape.

    Returns
    -------
    array, shape ()
        Between 0 and 1, in the prediction's dtype.

    Examples
    --------
    >>> import numpy as np
    >>> float(accuracy(np.asarray([[0.1, 2.0], [3.0, 1.0]]), np.asarray([1, 1])))
    0.5
    """
    xp = array_namespace(prediction)
    if target.ndim == prediction.ndim:  # as numbers: the standard neither orders nor ranks booleans
        target = xp.astype(target, prediction.dtype)
    if prediction.shape[-1] == 1:
        right = (prediction > 0) == (target > 0)
    else:
        label = xp.argmax(target, axis=-1) if target.ndim == prediction.ndim else target
        right = xp.argmax(prediction, axis=-1) == label
    return xp.mean(xp.astype(right, prediction.dtype))


_METRICS: dict[str, Metric] = {"accuracy": accuracy}


def get_metric(spec: str | Metric) -> tuple[str, Metric]:
    """Return a metric and its name.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if callable(spec):
        return getattr(spec, "__name__", type(spec).__name__), spec
    otherwise = ", or a function of (prediction, target) that returns a 0-d array"
    return spec, by_name("metric", _METRICS, spec, otherwise)
