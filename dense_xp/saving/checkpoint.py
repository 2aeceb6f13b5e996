"""A model file after each epoch, or after each better one."""

from __future__ import annotations

import math
import os
import string
from collections.abc import Mapping

from dense_xp.layers.own_state import refuse_closed
from dense_xp.saving.model_files import save
from dense_xp.support.checks import integer
from dense_xp.support.files import as_path, place_of
from dense_xp.training.callbacks import Best
from dense_xp.training.history import Run


class Checkpoint:
    """Save the model after each epoch, or after those that are the best so far.

    The file holds all that is needed to resume the training; see :func:`dense_xp.save`. In the list of callbacks it
    belongs after those that change the model, such as :class:`ReduceLROnPlateau`.

    Parameters
    ----------
    path : path-like
        Where to. ``"{epoch}"`` in it becomes the number of the epoch, ``"{val_loss:.3f}"`` that measure, as
        ``str.format`` writes them; without a field each file replaces the last.
    every : int, default 1
        Save every so many epochs.
    monitor : str, optional
        Name in the history: save only when this is better than in every epoch before, also those that `every` skips.
    mode : {"auto", "min", "max"}, default "auto"
        Whether small or large values of `monitor` are good; known for the loss and the metrics of this package.

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
        self.path, self.every, self.monitor, self.mode = as_path(path), integer("every", every), monitor, mode
        self._best = Best(monitor or "", mode)

    def begin(self, run: Run) -> None:
        """Check the path, and forget the best of an earlier training, except for what is in the history."""
        refuse_closed(run.model, "Checkpoint")
        names = ["epoch", "loss", *run.metrics]
        known = [*names, *(f"val_{name}" for name in names[1:])]
        how = "a brace that is meant as one is written twice: {{ }}"
        try:
            used = [name for _, name, _, _ in string.Formatter().parse(self.path) if name is not None]
            trial = self.path.format(epoch=1, **dict.fromkeys(known[1:], 1.0)) if set(used) <= set(known) else ""
        except (ValueError, LookupError) as error:
            raise ValueError(f"the path {self.path!r} cannot be filled in: {error}; {how}") from None
        self._known = known[1:]
        if unknown := [name for name in used if name not in known]:
            raise ValueError(
                f"the path {self.path!r} has the field {unknown[0]!r}, and known are {', '.join(known)}; {how}"
            )
        place_of(trial)  # fail now, not after an epoch
        if self.monitor is not None:
            for value in self._best.begin(run):
                self._best.beaten(value)

    def epoch_end(self, run: Run) -> None:
        """Save, if it is time to; the monitored value is compared in every epoch."""
        best = self.monitor is None or self._best.beaten(self._best.read(run, self))
        if best and run.epoch % self.every == 0:
            self._save(run, run.measured)

    def terminated(self, run: Run) -> None:
        """Save within an epoch, because a batch system will end the training; not if only the best is saved.

        A training that is resumed from there starts that epoch again, from these weights.

        Parameters
        ----------
        run : Run
            What was trained.
        """
        if self.monitor is None:  # NaN for measures in the path before the first epoch ends
            self._save(run, dict.fromkeys(self._known, math.nan) | run.measured)

    def _save(self, run: Run, measured: Mapping[str, float]) -> None:
        save(run.model, self.path.format(epoch=run.epoch, **measured), training=True, history=run.history)

    def end(self, run: Run) -> None:
        """Do nothing: what there is to save has been saved."""
