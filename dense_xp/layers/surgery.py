"""Other layers in the places of those of a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable

from dense_xp.layers.layer import Layer, is_pure


def replaced(model: Layer, change: Callable[[Layer], Layer]) -> Layer:
    """Return a model with other layers in some places, and copies of those that stay; the model is not changed.

    Parameters
    ----------
    model : Layer
        Initialized, of one layer or many.
    change : callable
        Is given each layer that is none of layers, and returns another one in its place, or itself.

    Returns
    -------
    Layer
        Initialized, with the names that the layers had, and without an optimizer.
    """
    if not model.children:
        other = change(model)
        other = copy.deepcopy(model) if other is model else other
    else:
        other = object.__new__(type(model))
        items: dict[str, Layer] = {}
        vars(other).update(vars(model), _remembered=None, _rng=copy.deepcopy(model._rng), _items=items)
        for key, layer in model.children.items():
            inner = items[key] = replaced(layer, change)
            if type(inner) is not type(layer):
                inner.name = key  # its class would name it differently
    if is_pure(other):
        other.set_optimizer(None)
    return other
