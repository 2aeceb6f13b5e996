"""What the commands print: labelled lines, and epochs in words; and checks of where they may write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dense_xp.support.texts import plain
from dense_xp.tables import Category, Encoder, counted, rows_with_target
from dense_xp.training.history import History


class Lines:
    """Prints lines with a label in front, and keeps them; the label of the line above is not repeated."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.said: list[tuple[str, str]] = []

    def __call__(self, name: str, text: str) -> None:
        """Print a line."""
        again = bool(self.said) and self.said[-1][0] == name
        if not self.quiet:
            show(f"{'' if again else name:10}  {text}")
        self.said.append((name, text))

    def columns(self, encoder: Encoder) -> None:
        """Print what is done with each column."""
        rows = encoder.report()
        width = min(30, max(len(name) for name, _, _ in rows))
        for line in first_of([f"{name:{width}}  {kind:8}  {text}" for name, kind, text in rows], "column"):
            self("columns", line)

    def inputs(self, encoder: Encoder) -> None:
        """Print the type of each column that an ONNX graph takes."""
        kinds = {
            "number": "double, NaN where it is missing",
            "category": "string, empty where it is missing",
            "date": "double, days since 1970",
        }
        rows = []
        for column in encoder.columns:
            is_number = isinstance(column, Category) and column.of == "number"
            rows.append((column.name or "(no name)", kinds["number" if is_number else column.kind]))
        width = min(30, max(len(name) for name, _ in rows))
        for line in first_of([f"{name:{width}}  {kind}" for name, kind in rows], "column"):
            self("inputs", line)


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


def check_place(path: str | None, *others: str | None) -> None:
    """Raise, before the work, if a file cannot be written there or would replace one of the others."""
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
