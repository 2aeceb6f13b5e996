"""What `fit` does differently on several processes; :class:`~dense_xp.training.alone.Alone` is for one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, in_step
from dense_xp.support.seeds import Rng
from dense_xp.training.alone import Alone
from dense_xp.training.distributed.callbacks import Led, plain_moment, take
from dense_xp.training.distributed.ranks import RankError, Ranks, all_ranks, in_a_line
from dense_xp.training.distributed.reductions import reduction_for
from dense_xp.training.distributed.shares import Part, Shares, StreamedShares
from dense_xp.training.distributed.signals import SharedInterrupts, Terminated
from dense_xp.training.distributed.steps import ReducedFusedStep, ReducedStep
from dense_xp.training.distributed.watch import watched
from dense_xp.training.history import Callback
from dense_xp.training.samples import Samples
from dense_xp.training.steps import Step, stepper
from dense_xp.training.streamed import StreamedSamples
from dense_xp.training.streams import Batches, Pieces

ENDED_BY_SIGTERM = 128 + 15


class Together(Alone):
    """Training on all ranks."""

    interrupts: SharedInterrupts

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.size, self.root = ranks, ranks.size, ranks.root
        self.interrupts = SharedInterrupts(alone=self.size == 1)

    @contextlib.contextmanager
    def agreeing(self) -> Iterator[dict[str, Any]]:
        """Check the arguments in the block; see :meth:`Alone.agreeing`."""
        facts: dict[str, Any] = {}
        failure: BaseException | None = None
        try:
            yield facts
        except BaseException as error:
            failure = error
        said = self.ranks.gathered((facts, "" if failure is None else in_a_line(failure)))
        if failure is not None:
            raise failure
        for rank, (_, why) in enumerate(said):
            if why:
                raise RankError(f"rank {rank} of {self.size}: {why}", rank)
        for rank, (others, _) in enumerate(said):
            for name, fact in said[0][0].items():
                if others[name] != fact:
                    raise ValueError(
                        f"rank {rank} was given other things than rank 0: {name} is {others[name]!r:.200} there and "
                        f"{fact!r:.200} on rank 0. All ranks call fit with the same data and arguments, and each works "
                        "on its part of every batch"
                    )

    def samples(
        self, model: Layer, stream: Batches | Pieces | None, arrays: Sequence[Any], loss: Any, steps: int | None = None
    ) -> Samples | StreamedSamples:
        """Return the samples, of which this rank takes its part; see :meth:`Alone.samples`."""
        if self.size == 1:
            return super().samples(model, stream, arrays, loss, steps)
        if not is_pure(model):
            raise ValueError(
                f"{model.layer_name()} has layers with only the stateful methods, whose gradients nobody else sees: "
                "write forward and backward for them to train on several processes"
            )
        part = self._part(model)
        if stream is not None:
            return StreamedShares(self.ranks, part, model, stream, loss, steps)
        return Shares(self.ranks, part, model, *arrays, loss)

    def batch_rows(self, n: int) -> int:
        """Return how many rows the present batch has; see :meth:`Alone.batch_rows`."""
        return n if self.size == 1 else self.part.whole

    def _part(self, model: Layer) -> Part:
        """Return the part of the present batch: one object, which the samples and the step share."""
        if "part" not in vars(self):
            self.part = Part(reduction_for(self.ranks, model.built()))
        return self.part

    def prepare(self, model: Layer, rng: Rng) -> None:
        """Take the weights and the states of optimizer and random numbers from rank 0."""
        moment, state = self.ranks.from_root(lambda: (plain_moment(model), _state_of(rng)))
        if not self.root:
            take(model, moment)
            _set_state(rng, state)

    def stepper(
        self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], X_ndim: int, batch_size: int, accumulate: int
    ) -> Step:
        """Return the step of the model, by the gradients of all ranks; see :meth:`Alone.stepper`."""
        if self.size == 1:
            return stepper(model, loss, metrics, X_ndim, batch_size, accumulate)
        part = self._part(model)
        if ReducedFusedStep.serves(model, X_ndim):
            rows = -(-batch_size // self.size)
            return ReducedFusedStep(
                model, loss, in_step(metrics), rows, accumulate, part=part, interrupts=self.interrupts
            )
        return ReducedStep(model, loss, metrics, accumulate, part=part, interrupts=self.interrupts)

    def callbacks(self, hooks: Sequence[Callback]) -> Sequence[Callback]:
        """Return the callbacks that each rank calls, and one :class:`Led` for those that rank 0 calls for all."""
        own = [hook for hook in hooks if getattr(hook, "on_every_rank", False)]
        led = [hook for hook in hooks if hook not in own]
        return [*own, Led(led, self.ranks, self.interrupts)]

    @contextlib.contextmanager
    def running(self, quiet: bool) -> Iterator[None]:
        """Train within the block, and watch the other ranks; see :meth:`Alone.running`."""
        self.ranks.meet(quiet)
        try:
            with watched(self.ranks):
                yield
                self.interrupts.check()
        except Terminated:
            raise SystemExit(ENDED_BY_SIGTERM) from None


def together(distributed: str | Ranks) -> Together:
    """Return the processes that train together.

    Parameters
    ----------
    distributed : "mpi" or Ranks
        As in :func:`~dense_xp.training.fitting.fit`.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(distributed, Ranks):
        return Together(distributed)
    if distributed != "mpi":
        raise ValueError(f"distributed must be 'mpi', Ranks(...) or None, and is {distributed!r:.60}")
    return Together(all_ranks())


def _state_of(rng: Rng) -> Any:
    return rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng.get_state()


def _set_state(rng: Rng, state: Any) -> None:
    if isinstance(rng, np.random.Generator):
        rng.bit_generator.state = state
    else:
        rng.set_state(state)
