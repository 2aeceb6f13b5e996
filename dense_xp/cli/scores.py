"""Measures of predictions: of all rows, of each row, and of the importance of each column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dense_xp.learning.metrics import AUC, R2
from dense_xp.learning.special import log_softmax
from dense_xp.tables import Classes, Encoder

Host: TypeAlias = np.ndarray[Any, Any]

_SHUFFLES = 3
_MOST_ROWS = 2000


def scores(encoder: Encoder, output: Host, y: Host) -> dict[str, Any]:
    """Return measures as plain values, in the target's unit."""
    target = encoder.target
    if not isinstance(target, Classes):
        residuals = errors(encoder, output, y)
        found = {"rmse": float(np.square(residuals).mean() ** 0.5), "mae": float(np.abs(residuals).mean())}
        return {"r2": R2()(output.astype("float64"), y[:, None]), **found} if np.ptp(y) else found
    counts = confusion(target, output, y)
    classes = {}
    for i, label in enumerate(target.labels):
        rows, named, right = int(counts[i].sum()), int(counts[:, i].sum()), int(counts[i, i])
        classes[label] = {
            "rows": rows,
            "predicted": named,
            "precision": right / named if named else None,
            "recall": right / rows if rows else None,
        }
    area = AUC()(output.astype("float64"), y) if len(counts) == 2 else float("nan")
    return {
        "accuracy": float(np.trace(counts) / len(y)),
        "most_frequent": float(counts.sum(axis=1).max() / len(y)),
        "cross_entropy": float(errors(encoder, output, y).mean()),
        **({"auc": float(area)} if area == area else {}),
        "classes": classes,
        "confusion": counts.tolist(),
    }


def in_words(encoder: Encoder, scores: dict[str, Any]) -> str:
    """Return what :func:`scores` measured as a line."""
    if isinstance(encoder.target, Classes):
        area = f"; AUC {scores['auc']:.4f}" if "auc" in scores else ""
        return (
            f"accuracy {scores['accuracy']:.4f}, where the most frequent class alone gives "
            f"{scores['most_frequent']:.4f}; cross-entropy {scores['cross_entropy']:.4f}{area}"
        )
    r2 = f"R² {scores['r2']:.4f}, " if "r2" in scores else ""
    return f"{r2}root mean square error {scores['rmse']:.4g}, mean absolute error {scores['mae']:.4g}"


def confusion(target: Classes, output: Host, y: Host) -> Host:
    """Return how many rows of each class (in rows) are taken for each class (in columns)."""
    k = target.n_outputs
    return np.bincount(y * k + output.argmax(axis=1), minlength=k * k).reshape(k, k)


def probabilities(output: Host) -> Host:
    """Return the probability of each class, from logits."""
    return np.asarray(log_softmax(output.astype("float64"))[1])


def errors(encoder: Encoder, output: Host, y: Host) -> Host:
    """Return the cross-entropy of each row, or its prediction minus the truth in the target's unit."""
    target = encoder.target
    if isinstance(target, Classes):
        return -np.asarray(log_softmax(output.astype("float64"))[0])[np.arange(len(y)), y]
    return np.asarray((output[:, 0].astype("float64") - y) * target.scale)


def importances(encoder: Encoder, predict: Callable[[Host], Host], X: Host, y: Host) -> dict[str, float]:
    """Return the permutation importance of each column: by how much the error grows if its values are shuffled.

    The error is the cross-entropy, or the root mean square error. A column is shuffled three times, with all its
    features. Of more than 2,000 rows a fixed sample of 2,000 is used.

    References
    ----------
    .. [1] L. Breiman, "Random forests", Machine Learning 45 (2001), pp. 5–32.
    """
    rng = np.random.default_rng(0)
    if len(X) > _MOST_ROWS:
        rows = rng.choice(len(X), _MOST_ROWS, replace=False)
        X, y = X[rows], y[rows]

    def error(X: Host) -> float:
        found = errors(encoder, predict(X), y)
        return float(found.mean() if isinstance(encoder.target, Classes) else np.sqrt(np.square(found).mean()))

    before, at, growth = error(X), 0, {}
    for column in encoder.columns:
        own = slice(at, at + len(column.features))
        at = own.stop
        shuffled = X.copy()
        grown = []
        for _ in range(_SHUFFLES):
            shuffled[:, own] = X[rng.permutation(len(X)), own]
            grown.append(error(shuffled) - before)
        growth[column.name] = float(np.mean(grown))
    return growth
