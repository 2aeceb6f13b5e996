"""A snapshot of a model, to which a training can go back."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.layers.own_state import closed_layers, how_to_open, own_states, restore_own_states
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.support.trees import Params


class Moment(NamedTuple):
    """The arrays and counts of a model at one moment.

    Attributes
    ----------
    params, optimizer_state : dict
        As :attr:`Layer.params` and :attr:`Layer.optimizer_state`.
    steps : tuple of int
        How many steps each layer has taken, in the order of :func:`with_inner`.
    loss_scale : tuple of float
        See :mod:`dense_xp.learning.loss_scaling`.
    own : dict
        What layers keep beside their params; see :meth:`Layer.get_state`.
    """

    params: Params
    optimizer_state: Params
    steps: tuple[int, ...]
    loss_scale: tuple[float, float]
    own: dict[str, Any]

    @classmethod
    def of(cls, model: Layer) -> Moment:
        """Return the present moment."""
        steps = tuple(layer.steps for layer in with_inner(model))
        state = model.optimizer_state
        if isinstance(model.optimizer, ForeignOptimizer):  # objects, which change when they are used
            state = copy.deepcopy(state)
        return cls(model.params, state, steps, model.loss_scale, own_states(model))

    def restore(self, model: Layer, error: BaseException) -> None:
        """Give the model those arrays and counts back.

        Parameters
        ----------
        model : Layer
            The same model.
        error : BaseException
            It gets a note if layers keep arrays to themselves, which cannot be restored.
        """
        model.params, model.optimizer_state = self.params, self.optimizer_state
        for layer, steps in zip(with_inner(model), self.steps, strict=True):
            layer.steps = steps
        model.loss_scale = self.loss_scale
        restore_own_states(model, self.own)
        if names := closed_layers(model):
            error.add_note(f"The model is as before the epoch but for {how_to_open(names)}")
