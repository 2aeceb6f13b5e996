"""Figures that compare predictions with the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.cli.scores import Host, confusion, errors, probabilities
from dense_xp.support.pictures import new_figure, tidy
from dense_xp.support.texts import plain
from dense_xp.tables import Classes, Encoder

_BINS = 10
_MOST_CLASSES = 20  # with more, their names cannot be read
_MOST_POINTS = 5000


def prediction_quality(encoder: Encoder, output: Host, y: Host) -> Any:
    """Return a figure: calibration and confusion of classes, or the errors of predicted numbers.

    Parameters
    ----------
    encoder : Encoder
        That of the model.
    output : numpy.ndarray, shape (n_rows, n_outputs)
        What the model returned.
    y : numpy.ndarray, shape (n_rows,)
        The true targets, encoded.
    """
    figure = new_figure(10, 4.5)
    left, right = figure.subplots(1, 2)
    if isinstance(encoder.target, Classes):
        _reliability(left, encoder.target.labels, probabilities(output), y)
        _confusion(right, encoder.target.labels, confusion(encoder.target, output, y))
    else:
        target = encoder.target
        predicted, residuals = output[:, 0] * target.scale + target.mean, errors(encoder, output, y)
        every = -(-len(y) // _MOST_POINTS)
        tidy(left, f"{_short(target.name)}, predicted", "predicted − true")
        left.scatter(predicted[::every], residuals[::every], s=8, alpha=0.5, linewidths=0)
        left.axhline(0, color="grey", linewidth=1)
        tidy(right, "predicted − true", "rows").hist(residuals, bins="auto" if len(y) < _MOST_POINTS else 100)
        right.axvline(0, color="grey", linewidth=1)
    return figure


def importance(growth: Mapping[str, float], unit: str, most: int = 20) -> Any:
    """Return a figure: by how much the error grows when a column is shuffled, the largest first.

    Parameters
    ----------
    growth : mapping of str to float
        For each column.
    unit : str
        What kind of error it is.
    most : int, default 20
        How many columns are drawn.
    """
    names = sorted(growth, key=lambda name: -growth[name])[:most][::-1]
    figure = new_figure(8, 1 + 0.3 * len(names))
    axes = tidy(figure.subplots(), f"{unit} grows by", "")
    axes.barh([_short(name) for name in names], [growth[name] for name in names])
    return figure


def _reliability(axes: Any, labels: Sequence[str], p: Host, y: Host) -> None:
    """Draw a calibration curve: of the second of two classes, or else of the most likely class."""
    if len(labels) == 2:
        said, true, what = p[:, 1], y == 1, _short(labels[1])
    else:
        said, true, what = p.max(axis=1), p.argmax(axis=1) == y, "the predicted class"
    order = np.argsort(said, kind="stable")
    bins = [rows for rows in np.array_split(order, min(_BINS, len(y))) if len(rows)]
    tidy(axes, f"probability of {what}", "how often it was so")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="as often as said")
    axes.plot([said[rows].mean() for rows in bins], [true[rows].mean() for rows in bins], marker="o",
              label=f"a tenth of the rows each, {len(y):,} in all")  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(frameon=False, loc="upper left")


def _confusion(axes: Any, labels: Sequence[str], counts: Host) -> None:
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) > _MOST_CLASSES:
        return
    names = [_short(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45 if max(map(len, names)) > 4 else 0)
    axes.set_yticks(range(len(labels)), names)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, f"{count:,}", ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")


def _short(name: str, most: int = 24) -> str:
    name = plain(name).replace("$", r"\$")  # which would begin a formula
    return name if len(name) <= most else f"{name[: most - 1]}…"
