"""The hidden layers of a multi-layer perceptron, from a few settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dense_xp.layers.activations import get_activation
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.ensemble import DenseEnsemble
from dense_xp.layers.initializers import EachMember
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
    n_members: int = 1,
) -> list[Layer]:
    """Return a dense layer of each size with its activation; normalization comes between the two, dropout after both.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer.
    activations : sequence of str or Layer
        One for each; a layer becomes part of the model.
    kernel_initializer : str
        Initializer of the weights.
    normalization : {"layer", "batch"}, optional
        By default none.
    dropout : float, default 0.0
        The share of each layer that is left out in training.
    n_members : int, default 1
        Number of perceptrons side by side, all with the same input.

    Examples
    --------
    >>> hidden_layers([8], ["relu"], kernel_initializer="he_uniform", dropout=0.5)
    [Dense(n_units=8, activation='relu', kernel_initializer='he_uniform'), Dropout(rate=0.5)]
    """
    layers: list[Layer] = []
    for size, activation in zip(sizes, map(get_activation, activations), strict=True):
        dense = affine(size, kernel_initializer, n_members, first=not layers)
        layers.append(dense)
        if normalization is None and isinstance(dense, Dense):
            dense.activation = activation
        else:
            layers += [] if normalization is None else [NORMALIZATIONS[normalization]()]
            layers += [] if activation is None else [activation]
        if dropout:
            layers.append(Dropout(dropout))
    return layers


def affine(n_units: int, kernel_initializer: str, n_members: int, *, first: bool) -> Dense | DenseEnsemble:
    """Return an affine map for each member of an ensemble, as one layer.

    Parameters
    ----------
    n_units : int
        Outputs of each member.
    kernel_initializer : str
        Initializer of each member's weights.
    n_members : int
        Number of members.
    first : bool
        Whether all members see the same input.

    Examples
    --------
    >>> affine(2, "he_uniform", 3, first=False)
    DenseEnsemble(n_units=2, n_members=3, kernel_initializer='he_uniform')
    """
    if n_members == 1:
        return Dense(n_units, kernel_initializer=kernel_initializer)
    if first:
        return Dense(n_members * n_units, kernel_initializer=EachMember(kernel_initializer, n_members))
    return DenseEnsemble(n_units, n_members, kernel_initializer=kernel_initializer)
