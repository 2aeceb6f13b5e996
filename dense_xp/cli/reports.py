"""What the commands say: lines with a name in front, scores in words, the learning curve as a picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dense_xp.learning.special import log_softmax
from dense_xp.support.texts import plain
from dense_xp.tables import Classes, Encoder, counted, rows_with_target
from dense_xp.training.history import History


class Lines:
    """Prints lines with a name in front; a name that stands in the line above is left out."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self._last = quiet, ""

    def __call__(self, name: str, text: str) -> None:
        """Print a line."""
        if not self.quiet:
            show(f"{name if name != self._last else '':10}  {text}")
        self._last = name

    def columns(self, encoder: Encoder) -> None:
        """Print what is done with each column."""
        rows = encoder.report()
        width = min(30, max(len(name) for name, _, _ in rows))
        for line in first_of([f"{name:{width}}  {kind:8}  {text}" for name, kind, text in rows], "column"):
            self("columns", line)


def show(text: str = "") -> None:
    """Print a text that may have come from a file."""
    print(plain(text), flush=True)


def note(text: str) -> None:
    """Print a line on standard error, beside what a command writes."""
    print(f"dense-xp: {plain(text)}", file=sys.stderr, flush=True)


def with_target(frame: Any, name: str, say: Callable[[str], None]) -> Any:
    """Return the rows of a table that have a target, and say how many have none."""
    known = rows_with_target(frame, name)
    if not known.all():
        say(f"{counted(int((~known).sum()), 'row')} without {name}, the target: left out")
    return frame.filter(known)


def first_of(lines: Sequence[str], noun: str, most: int = 40) -> list[str]:
    """Return lines, or the first of them and how many more there are: a table may have thousands of columns."""
    return [*lines[:most], *(["and " + counted(len(lines) - most, f"more {noun}")] if len(lines) > most else [])]


def epochs(history: History, wanted: int | None = None) -> str:
    """Say how many epochs there were, why no more, and which weights were kept."""
    text = f"{history.epochs:,}" + (f" of {wanted:,}" if wanted else "") + f" in {history.seconds:.1f} s"
    text += f"; {history.stopped}" if history.stopped else ""
    return text + (f"; kept: the weights of epoch {history.best_epoch}" if history.best_epoch else "")


def scores(encoder: Encoder, output: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return measures as plain values, in the target's unit."""
    target = encoder.target
    if not isinstance(target, Classes):
        residuals = (output[:, 0].astype("float64") - y) * target.scale
        spread = float(np.square((y - y.mean()) * target.scale).mean())
        error = float(np.square(residuals).mean())
        scores = {"rmse": error**0.5, "mae": float(np.abs(residuals).mean())}
        return {"r2": 1.0 - error / spread, **scores} if spread else scores
    predicted = output.argmax(axis=1)
    losses = -log_softmax(output.astype("float64"))[0][np.arange(len(y)), y]
    k = target.n_outputs
    confusion = np.bincount(y * k + predicted, minlength=k * k).reshape(k, k)
    classes = {}
    for i, label in enumerate(target.labels):
        rows, named, right = int(confusion[i].sum()), int(confusion[:, i].sum()), int(confusion[i, i])
        classes[label] = {
            "rows": rows,
            "predicted": named,
            "precision": right / named if named else None,
            "recall": right / rows if rows else None,
        }
    return {
        "accuracy": float(np.trace(confusion) / len(y)),
        "most_frequent": float(confusion.sum(axis=1).max() / len(y)),
        "cross_entropy": float(losses.mean()),
        "classes": classes,
        "confusion": confusion.tolist(),
    }


def in_words(encoder: Encoder, scores: dict[str, Any]) -> str:
    """Return what :func:`scores` measured as a line."""
    if isinstance(encoder.target, Classes):
        return (
            f"accuracy {scores['accuracy']:.4f}, where the most frequent class alone gives "
            f"{scores['most_frequent']:.4f}; cross-entropy {scores['cross_entropy']:.4f}"
        )
    r2 = f"R² {scores['r2']:.4f}, " if "r2" in scores else ""
    return f"{r2}root mean square error {scores['rmse']:.4g}, mean absolute error {scores['mae']:.4g}"


def check_place(path: str | None, *others: str | None) -> None:
    """Raise if a file cannot be written there, or one of the others stands there: better before the work than after."""
    if path is None:
        return
    for other in others:
        if other is not None and os.path.realpath(other) == os.path.realpath(path):
            raise ValueError(f"{path} would be written over {other}, which is used here too: name another file")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder!r}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} cannot be written: it is a folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: the folder {folder!r} is write-protected")
