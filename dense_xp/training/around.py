"""Wrappers of a step, which do something more: here, call callbacks after each batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params
from dense_xp.training.history import Callback, Run
from dense_xp.training.steps import Step


class Around:
    """A step that leaves everything to another one, `inner`; see :class:`~dense_xp.training.steps.Step`."""

    def __init__(self, inner: Step) -> None:
        self.inner = inner

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        return self.inner(X, y, weight, rng)

    @property
    def model(self) -> Layer:
        """What learns."""
        return self.inner.model

    @property
    def whole(self) -> bool:
        """Whether no step is half done."""
        return self.inner.whole

    @property
    def waiting(self) -> int:
        """How many batches have been added up since the parameters last moved."""
        return self.inner.waiting

    @property
    def unrecorded(self) -> str:
        """Why steps are not replayed as one recorded CUDA graph."""
        return self.inner.unrecorded

    @property
    def params(self) -> Params:
        """The arrays after the last step, as the optimizer has them."""
        return self.inner.params

    def begin_epoch(self) -> None:
        """Make ready for the batches of an epoch."""
        self.inner.begin_epoch()

    def moment(self) -> Any:
        """Return what the model has, to come back to."""
        return self.inner.moment()

    def hand_over(self) -> None:
        """Give the model its arrays as they are after the last step."""
        self.inner.hand_over()


class AskingStep(Around):
    """A step after which callbacks are called."""

    def __init__(self, inner: Step, hooks: Sequence[Callable[[Run], Any]], run: Run) -> None:
        super().__init__(inner)
        self.hooks, self.run = hooks, run

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch, and call the callbacks."""
        values, run = self.inner(X, y, weight, rng), self.run
        run.batch, run.values = run.batch + 1, values
        for hook in self.hooks:
            hook(run)
        run.values = ()
        return values

    def begin_epoch(self) -> None:
        """Make ready for the batches of an epoch, and count them anew."""
        self.run.batch = 0
        self.inner.begin_epoch()


def asking(step: Step, hooks: Sequence[Callback], run: Run) -> Step:
    """Return the step with those callbacks around it that have ``batch_end``; the step itself if none has."""
    asked = [hook.batch_end for hook in hooks if hasattr(hook, "batch_end")]
    return AskingStep(step, asked, run) if asked else step
