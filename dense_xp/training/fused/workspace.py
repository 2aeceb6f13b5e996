"""What the stages of a step share: memory, kernels, and the optimizer's update."""

from __future__ import annotations

import math
from typing import Any

from dense_xp.backend import Array, Backend
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.layer import Layer
from dense_xp.training.fused.updates import RecordedUpdate, Update


class Workspace:
    """Memory, kernels and update of one training.

    Parameters
    ----------
    model : Layer
        Initialized, with an optimizer, on a backend with kernels.
    batch_size : int
        The most samples that a batch will have.
    accumulates : bool
        Whether gradients are summed, of several batches or processes, before they are used.

    Attributes
    ----------
    keeps_gradients : bool
        Whether gradients are kept until all are there, because they are summed or their common norm is limited.
    few_rows : bool
        Whether batches are so small, and layers so large, that products and updates have kernels of their own.
    moves_at_once : bool
        Whether these may update weights while they compute the gradient.
    epilogues : module or None
        Products with epilogues, where the set of kernels has them and they were asked for.
    rate : float
        The learning rate of this step.
    """

    def __init__(self, model: Layer, batch_size: int, accumulates: bool) -> None:
        assert model.optimizer is not None
        self.backend: Backend = model.built()
        self.optimizer, self.batch_size = model.optimizer, batch_size
        self.kernels = kernels_for(self.backend.kernels)
        self.update = (RecordedUpdate if optional(self.kernels, "Recorder") else Update)(self.optimizer, self.kernels)
        self.epilogues: Any = (optional(self.kernels, "epilogues") or _none)()
        self.accumulates = accumulates
        self.keeps_gradients = accumulates or self.optimizer.clip_norm is not None
        few_rows, shapes = optional(self.kernels, "few_rows"), [W.shape for W in model.weights.values()]
        self.few_rows = few_rows is not None and few_rows(batch_size, shapes)
        self.moves_at_once = self.few_rows and not self.keeps_gradients and self.optimizer.clip_value is None
        self.dtype = self.backend.dtype(model.dtype)
        self.rate = 0.0
        self._scratch, self._scratch_size = self.empty(0), 0

    def empty(self, *shape: int) -> Array:
        """Return new memory of the model's dtype."""
        make = optional(self.kernels, "empty") or self.backend.xp.empty
        return make(shape, dtype=self.dtype, device=self.backend.device)

    def scratch(self, *shape: int) -> Array:
        """Return memory for the gradient of an input, which is used up before the next one is asked for."""
        size = math.prod(shape)
        if self._scratch_size < size:  # for the largest batch at once: a recorded step must find it where it was
            self._scratch_size = size // shape[0] * self.batch_size
            self._scratch = self.empty(self._scratch_size)
        return self._scratch[:size].reshape(shape)

    def move(self, values: Array, state: tuple[Array, ...], grad: Array, steps: int, decays: bool) -> None:
        """Update some parameters by their gradient."""
        limit = self.optimizer.clip_value
        if limit is not None and not self.keeps_gradients:
            self.kernels.clip(grad, limit)
        self.update.kernel(values, grad, *state, *self.update.at(self.rate, steps, decays))


def _none() -> None:
    """Stand for what a set of kernels leaves out."""


def aligned(size: int) -> int:
    """Return the next multiple of 64: products are faster into memory that begins there.

    Examples
    --------
    >>> aligned(65)
    128
    """
    return -(-size // 64) * 64
