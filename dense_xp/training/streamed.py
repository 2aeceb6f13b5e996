"""Learning from a stream: what :class:`~dense_xp.training.samples.Samples` is for arrays, and a step that grows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from dense_xp.backend import Array, Backend, backend_of, to_numpy
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.support.seeds import Rng
from dense_xp.training.around import Around
from dense_xp.training.samples import Measuring, Samples, n_rows
from dense_xp.training.steps import Step
from dense_xp.training.streams import Batches, Part, Pieces

Taken: TypeAlias = tuple[int, float, float]
"""The number of rows of a batch, and its weights in the loss and in the metrics."""


def hosted(values: Any, backend: Backend) -> Any:
    """Return an array of another library as NumPy's if it is on the host: torch's DataLoader makes such batches."""
    owner = None if values is None or isinstance(values, np.ndarray) else backend_of(values)
    if owner is None or owner == backend or not hasattr(values, "__dlpack_device__"):
        return values
    on_host = int(values.__dlpack_device__()[0]) == 1  # kDLCPU in DLPack's header
    return to_numpy(values) if on_host else values


class StreamedSamples(Measuring):
    """Inputs, targets and weights from a stream: each part is checked when it comes.

    Parameters
    ----------
    model : Layer
        Initialized.
    stream : Batches or Pieces
        Where they come from.
    loss : str, Loss or None
        As in :func:`~dense_xp.training.fitting.fit`; without one, the first batch decides.
    steps : int, optional
        How many batches an epoch has; by default those of a pass.
    """

    def __init__(
        self, model: Layer, stream: Batches | Pieces, loss: str | Loss | None, steps: int | None = None
    ) -> None:
        self.model, self.stream, self.steps, self.backend = model, stream, steps, model.built()
        first = stream.first()
        if first.y is None:
            raise TypeError("the batches have no targets: a stream to learn or measure from gives (X, y)")
        self._weighted, self._exponent = first.weight is not None, 0
        if first.weight is not None and to_numpy(first.weight).any():  # one scale of weights for all batches
            self._exponent = 1 - int(np.frexp(np.max(to_numpy(first.weight)))[1])
        self.loss: Any = loss
        checked = self._checked(first)
        self.loss, self.sample_shape = checked.loss, checked.sample_shape
        self.facts = self.facts_of(checked)
        self._going: Iterator[tuple[Taken, Any]] | None = None
        self._rows = 0

    def facts_of(self, first: Samples) -> dict[str, Any]:
        """Return what must be equal on all ranks, given the first rows."""
        return first.facts

    def __len__(self) -> int:
        """Return how many samples the last epoch had."""
        return self._rows

    def count(self, batch_size: int) -> int | None:
        """Return how many batches an epoch has, if that is known."""
        return self.steps or self.stream.count(batch_size)

    def largest(self, batch_size: int) -> int:
        """Return how many rows the largest batch is expected to have."""
        return self.stream.largest(batch_size)

    def epoch(self, batch_size: int, rng: Rng, shuffle: bool) -> Iterator[tuple[Taken, tuple[Array, Array, Any]]]:
        """Yield the rows and weights of each batch, as :data:`Taken`, and the batch, for one epoch."""
        if self.steps is None:
            batches = self._pass(batch_size, rng, shuffle)
        else:
            self._going = self._going or self._passes(batch_size, rng, shuffle)
            batches = itertools.islice(self._going, self.steps)
        self._rows = 0
        for taken, batch in batches:
            self._rows += taken[0]
            yield taken, batch

    def in_order(self, batch_size: int) -> Iterator[tuple[Taken, tuple[Array, Array, Any]]]:
        """Yield the same for one pass, in the order of the stream."""
        for part in self.stream.parts(batch_size, None):
            samples = self._checked(part)
            for rows, batch in samples.in_order(batch_size):
                yield _taken(samples, rows), batch

    def counted(self, batches: Sequence[Taken]) -> int:
        """Return how many samples there are in batches."""
        return sum(rows for rows, _, _ in batches)

    def weights(self, batches: Sequence[Taken]) -> tuple[list[float], list[float]]:
        """Return the weight of each batch; see :meth:`~dense_xp.training.samples.Measuring.weights`."""
        return [loss for _, loss, _ in batches], [measured for _, _, measured in batches]

    def _pass(self, batch_size: int, rng: Rng, shuffle: bool) -> Iterator[tuple[Taken, tuple[Array, Array, Any]]]:
        shuffles = shuffle and not self.stream.whole
        for part in self.stream.parts(batch_size, rng if shuffles else None):
            samples = self._checked(part)
            if self.stream.whole:
                batches = samples.as_one_batch()
            else:
                order = rng.permutation(len(samples)) if shuffles else np.arange(len(samples))
                batches = samples.batches(order, batch_size)
            for rows, batch in batches:
                yield _taken(samples, rows), batch

    def _passes(self, batch_size: int, rng: Rng, shuffle: bool) -> Iterator[tuple[Taken, tuple[Array, Array, Any]]]:
        while True:
            yield from self._pass(batch_size, rng, shuffle)
            if self.stream.once:
                raise ValueError(
                    "the stream ended before the last epoch had its steps_per_epoch: pass the function that makes the "
                    "generator, so that it can begin anew, or ask for fewer steps"
                )

    def _checked(self, part: Part) -> Samples:
        backend = self.model.built()
        X, y, weight = (hosted(values, backend) for values in part)
        if y is None or (weight is not None) != self._weighted:
            raise TypeError("the batches of a stream are all (X, y), or all (X, y, sample_weight): this one is not")
        return self.made(self.model, X, y, weight, self.loss, self._exponent)

    def made(self, *data: Any) -> Samples:
        """Return a part of the data as samples."""
        return Samples(*data)


def samples_of(
    model: Layer, stream: Batches | Pieces | None, arrays: Sequence[Any], loss: Any, steps: int | None = None
) -> Samples | StreamedSamples:
    """Return the samples of a stream, or of arrays where there is none."""
    if stream is not None:
        return StreamedSamples(model, stream, loss, steps)
    X, y, weight = arrays
    return Samples(model, X, y, weight, loss)


def _taken(samples: Samples, rows: Any) -> Taken:
    loss, measured = samples.weights([rows])
    return n_rows(rows), loss[0], measured[0]


class GrowingStep(Around):
    """A step whose memory grows when a batch is larger than those before.

    Parameters
    ----------
    make : callable
        Returns a step for batches of at most so many rows.
    rows : int
        How many the first step is for.
    whole : callable
        Returns how many rows the present batch has on all ranks, given how many are here.
    """

    def __init__(self, make: Callable[[int], Step], rows: int, whole: Callable[[int], int]) -> None:
        super().__init__(make(rows))
        self.make, self.rows, self.batch_rows = make, rows, whole

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        rows = self.batch_rows(X.shape[0])
        if rows > self.rows:
            self.inner.hand_over()
            self.inner, self.rows = self.make(rows), rows
            self.inner.begin_epoch()
        return self.inner(X, y, weight, rng)
