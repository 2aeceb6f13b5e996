"""The interface of a step, the choice among the four kinds of it, and the step layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dense_xp.backend import Array
from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, in_step
from dense_xp.support.dtypes import widened
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, copied, copies
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.moments import Moment
from dense_xp.training.recorded import RecordedStep
from dense_xp.training.step import penalized


class Step(Protocol):
    """What the loop over batches drives: ``moment``, ``begin_epoch``, a call for each batch, ``hand_over``.

    Between ``begin_epoch`` and ``hand_over`` the arrays of the model may be those of any step of the epoch, or of
    none; its count of steps is that of the last call.

    Attributes
    ----------
    model : Layer
        What learns.
    whole : bool
        Whether no step is half done.
    unrecorded : str
        Why steps are not replayed as one recorded CUDA graph; empty if they are, or if the library has none.
    params : dict
        The arrays after the last step, in nested dicts; the next step may write over them.
    waiting : int
        How many batches have been added up since the parameters last moved.
    """

    @property
    def model(self) -> Layer:
        """See the attributes of the class."""

    @property
    def whole(self) -> bool:
        """See the attributes of the class."""

    @property
    def waiting(self) -> int:
        """See the attributes of the class."""

    @property
    def unrecorded(self) -> str:
        """See the attributes of the class."""

    @property
    def params(self) -> Params:
        """See the attributes of the class."""

    def begin_epoch(self) -> None:
        """Make ready for the batches of an epoch."""

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""

    def moment(self) -> Moment:
        """Return what the model has, to come back to; no step writes into these arrays."""

    def hand_over(self) -> None:
        """Give the model its arrays as they are after the last step."""


class EagerStep:
    """Steps a model with layers that write the stateful methods alone: layer by layer."""

    unrecorded = ""
    waiting = 0

    @property
    def params(self) -> Params:
        """The arrays that the layers show."""
        return self.model.params

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure]) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        if getattr(model.optimizer, "clip_norm", None) is not None:
            raise ValueError(
                "clip_norm needs all gradients at once, and a layer that writes only the stateful methods "
                "keeps its own to itself: use clip_value, or write forward and backward for that layer"
            )
        self.model, self.loss, self.metrics = model, loss, in_step(metrics)
        self.whole = True

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        self.whole = False
        Y = widened(self.model.forward_pass(X, training=True))
        value, grad = self.loss.value_and_grad(Y, y, weight)
        value = penalized(value, self.model.penalty(self.model.params))
        self.model.backward_pass(grad)
        self.whole = True
        return value, *(copied(metric(Y, y, weight)) for metric in self.metrics)

    def begin_epoch(self) -> None:
        """Do nothing: the layers have their arrays themselves."""

    def moment(self) -> Moment:
        """Return what the layers show, as copies: they may write into their arrays."""
        now = Moment.of(self.model)
        return now._replace(params=copies(now.params))

    def hand_over(self) -> None:
        """Do nothing: the layers have their arrays themselves."""


def stepper(
    model: Layer, loss: Loss, metrics: Mapping[str, Measure], X_ndim: int, batch_size: int, accumulate: int = 1
) -> Step:
    """Return the fastest step for a model, for inputs of `X_ndim` axes and batches of at most `batch_size` samples."""
    if not is_pure(model):
        return EagerStep(model, loss, metrics)
    if FusedStep.serves(model, X_ndim):
        return FusedStep(model, loss, in_step(metrics), batch_size, accumulate)
    return (RecordedStep if RecordedStep.serves(model) else CompiledStep)(model, loss, metrics, accumulate)
