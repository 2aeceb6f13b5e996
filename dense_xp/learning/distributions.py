"""Losses for quantiles, for a mean with its variance, and for the means of counts and of positive amounts.

Some of them are negative log-likelihoods, without the terms that do not depend on the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.learning.losses import Loss
from dense_xp.learning.special import counted, row_for
from dense_xp.support.checks import Ranges, real, several
from dense_xp.support.dtypes import in_dtype


class _SideBySide(Loss):
    """Base class of losses that describe one number of the target by several outputs."""

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check all targets; see :meth:`Loss.check_target`."""
        *lead, n_outputs = sample_shape
        each = self.outputs_per_target
        if n_outputs % each:
            raise ValueError(
                f"{type(self).__name__} has {each} outputs for each number of y, and the model has {n_outputs}: "
                f"end it with Dense({each}) for one number, or with a multiple of that"
            )
        super().check_target(target, (*lead, n_outputs // each))

    def _apart(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """Return outputs of shape (..., n_targets, outputs_per_target), and the target as (..., n_targets, 1)."""
        xp, each = array_namespace(prediction), self.outputs_per_target
        shape = (*prediction.shape[:-1], prediction.shape[-1] // each, each)
        return xp.reshape(prediction, shape), xp.expand_dims(in_dtype(target, prediction.dtype), axis=-1)


@dataclass(frozen=True)
class Quantile(_SideBySide):
    r"""The pinball loss, whose expectation is least at the quantile :math:`q`; mean over all entries.

    .. math:: ℓ(d) = (1 - q)\,d \text{ if } d = z - t > 0, \quad -q\,d \text{ otherwise}

    The derivative at 0 is taken as 0. For :math:`q = \tfrac12` it is half the absolute error.

    Parameters
    ----------
    quantiles : sequence of float, default (0.5,)
        Between 0 and 1, in ascending order.

    Notes
    -----
    Each number of the target has one output for each quantile, side by side: a prediction of shape
    (..., n_targets · n_quantiles) for a target of shape (..., n_targets).

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46 (1978), pp. 33–50.

    Examples
    --------
    >>> import numpy as np
    >>> loss = Quantile([0.1, 0.9])
    >>> loss.gradient(np.asarray([[3.0, 3.0]]), np.asarray([[5.0]]))
    array([[-0.05, -0.45]])
    """

    quantiles: Sequence[float] = (0.5,)
    own_numbers: ClassVar[tuple[str, ...]] = ("quantiles",)

    def __post_init__(self) -> None:
        quantiles = tuple(real("a quantile", q, "(0, 1)") for q in several("quantiles", self.quantiles))
        if not quantiles or list(quantiles) != sorted(set(quantiles)):
            raise ValueError(f"quantiles must be numbers in ascending order, and are {self.quantiles!r}")
        object.__setattr__(self, "quantiles", quantiles)

    @property
    def outputs_per_target(self) -> int:
        """One for each quantile."""
        return int(np.shape(self.quantiles)[0])  # numbers, or an array of a device

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        outputs, target = self._apart(prediction, target)
        given = xp.asarray(self.quantiles, dtype=prediction.dtype, device=device(prediction))
        q, difference = row_for(given, outputs), outputs - target
        slopes = xp.where(difference > 0.0, 1.0 - q, xp.where(difference < 0.0, -q, difference))
        losses = xp.mean(slopes * difference, axis=(-2, -1))
        return losses, xp.reshape(slopes, prediction.shape) * (1.0 / prediction.shape[-1]), None


@dataclass(frozen=True)
class GaussianNLL(_SideBySide):
    r"""The negative log-likelihood of a normal distribution with predicted mean and variance.

    With the outputs :math:`μ` and :math:`s = \log σ^2`, and without the constant :math:`\tfrac12 \log 2π`,

    .. math:: ℓ = \tfrac12 (s + r^2), \qquad r = (μ - t)\,e^{-s/2}, \qquad
              ∂ℓ/∂μ = r\,e^{-s/2}, \quad ∂ℓ/∂s = \tfrac12 (1 - r^2),

    and the mean over the numbers of the target.

    Notes
    -----
    Each number of the target has two outputs, side by side: its mean and the logarithm of its variance.

    References
    ----------
    .. [1] D. Nix, A. Weigend, "Estimating the mean and variance of the target probability distribution",
       IEEE International Conference on Neural Networks 1994, pp. 55–60.

    Examples
    --------
    >>> import numpy as np
    >>> float(GaussianNLL()(np.asarray([[3.0, 0.0]]), np.asarray([[5.0]])))
    2.0
    """

    @property
    def outputs_per_target(self) -> int:
        """A mean and the logarithm of a variance."""
        return 2

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        outputs, target = self._apart(prediction, target)
        log_variance, difference = outputs[..., 1], outputs[..., 0] - target[..., 0]
        # an infinite difference counts whatever the variance; a difference of 0 never does
        scale = xp.maximum(xp.exp(-0.5 * log_variance), xp.finfo(prediction.dtype).smallest_normal)
        residual = counted(difference, scale)
        square = xp.square(residual)
        # of two infinities the square is the larger one
        losses = xp.where(xp.isfinite(square), 0.5 * (log_variance + square), square)
        slopes = xp.stack([counted(residual, scale), 0.5 * (1.0 - square)], axis=-1)
        n_targets = target.shape[-2]
        return xp.mean(losses, axis=-1), xp.reshape(slopes, prediction.shape) * (1.0 / n_targets), None


class LogLink(Loss):
    r"""Base class of losses for targets that are never negative, with the mean :math:`μ = e^z`.

    The variance is taken to be proportional to :math:`μ^p`.
    """

    @property
    def power(self) -> float:
        """The number :math:`p`."""
        raise NotImplementedError(f"{type(self).__name__} has no power")

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        target = in_dtype(target, prediction.dtype)
        of_mean, integral = _power(prediction, 2.0 - self.power)
        of_target, other = _power(prediction, 1.0 - self.power)
        slopes = of_mean - counted(target, of_target)
        # where a power is infinite, it is larger than the logarithm beside it
        losses = xp.where(xp.isfinite(slopes), integral - counted(target, other), xp.abs(slopes))
        return xp.mean(losses, axis=-1), slopes * (1.0 / prediction.shape[-1]), None

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check all targets; see :meth:`Loss.check_target`."""
        super().check_target(target, sample_shape)
        xp, name = array_namespace(target), type(self).__name__
        least = float(xp.min(xp.astype(target, xp.int8) if xp.isdtype(target.dtype, "bool") else target))
        if least < 0.0 or (least == 0.0 and self.power == 2.0):
            wanted = "positive" if self.power == 2.0 else "0 or more"
            remedy = "; Tweedie allows zeros" if least == 0.0 else ""
            raise ValueError(f"the targets of {name} must be {wanted}, and y holds {least:g}{remedy}")


def _power(z: Array, k: float) -> tuple[Array, Array]:
    """Return μᵏ for μ = exp(z), and its integral over z."""
    xp = array_namespace(z)
    if k == 0.0:
        return xp.ones_like(z), z
    power = xp.exp(k * z)
    return power, power * (1.0 / k)


@dataclass(frozen=True)
class Poisson(LogLink):
    r"""The negative log-likelihood of counts, from the logarithm of their mean; mean over all entries.

    .. math:: ℓ = e^z - t z, \qquad ∂ℓ/∂z = e^z - t,

    without the term :math:`\log t!`. Prediction and target have the same shape; targets are not negative, and need
    not be whole numbers.

    References
    ----------
    .. [1] P. McCullagh, J. Nelder, *Generalized Linear Models*, 2nd ed., Chapman and Hall 1989, ch. 6.

    Examples
    --------
    >>> import numpy as np
    >>> Poisson().gradient(np.asarray([[0.0]]), np.asarray([[3]]))
    array([[-2.]])
    """

    @property
    def power(self) -> float:
        """The variance is proportional to the mean to this power."""
        return 1.0


@dataclass(frozen=True)
class Gamma(LogLink):
    r"""The negative log-likelihood of positive amounts, from the logarithm of their mean; mean over all entries.

    .. math:: ℓ = z + t e^{-z}, \qquad ∂ℓ/∂z = 1 - t e^{-z}

    The standard deviation of this gamma distribution is a fixed share of its mean; that share is left out, as it does
    not move the minimum. Prediction and target have the same shape.

    References
    ----------
    .. [1] P. McCullagh, J. Nelder, *Generalized Linear Models*, 2nd ed., Chapman and Hall 1989, ch. 8.

    Examples
    --------
    >>> import numpy as np
    >>> Gamma().gradient(np.asarray([[0.0]]), np.asarray([[3.0]]))
    array([[-2.]])
    """

    @property
    def power(self) -> float:
        """The variance is proportional to the mean to this power."""
        return 2.0


@dataclass(frozen=True)
class Tweedie(LogLink):
    r"""Between :class:`Poisson` and :class:`Gamma`: amounts that are often exactly 0; mean over all entries.

    .. math:: ℓ = \frac{e^{(2 - p) z}}{2 - p} + t \frac{e^{(1 - p) z}}{p - 1}, \qquad
              ∂ℓ/∂z = e^{(2 - p) z} - t\,e^{(1 - p) z}

    The prediction is the logarithm of the mean, and has the shape of the target. Up to constants, the limits for
    :math:`p → 1` and :math:`p → 2` are these two losses.

    Parameters
    ----------
    power : float, default 1.5
        The :math:`p` of the formula, from 1 to 2: the variance is proportional to the mean to this power.

    References
    ----------
    .. [1] B. Jørgensen, "Exponential dispersion models", Journal of the Royal Statistical Society B 49 (1987),
       pp. 127–162.

    Examples
    --------
    >>> import numpy as np
    >>> float(Tweedie()(np.asarray([[0.0]]), np.asarray([[3.0]])))
    8.0
    """

    power: float = 1.5
    ranges: ClassVar[Ranges] = {"power": "[1, 2]"}
