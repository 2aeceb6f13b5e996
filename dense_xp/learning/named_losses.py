"""Every loss by its name."""

from __future__ import annotations

from dense_xp.learning import distributions, losses
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
        # as everybody types them
        "mse": losses.MeanSquaredError,
        "mae": losses.MeanAbsoluteError,
        "bce": losses.SigmoidCrossEntropy,
        "gaussian": distributions.GaussianNLL,
    },
    "an object of a subclass of Loss",
    lambda spec: isinstance(spec, losses.Loss),
)
