"""The step of a training: forward, loss, backward, clipping, update, as one pure function of arrays.

:func:`train_step` writes it out. :class:`CompiledStep` keeps its arrays and has it compiled where the library can;
:class:`EagerStep` drives layers that write the stateful methods alone. Where memory can be written into,
:class:`dense_xp.training.fused.FusedStep` takes their place.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.layers.contract import is_pure, with_inner
from dense_xp.layers.layer import Layer
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import Loss
from dense_xp.learning.metrics import Measure, Statistics, in_step
from dense_xp.learning.optimizers import Optimizer, apply_gradients
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, copied, copies, flatten, merged, place
from dense_xp.training.fused import FusedStep

LOSS_SCALE = "loss.scale"
"""Where the state of a step keeps that of the loss scaling; no layer's name has a dot."""

_compiled: weakref.WeakKeyDictionary[Layer, dict[Any, Callable[..., Any]]] = weakref.WeakKeyDictionary()


def compile_once(
    model: Layer, backend: Backend, key: str, function: Callable[..., Any], donated: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Compile a function of this model; the same function for the same key, so that it is traced once."""
    cache = _compiled.setdefault(model, {})
    full = (backend.spec, key, repr(model.get_config()))
    if full not in cache:
        cache[full] = backend.compile(function, donated)
    return cache[full]


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
        if scale is not None:
            grads, finite = loss_scaling.unscaled(grads, scale)
        value, grads = _penalized(value, model.penalty(params)), model.with_penalty(params, grads)
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


def _penalized(value: Array, penalty: Array | None) -> Array:
    return value if penalty is None else value + in_dtype(penalty, value.dtype)


class _Packing:
    """Arrays in nested dicts as one list: at each call of a compiled step, each array and each dict costs time.

    Parameters
    ----------
    tree : dict
        What is to be packed.
    shared : tuple of str
        Names under which the same array stands everywhere; it is packed once.
    """

    def __init__(self, tree: Params, shared: tuple[str, ...] = ()) -> None:
        self.shared, self.size = shared, 0
        self.places = self._numbered(tree, {})

    def _numbered(self, tree: Params, seen: dict[str, int]) -> Params:
        places: Params = {}
        for key, value in tree.items():
            if isinstance(value, dict):
                places[key] = self._numbered(value, seen)
            elif key in seen:
                places[key] = seen[key]
            else:
                places[key] = self.size
                self.size += 1
                if key in self.shared:
                    seen[key] = places[key]
        return places

    def pack(self, tree: Params) -> list[Any]:
        arrays: list[Any] = [None] * self.size

        def put(places: Params, tree: Params) -> None:
            for key, at in places.items():
                if isinstance(at, dict):
                    put(at, tree[key])
                else:
                    arrays[at] = tree[key]

        put(self.places, tree)
        return arrays

    def unpack(self, arrays: Sequence[Any]) -> Params:
        def taken(places: Params) -> Params:
            return {key: taken(at) if isinstance(at, dict) else arrays[at] for key, at in places.items()}

        return taken(self.places)


def _common_counts(optimizer: Optimizer, backend: Backend, state: Params) -> tuple[str, ...]:
    """Return the counts of an optimizer if they are the same for all parameters: then one will do."""
    flat = flatten(state)
    counted = [value for key, value in flat.items() if key.rpartition(".")[2] in optimizer.counts]
    return optimizer.counts if counted and len(set(backend.scalars(counted).tolist())) == 1 else ()


class CompiledStep:
    """Steps a pure model by one function of arrays; they are here while it trains, in the model after each epoch."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure]) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        self.model, self.backend, self.optimizer = model, model.backend, model.optimizer
        self.compiles = self.optimizer.traceable and self.backend.compiles
        self.scales = model.dtype == "float16"
        state = self._with_scale(model.optimizer_state)
        shared = _common_counts(self.optimizer, self.backend, model.optimizer_state) if self.compiles else ()
        self.packing = packing = _Packing(model.params), _Packing(state, shared)
        self._take(model.params, state)
        self._rate: tuple[float, Any] = (math.nan, None)
        step = train_step(model, loss, in_step(metrics))

        def packed(params: list[Any], state: list[Any], *rest: Any) -> tuple[list[Any], list[Any], tuple[Array, ...]]:
            new_params, new_state, values = step(packing[0].unpack(params), packing[1].unpack(state), *rest)
            return packing[0].pack(new_params), packing[1].pack(new_state), values

        self.step = packed
        if self.optimizer.traceable:
            key = f"step {loss!r} {self.optimizer!r} {list(metrics.items())} {_trainable(model)} {packing[1].places}"
            self.step = compile_once(model, self.backend, key, packed, (0, 1))  # parameters and state

    def _with_scale(self, state: Params) -> Params:
        if not self.scales:
            return state
        return {**state, LOSS_SCALE: loss_scaling.place(self.backend, self.model.loss_scale)}

    def _take(self, params: Params, state: Params) -> None:
        self.params, self.state = self.packing[0].pack(params), self.packing[1].pack(state)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        noise = self.model.draw_noise(rng, tuple(X.shape))
        if noise is not None:
            noise = place(self.backend, noise)
        rate: Any = self.model.learning_rate()
        if self.compiles:
            if rate != self._rate[0]:
                wide = "float64" if self.model.dtype == "float64" else "float32"
                self._rate = rate, self.backend.asarray(rate, wide)
            rate = self._rate[1]
        with np.errstate(over="ignore", invalid="ignore") if self.scales else contextlib.nullcontext():
            self.params, self.state, values = self.step(self.params, self.state, X, y, weight, noise, rate)
        self.model.steps += 1
        return tuple(values)

    def hand_over(self) -> None:
        """Give the model its arrays as they are now."""
        params, state = (
            packing.unpack(arrays) for packing, arrays in zip(self.packing, (self.params, self.state), strict=True)
        )
        if self.scales:
            self.model.loss_scale = loss_scaling.read(self.backend, state.pop(LOSS_SCALE))
        self.model.params, self.model.optimizer_state = params, state

    def snapshot(self) -> tuple[Params, Params, int, tuple[float, float]]:
        """Return what the model has, which no step writes into."""
        model = self.model
        if self.compiles:  # the model keeps its arrays, and the steps use up copies
            self._take(copies(model.params), self._with_scale(copies(model.optimizer_state)))
        return model.params, model.optimizer_state, model.steps, model.loss_scale

    def restore(self, snapshot: tuple[Params, Params, int, tuple[float, float]]) -> None:
        """Give the model those back, and go on from there."""
        self.model.steps, self.model.loss_scale = snapshot[2:]
        self._take(snapshot[0], self._with_scale(snapshot[1]))
        self.hand_over()


class EagerStep:
    """Steps a model with layers that write the stateful methods alone: layer by layer."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure]) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        if getattr(model.optimizer, "clip_norm", None) is not None:
            raise ValueError(
                "clip_norm needs all gradients at once, and a layer that writes only the stateful methods "
                "keeps its own to itself: use clip_value, or write forward and backward for that layer"
            )
        self.model, self.loss, self.metrics = model, loss, in_step(metrics)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        Y = widened(self.model.forward_pass(X, training=True))
        value, grad = self.loss.value_and_grad(Y, y, weight)
        value = _penalized(value, self.model.penalty(self.model.params))
        self.model.backward_pass(grad)
        return value, *(copied(metric(Y, y, weight)) for metric in self.metrics)

    def hand_over(self) -> None:
        """Do nothing: the layers have their arrays themselves."""

    def snapshot(self) -> Params:
        """Return copies of the parameters that the layers show."""
        return copies(self.model.params)

    def restore(self, snapshot: Params) -> None:
        """Give the model those back; what a stateful layer keeps to itself cannot be brought back from here."""
        self.model.params = snapshot


Step: TypeAlias = FusedStep | CompiledStep | EagerStep


def stepper(model: Layer, loss: Loss, metrics: Mapping[str, Measure], X_ndim: int, batch_size: int) -> Step:
    """Return what steps this model fastest, on inputs of so many axes and batches of at most so many samples."""
    if not is_pure(model):
        return EagerStep(model, loss, metrics)
    if FusedStep.serves(model, X_ndim):
        return FusedStep(model, loss, in_step(metrics), batch_size)
    return CompiledStep(model, loss, metrics)


def _trainable(model: Layer) -> list[bool]:
    return [layer.trainable for layer in with_inner(model)]
