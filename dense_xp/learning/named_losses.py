"""Every loss by its name."""

from __future__ import annotations

from dense_xp.learning.distributions import Gamma, GaussianNLL, Poisson, Quantile, Tweedie
from dense_xp.learning.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from dense_xp.support.registry import Registry

LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "mean_squared_error": MeanSquaredError,
        "mean_absolute_error": MeanAbsoluteError,
        "huber": Huber,
        "softmax_cross_entropy": SoftmaxCrossEntropy,
        "sigmoid_cross_entropy": SigmoidCrossEntropy,
        "quantile": Quantile,
        "poisson": Poisson,
        "gamma": Gamma,
        "tweedie": Tweedie,
        "gaussian_nll": GaussianNLL,
        # as everybody types them
        "mse": MeanSquaredError,
        "mae": MeanAbsoluteError,
        "bce": SigmoidCrossEntropy,
        "gaussian": GaussianNLL,
    },
    "an object of a subclass of Loss",
    lambda spec: isinstance(spec, Loss),
)
