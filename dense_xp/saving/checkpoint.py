"""A model file after each epoch, or after each better one."""

from __future__ import annotations

import os

from dense_xp.saving.model_files import save
from dense_xp.support.checks import integer
from dense_xp.training.callbacks import Best
from dense_xp.training.history import Run


class Checkpoint:
    """Save the model after each epoch, or after those that are the best so far.

    The file holds all that a training needs to go on; see :func:`dense_xp.save`. In the list of callbacks it
    stands after those that change the model, such as :class:`ReduceLROnPlateau`.

    Parameters
    ----------
    path : path-like
        Where to; ``"{epoch}"`` in it becomes the number of the epoch, and without it each file replaces the last.
    every : int, default 1
        Save after each so many epochs.
    monitor : str, optional
        Name in the history: save only when this is better than ever before in this training.
    mode : {"auto", "min", "max"}, default "auto"
        Whether small or large values of `monitor` are good; the loss and each metric of this package say so themselves.

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
        self, path: str | os.PathLike[str], *, every: int = 1, monitor: str | None = None, mode: str = "auto"
    ) -> None:
        self.path, self.every, self.monitor, self.mode = os.fspath(path), integer("every", every), monitor, mode
        self._best = Best(monitor or "", mode)

    def begin(self, run: Run) -> None:
        """Forget the best of an earlier training, but for what is in the history."""
        if self.monitor is None:
            return
        for value in self._best.begin(run):
            self._best.beaten(value)

    def epoch_end(self, run: Run) -> None:
        """Save, if it is time to."""
        if run.epoch % self.every:
            return
        if self.monitor is not None and not self._best.beaten(self._best.read(run, self)):
            return
        save(run.model, self.path.replace("{epoch}", str(run.epoch)), training=True, history=run.history)

    def end(self, run: Run) -> None:
        """Do nothing: what there is to save has been saved."""
