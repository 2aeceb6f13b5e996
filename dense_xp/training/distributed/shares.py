"""The rows of each batch that one rank works on; what they count, and what they know of the others.

All ranks draw the same order and the same noise, and each takes the part of its rows. Where a batch has fewer rows than
there are ranks, some work on its first row, which then counts nothing: so all of them take part in every reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import mapped
from dense_xp.training.distributed.ranks import Ranks
from dense_xp.training.distributed.reductions import Reduction
from dense_xp.training.feeding import NoiseFeeder
from dense_xp.training.samples import Samples, on_host, slices, summary


class Part:
    """The rows of the present batch that are here; it changes with each batch.

    Attributes
    ----------
    rows : slice
        Where they stand in the batch: never none.
    whole : int
        How many rows the batch has.
    share : float
        What part of its rows they are, for means over rows; 0 if they are only there to take part.
    weight : float
        What part of its weight they are, for the loss.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self.rows, self.whole, self.share, self.weight = slice(0, 1), 1, 1.0, 1.0

    def means(self, means: Sequence[Array]) -> list[Array]:
        """Return the means over the whole batch, given those over the rows that are here."""
        xp = array_namespace(means[0])
        flat = self.reduction.sum(xp.concat([xp.reshape(mean * self.share, (-1,)) for mean in means]))
        whole, start = [], 0
        for mean in means:
            stop = start + math.prod(mean.shape)
            whole.append(xp.reshape(flat[start:stop], tuple(mean.shape)))
            start = stop
        return whole

    def own_noise(self, noise: Any) -> Any:
        """Return those rows of what was drawn for the whole batch."""
        own = mapped(lambda array: array[self.rows] if np.shape(array)[:1] == (self.whole,) else array, noise)
        return own if noise is not None else None

    def total(self, n: int) -> int:
        """Return how many rows all ranks have, where some axes in between count as rows too."""
        return n // (self.rows.stop - self.rows.start) * self.whole


class PartOfLoss(Loss):
    """What the rows that are here add to the loss of the whole batch, and its gradient."""

    def __init__(self, loss: Loss, part: Part) -> None:
        self.loss, self.part = loss, part

    def placed(self, backend: Any, dtype: str) -> PartOfLoss:
        """Return this loss with its own numbers on a device; see :meth:`Loss.placed`."""
        return PartOfLoss(self.loss.placed(backend, dtype), self.part)

    def value_and_grad(self, prediction: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Return the value and the gradient; see :meth:`Loss.value_and_grad`."""
        value, grad = self.loss.value_and_grad(prediction, target, weight)
        return value * self.part.weight, grad * self.part.weight


class PartOfNoise(NoiseFeeder):
    """Draws the noise of the whole batch, so that it is what one process would draw, and sends that of its rows."""

    def __init__(self, backend: Any, part: Part) -> None:
        super().__init__(backend)
        self.part = part

    def drawn(self, model: Layer, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Return the noise of the rows that are here; see :meth:`NoiseFeeder.drawn`."""
        return self.placed(self.part.own_noise(model.draw_noise(rng, (self.part.whole, *batch_shape[1:]))))


class Shares(Samples):
    """Samples of which each rank is handed its part of every batch; all ranks are given all of them."""

    def __init__(self, ranks: Ranks, part: Part, *data: Any) -> None:
        super().__init__(*data)
        self.ranks, self.part = ranks, part

    def own(self, n: int) -> slice:
        """Return which of n rows are this rank's."""
        rank, size = self.ranks.rank, self.ranks.size
        return slice(n * rank // size, n * (rank + 1) // size)

    def batches(self, order: np.ndarray[Any, Any], batch_size: int) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield the rows of each batch that are here; a row that counts nothing has no number."""
        wholes = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        owns = [self.own(len(whole)) for whole in wholes]
        taken = [own if own.stop > own.start else slice(0, 1) for own in owns]
        chunks = [whole[rows] for whole, rows in zip(wholes, taken, strict=True)]
        weights = [self.weights([whole[own], whole])[0] for own, whole in zip(owns, wholes, strict=True)]
        handed_out = self.gathered(chunks)
        for whole, own, rows, (here, all_), (_, batch) in zip(wholes, owns, taken, weights, handed_out, strict=True):
            part = self.part
            part.rows, part.whole, part.share = rows, len(whole), (own.stop - own.start) / len(whole)
            part.weight = here / all_ if all_ else 0.0
            yield whole[own], batch

    def in_order(self, batch_size: int) -> Iterator[tuple[slice, tuple[Array, Array, Any]]]:
        """Yield the rows that are here, of all; it may be none."""
        own = self.own(len(self))
        for rows in slices(own.stop - own.start, batch_size):
            here = slice(own.start + rows.start, own.start + rows.stop)
            yield here, self.take(here)

    def measured(
        self, values: Sequence[tuple[Array, ...]], batches: Sequence[Any], metrics: Mapping[str, Measure]
    ) -> dict[str, float]:
        """Return the loss and the metrics over the batches of all ranks: what they kept is put together first."""
        counting = [i for i, rows in enumerate(batches) if not isinstance(rows, np.ndarray) or len(rows)]
        columns = on_host(self.X.backend, [values[i] for i in counting], metrics) if counting else None
        own = columns, self.weights([batches[i] for i in counting])
        said = [(columns, weights) for columns, weights in self.ranks.gathered(own) if columns is not None]
        joined = [np.concatenate(parts) for parts in zip(*(columns for columns, _ in said), strict=True)]
        losses, measures = ([weight for _, weights in said for weight in weights[i]] for i in range(2))
        return summary(joined, (losses, measures), metrics)
