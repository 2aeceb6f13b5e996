"""What `fit` asks of those who train with it, and what one process answers: there is nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure
from dense_xp.support.seeds import Rng
from dense_xp.training.history import Callback
from dense_xp.training.interrupts import Interrupts
from dense_xp.training.samples import Samples
from dense_xp.training.steps import Step, stepper
from dense_xp.training.streamed import StreamedSamples, samples_of
from dense_xp.training.streams import Batches, Pieces


class Alone:
    """One process: there is nobody to agree with."""

    size = 1
    root = True

    def holding(self) -> contextlib.AbstractContextManager[object]:
        """Hold signals back, within the block, until all can end together."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[dict[str, Any]]:
        """Check what was asked for; in the dict is put what must be the same for all.

        Raises
        ------
        RankError, ValueError
            If another rank has raised in its block, or has something else in its dict.
        """
        yield {}

    def samples(
        self, model: Layer, stream: Batches | Pieces | None, arrays: Sequence[Any], loss: Any, steps: int | None = None
    ) -> Samples | StreamedSamples:
        """Return the data, which :func:`~dense_xp.training.streamed.samples_of` takes, as they are handed out here."""
        return samples_of(model, stream, arrays, loss, steps)

    def batch_rows(self, n: int) -> int:
        """Return how many rows the present batch has at most, given how many are here."""
        return n

    def prepare(self, model: Layer, rng: Rng) -> None:
        """Let all begin with the same weights and random numbers."""

    def stepper(
        self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], X_ndim: int, batch_size: int, accumulate: int
    ) -> Step:
        """Return what steps the model; see :func:`~dense_xp.training.steps.stepper`."""
        return stepper(model, loss, metrics, X_ndim, batch_size, accumulate)

    def callbacks(self, hooks: Sequence[Callback]) -> Sequence[Callback]:
        """Return what is called in this process."""
        return hooks

    @contextlib.contextmanager
    def running(self, quiet: bool) -> Iterator[Interrupts]:
        """Train, within the block, until a signal ends it."""
        with Interrupts() as interrupts:
            yield interrupts
