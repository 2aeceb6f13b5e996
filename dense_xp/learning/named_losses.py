"""Every loss by its name."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning import distributions, losses
from dense_xp.learning.metric import Metric
from dense_xp.learning.special import counted
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.registry import Registry

LOSSES: Registry[losses.Loss] = Registry(
    "loss",
    {
        "mean_squared_error": losses.MeanSquaredError,
        "mean_absolute_error": losses.MeanAbsoluteError,
        "huber": losses.Huber,
        "softmax_cross_entropy": losses.SoftmaxCrossEntropy,
        "sigmoid_cross_entropy": losses.SigmoidCrossEntropy,
        "quantile": distributions.Quantile,
        "poisson": distributions.Poisson,
        "gamma": distributions.Gamma,
        "tweedie": distributions.Tweedie,
        "gaussian_nll": distributions.GaussianNLL,
        # short names
        "mse": losses.MeanSquaredError,
        "mae": losses.MeanAbsoluteError,
        "bce": losses.SigmoidCrossEntropy,
        "gaussian": distributions.GaussianNLL,
    },
    "an object of a subclass of Loss",
    lambda spec: isinstance(spec, losses.Loss),
)


class AverageLoss(Metric):
    """A loss with sample weights of its own, as a metric: its mean over all samples, however they are batched.

    Parameters
    ----------
    loss : Loss
        The loss.

    Examples
    --------
    >>> metric = AverageLoss(losses.SoftmaxCrossEntropy(class_weight=[1, 0]))
    >>> round(metric(np.zeros((2, 2)), np.asarray([0, 1])), 4)
    0.6931
    """

    greater_is_better: ClassVar[bool | None] = False

    def __init__(self, loss: losses.Loss) -> None:
        self.loss = loss

    @np.errstate(all="ignore")  # an infinite loss is a value
    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the sum of the losses of a batch, and that of their weights; see :meth:`Metric.statistics`."""
        xp = array_namespace(prediction)
        values, _, own = self.loss.sample_losses(widened(prediction), target)
        given = xp.ones_like(values) if weight is None else in_dtype(weight, values.dtype)
        counts = given if own is None else given * own
        return xp.expand_dims(xp.stack([xp.sum(counted(given, values)), xp.sum(counts)]), axis=0)

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the mean; see :meth:`Metric.value`."""
        total, count = statistics.sum(axis=0)
        return float(total / (count or 1.0))
