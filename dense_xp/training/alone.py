"""What `fit` does differently on one process and on several, the ranks: here, on one."""

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
    """Training in one process; its subclass ``Together`` is for several."""

    size = 1
    root = True

    def __init__(self) -> None:
        self.interrupts = Interrupts()

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[dict[str, Any]]:
        """Check the arguments of `fit` in the block, which puts what must be equal on all ranks into the dict.

        Raises
        ------
        RankError, ValueError
            If another rank has raised in its block, or has other values in its dict.
        """
        yield {}

    def samples(
        self, model: Layer, stream: Batches | Pieces | None, arrays: Sequence[Any], loss: Any, steps: int | None = None
    ) -> Samples | StreamedSamples:
        """Return the samples of this process; see :func:`~dense_xp.training.streamed.samples_of`."""
        return samples_of(model, stream, arrays, loss, steps)

    def batch_rows(self, n: int) -> int:
        """Return how many rows the present batch has on all ranks, given how many are here."""
        return n

    def prepare(self, model: Layer, rng: Rng) -> None:
        """Give all ranks the same weights and random numbers."""

    def stepper(
        self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], X_ndim: int, batch_size: int, accumulate: int
    ) -> Step:
        """Return the step of the model; see :func:`~dense_xp.training.steps.stepper`."""
        return stepper(model, loss, metrics, X_ndim, batch_size, accumulate)

    def callbacks(self, hooks: Sequence[Callback]) -> Sequence[Callback]:
        """Return the callbacks of this process."""
        return hooks

    def running(self, quiet: bool) -> contextlib.AbstractContextManager[None]:
        """Train within the block."""
        return contextlib.nullcontext()
