"""What all conversions share: the import of an optional library, and a model from layers with weights."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from dense_xp.backend import to_numpy
from dense_xp.layers.activations import Activation, Softmax
from dense_xp.layers.chain import Chain
from dense_xp.layers.dense import Dense
from dense_xp.layers.layer import Layer
from dense_xp.support.trees import Params
from dense_xp.training.sequential import Sequential

Part: TypeAlias = tuple[Layer, Params]
"""A layer that is not initialized, and the host arrays that become its params."""


def imported(module: str, extra: str) -> Any:
    """Import an optional library, or say how to install it.

    Raises
    ------
    ImportError
        If it is not installed; the message has the command.

    Examples
    --------
    >>> imported("math", "torch").sqrt(4)
    2.0
    """
    root = module.partition(".")[0]
    try:
        importlib.import_module(root)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise ImportError(f'this needs {root}, which is not installed: run  pip install "dense-xp[{extra}]"') from None
    return importlib.import_module(module)


def assembled(parts: Sequence[Part], **settings: Any) -> tuple[Sequential, Params]:
    """Return layers as a model, and their params under its names; together they may be a part of a larger model.

    An activation right behind a :class:`Dense` that has none becomes its own.

    Examples
    --------
    >>> from dense_xp import ReLU
    >>> assembled([(Dense(1, (1,)), {"W": [[2.0]], "w0": [[1.0]]}), (ReLU(), {})])
    (Sequential([
        Dense(n_units=1, activation='relu', input_shape=(1,)),
    ]), {'dense': {'W': [[2.0]], 'w0': [[1.0]]}})
    """
    kept: list[Part] = []
    for layer, params in parts:
        before = kept[-1][0] if kept else None
        if isinstance(layer, Activation | Softmax) and isinstance(before, Dense) and before.activation is None:
            before.activation = layer
        else:
            kept.append((layer, params))
    model = Sequential([layer for layer, _ in kept], **settings)
    return model, {key: own for key, (_, own) in zip(model.children, kept, strict=True) if own}


def finished(parts: Sequence[Part], **settings: Any) -> Sequential:
    """Return an initialized model with these weights; the settings are those of :class:`Sequential`.

    Examples
    --------
    >>> part = Dense(1, (1,)), {"W": [[2.0]], "w0": [[1.0]]}
    >>> finished([part], dtype="float32", backend="numpy").predict([[3.0]])
    array([[7.]], dtype=float32)
    """
    model, weights = assembled(parts, **settings)
    build(model, weights)
    return model


def build(model: Chain, weights: Params) -> None:
    """Build a model with these weights; parameters that are not among them, such as γ, get their initial values."""
    model.connect()
    model.build(None, _completed(model, weights))


def _completed(layer: Any, params: Params) -> Params:
    if layer.children:
        own = {key: _completed(inner, params.get(key, {})) for key, inner in layer.children.items()}
        return {key: value for key, value in own.items() if value}
    given = {name: np.array(to_numpy(value)) for name, value in params.items()}  # a copy: the other model keeps its own
    return (
        given if set(given) >= set(layer.param_shapes()) else {**layer.init_params(np.random.default_rng(0)), **given}
    )
