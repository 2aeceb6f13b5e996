"""The steps of :mod:`dense_xp.training.steps` on a part of each batch: gradients are added up before they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, in_step
from dense_xp.support.batches import shared
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, flatten, unflatten
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.distributed.reductions import HEAD
from dense_xp.training.distributed.shares import Part, PartOfLoss, PartOfNoise
from dense_xp.training.distributed.signals import SharedInterrupts
from dense_xp.training.fused.step import FusedStep


class ReducedStep(CompiledStep):
    """The pure step, for every library: loss and gradients travel in one array."""

    def __init__(
        self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], part: Part, interrupts: SharedInterrupts
    ) -> None:
        super().__init__(model, PartOfLoss(loss, part), metrics, self.reduced)
        self.part, self.interrupts = part, interrupts
        self.noise = PartOfNoise(self.backend, part)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return its loss, and what the metrics keep of the rows that are here."""
        with shared(self.part):
            return super().__call__(X, y, weight, rng)

    def reduced(self, value: Array, grads: Params) -> tuple[Array, Params]:
        """Return loss and gradients of the whole batch, given what the rows that are here add to them."""
        xp, leaves = array_namespace(value), flatten(grads)
        head = xp.zeros((HEAD,), dtype=value.dtype, device=device(value))
        arrays = [head, value, *map(widened, leaves.values())]
        flat = xp.concat([xp.reshape(array, (-1,)) for array in arrays])
        # a row that is only there to take part has a gradient behind layers with means over the batch
        flat = flat if self.part.share else xp.zeros_like(flat)
        flat = self.part.reduction.sum(flat, self.interrupts)
        start, whole = HEAD + 1, {}
        for name, grad in leaves.items():
            stop = start + math.prod(grad.shape)
            # back in 16 bits, a sum that is too large overflows as it would in one process
            whole[name] = in_dtype(xp.reshape(flat[start:stop], tuple(grad.shape)), grad.dtype)
            start = stop
        return xp.reshape(flat[HEAD : HEAD + 1], ()), unflatten(whole)


class ReducedFusedStep(FusedStep):
    """The step in memory of its own: its gradients lie there one after the other, and so travel without a copy."""

    head = HEAD + 1

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        metrics: Mapping[str, Measure],
        batch_size: int,
        part: Part,
        interrupts: SharedInterrupts,
        adds_penalties: bool,
    ) -> None:
        super().__init__(model, loss, in_step(metrics), batch_size)
        self.part, self.interrupts = part, interrupts
        self.noise = PartOfNoise(self.space.backend, part)
        self.space.adds_penalties = adds_penalties

    @staticmethod
    def serves(model: Layer, X_ndim: int) -> bool:
        """Whether the step of this model can be taken here: nothing that asks other processes can be recorded."""
        if not FusedStep.serves(model, X_ndim):
            return False
        return optional(kernels_for(model.built().kernels), "Recorder") is None

    def work(self, X: Array, y: Array, weight: Any, noise: Any) -> tuple[Any, ...]:
        """Do what a step does with arrays, with means over the whole batch."""
        with shared(self.part):
            return super().work(X, y, weight, noise)

    def value_and_grad(self, Y: Array, y: Array, weight: Any) -> tuple[Any, Array]:
        """Return what the rows that are here add to the loss, and its gradient."""
        value, grad = super().value_and_grad(Y, y, weight)
        grad *= self.part.weight
        return value * self.part.weight, grad

    def reduced(self, value: Any) -> Any:
        """Return the loss of the whole batch, and leave its gradients where those of the rows that are here were."""
        memory = self.gradients
        if not self.part.share:  # see above
            memory[...] = 0.0
        memory[HEAD] = value
        total = self.part.reduction.sum(memory, self.interrupts)
        if total is not memory:
            memory[...] = total
        return memory[HEAD] + 0.0  # a number of its own: the memory is used again
