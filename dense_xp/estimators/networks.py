"""The network of an estimator, and its optimizer, from the parameters of the user."""

from __future__ import annotations

import copy
import dataclasses
from numbers import Integral
from typing import Any

from dense_xp.estimators.task import Task
from dense_xp.layers.ensemble import EnsembleMean
from dense_xp.layers.layer import Layer
from dense_xp.layers.perceptron import affine, hidden_layers
from dense_xp.layers.piecewise import PiecewiseLinear, quantile_edges
from dense_xp.layers.scaling import RobustScale
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import as_optimizer

_START = "glorot_uniform"  # as in scikit-learn's perceptrons
# for batches of 64; like all defaults, chosen on one half of the tables in tests/benchmarks/tables.py
_ADAM: dict[str, Any] = {"learning_rate": 0.003, "weight_decay": 0.3, "no_decay": ("w0", "gamma", "beta")}
_AVERAGED = {"softmax": "softmax", "logistic": "sigmoid", "identity": "outputs", "exp": "outputs"}


def front(estimator: Any, X: Any, weight: Any) -> list[Layer]:
    """Return the layers before the hidden ones, fitted to the training rows alone."""
    scale = None if estimator.scaling is None else RobustScale.from_data(X, sample_weight=weight)
    layers: list[Layer] = [] if scale is None else [scale]
    if estimator.n_bins is not None:
        edges: Any = quantile_edges(X, int(estimator.n_bins), sample_weight=weight)
        if scale is not None:
            edges = [scale.edges_of(column, own) for column, own in enumerate(edges)]
        layers.append(PiecewiseLinear(edges))
    return layers


def hidden(estimator: Any) -> list[Layer]:
    """Return the hidden layers; raise ValueError if their parameters do not fit together."""
    given: Any = estimator.hidden_layer_sizes
    sizes: list[Any] = [given] if isinstance(given, Integral) else list(given)
    activations = estimator.activation
    if isinstance(activations, str | Layer):
        activations = [activations] * len(sizes)
    if len(activations) != len(sizes):
        raise ValueError(
            f"activation has {len(activations)} entries and hidden_layer_sizes {len(sizes)}: "
            "give one activation for all, or one for each"
        )
    if estimator.n_members > 1 and estimator.normalization == "layer":
        raise ValueError("normalization='layer' would mix the members: set it to 'batch', or n_members=1")
    return hidden_layers(
        sizes,
        [*map(copy.deepcopy, activations)],
        kernel_initializer=_START,
        normalization=estimator.normalization,
        dropout=float(estimator.dropout),
        n_members=int(estimator.n_members),
    )


def end(estimator: Any, task: Task, *, first: bool) -> list[Layer]:
    """Return the last layer, and the mean of the members if there are several; `first` without hidden layers."""
    members = int(estimator.n_members)
    layers: list[Layer] = [affine(task.learned["n_outputs_"], _START, members, first=first)]
    if members > 1:
        layers.append(EnsembleMean(members, _AVERAGED[task.learned["out_activation_"]]))
    return layers


def optimizer_of(estimator: Any) -> Optimizer:
    """Return the optimizer; raise ValueError if its parameters do not fit together."""
    optimizer = as_optimizer(estimator.optimizer)
    if optimizer is None:
        raise ValueError("optimizer must be a name such as 'adam' or an optimizer, and is None")
    given: dict[str, Any] = {"learning_rate": estimator.learning_rate, "weight_decay": estimator.weight_decay}
    changes = {name: value for name, value in given.items() if value is not None}
    if estimator.optimizer == "adam":
        changes = _ADAM | changes
    if changes and isinstance(optimizer, ForeignOptimizer):
        raise ValueError(f"{estimator.optimizer!r} has settings of its own: leave {' and '.join(changes)} at None")
    return dataclasses.replace(optimizer, **changes) if changes else optimizer
