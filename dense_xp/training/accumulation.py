"""Gradient accumulation: one update from several batches, as from one batch that is too large for the memory.

The gradient of a loss over k batches is Σ Wᵢ gᵢ / Σ Wᵢ, where gᵢ is that of batch i and Wᵢ the sum of the weights of
its samples, or their number. The sums are arrays on the device, so that the host need not wait. Parts of a batch in
several processes are combined in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Statistics
from dense_xp.support.batches import batch_rows
from dense_xp.support.dtypes import in_dtype, wide, widened
from dense_xp.support.trees import Params, mapped, merged, tree_of
from dense_xp.training.fused.stages import leaves
from dense_xp.training.step import halves

SUMS = "gradient.sums"
"""The key of the sums in the state of a step; no layer's name has a dot."""


class Accumulating:
    """A step that updates the parameters after so many batches; subclasses say how, in :meth:`move`."""

    model: Layer
    accumulate: int
    waiting: int
    whole: bool

    def move(self) -> None:
        """Update the parameters by the sums of the gradients."""
        raise NotImplementedError

    def count(self) -> None:
        """Count a batch; after the last one for an update, make the update."""
        self.waiting += 1
        if self.waiting == self.accumulate:
            self.finish()
        self.whole = True

    def finish(self) -> None:
        """Update the parameters by the batches since the last update, if there are any."""
        if not self.waiting:
            return
        self.move()
        self.model.steps += 1
        self.waiting, self.whole = 0, True


def total_weight(loss: Loss) -> Statistics:
    """Return the function of (prediction, target, weight) that sums the weights of a batch's samples in a loss.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import MeanSquaredError
    >>> total = total_weight(MeanSquaredError())
    >>> float(total(np.ones((3, 1)), np.ones((3, 1)), None)), float(total(np.ones((2, 1)), np.ones((2, 1)), np.ones(2)))
    (3.0, 2.0)
    """
    has_own = type(loss).sample_weights is not Loss.sample_weights

    def total(prediction: Array, target: Array, weight: Array | None) -> Array:
        xp = array_namespace(prediction)
        own = loss.sample_losses(prediction, target)[2] if has_own else None
        if own is None and weight is None:
            n = float(math.prod(prediction.shape[:-1]))
            return xp.full((), n, dtype=prediction.dtype, device=device(prediction))
        given = own if weight is None else in_dtype(weight, prediction.dtype)
        return xp.sum(given if own is None or weight is None else given * own)

    return total


def learning_params(model: Layer) -> Params:
    """Return the parameters that get gradients: no buffers, and nothing of frozen layers."""

    def own(layer: Layer) -> Params:
        return {name: value for name, value in layer.params.items() if name not in layer.buffers}

    return tree_of((path, own(layer)) for path, layer, learns in leaves(model) if learns)


def no_sums(model: Layer) -> Params:
    """Return the sums before the first batch: zeros, in at least 32 bits."""
    grads = zeros_of(mapped(widened, learning_params(model)))
    return {"grads": grads, "weight": model.built().asarray(0.0, wide(model.dtype))}


def zeros_of(tree: Params) -> Params:
    """Return zeros in place of the arrays in nested dicts."""
    zeros: Params = mapped(lambda array: array_namespace(array).zeros_like(array), tree)
    return zeros


def divisor(weight: Array) -> Array:
    """Return the weight to divide a sum by: 1 in place of 0, so that batches of weight zero have the gradient zero."""
    xp = array_namespace(weight)
    return xp.where(weight > 0, weight, xp.ones_like(weight))


class _Weighted(Loss):
    """A loss whose gradient is scaled by the weight of its samples, divided by the number of rows.

    By the weight alone, gradients of 16 bits would overflow.
    """

    def __init__(self, loss: Loss, rows: int) -> None:
        self.loss, self.rows, self.total = loss, rows, total_weight(loss)

    def value_and_grad(self, prediction: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Return the value, and the scaled gradient; see :meth:`Loss.value_and_grad`."""
        value, grad = self.loss.value_and_grad(prediction, target, weight)
        return value, grad * in_dtype(self.total(prediction, target, weight) / self.rows, grad.dtype)


def accumulating(model: Layer, loss: Loss, metrics: Sequence[Statistics]) -> tuple[Callable[..., Any], ...]:
    """Return two pure functions: one adds a batch to the sums, the other updates the parameters by them.

    Parameters
    ----------
    model, loss, metrics
        As in :func:`~dense_xp.training.step.train_step`.

    Returns
    -------
    add : callable
        ``add(params, state, X, y, weight, noise, learning_rate) -> (params, state, values)``.
    update : callable
        ``update(params, state, learning_rate) -> (params, state, ())``.
    """
    measures = total_weight(loss), *metrics
    _, move = halves(model, loss)

    def add(params: Params, state: Params, X: Array, y: Array, weight: Any, noise: Any, learning_rate: Any) -> Any:
        # of the whole batch: layers with means over it mix gradients of several processes, which must be scaled alike
        rows = batch_rows(math.prod(X.shape[:-1]))
        gradients, _ = halves(model, _Weighted(loss, rows), measures)
        grads, params, (value, total, *values) = gradients(params, state, X, y, weight, noise)
        sums = state[SUMS]
        new = mapped(lambda grad, old: old + widened(grad) * rows, grads, sums["grads"])
        sums = {"grads": merged(sums["grads"], new), "weight": sums["weight"] + in_dtype(total, sums["weight"].dtype)}
        return params, {**state, SUMS: sums}, (value, *values)

    def update(params: Params, state: Params, learning_rate: Any) -> Any:
        sums = state[SUMS]
        weight = divisor(sums["weight"])

        def mean(total: Array, param: Array) -> Array:  # in 16 bits, what is too large overflows as in a large batch
            return in_dtype(total / in_dtype(weight, total.dtype), param.dtype)

        grads = mapped(mean, sums["grads"], params)
        params, state = move(params, state, grads, learning_rate)
        return params, {**state, SUMS: zeros_of(sums)}, ()

    return add, update
