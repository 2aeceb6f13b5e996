"""The rows of each batch that one rank works on, their weight, and means over the rows of all ranks.

All ranks draw the same order and the same noise, and each takes the part of its rows. Where a batch has fewer rows than
there are ranks, some work on its first row with weight zero, so that all of them take part in every reduction.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array, to_numpy
from dense_xp.layers.layer import Layer
from dense_xp.learning.metric import Measure
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import mapped
from dense_xp.training.distributed.ranks import Ranks
from dense_xp.training.distributed.reductions import Reduction
from dense_xp.training.feeding import NoiseFeeder
from dense_xp.training.samples import Measuring, Samples, on_host, slices, summary
from dense_xp.training.streamed import StreamedSamples


class Part:
    """The rows of the present batch on this rank; updated for each batch.

    Attributes
    ----------
    rows : slice
        Their place in the batch; never empty.
    whole : int
        How many rows the batch has.
    share : float
        Their fraction of the batch, for means over rows; 0 for a row that only takes part in reductions.
    """

    def __init__(self, reduction: Reduction) -> None:
        self.reduction = reduction
        self.rows, self.whole, self.share = slice(0, 1), 1, 1.0

    def means(self, means: Sequence[Array]) -> list[Array]:
        """Return the means over the whole batch, given those over the rows of this rank."""
        xp = array_namespace(means[0])
        flat = self.reduction.sum(xp.concat([xp.reshape(mean * self.share, (-1,)) for mean in means]))
        whole, start = [], 0
        for mean in means:
            stop = start + math.prod(mean.shape)
            whole.append(xp.reshape(flat[start:stop], tuple(mean.shape)))
            start = stop
        return whole

    def own_noise(self, noise: Any) -> Any:
        """Return the part for this rank's rows of noise for the whole batch."""
        own = mapped(lambda array: array[self.rows] if np.shape(array)[:1] == (self.whole,) else array, noise)
        return own if noise is not None else None

    def total(self, n: int) -> int:
        """Return how many rows all ranks have, given `n` here; axes before the features may be counted in both."""
        return n // (self.rows.stop - self.rows.start) * self.whole


class PartOfNoise(NoiseFeeder):
    """Draws the noise of the whole batch, as one process would, and sends the part for this rank's rows."""

    def __init__(self, backend: Any, part: Part) -> None:
        super().__init__(backend)
        self.part = part

    def drawn(self, model: Layer, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Return the noise for this rank's rows; see :meth:`NoiseFeeder.drawn`."""
        return self.placed(self.part.own_noise(model.draw_noise(rng, (self.part.whole, *batch_shape[1:]))))


class OfRanks(Measuring):
    """The loss and the metrics over the rows of all ranks.

    Attributes
    ----------
    ranks : Ranks
        All ranks.
    part : Part
        Updated for each batch.
    """

    ranks: Ranks
    part: Part

    def measured(
        self, values: Sequence[tuple[Array, ...]], batches: Sequence[Any], metrics: Mapping[str, Measure]
    ) -> dict[str, float]:
        """Return the loss and the metrics over the batches of all ranks, from their joined statistics."""
        counting = [i for i, own in enumerate(batches) if self.own_rows([own])]
        columns = on_host(self.backend, [values[i] for i in counting], metrics) if counting else None
        own = columns, self.weights([batches[i] for i in counting])
        said = [(columns, weights) for columns, weights in self.ranks.gathered(own) if columns is not None]
        joined = [np.concatenate(parts) for parts in zip(*(columns for columns, _ in said), strict=True)]
        losses, measures = ([weight for _, weights in said for weight in weights[i]] for i in range(2))
        return summary(joined, (losses, measures), metrics)

    def losses(self, values: Sequence[tuple[Array, ...]]) -> np.ndarray[Any, Any]:
        """Return the sum of the ranks' losses of each batch, to find the first that is not finite."""
        said: np.ndarray[Any, Any] = np.sum(self.ranks.gathered(super().losses(values)), axis=0)
        return said

    def counted(self, batches: Sequence[Any]) -> int:
        """Return how many samples all ranks have in batches."""
        return sum(self.ranks.gathered(self.own_rows(batches)))

    def own_rows(self, batches: Sequence[Any]) -> int:
        """Return how many of the samples in batches are here."""
        raise NotImplementedError


class Shares(OfRanks, Samples):
    """Samples that all ranks have; each takes its part of every batch."""

    def __init__(self, ranks: Ranks, part: Part, *data: Any) -> None:
        super().__init__(*data)
        self.ranks, self.part = ranks, part

    def own_rows(self, batches: Sequence[Any]) -> int:
        """Return how many of the samples in batches are here."""
        return Samples.counted(self, batches)

    def own(self, n: int) -> slice:
        """Return which of n rows are this rank's."""
        rank, size = self.ranks.rank, self.ranks.size
        return slice(n * rank // size, n * (rank + 1) // size)

    def batches(self, order: np.ndarray[Any, Any], batch_size: int) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield this rank's rows of each batch; the index of a row with weight zero is left out."""
        wholes = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        owns = [self.own(len(whole)) for whole in wholes]
        taken = [own if own.stop > own.start else slice(0, 1) for own in owns]
        handed_out = self.gathered([whole[rows] for whole, rows in zip(wholes, taken, strict=True)])
        for whole, own, rows, (_, batch) in zip(wholes, owns, taken, handed_out, strict=True):
            self.part.rows, self.part.whole = rows, len(whole)
            self.part.share = (own.stop - own.start) / len(whole)
            yield whole[own], batch

    def as_one_batch(self) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield this rank's rows of the one batch; see :meth:`Samples.as_one_batch`."""
        return self.batches(np.arange(len(self)), len(self))

    def in_order(self, batch_size: int) -> Iterator[tuple[slice, tuple[Array, Array, Any]]]:
        """Yield this rank's rows of all samples; there may be none."""
        own = self.own(len(self))
        for rows in slices(own.stop - own.start, batch_size):
            here = slice(own.start + rows.start, own.start + rows.stop)
            yield here, self.take(here)


class StreamedShares(OfRanks, StreamedSamples):
    """A stream of which each rank takes its part of every batch; all ranks read all of it."""

    def __init__(self, ranks: Ranks, part: Part, *data: Any) -> None:
        self.ranks, self.part = ranks, part
        super().__init__(*data)

    def own_rows(self, batches: Sequence[Any]) -> int:
        """Return how many of the samples in batches are here."""
        return StreamedSamples.counted(self, batches)

    def facts_of(self, first: Samples) -> dict[str, Any]:
        """Return what must be equal on all ranks: a checksum of the first targets shows whether the streams are."""
        return {**first.facts, "the first targets": zlib.crc32(to_numpy(first.y.data).tobytes())}

    def made(self, *data: Any) -> Samples:
        """Return some rows of the stream, of which this rank takes its part."""
        return Shares(self.ranks, self.part, *data)
