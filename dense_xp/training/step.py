"""The step of a training as one pure function of arrays: forward, loss, backward, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Statistics
from dense_xp.learning.optimizer import apply_gradients
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.trees import Params, copied, merged

LOSS_SCALE = "loss.scale"
"""The key of the loss scaling in the state of a step; no layer's name has a dot."""


def train_step(model: Layer, loss: Loss, metrics: Sequence[Statistics] = ()) -> Callable[..., Any]:
    """Return one training step of a model as a pure function of arrays.

    Parameters
    ----------
    model : Layer
        An initialized model; its optimizer is the one that steps.
    loss : Loss
        What is minimised.
    metrics : sequence of callables
        Functions of (prediction, target, weight): means, or the statistics of a :class:`Metric`.

    Returns
    -------
    callable
        ``step(params, state, X, y, weight, noise, learning_rate) -> (params, state, values)``, where
        ``values`` is the loss followed by the metrics. Beside the optimizer's state, `state` may hold that of
        :mod:`dense_xp.learning.loss_scaling`, under :data:`LOSS_SCALE`.
    """
    gradients, update = halves(model, loss, metrics)

    def step(params: Params, state: Params, X: Array, y: Array, weight: Any, noise: Any, learning_rate: Any) -> Any:
        grads, seen, values = gradients(params, state, X, y, weight, noise)
        return *update(seen, state, grads, learning_rate), values

    return step


def halves(model: Layer, loss: Loss, metrics: Sequence[Statistics] = ()) -> tuple[Callable[..., Any], ...]:
    """Return the two halves of a step, pure functions of arrays: the gradients of a batch, and the update by them.

    Parameters
    ----------
    model, loss, metrics
        As in :func:`train_step`.

    Returns
    -------
    gradients : callable
        ``gradients(params, state, X, y, weight, noise) -> (grads, params, values)``: the gradients of the loss
        alone, times the factor of the loss scaling if there is one, and the parameters with their new buffers.
    update : callable
        ``update(params, state, grads, learning_rate) -> (params, state)``.
    """
    optimizer = model.optimizer
    assert optimizer is not None

    def gradients(params: Params, state: Params, X: Array, y: Array, weight: Any, noise: Any) -> Any:
        Y, cache = model.forward(params, X, training=True, noise=noise)
        wide = widened(Y)
        value, grad = loss.value_and_grad(wide, y, weight)
        if LOSS_SCALE in state:
            grad = grad * state[LOSS_SCALE]["factor"]
        grads = model.parameter_gradients(params, cache, in_dtype(grad, Y.dtype))
        # copied: the memory of the batch may be used again
        values = penalized(value, model.penalty(params)), *(copied(metric(wide, y, weight)) for metric in metrics)
        return grads, merged(params, model.updated_buffers(cache)), values

    def update(params: Params, state: Params, grads: Params, learning_rate: Any) -> tuple[Params, Params]:
        scale = state.get(LOSS_SCALE)
        if scale is not None:
            grads, finite = loss_scaling.unscaled(grads, scale)
        grads = optimizer.clip(model.with_penalty(params, grads))
        moved = apply_gradients(optimizer, params, grads, state, learning_rate)
        moved = model.allowed(moved[0]), moved[1]
        if scale is not None:
            moved = loss_scaling.chosen(finite, moved[0], params), loss_scaling.chosen(finite, moved[1], state)
            moved[1][LOSS_SCALE] = loss_scaling.advanced(scale, finite)
        return moved

    return gradients, update


def penalized(value: Array, penalty: Array | None) -> Array:
    """Add the penalty to the loss, if there is one."""
    return value if penalty is None else value + in_dtype(penalty, value.dtype)
