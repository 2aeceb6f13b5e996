"""Callbacks of a training on several processes: rank 0 calls them, and what they decide holds for all."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dense_xp.layers.layer import Layer
from dense_xp.support.trees import flatten, moved, on_host
from dense_xp.training.distributed.ranks import RankError, Ranks
from dense_xp.training.distributed.signals import SharedInterrupts, Terminated
from dense_xp.training.history import Callback, DivergenceError, Run
from dense_xp.training.moments import Moment


@dataclass(frozen=True)
class _Decided:
    """What callbacks have done to a run, as plain values."""

    stopped: str
    best_epoch: int | None
    factors: list[float]
    moment: Moment | None


class Led:
    """Callbacks as one: rank 0 calls them, and the other ranks follow.

    An error in a callback is raised on rank 0, and on the others a :class:`RankError` that says so. Any other error on
    one rank alone ends the job, as the others would wait for that rank.
    """

    def __init__(self, hooks: Sequence[Callback], ranks: Ranks, interrupts: SharedInterrupts) -> None:
        self.hooks, self.ranks, self.interrupts = tuple(hooks), ranks, interrupts
        self._raised: BaseException | None = None
        if any(hasattr(hook, "batch_end") for hook in hooks):  # otherwise nothing is called after a batch
            self.batch_end = functools.partial(self._lead, "batch_end")

    def begin(self, run: Run) -> None:
        """Training starts."""
        self._lead("begin", run)

    def epoch_end(self, run: Run) -> None:
        """Look at an epoch."""
        self._lead("epoch_end", run)

    def end(self, run: Run) -> None:
        """Training has ended: on all ranks for the same reason, or this rank ends the job."""
        error = sys.exc_info()[1]
        if error is not None and not self._known_to_all(error):
            traceback.print_exception(error)
            self.ranks.abort(error)
        if error is None:  # a signal after the last step
            asked = np.asarray(self.interrupts.asked)
            self.ranks.sum(asked)
            self.interrupts.agree(asked.tolist())
        if isinstance(error, Terminated):
            self._lead("terminated", run)
        self._lead("end", run)

    def _known_to_all(self, error: BaseException) -> bool:
        if isinstance(error, KeyboardInterrupt):
            return self.interrupts.agreed
        return error is self._raised or isinstance(error, DivergenceError | RankError)

    def _lead(self, method: str, run: Run) -> None:
        try:
            if self.ranks.size == 1:  # nobody follows
                self._call(method, run)
                return
            decided = self.ranks.from_root(lambda: self._decided(method, run))
        except Exception as error:
            self._raised = error
            raise
        if not self.ranks.root:
            _follow(run, decided)

    def _call(self, method: str, run: Run) -> None:
        for hook in self.hooks:
            call = getattr(hook, method, None)  # not all of them have "terminated" and "batch_end"
            if call is not None:
                call(run)

    def _decided(self, method: str, run: Run) -> _Decided:
        before, n_factors = _arrays(run.model), len(run.factors)
        self._call(method, run)
        changed = len(before) != len(after := _arrays(run.model)) or any(map(_differ, before, after))
        moment = plain_moment(run.model) if changed else None
        return _Decided(run.history.stopped, run.history.best_epoch, run.factors[n_factors:], moment)


def _follow(run: Run, decided: _Decided) -> None:
    run.history.stopped, run.history.best_epoch = decided.stopped, decided.best_epoch
    for factor in decided.factors:
        run.scale_learning_rate(factor)
    if decided.moment is not None:
        take(run.model, decided.moment)


def _arrays(model: Layer) -> list[Any]:
    return list(flatten(model.params).values())


def _differ(a: Any, b: Any) -> bool:
    return a is not b  # parameters are replaced, never written into


def plain_moment(model: Layer) -> Moment:
    """Return the present moment of a model with its arrays on the host."""
    now = Moment.of(model)
    return now._replace(params=on_host(now.params), optimizer_state=on_host(now.optimizer_state))


def take(model: Layer, moment: Moment) -> None:
    """Give a model what :func:`plain_moment` returned."""
    backend = model.built()
    params, state = moved(moment.params, backend, model.dtype), moved(moment.optimizer_state, backend, None)
    moment._replace(params=params, optimizer_state=state).restore(model, RankError("", 0))
