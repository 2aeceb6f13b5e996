"""What a training can go back to."""

from __future__ import annotations

from typing import NamedTuple

from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.support.trees import Params


class Moment(NamedTuple):
    """The arrays and counts of a model at one moment.

    An optimizer that is an object of your own keeps its state to itself: that is not among them.

    Attributes
    ----------
    params, optimizer_state : dict
        As :attr:`Layer.params` and :attr:`Layer.optimizer_state`.
    steps : tuple of int
        How many steps each layer has taken, in the order of :func:`with_inner`.
    loss_scale : tuple of float
        See :mod:`dense_xp.learning.loss_scaling`.
    """

    params: Params
    optimizer_state: Params
    steps: tuple[int, ...]
    loss_scale: tuple[float, float]

    @classmethod
    def of(cls, model: Layer) -> Moment:
        """Return the present moment."""
        steps = tuple(layer.steps for layer in with_inner(model))
        return cls(model.params, model.optimizer_state, steps, model.loss_scale)

    def restore(self, model: Layer) -> None:
        """Give the model those arrays and counts back."""
        model.params, model.optimizer_state = self.params, self.optimizer_state
        for layer, steps in zip(with_inner(model), self.steps, strict=True):
            layer.steps = steps
        model.loss_scale = self.loss_scale
