"""Losses: what is minimised, and its gradient with respect to the prediction.

Every loss is a weighted mean over samples, Σ wᵢ ℓᵢ / Σ wᵢ; all leading axes are samples. Where the last axis holds
several outputs of the same kind, ℓᵢ is their mean. Losses for classes take logits, so that softmax or sigmoid and the
logarithm cancel and no digit is lost.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace, device

from dense_xp.backend import Array, Backend
from dense_xp.learning.special import clipped, counted, log_softmax, row_for, sigmoid, sign, softplus
from dense_xp.learning.targets import check_classes, checked_class_weight
from dense_xp.support.checks import Checked, Ranges
from dense_xp.support.dtypes import in_dtype, widened


class Loss(Checked):
    """Base class: a subclass writes :meth:`~Loss.sample_losses`, the rest follows.

    A loss is called with a prediction, a target and, if wanted, the weight of each sample.
    """

    greater_is_better: ClassVar[bool] = False
    own_numbers: ClassVar[tuple[str, ...]] = ()  # the attributes with numbers that belong on the device

    @property
    def outputs_per_target(self) -> int:
        """How many outputs describe one number of the target; those of one number stand side by side."""
        return 1

    @property
    def takes_labels(self) -> bool:
        """Whether targets may be class labels, even with a single class."""
        return False

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Compute the loss of each sample.

        Parameters
        ----------
        prediction : array, shape (..., n_outputs)
            What the model returned.
        target : array
            What it should have returned.

        Returns
        -------
        losses : array, shape (...)
            The loss of each sample.
        gradients : array, shape (..., n_outputs)
            The gradient of each sample's loss with respect to its prediction.
        weights : array, shape (...), or None
            The weight that the loss gives to each sample, such as that of its class; None if all count alike.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample_losses")

    def placed(self, backend: Backend, dtype: str) -> Self:
        """Return this loss with its own numbers on a device, so that no step has to copy them.

        Parameters
        ----------
        backend : Backend
            Where the step runs.
        dtype : str
            That of the predictions.
        """
        other = copy.copy(self)
        for name in self.own_numbers:
            if (numbers := getattr(self, name)) is not None:
                object.__setattr__(other, name, backend.asarray(numbers, dtype))
        return other

    @np.errstate(all="ignore")  # an infinite loss is a value
    def value_and_grad(self, prediction: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Return the loss and its gradient with respect to the prediction.

        Parameters
        ----------
        prediction : array, shape (..., n_outputs)
            What the model returned.
        target : array
            What it should have returned; see the class for its shape.
        weight : array, shape (...), optional
            How much each sample counts.

        Returns
        -------
        value : array, shape ()
            The loss.
        grad : array, shape (..., n_outputs)
            Its gradient, in the prediction's dtype.
        """
        xp = array_namespace(prediction)
        losses, gradients, own = self.sample_losses(widened(prediction), target)
        if own is None and weight is None:
            value, share = xp.mean(losses), 1.0 / max(1, math.prod(losses.shape))
        else:
            given = own if weight is None else in_dtype(weight, losses.dtype)
            # the class weight is part of the sample's loss already, and counts in the denominator too
            total = xp.sum(given if own is None or weight is None else given * own)
            total = xp.where(total > 0, total, xp.ones_like(total))  # a batch of weight zero has the loss zero
            value = xp.sum(losses if weight is None else counted(given, losses)) / total
            share = 1.0 / total if weight is None else xp.expand_dims(given / total, axis=-1)
        dtype = prediction.dtype
        gradients = gradients * share if weight is None else counted(share, gradients)
        return in_dtype(value, dtype), in_dtype(gradients, dtype)

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the loss alone, as a 0-d array."""
        return self.value_and_grad(prediction, target, weight)[0]

    def gradient(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the gradient alone.

        Parameters
        ----------
        prediction, target, weight
            As in :meth:`value_and_grad`.
        """
        return self.value_and_grad(prediction, target, weight)[1]

    def sample_weights(self, target: np.ndarray[Any, Any], ndim: int) -> np.ndarray[Any, Any] | None:
        """Return the weights that the loss gives to samples, to average over batches; None if all count alike.

        Parameters
        ----------
        target : numpy.ndarray, shape (n_samples, ...)
            On the host.
        ndim : int
            Number of axes of the prediction for these samples.

        Returns
        -------
        numpy.ndarray, shape (n_samples, ...), or None
            The `weights` of :meth:`sample_losses`, for all samples.
        """
        return None

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check shape and values of all targets, once before training.

        Parameters
        ----------
        target : array, shape (n_samples, ...)
            All targets.
        sample_shape : tuple of int
            Shape of the prediction for one sample.

        Raises
        ------
        ValueError
            If they do not fit.
        """
        if tuple(target.shape[1:]) != sample_shape:
            raise ValueError(
                f"y has shape {tuple(target.shape)}, and {type(self).__name__} needs one row for each output row: "
                f"({', '.join(map(str, (target.shape[0], *sample_shape)))})"
            )


def _difference(prediction: Array, target: Array) -> Array:
    return prediction - in_dtype(target, prediction.dtype)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    r"""Mean of the squared differences, :math:`\frac1n \sum (y - t)^2`.

    Prediction and target have the same shape; the mean is over all their entries.

    Examples
    --------
    >>> import numpy as np
    >>> float(MeanSquaredError()(np.asarray([[1.0, 3.0]]), np.asarray([[1.0, 1.0]])))
    2.0
    """

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        difference = _difference(prediction, target)
        losses = xp.mean(xp.square(difference), axis=-1)
        return losses, difference * (2.0 / prediction.shape[-1]), None


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    r"""Mean of the absolute differences, :math:`\frac1n \sum |y - t|`; the derivative at 0 is taken as 0.

    Prediction and target have the same shape; the mean is over all their entries.

    Examples
    --------
    >>> import numpy as np
    >>> float(MeanAbsoluteError()(np.asarray([[1.0, 4.0]]), np.asarray([[1.0, 1.0]])))
    1.5
    """

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        difference = _difference(prediction, target)
        return xp.mean(xp.abs(difference), axis=-1), sign(difference) * (1.0 / prediction.shape[-1]), None


@dataclass(frozen=True)
class Huber(Loss):
    r"""Huber's loss: squared where the difference is small, linear where it is large; mean over all entries.

    .. math:: ℓ(d) = d^2/2 \text{ if } |d| ≤ δ, \quad δ(|d| - δ/2) \text{ otherwise}

    Prediction and target have the same shape.

    Parameters
    ----------
    delta : float, default 1.0
        The largest difference that is squared; positive.

    References
    ----------
    .. [1] P. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35
       (1964), pp. 73–101.

    Examples
    --------
    >>> import numpy as np
    >>> float(Huber()(np.asarray([[0.0, 3.0]]), np.asarray([[0.0, 0.0]])))
    1.25
    """

    delta: float = 1.0
    ranges: ClassVar[Ranges] = {"delta": "(0, inf)"}

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        difference = _difference(prediction, target)
        slope = clipped(difference, -self.delta, self.delta)
        # c (d - c/2) with c the clipped difference is both branches at once
        losses = xp.mean(slope * (difference - 0.5 * slope), axis=-1)
        return losses, slope * (1.0 / prediction.shape[-1]), None


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    r"""Cross-entropy of classes, from logits: softmax and logarithm in one.

    With :math:`q` the target distribution over K classes (one-hot, smoothed to :math:`(1-ε)t + ε/K`),
    :math:`c` the class weights and :math:`p` the softmax of the logits :math:`z`,

    .. math:: ℓ = -\sum_k c_k q_k \log p_k, \qquad ∂ℓ/∂z = p \sum_k c_k q_k - c\,q,

    and the loss is :math:`\sum_i w_i ℓ_i / \sum_i w_i c_{t_i}`, as torch defines it for labels.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        The share ε of the target that is spread over all classes: 0 ≤ ε < 1.
    class_weight : sequence of float, optional
        How much each class counts; by default all alike.
    ignore_index : int, optional
        The label of samples that are left out, of the mean too: -100, for example.

    Notes
    -----
    Targets are labels 0 … K-1 (integers) of shape (...), or one row of probabilities for each prediction.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016,
       sec. 7 (label smoothing), https://arxiv.org/abs/1512.00567

    Examples
    --------
    >>> import numpy as np
    >>> loss = SoftmaxCrossEntropy()
    >>> loss.gradient(np.asarray([[0.0, 0.0]]), np.asarray([1]))
    array([[ 0.5, -0.5]])
    """

    label_smoothing: float = 0.0
    class_weight: Sequence[float] | None = None
    ignore_index: int | None = None
    own_numbers: ClassVar[tuple[str, ...]] = ("class_weight",)

    ranges: ClassVar[Ranges] = {"label_smoothing": "[0, 1)", "ignore_index": None}

    @property
    def takes_labels(self) -> bool:
        """True: targets may be class labels."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weight is not None:
            object.__setattr__(self, "class_weight", checked_class_weight(self.class_weight))

    def sample_weights(self, target: np.ndarray[Any, Any], ndim: int) -> np.ndarray[Any, Any] | None:
        """Return the weight of each sample's class, 0 if it is left out; see :meth:`Loss.sample_weights`."""
        weights = None if self.class_weight is None else np.asarray(self.class_weight, np.float64)
        if target.ndim == ndim:
            return None if weights is None else np.asarray(target @ weights)
        kept = np.ones(target.shape) if self.ignore_index is None else np.asarray(target != self.ignore_index, float)
        if weights is not None:
            return kept * weights[np.where(kept, target, 0)]
        return None if self.ignore_index is None else kept

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        n_classes, kept, own = prediction.shape[-1], None, None
        if target.ndim < prediction.ndim:
            labels = row_for(xp.arange(n_classes, device=device(prediction)), prediction)
            given = xp.expand_dims(in_dtype(target, labels.dtype), axis=-1)
            target = given == labels
            if self.ignore_index is not None:
                kept = in_dtype(given != self.ignore_index, prediction.dtype)
        target = in_dtype(target, prediction.dtype)
        if kept is not None:
            target, own = target * kept, kept[..., 0]
        wanted = target
        if self.label_smoothing:
            wanted = (1.0 - self.label_smoothing) * target + self.label_smoothing / n_classes
        if self.class_weight is not None:
            given = xp.asarray(self.class_weight, dtype=prediction.dtype, device=device(prediction))
            per_class = row_for(given, prediction)
            own = xp.sum(target * per_class, axis=-1)
            wanted = wanted * per_class
        log_p, p = log_softmax(prediction)
        if kept is not None:
            wanted, p = wanted * kept, counted(kept, p)
        losses = -xp.sum(counted(wanted, log_p), axis=-1)  # a class that is ruled out has the logarithm -inf
        return losses, p * xp.sum(wanted, axis=-1, keepdims=True) - wanted, own

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check all targets; see :meth:`Loss.check_target`."""
        n_classes = sample_shape[-1]
        if self.class_weight is not None and len(self.class_weight) != n_classes:
            raise ValueError(f"class_weight has {len(self.class_weight)} numbers, and there are {n_classes} classes")
        check_classes(target, sample_shape, self.ignore_index)


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    r"""Binary cross-entropy, from logits; mean over all entries.

    With :math:`t` between 0 and 1 and a weight :math:`a` for positives,

    .. math:: ℓ = a t \log(1 + e^{-z}) + (1 - t) \log(1 + e^{z}), \qquad
              ∂ℓ/∂z = (1 - t)\,σ(z) - a t\,σ(-z)

    Prediction and target have the same shape; each output is an independent label.

    Parameters
    ----------
    positive_weight : float, default 1.0
        How much a positive counts relative to a negative: the :math:`a` of the formula, as torch's ``pos_weight``.

    Examples
    --------
    >>> import numpy as np
    >>> float(SigmoidCrossEntropy()(np.asarray([[1000.0]]), np.asarray([[1]])))
    0.0
    """

    positive_weight: float = 1.0
    ranges: ClassVar[Ranges] = {"positive_weight": "(0, inf)"}

    def sample_losses(self, prediction: Array, target: Array) -> tuple[Array, Array, Array | None]:
        """Return losses and gradients; see :meth:`Loss.sample_losses`."""
        xp = array_namespace(prediction)
        yes = in_dtype(target, prediction.dtype)
        no = 1.0 - yes
        yes = yes * self.positive_weight
        losses = xp.mean(counted(yes, softplus(-prediction)) + counted(no, softplus(prediction)), axis=-1)
        slopes = no * sigmoid(prediction) - yes * sigmoid(-prediction)
        return losses, slopes * (1.0 / prediction.shape[-1]), None

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check all targets; see :meth:`Loss.check_target`."""
        super().check_target(target, sample_shape)
        xp = array_namespace(target)
        if not xp.isdtype(target.dtype, "bool") and (bool(xp.any(target < 0)) or bool(xp.any(target > 1))):
            raise ValueError("the targets of SigmoidCrossEntropy must lie between 0 and 1")
