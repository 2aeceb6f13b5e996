"""The fused training step: the same as :func:`dense_xp.training.step.train_step`, in memory that it owns.

Three things cost what the matrix products do not: fresh arrays (their pages have to be mapped), passes over
memory, and calls. So each layer of the model becomes a stage that keeps its arrays for all batches. In the
forward pass a stage adds its bias and applies its activation in place; in the backward pass it overwrites its
output, which is not needed any more, with the gradient. A parameter is updated as soon as its gradient is there,
some rows at a time where it is large, so that the gradients are never held all at once.

It serves every library whose arrays can be written into and for which there are kernels; nothing in it waits for
a device. A stage that has no kernels calls the pure functions of its layer, so every pure layer, loss and metric
serves. The model's own arrays are never written into: after each epoch the model is given copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from dense_xp.backend import Array, Backend
from dense_xp.kernels import Recorder
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metric import Statistics
from dense_xp.support.products import taken_by
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, at_path, copied, tree_of
from dense_xp.training.accumulation import Accumulating, divisor, total_weight
from dense_xp.training.feeding import NoiseFeeder
from dense_xp.training.fused.epilogues import EpilogueStage, linked
from dense_xp.training.fused.stages import DenseStage, chained, leaves, stages_of
from dense_xp.training.fused.updates import RecordedUpdate, Update
from dense_xp.training.fused.workspace import Workspace, aligned
from dense_xp.training.moments import Moment

ROOM = 64
"""So many numbers lie before the gradients; the last is the total weight of the batch."""


class FusedStep(Accumulating):
    """Steps a model in arrays of its own; the model is given copies.

    Parameters
    ----------
    model : Layer
        Initialized, pure, on a backend with kernels.
    loss : Loss
        What is minimised.
    metrics : sequence of callables
        Computed from the same prediction, target and weights.
    batch_size : int
        The most samples that a batch will have.
    accumulate : int, default 1
        How many batches make one update.

    Attributes
    ----------
    gradients : array, shape (n,)
        Memory for gradients, after :data:`ROOM` numbers: for all of them at once if they are kept.
    sums : array, shape (n,)
        Their sums over batches; the same memory if an update has one batch.
    """

    sums_up = False
    """Whether gradients are summed before the update even if it has one batch."""

    def __init__(
        self, model: Layer, loss: Loss, metrics: Sequence[Statistics], batch_size: int, accumulate: int = 1
    ) -> None:
        self.space = space = Workspace(model, batch_size, self.sums_up or accumulate > 1)
        self.model, self.loss, self.metrics = model, loss.placed(space.backend, model.dtype), tuple(metrics)
        dense = EpilogueStage if space.epilogues else DenseStage
        self.layers = [
            stage for path, layer, learns in leaves(model) for stage in stages_of(path, layer, learns, space, dense)
        ]
        self.stages = list(linked(chained(self.layers, space)))
        sizes = [aligned(stage.largest_tile()) for stage in self.stages]
        self.gradients = space.empty(ROOM + (sum if space.keeps_gradients else max)(sizes))
        self.gradients[...] = 0.0
        self.sums = copied(self.gradients) if accumulate > 1 else self.gradients
        start = ROOM
        for stage, size in zip(self.stages, sizes, strict=True):
            stage.plan(self.gradients[start : start + size])
            start += size if space.keeps_gradients else 0
        learning = [i for i, stage in enumerate(self.stages) if stage.blocks]
        self.first = min(learning, default=len(self.stages))
        self.regularized = [stage for stage in self.layers if stage.blocks and stage.layer.regularizers]
        self.blocks = [block for stage in self.stages for block in stage.blocks]
        self.recorder: Recorder | None = None
        if isinstance(space.update, RecordedUpdate):
            counts = sorted({block.steps for block in self.blocks})
            self.recorder = space.kernels.Recorder(2 + len(counts), space.dtype)
            space.update.place(self.recorder.numbers, counts)
        self.noise = NoiseFeeder(space.backend)
        self.size = 0
        self.accumulate, self.waiting = accumulate, 0
        self.total_weight = total_weight(self.loss)
        self.kept: list[list[Array]] = []
        self.numbers: list[float] = []
        self.whole = True

    @staticmethod
    def serves(model: Layer, X_ndim: int) -> bool:
        """Whether this model can be stepped here."""
        optimizer = model.optimizer
        return (
            model.backend is not None
            and bool(model.backend.kernels)
            and model.dtype in ("float32", "float64")
            and X_ndim == 2
            and optimizer is not None
            and Update.serves(optimizer)
            and all(_one_count(layer, model.backend) for _, layer, _ in leaves(model))
        )

    # ------------------------------------------------------------------ one step

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Any, ...]:
        """Take one step on a batch; return the loss and the metrics."""
        space = self.space
        if X.shape[0] != self.size:
            self.size = X.shape[0]
            for stage in self.stages:
                stage.resize(self.size)
        noise = self.noise.drawn(self.model, rng, tuple(X.shape))
        self.whole = False
        if not self.waiting:
            space.rate = self.model.learning_rate()
            for block in self.blocks:
                block.steps += 1
            if self.recorder is not None and isinstance(space.update, RecordedUpdate):
                self.numbers = space.update.next_numbers(space.rate)
        values: tuple[Any, ...]
        if self.recorder is None:
            values = self.work(X, y, weight, noise)
        else:
            values = self._recorded(self.work, X, y, weight, noise)
        if space.accumulates:
            self.add()
            self.count()
        else:
            self.model.steps += 1
            self.whole = True
        return values

    def move(self) -> None:
        """Update the parameters by the sums of the gradients."""
        if self.recorder is None:
            self.move_by_sums()
        else:
            self._recorded(self.move_by_sums)

    def _recorded(self, work: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
        assert self.recorder is not None
        with taken_by(self.space.kernels.product):
            values: tuple[Any, ...] = self.recorder(work, arrays, self.numbers)
        return values

    @functools.cached_property
    def params(self) -> Params:
        """See :class:`~dense_xp.training.steps.Step`; always the same memory."""
        return tree_of((stage.path, stage.views()) for stage in self.layers)

    @property
    def unrecorded(self) -> str:
        """Why the steps are not replayed as one recorded graph; empty if they are, or if the library has none."""
        return "" if self.recorder is None else self.recorder.reason

    def work(self, X: Array, y: Array, weight: Any, noise: Any) -> tuple[Any, ...]:
        """Do what a step does with arrays: nothing in here may depend on what changes on the host."""
        Y = X
        for stage in self.stages:
            stage.grads = []
            Y = stage.forward(Y, noise if noise is None else at_path(noise, stage.path))
        values = [copied(metric(Y, y, weight)) for metric in self.metrics]  # Y is overwritten, and so would be a view
        total = self.total_weight(Y, y, weight) if self.space.accumulates else None
        value, grad = self.value_and_grad(Y, y, weight)
        if total is not None:
            self.gradients[ROOM - 1, ...] = total
            grad = grad * total
        for stage in self.regularized:
            value = value + stage.layer.penalty(stage.params)
        for i in range(len(self.stages) - 1, self.first - 1, -1):
            grad = self.stages[i].backward(grad, i > self.first)
        if total is not None:
            self.kept = [list(stage.grads) for stage in self.stages]  # a replay writes to the same memory
        elif self.space.keeps_gradients:
            self.move_clipped()
        return (value, *values)

    def value_and_grad(self, Y: Array, y: Array, weight: Any) -> tuple[Any, Array]:
        """Return the loss and its gradient, which overwrites the prediction where the step owns that memory."""
        loss, last = self.loss, self.stages[-1]
        if last.owns_linear_output and weight is None:
            if (
                type(loss) is SoftmaxCrossEntropy
                and y.ndim == 1
                and loss.class_weight is None
                and loss.ignore_index is None
            ):
                return self.space.kernels.softmax_cross_entropy(Y, y, loss.label_smoothing), Y
            if type(loss) is MeanSquaredError and y.dtype == Y.dtype:
                return self.space.kernels.squared_error(Y, y), Y
        return loss.value_and_grad(Y, y, weight)

    def add(self) -> None:
        """Add the gradients and the weight of the batch to the sums over the batches before."""
        if self.sums is not self.gradients:
            self.sums += self.gradients

    def move_by_sums(self) -> tuple[Any, ...]:
        """Update all parameters by the mean gradient of the batches, and reset the sums."""
        if self.sums is not self.gradients:
            self.gradients[...] = self.sums
            self.sums[...] = 0.0
        self.gradients /= divisor(self.gradients[ROOM - 1 : ROOM])
        for stage, grads in zip(self.stages, self.kept, strict=True):
            stage.grads = list(grads)
        for stage in self.regularized:
            stage.penalize()
        self.move_clipped()
        return ()

    def move_clipped(self) -> None:
        """Clip all gradients, and update all parameters."""
        grads = [grad for stage in self.stages for grad in stage.grads]
        if self.space.optimizer.clip_value is not None:
            for grad in grads:
                self.space.kernels.clip(grad, self.space.optimizer.clip_value)
        if grads and self.space.optimizer.clip_norm is not None:
            self.space.kernels.clip_norm(grads, self.space.optimizer.clip_norm)
        for stage in self.stages:
            stage.move_all()

    # ------------------------------------------------------------------ the model's arrays

    def begin_epoch(self) -> None:
        """Do nothing: the model has copies."""

    def moment(self) -> Moment:
        """Return what the model has: the arrays of the last epoch, which no step writes into."""
        return Moment.of(self.model)

    def hand_over(self) -> None:
        """Give the model copies of the arrays as they are now."""
        self.finish()
        params = tree_of((stage.path, stage.own_params()) for stage in self.layers)
        state = tree_of((stage.path, stage.own_state()) for stage in self.layers)
        self.model.params, self.model.optimizer_state = params, state


def _one_count(layer: Layer, backend: Backend) -> bool:
    """Whether all parameters of a layer had equally many updates, as one kernel call assumes."""
    steps = [own["steps"] for own in layer.optimizer_state.values() if "steps" in own]
    return not steps or len(set(backend.scalars(steps).tolist())) == 1
