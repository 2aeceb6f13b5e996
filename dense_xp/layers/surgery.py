"""Replace layers of a trained model."""

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
    """Return a copy of a model with some of its layers replaced.

    Parameters
    ----------
    model : Layer
        Initialized, of one layer or many.
    change : callable
        Called with each layer that contains no others; returns its replacement, or the same layer.

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
    """Build a layer with given parameters on the backend of another, without an optimizer, and return it.

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
