"""Other layers in the places of those of a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from dense_xp.backend import use_backend
from dense_xp.layers.chain import Chain
from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.support.trees import Params


def replaced(model: Layer, change: Callable[[Layer], Layer]) -> Layer:
    """Return a model with other layers in some places, and copies of those that stay; the model is not changed.

    Parameters
    ----------
    model : Layer
        Initialized, of one layer or many.
    change : callable
        Is given each layer that has no layers inside, and returns another one in its place, or itself.

    Returns
    -------
    Layer
        Initialized, with the names that the layers had, and without an optimizer.
    """
    if isinstance(model, Chain):
        layers = {key: replaced(layer, change) for key, layer in model.children.items()}
        for key, inner in layers.items():
            if type(inner) is not type(model.children[key]):
                inner.name = key  # its class would name it differently
        other: Layer = model.with_layers(layers)
    else:
        other = change(model)
        other = copy.deepcopy(model) if other is model else other
    if is_pure(other):
        other.set_optimizer(None)
    return other


def in_place_of(layer: Any, other: Layer, params: Params) -> Any:
    """Return a layer, built with these parameters where another one lives, without an optimizer.

    Parameters
    ----------
    layer : Layer
        Not initialized. It takes over the settings and the random numbers of the other.
    other : Layer
        Initialized.
    params : dict
        On the device of the other; they are not copied.
    """
    layer.settings = other.settings
    with use_backend(other.built()):
        layer.build(None, params)
    layer.rng = other.rng
    return layer
