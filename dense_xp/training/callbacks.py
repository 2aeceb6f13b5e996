"""What to do after each epoch beside training: stop, write a checkpoint or a log, learn more slowly.

Any function of a :class:`~dense_xp.training.history.Run` is a callback too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dense_xp.layers.layer import Layer
from dense_xp.layers.own_state import own_states, refuse_closed, restore_own_states
from dense_xp.learning.metrics import better
from dense_xp.support.checks import integer, real
from dense_xp.support.files import as_path, replacing
from dense_xp.support.trees import Params, copies, moved
from dense_xp.training.history import Run


class Best:
    """The best value so far of a number in the history, for callbacks that watch one.

    Parameters
    ----------
    monitor : str
        Its name.
    mode : {"min", "max", "auto"}
        Whether small or large values are good. With "auto" the loss and each metric say so themselves.
    min_delta : float, default 0.0
        By how much a value must be better to count.

    Attributes
    ----------
    epoch : int
        The epoch that had it, from 1; 0 before there is one.

    Raises
    ------
    ValueError
        If `mode` is neither, or `min_delta` is negative.

    Examples
    --------
    >>> best = Best("val_loss", "min")
    >>> [best.beaten(value) for value in (3.0, 2.0, 2.5, float("nan"))], best.epoch
    ([True, True, False, False], 2)
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor is a name in the history, and this is {monitor!r:.60}")
        if mode not in ("min", "max", "auto"):
            raise ValueError(f"mode must be 'min', 'max' or 'auto', and is {mode!r}")
        self.min_delta = real("min_delta", min_delta, "[0, inf)")
        self.monitor, self.mode = monitor, mode
        self._sign = -1.0 if mode == "max" else 1.0
        self.epoch, self._seen, self._value = 0, 0, math.inf

    def beaten(self, value: float) -> bool:
        """Look at the value of one more epoch; return whether it is the best so far."""
        self._seen += 1
        if not self._sign * value < self._value - self.min_delta:
            return False
        self._value, self.epoch = self._sign * value, self._seen
        return True

    def begin(self, run: Run) -> list[float]:
        """Forget everything; return the values that the history has from before this training.

        Raises
        ------
        ValueError
            If the mode is "auto" and nothing says whether large values are good.
        """
        if self.mode == "auto":
            good = better(self.monitor, run.metrics)
            self._sign = {"min": 1.0, "max": -1.0}.get(good, 0.0)
            if not good and self.monitor.removeprefix("val_") in run.metrics:
                self._must_be_told()
        self.epoch, self._seen, self._value = 0, 0, math.inf
        return list(run.history.get(self.monitor, ()))

    def read(self, run: Run, who: object) -> float:
        """Return the value of the last epoch, or raise ValueError if there is none."""
        if self.monitor not in run.measured:
            hint = "; pass validation_data to fit" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"{type(who).__name__} watches {self.monitor!r}, and the history has only {list(run.measured)}{hint}"
            )
        if not self._sign:
            self._must_be_told()
        return run.measured[self.monitor]

    def _must_be_told(self) -> NoReturn:
        raise ValueError(
            f"nothing says whether large values of {self.monitor!r} are good: pass mode='max' or mode='min'"
        )


class EarlyStopping:
    """Stop when a measure no longer falls, and bring the best weights back.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Name in the history.
    patience : int, default 5
        How many epochs in a row may pass without a new best.
    min_delta : float, default 0.0
        By how much it must improve to count.
    mode : {"auto", "min", "max"}, default "auto"
        Whether small or large values are good; the loss and each metric of this package say so themselves.
    restore_best_weights : bool, default True
        Whether the model ends with the weights of its best epoch, also if it was never stopped. What layers keep
        beside them is brought back too; see :meth:`Layer.get_state`.

    References
    ----------
    .. [1] L. Prechelt, "Early stopping — but when?", in *Neural Networks: Tricks of the Trade*,
       Springer 1998, pp. 55–69.

    Examples
    --------
    >>> EarlyStopping(patience=3).patience
    3
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best_weights: bool = True,
    ) -> None:
        self.monitor, self.patience = monitor, integer("patience", patience, 0)
        self.mode, self.restore_best_weights = mode, restore_best_weights
        self._best = Best(monitor, mode, min_delta)
        self.min_delta = self._best.min_delta
        self._kept: tuple[Params, dict[str, Any]] | None = None

    def begin(self, run: Run) -> None:
        """Go on where the training of the history was: if that has stopped, this one ends at once."""
        if self.restore_best_weights:
            refuse_closed(run.model, "EarlyStopping with restore_best_weights")
        for value in self._best.begin(run):
            self._best.beaten(value)
        self._kept = self._earlier(run) if self.restore_best_weights and self._best.epoch else None
        self._stop_if_due(run)

    def _earlier(self, run: Run) -> tuple[Params, dict[str, Any]] | None:
        """Return the best weights of the training that goes on, if they are still known."""
        history, model = run.history, run.model
        if history.best_weights is not None and history.best_epoch == self._best.epoch:
            return dict(moved(history.best_weights, model.built(), model.dtype)), history.best_own or {}
        return _kept(model) if self._best.epoch == run.epoch else None

    def epoch_end(self, run: Run) -> None:
        """Look at the last epoch, and keep its weights if it is the best so far."""
        best = self._best
        if best.beaten(best.read(run, self)) and self.restore_best_weights:
            self._kept = run.history.best_weights, run.history.best_own = _kept(run.model)
            run.history.best_epoch = best.epoch
        self._stop_if_due(run)

    def _stop_if_due(self, run: Run) -> None:
        best = self._best
        if best.epoch and run.epoch - best.epoch > self.patience:
            run.stop(f"{self.monitor} has not improved for {self.patience + 1} epochs (best: epoch {best.epoch})")

    def end(self, run: Run) -> None:
        """Give the model its best weights back."""
        if self._kept is not None:
            run.model.params = self._kept[0]
            restore_own_states(run.model, self._kept[1])
            run.history.best_epoch = self._best.epoch
        self._kept = run.history.best_weights = run.history.best_own = None


def _kept(model: Layer) -> tuple[Params, dict[str, Any]]:
    return copies(model.params), own_states(model)


_COLUMNS = ["epoch", "seconds", "learning_rate"]


class CSVLog:
    """Write the history as a CSV file, one line for each epoch as soon as it ends, with its learning rate.

    Parameters
    ----------
    path : path-like
        The file.
    append : bool, default False
        Whether to go on with an existing file instead of replacing it. In a resumed training, lines beyond the
        epoch from which it goes on are removed, and an incomplete line.

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
    epoch,seconds,learning_rate,loss
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self.path, self.append = as_path(path), append
        self._names: list[str] = []
        self._before = 0

    def begin(self, run: Run) -> None:
        """Read how far an earlier log came, or start a new one."""
        header, rows = self._read() if self.append else ([], [])
        self._names = header[3:]
        first, kept = self._shared(rows, run)
        self._before = first + int(rows[0][0]) - 1 if rows else 0
        missing = [self._line(run.history, epoch, "", "") for epoch in range(kept - first, run.epoch)] if kept else []
        lines = [header, *rows[:kept], *missing] if header else []
        with replacing(self.path) as file:
            file.write(_csv(lines).encode())

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the lines of a log that is there; those that are torn or blank are left out."""
        import csv

        if not os.path.exists(self.path):
            return [], []
        with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
            whole = [line.replace("\0", "") for line in file if line.endswith("\n")]
        header, *rows = [row for row in csv.reader(whole) if row] or [[]]
        if header and header[:3] != _COLUMNS:
            raise ValueError(f"{self.path} is no log of a training: write another file, or pass append=False")
        return header, [row for row in rows if len(row) == len(header) and row[0].isdigit()]

    def _shared(self, rows: Sequence[list[str]], run: Run) -> tuple[int, int]:
        """Return where the epochs of the run begin among these lines, and how many lines of its past stand there."""
        past = [self._line(run.history, epoch, "", "")[3:] for epoch in range(run.epoch)]
        for first in range(len(rows)) if past and set(self._names) <= set(run.history) else ():
            there = [row[3:] for row in rows[first : first + run.epoch]]
            if there == past[: len(there)]:
                return first, first + len(there)
        return max(0, len(rows) - run.epoch) if run.epoch else len(rows), len(rows)

    def _line(self, columns: Mapping[str, Sequence[float]], epoch: int, seconds: str, rate: str) -> list[str]:
        values = [repr(columns[name][epoch]) if name in columns else "" for name in self._names]
        return [str(self._before + epoch + 1), seconds, rate, *values]

    def epoch_end(self, run: Run) -> None:
        """Append a line."""
        values = run.measured
        lines: list[list[str]] = []
        if not self._names:
            self._names = list(values)
            lines.append([*_COLUMNS, *self._names])
        elif set(self._names) != set(values):
            raise ValueError(
                f"{self.path} has the columns {self._names}, and this training measures {list(values)}: "
                "write another file, or pass append=False"
            )
        seconds = f"{run.history.seconds:.6f}"
        rate = "" if run.learning_rate is None else repr(run.learning_rate)
        lines.append(self._line(run.history, run.epoch - 1, seconds, rate))
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(_csv(lines))

    def end(self, run: Run) -> None:
        """Do nothing: every line is in the file."""


def _csv(rows: Sequence[Sequence[str]]) -> str:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class ReduceLROnPlateau:
    """Multiply the learning rate, or the schedule, by a factor when a measure no longer improves.

    The rate is an input of the step, so nothing is compiled anew. The optimizer that was passed in stays as it
    is: the model gets a copy with the lower rate, keeps it after the training and saves it.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Name in the history.
    factor : float, default 0.1
        What the rate is multiplied by: above 0 and below 1.
    patience : int, default 10
        How many epochs in a row may pass without a new best; the next one reduces the rate.
    min_delta : float, default 0.0
        By how much it must improve to count.
    cooldown : int, default 0
        How many epochs after a reduction are not counted.
    min_lr : float, default 0.0
        Below this the rate is not reduced. A schedule may go below it by itself.
    mode : {"auto", "min", "max"}, default "auto"
        Whether small or large values are good; the loss and each metric of this package say so themselves.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    It counts epochs as torch's scheduler of the same name does, with an absolute threshold. With the
    `history` of an earlier training it goes on counting where that was.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import SGD, Dense, Sequential
    >>> model = Sequential([Dense(1)], rng=0)
    >>> reduce = ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)  # the first stays the best
    >>> _ = model.fit(np.ones((8, 2)), np.ones(8), 3, optimizer=SGD(0.1), callbacks=[reduce])
    >>> model.optimizer.learning_rate
    0.025
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: str = "auto",
    ) -> None:
        self.factor, self.min_lr = real("factor", factor, "(0, 1)"), real("min_lr", min_lr, "[0, inf)")
        self.patience, self.cooldown = integer("patience", patience, 0), integer("cooldown", cooldown, 0)
        self.monitor, self.mode = monitor, mode
        self._best = Best(monitor, mode, min_delta)
        self.min_delta = self._best.min_delta
        self._bad = self._resting = 0

    def begin(self, run: Run) -> None:
        """Count through what is in the history: its reductions are in the model already."""
        run.scale_learning_rate(1.0)  # changes nothing: if it cannot be done, it raises now
        self._bad = self._resting = 0
        for value in self._best.begin(run):
            self._due(value)

    def epoch_end(self, run: Run) -> None:
        """Reduce the rate, if it is time to."""
        rate = run.learning_rate
        if self._due(self._best.read(run, self)) and rate is not None and rate > self.min_lr:
            run.scale_learning_rate(max(self.factor, self.min_lr / rate))

    def _due(self, value: float) -> bool:
        self._bad = 0 if self._best.beaten(value) else self._bad + 1
        if self._resting:
            self._resting, self._bad = self._resting - 1, 0
        if self._bad <= self.patience:
            return False
        self._resting, self._bad = self.cooldown, 0
        return True

    def end(self, run: Run) -> None:
        """Do nothing: the model keeps the rate that it has come to."""


class TensorBoard:
    """Write what each epoch measures, and its learning rate, as scalars that TensorBoard shows.

    Parameters
    ----------
    log_dir : path-like or writer
        A directory, which `tensorboardX` writes to; each training gets an event file of its own in it. Or any
        object with ``add_scalar(tag, value, step)``, such as ``torch.utils.tensorboard.SummaryWriter``, which
        stays open.

    Raises
    ------
    ImportError
        If `log_dir` is a directory and `tensorboardX` is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential
    >>> class Printer:
    ...     def add_scalar(self, tag, value, step):
    ...         print(tag, step)
    >>> _ = Sequential([Dense(1)], rng=0).fit(np.ones((8, 2)), np.ones(8), 1, callbacks=[TensorBoard(Printer())])
    loss 1
    learning_rate 1
    """

    def __init__(self, log_dir: Any) -> None:
        self.log_dir: Any = log_dir if hasattr(log_dir, "add_scalar") else as_path(log_dir)
        self._writer: Any = None
        if isinstance(self.log_dir, str):
            _summary_writer()

    def begin(self, run: Run) -> None:
        """Open a new event file."""
        self._writer = self.log_dir
        if isinstance(self.log_dir, str):
            # the name has the time in seconds: a second training within one second would overwrite the first
            self._writer = _summary_writer()(self.log_dir, filename_suffix=f".{os.urandom(4).hex()}")

    def epoch_end(self, run: Run) -> None:
        """Write an epoch."""
        scalars = run.measured
        if run.learning_rate is not None:
            scalars["learning_rate"] = run.learning_rate
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, run.epoch)
        if hasattr(self._writer, "flush"):
            self._writer.flush()

    def end(self, run: Run) -> None:
        """Close the event file."""
        if isinstance(self.log_dir, str):
            self._writer.close()
        self._writer = None


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            'TensorBoard writes through tensorboardX: pip install "dense-xp[tensorboard]", or pass a writer of '
            "your own, such as torch.utils.tensorboard.SummaryWriter"
        ) from error
    return SummaryWriter
