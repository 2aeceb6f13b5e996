"""The steps of :mod:`dense_xp.training.steps` on a part of each batch.

Gradients are accumulated over one batch or several, and their sums are added up over the ranks before the update. What
comes before and after this reduction are functions of arrays, which are compiled or recorded as those of one process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm
from dense_xp.support.batches import shared
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import copied, flatten
from dense_xp.training.accumulation import SUMS
from dense_xp.training.compiled import CompiledStep, compile_once
from dense_xp.training.distributed.reductions import HEAD
from dense_xp.training.distributed.shares import Part, PartOfNoise
from dense_xp.training.distributed.signals import SharedInterrupts
from dense_xp.training.fused.step import FusedStep


def asks_within(model: Layer) -> bool:
    """Whether layers need the other ranks in the middle of a step, which then can be neither compiled nor recorded."""
    return any(isinstance(layer, BatchNorm) for layer in with_inner(model))


class ReducedStep(CompiledStep):
    """The pure step, for every library: the sums of the gradients are reduced as one array."""

    sums_up = True

    def __init__(self, model: Layer, *of_step: Any, part: Part, interrupts: SharedInterrupts) -> None:
        super().__init__(model, *of_step)
        self.part, self.interrupts = part, interrupts
        self.noise = PartOfNoise(self.backend, part)
        self.places: list[int] = list(flatten(self.packing[1].places[SUMS]).values())
        shapes = [tuple(self.state[place].shape) for place in self.places]
        self.join = compile_once(model, self.backend, "sums joined", joined)
        self.split = compile_once(model, self.backend, f"sums split {shapes}", splitting(shapes))

    def traceable(self) -> bool:
        """Whether the functions of the step depend on arrays alone, and not on other ranks."""
        return super().traceable() and not asks_within(self.model)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and the statistics of the metrics, for this rank's rows."""
        values = super().__call__(X, y, weight, rng)
        self.whole = not self.waiting  # a rank that is interrupted alone cannot finish the update alone
        return values

    def _run(self, function: Callable[..., Any], *arrays: Any) -> tuple[Array, ...]:
        if function is not self.step:
            return super()._run(function, *arrays)
        # in layers with means over the batch even a row with weight zero has a gradient, which is not kept
        kept = None if self.part.share else [copied(self.state[place]) for place in self.places]
        with shared(self.part):
            values = super()._run(function, *arrays)
        if kept is not None:
            self._put(kept)
        return values

    def _put(self, sums: Sequence[Array]) -> None:
        for place, array in zip(self.places, sums, strict=True):
            self.state[place] = array

    def move(self) -> None:
        """Add up the sums of all ranks, and update the parameters by them."""
        flat = self.join([self.state[place] for place in self.places])
        self._put(self.split(self.part.reduction.sum(flat, self.interrupts)))
        super().move()


def joined(arrays: Sequence[Array]) -> Array:
    """Return arrays as one, after :data:`HEAD` zeros for signals.

    Examples
    --------
    >>> import numpy as np
    >>> joined([np.ones((1, 2)), np.asarray(3.0)])
    array([0., 0., 1., 1., 3.])
    """
    xp, like = array_namespace(*arrays), arrays[0]
    head = xp.zeros((HEAD,), dtype=like.dtype, device=device(like))
    return xp.concat([head, *(xp.reshape(array, (-1,)) for array in arrays)])


def splitting(shapes: Sequence[tuple[int, ...]]) -> Callable[[Array], list[Array]]:
    """Return the function that undoes :func:`joined` for arrays of these shapes.

    Examples
    --------
    >>> import numpy as np
    >>> splitting([(1, 2), ()])(np.asarray([0.0, 0.0, 1.0, 1.0, 3.0]))
    [array([[1., 1.]]), array(3.)]
    """
    edges = list(itertools.accumulate(map(math.prod, shapes), initial=HEAD))

    def split(flat: Array) -> list[Array]:
        xp = array_namespace(flat)
        return [xp.reshape(flat[a:b], shape) for (a, b), shape in zip(itertools.pairwise(edges), shapes, strict=True)]

    return split


class ReducedFusedStep(FusedStep):
    """The fused step: its gradients are one array already, which is reduced without a copy."""

    sums_up = True

    def __init__(self, *of_step: Any, part: Part, interrupts: SharedInterrupts) -> None:
        super().__init__(*of_step)
        self.part, self.interrupts = part, interrupts
        self.noise = PartOfNoise(self.space.backend, part)

    @staticmethod
    def serves(model: Layer, X_ndim: int) -> bool:
        """Whether this model can be stepped here: what needs other ranks within a step cannot be recorded."""
        if not FusedStep.serves(model, X_ndim):
            return False
        return not asks_within(model) or optional(kernels_for(model.built().kernels), "Recorder") is None

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Any, ...]:
        """Take one step on a batch; return the loss and the statistics of the metrics, for this rank's rows."""
        values = super().__call__(X, y, weight, rng)
        self.whole = not self.waiting  # a rank that is interrupted alone cannot finish the update alone
        return values

    def work(self, X: Array, y: Array, weight: Any, noise: Any) -> tuple[Any, ...]:
        """Do what a step does with arrays, with means over the whole batch."""
        with shared(self.part):
            return super().work(X, y, weight, noise)

    def add(self) -> None:
        """Add the gradients to the sums, unless this rank's row has weight zero; see :meth:`FusedStep.add`."""
        if not self.part.share:
            self.gradients[...] = 0.0
        super().add()

    def move(self) -> None:
        """Add up the sums of all ranks, and update the parameters by them."""
        total = self.part.reduction.sum(self.sums, self.interrupts)
        if total is not self.sums:
            self.sums[...] = total
        super().move()
