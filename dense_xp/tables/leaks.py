"""Leaks of the target: a column that alone explains it is often a copy of it."""

from __future__ import annotations

import numpy as np

from dense_xp.tables.columns import Host
from dense_xp.tables.encoder import Encoder
from dense_xp.tables.targets import Classes

_FEW = 100  # with fewer rows, a column may explain the target by chance
_MANY = 100_000  # rows that are enough, evenly spaced
_BINS = 50
_LEFT = 0.02  # the most that a leak leaves of the errors made without any column


def leaks(encoder: Encoder, X: Host, y: Host) -> list[str]:
    """Return a line for each column that alone predicts nearly all targets.

    Rows are grouped by category, or by quantiles of a number. A group predicts its most frequent class, or its mean; a
    number also predicts by its rank.

    Parameters
    ----------
    encoder : Encoder
        What was learned from the columns.
    X : numpy.ndarray, shape (n_rows, n_features)
        The rows of the training, encoded.
    y : numpy.ndarray, shape (n_rows,)
        Their targets, encoded.
    """
    if len(y) < _FEW:
        return []
    thinned = slice(None, None, -(-len(y) // _MANY))
    X, y = X[thinned], y[thinned]
    found, at = [], 0
    for column in encoder.columns:
        own = X[:, at : at + len(column.features)]
        at += len(column.features)
        if column.kind == "category":
            groups = np.where(own.any(axis=1), own.argmax(axis=1), own.shape[1])
        else:
            edges = np.unique(np.quantile(own[:, 0], np.linspace(0, 1, min(_BINS, len(y) // 20) + 1)[1:-1]))
            groups = np.searchsorted(edges, own[:, 0], side="right")
        if isinstance(encoder.target, Classes):
            left = _left_of_classes(groups, y, encoder.target.n_outputs)
        else:
            left = _left_of_numbers(groups, y)
            if column.kind != "category" and own[:, 0].any():
                left = min(left, 1 - np.corrcoef(_ranks(own[:, 0]), _ranks(y))[0, 1] ** 2)
        if left <= _LEFT:
            found.append(
                f"{column.name} alone tells {1 - left:.1%} of what is to be learned about {encoder.target.name}: if it "
                f"is known only afterwards, leave it out with --drop"
            )
    return found


def _ranks(values: Host) -> Host:
    return np.unique(values, return_inverse=True)[1]


def _left_of_classes(groups: Host, y: Host, n_classes: int) -> float:
    """Return the share of the errors of a constant that is left."""
    counts = np.bincount(groups * n_classes + y, minlength=(groups.max() + 1) * n_classes).reshape(-1, n_classes)
    without = len(y) - counts.sum(axis=0).max()
    return float((len(y) - counts.max(axis=1).sum()) / without) if without else 1.0


def _left_of_numbers(groups: Host, y: Host) -> float:
    """Return the share of the variance that is left."""
    sizes = np.maximum(1, np.bincount(groups))
    means = np.bincount(groups, weights=y) / sizes
    return float(np.square(y - means[groups]).mean() / y.var())
