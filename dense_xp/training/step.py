"""The step of a training as one pure function of arrays: forward, loss, backward, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Statistics
from dense_xp.learning.optimizer import apply_gradients
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.trees import Params, copied, merged

LOSS_SCALE = "loss.scale"
"""Where the state of a step keeps that of the loss scaling; no layer's name has a dot."""

Reduction: TypeAlias = Callable[[Array, Params], tuple[Array, Params]]
"""Turns the loss and the gradients of some rows of a batch into those of all its rows."""


def train_step(
    model: Layer, loss: Loss, metrics: Sequence[Statistics] = (), reduced: Reduction | None = None
) -> Callable[..., Any]:
    """Return one training step of a model as a pure function of arrays.

    Parameters
    ----------
    model : Layer
        An initialized model; its optimizer is the one that steps.
    loss : Loss
        What is minimised.
    metrics : sequence of callables
        Functions of (prediction, target, weight): means, or the statistics of a :class:`Metric`.
    reduced : callable, optional
        Called with loss and gradients before anything else is done with them, where other processes have rows too.

    Returns
    -------
    callable
        ``step(params, state, X, y, weight, noise, learning_rate) -> (params, state, values)``, where
        ``values`` is the loss followed by the metrics. Beside the optimizer's, `state` may hold one of
        :mod:`dense_xp.learning.loss_scaling`, under :data:`LOSS_SCALE`.
    """
    optimizer = model.optimizer
    assert optimizer is not None

    def step(
        params: Params, state: Params, X: Array, y: Array, weight: Any, noise: Any, learning_rate: Any
    ) -> tuple[Params, Params, tuple[Array, ...]]:
        Y, cache = model.forward(params, X, training=True, noise=noise)
        wide = widened(Y)
        value, grad = loss.value_and_grad(wide, y, weight)
        scale = state.get(LOSS_SCALE)
        if scale is not None:
            grad = grad * scale["factor"]
        grads = model.parameter_gradients(params, cache, in_dtype(grad, Y.dtype))
        if reduced is not None:
            value, grads = reduced(value, grads)
        if scale is not None:
            grads, finite = loss_scaling.unscaled(grads, scale)
        value, grads = penalized(value, model.penalty(params)), model.with_penalty(params, grads)
        moved = apply_gradients(optimizer, params, optimizer.clip(grads), state, learning_rate)
        moved = model.allowed(moved[0]), moved[1]
        if scale is not None:
            moved = loss_scaling.chosen(finite, moved[0], params), loss_scaling.chosen(finite, moved[1], state)
            moved[1][LOSS_SCALE] = loss_scaling.advanced(scale, finite)
        params, state = moved
        if buffers := model.updated_buffers(cache):
            params = merged(params, buffers)
        # in memory of their own: that of the batch may be used again
        return params, state, (value, *(copied(metric(wide, y, weight)) for metric in metrics))

    return step


def penalized(value: Array, penalty: Array | None) -> Array:
    """Add the penalty to the loss, if there is one."""
    return value if penalty is None else value + in_dtype(penalty, value.dtype)
