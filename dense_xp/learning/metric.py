"""The base class of metrics: what to keep of each batch, and the value from all batches.

A plain function of (prediction, target), or of (prediction, target, weight), is averaged: over the samples of a batch,
and then by weight over batches. F1, AUC and R² are not such averages: there a :class:`Metric` says what to keep of each
batch, and computes the value from all of it. So the size of the batches does not change the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from dense_xp.backend import Array, to_numpy

Statistics: TypeAlias = Callable[[Array, Array, Any], Array]
"""What is computed in a step: a pure function of prediction, target and the samples' weights, which may be None."""


Value: TypeAlias = float | np.ndarray[Any, Any]
"""The value of a metric over all batches: a number, or one for each class."""


class Metric:
    """Base class: a subclass writes :meth:`~Metric.statistics` and :meth:`~Metric.value`.

    Called with a prediction, a target and, if wanted, the weight of each sample, it returns its value for these.

    Attributes
    ----------
    name : str
        The name in the history; that of the class if it is empty.
    greater_is_better : bool or None
        Whether a large value is good, for callbacks that look for the best; None if unknown.

    Examples
    --------
    The largest error of a whole data set, which no mean over batches gives:

    >>> import numpy as np
    >>> from array_api_compat import array_namespace
    >>> class LargestError(Metric):
    ...     def statistics(self, prediction, target, weight=None):
    ...         xp = array_namespace(prediction)
    ...         return xp.reshape(xp.max(xp.abs(prediction - target)), (1,))
    ...
    ...     def value(self, statistics):
    ...         return float(statistics.max())
    >>> LargestError()(np.asarray([[1.0], [5.0]]), np.asarray([[1.5], [3.0]]))
    2.0
    """

    name: str = ""
    greater_is_better: ClassVar[bool | None] = None

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return what to keep of a batch: a pure function of arrays, which may be compiled.

        Parameters
        ----------
        prediction, target, weight
            As in :meth:`Loss.value_and_grad`.

        Returns
        -------
        array, shape (n_rows, ...)
            One row for sums, or one for each sample where all are needed. It stays on the device until the epoch ends.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics(prediction, target, weight)")

    def value(self, statistics: np.ndarray[Any, Any]) -> Value:
        """Return the value over all batches.

        Parameters
        ----------
        statistics : numpy.ndarray, shape (n_rows, ...)
            The rows of all batches, one after the other, on the host and in float64.

        Returns
        -------
        float or numpy.ndarray, shape (n_classes,)
            NaN if it is not defined for these data. Each of several numbers is a column of the history.
        """
        raise NotImplementedError(f"{type(self).__name__} has no value(statistics)")

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Any:
        """Return the value for one batch."""
        with np.errstate(all="ignore"):
            return self.value(to_numpy(self.statistics(prediction, target, weight)).astype(np.float64))


@dataclass(frozen=True)
class Unweighted:
    """A metric function that takes no weights."""

    function: Callable[[Array, Array], Array]

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Call the function without the weights."""
        return self.function(prediction, target)


Measure: TypeAlias = Metric | Statistics
"""A metric, or a function of (prediction, target, weight) that is averaged over batches."""


MetricLike: TypeAlias = str | Metric | Callable[..., Array]
"""What :meth:`dense_xp.Sequential.fit` takes for a metric."""


def in_step(metrics: Mapping[str, Measure]) -> tuple[Statistics, ...]:
    """Return what a step computes for metrics: pure functions of (prediction, target, weight)."""
    return tuple(metric.statistics if isinstance(metric, Metric) else metric for metric in metrics.values())
