"""The loss of an ensemble whose members learn side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array, Backend
from dense_xp.learning.losses import Loss


@dataclass(frozen=True)
class MemberLoss(Loss):
    """The mean of a loss over the members of an ensemble, each compared with the same target.

    A prediction with three axes, (n_samples, n_members, n_outputs), is that of the members. One with two axes is that
    of the ensemble, and has the plain loss.

    Parameters
    ----------
    loss : Loss
        That of one member.

    Examples
    --------
    >>> from dense_xp import MeanSquaredError
    >>> loss = MemberLoss(MeanSquaredError())
    >>> float(loss(np.asarray([[[1.0], [3.0]]]), np.asarray([[1.0]])))
    2.0
    >>> float(loss(np.asarray([[2.0]]), np.asarray([[1.0]])))
    1.0
    """

    loss: Loss

    @property
    def outputs_per_target(self) -> int:
        """How many outputs of a member describe one number of the target."""
        return self.loss.outputs_per_target

    @property
    def takes_labels(self) -> bool:
        """Whether targets may be class labels."""
        return self.loss.takes_labels

    def placed(self, backend: Backend, dtype: str) -> Self:
        """Return this loss with its numbers on a device; see :meth:`Loss.placed`."""
        return dataclasses.replace(self, loss=self.loss.placed(backend, dtype))

    def value_and_grad(self, prediction: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Return the loss and its gradient; see :meth:`Loss.value_and_grad`."""
        if prediction.ndim == 3:
            target, weight = (_repeated(each, prediction.shape[1]) for each in (target, weight))
        return self.loss.value_and_grad(prediction, target, weight)

    def sample_weights(self, target: np.ndarray[Any, Any], ndim: int) -> np.ndarray[Any, Any] | None:
        """Return the weights that the plain loss gives to samples; see :meth:`Loss.sample_weights`."""
        return self.loss.sample_weights(target, ndim)

    def check_target(self, target: Array, sample_shape: tuple[int, ...]) -> None:
        """Check all targets; see :meth:`Loss.check_target`."""
        self.loss.check_target(target, sample_shape)


def _repeated(each: Array | None, n_members: int) -> Array | None:
    """Repeat the entries of each sample for each member."""
    if each is None:
        return None
    xp = array_namespace(each)
    return xp.broadcast_to(xp.expand_dims(each, axis=1), (each.shape[0], n_members, *each.shape[1:]))
