"""What to do after each epoch beside training: write a checkpoint, write a log.

Early stopping is in :mod:`dense_xp.training`; any function of a :class:`~dense_xp.training.Run` is a callback too.
"""

from __future__ import annotations

import math
import os
from typing import Any

from dense_xp.saving import save
from dense_xp.training import Run


class Checkpoint:
    """Save the model after each epoch, or after those that are the best so far.

    The file holds all that a training needs to go on; see :func:`dense_xp.save`.

    Parameters
    ----------
    path : path-like
        Where to; ``"{epoch}"`` in it becomes the number of the epoch, and without it each file replaces the last.
    every : int, default 1
        Save after each so many epochs.
    monitor : str, optional
        Name in the history: save only when this is better than ever before in this training.
    mode : {"min", "max"}, default "min"
        Whether small or large values of `monitor` are good.

    Raises
    ------
    ValueError
        If `every` is not a positive integer, or `mode` is neither.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential, load
    >>> model = Sequential([Dense(1)], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = model.fit(np.ones((8, 2)), np.ones(8), 2, callbacks=[Checkpoint(f"{folder}/{{epoch}}.safetensors")])
    ...     load(f"{folder}/2.safetensors").steps
    2
    """

    def __init__(
        self, path: str | os.PathLike[str], *, every: int = 1, monitor: str | None = None, mode: str = "min"
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a positive integer, and is {every!r}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', and is {mode!r}")
        self.path, self.every, self.monitor, self.mode = os.fspath(path), every, monitor, mode
        self._best = math.inf

    def begin(self, run: Run) -> None:
        """Forget the best of an earlier training."""
        self._best = math.inf

    def epoch_end(self, run: Run) -> None:
        """Save, if it is time to."""
        if run.epoch % self.every:
            return
        if self.monitor is not None:
            if self.monitor not in run.history:
                raise ValueError(f"Checkpoint watches {self.monitor!r}, and the history has only {list(run.history)}")
            value = run.history[self.monitor][-1] * (1 if self.mode == "min" else -1)
            if not value < self._best:
                return
            self._best = value
        save(run.model, self.path.replace("{epoch}", str(run.epoch)), training=True, history=run.history)

    def end(self, run: Run) -> None:
        """Do nothing: what there is to save has been saved."""


class CSVLog:
    """Write the history as a CSV file, one line for each epoch as soon as it ends.

    Parameters
    ----------
    path : path-like
        The file.
    append : bool, default False
        Whether to go on with a file that is there, as after a resumed training, instead of replacing it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = CSVLog(f"{folder}/log.csv")
    ...     _ = Sequential([Dense(1)], rng=0).fit(np.ones((8, 2)), np.ones(8), 2, callbacks=[log])
    ...     with open(log.path) as file:
    ...         print(file.readline().strip())
    epoch,seconds,loss
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self.path, self.append = os.fspath(path), append
        self._names: list[str] = []
        self._before = 0

    def begin(self, run: Run) -> None:
        """Read how far an earlier log came, or start a new one."""
        import csv

        self._names, self._before = [], 0
        if self.append and os.path.exists(self.path):
            with open(self.path, newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            self._names = header[2:]
            self._before = int(rows[-1][0]) if rows else 0
        else:
            with open(self.path, "w", encoding="utf-8"):
                pass

    def epoch_end(self, run: Run) -> None:
        """Append a line."""
        import csv

        values: dict[str, Any] = {name: column[-1] for name, column in run.history.items()}
        lines: list[list[Any]] = []
        if not self._names:
            self._names = list(values)
            lines.append(["epoch", "seconds", *self._names])
        elif set(self._names) != set(values):
            raise ValueError(
                f"{self.path} has the columns {self._names}, and this training measures {list(values)}: "
                "write another file, or pass append=False"
            )
        seconds = f"{run.history.seconds:.3f}"
        lines.append([self._before + run.epoch, seconds, *(repr(values[name]) for name in self._names)])
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)

    def end(self, run: Run) -> None:
        """Do nothing: every line is in the file."""
