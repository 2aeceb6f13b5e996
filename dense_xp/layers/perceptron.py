"""The hidden layers of a multi-layer perceptron, from the few words that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dense_xp.layers.activations import get_activation
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm

NORMALIZATIONS: Mapping[str, type[Layer]] = {"layer": LayerNorm, "batch": BatchNorm}


def hidden_layers(
    sizes: Sequence[int],
    activations: Sequence[str | Layer],
    *,
    kernel_initializer: str,
    normalization: str | None = None,
    dropout: float = 0.0,
) -> list[Layer]:
    """Return a dense layer of each size with its activation; normalization stands between the two, dropout behind.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer.
    activations : sequence of str or Layer
        One for each; a layer becomes part of the model.
    kernel_initializer : str
        Start of the weights.
    normalization : {"layer", "batch"}, optional
        Which, if any.
    dropout : float, default 0.0
        The share of each layer that is left out in training.

    Examples
    --------
    >>> hidden_layers([8], ["relu"], kernel_initializer="he_uniform", dropout=0.5)
    [Dense(n_units=8, activation='relu', kernel_initializer='he_uniform'), Dropout(rate=0.5)]
    """
    layers: list[Layer] = []
    for size, activation in zip(sizes, map(get_activation, activations), strict=True):
        settings: dict[str, Any] = {"kernel_initializer": kernel_initializer}
        if normalization is None:
            layers.append(Dense(size, activation=activation, **settings))
        else:
            layers += [Dense(size, **settings), NORMALIZATIONS[normalization]()]
            layers += [] if activation is None else [activation]
        if dropout:
            layers.append(Dropout(dropout))
    return layers
