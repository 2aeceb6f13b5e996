"""The pure step, recorded as one CUDA graph: for models and dtypes that the fused step does not serve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dense_xp.backend import Array
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure
from dense_xp.support.dtypes import wide
from dense_xp.support.products import taken_by
from dense_xp.support.trees import copied
from dense_xp.training.compiled import CompiledStep


class RecordedStep(CompiledStep):
    """Steps a pure model in arrays that stay in the same memory, as a graph needs it; the model is given copies."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], accumulate: int = 1) -> None:
        super().__init__(model, loss, metrics, accumulate)
        self.arrays, self.state = self._copies()
        kernels = kernels_for(self.backend.kernels)
        self.product, self.recorder = kernels.product, kernels.Recorder(1, self.backend.dtype(wide(model.dtype)))

    @staticmethod
    def serves(model: Layer) -> bool:
        """Whether the steps of this model can be recorded."""
        backend, optimizer = model.backend, model.optimizer
        return (
            backend is not None
            and bool(backend.kernels)
            and optional(kernels_for(backend.kernels), "Recorder") is not None
            and optimizer is not None
            and optimizer.traceable
        )

    def _run(self, function: Callable[..., Any], *arrays: Any) -> tuple[Array, ...]:
        self.whole = False
        with taken_by(self.product):
            work = functools.partial(self.work, function)
            values: tuple[Array, ...] = self.recorder(work, arrays, [self.model.learning_rate()])
        return values

    @property
    def unrecorded(self) -> str:
        """Why the steps are not replayed as one recorded graph; empty if they are."""
        return str(self.recorder.reason)

    def work(self, function: Callable[..., Any], *arrays: Any) -> tuple[Array, ...]:
        """Do what a step does with arrays: nothing in here may depend on what changes on the host."""
        params, state, values = function(self.arrays, self.state, *arrays, self.recorder.numbers[0])
        for place, array in zip([*self.arrays, *self.state], [*params, *state], strict=True):
            if array is not place:
                place[...] = array
        return tuple(values)

    def _copies(self) -> tuple[list[Array], list[Array]]:
        return [copied(array) for array in self.arrays], [copied(array) for array in self.state]

    def hand_over(self) -> None:
        """Give the model copies of the arrays as they are now."""
        self.finish()
        own = self.arrays, self.state
        self.arrays, self.state = self._copies()
        super().hand_over()
        self.arrays, self.state = own
