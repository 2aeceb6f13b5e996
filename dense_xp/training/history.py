"""A training seen from outside: its history, the run that callbacks are given, and the callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.layers.own_state import closed_layers
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.learning.metric import Measure
from dense_xp.learning.optimizer import Optimizer
from dense_xp.support.trees import Params
from dense_xp.training.pictures import learning_curve

if TYPE_CHECKING:
    from dense_xp.training.steps import Step


class DivergenceError(ArithmeticError):
    """The loss became infinite or NaN.

    Attributes
    ----------
    epoch, batch : int
        Where, counted from 1.
    history : History
        Everything up to the last good epoch, whose weights the model has again.
    """

    def __init__(self, message: str, epoch: int, batch: int, history: History) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.history = epoch, batch, history


@dataclass
class History(Mapping[str, list[float]]):
    """What each epoch of :meth:`Sequential.fit` measured, as Python numbers: ``history["loss"][-1]``.

    Attributes
    ----------
    metrics : dict of str to list of float
        One number an epoch: ``"loss"``, each metric, and the same with ``"val_"`` for the validation data.
    seconds : float
        How long the training took.
    samples : int
        How many samples were learned from, over all epochs.
    stopped : str
        Why training ended before its last epoch; empty if it did not.
    best_epoch : int or None
        The epoch (from 1) whose weights early stopping keeps, or has brought back.
    best_weights : dict or None
        Those weights, while a training goes on: a checkpoint saves them with it.
    best_own : dict or None
        What layers kept beside them then; see :meth:`Layer.get_state`.
    unrecorded : str
        Why the steps were not replayed as one recorded CUDA graph; empty if they were, or if the library has none.
    moving_average : dict or None
        What :class:`MovingAverage` needs to go on: ``"average"`` and ``"weights"``, the parameters as the optimizer
        has them, in nested dicts, and ``"steps"``, how many updates were averaged.
    """

    metrics: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    stopped: str = ""
    best_epoch: int | None = None
    unrecorded: str = ""
    best_weights: Params | None = field(default=None, repr=False, compare=False)
    best_own: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    moving_average: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> list[float]:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return len(self.metrics.get("loss", ()))

    def record(self, values: Mapping[str, float]) -> None:
        """Append one epoch.

        Parameters
        ----------
        values : mapping of str to float
            What it measured, by name.
        """
        for name, value in values.items():
            self.metrics.setdefault(name, []).append(float(value))

    def plot(self, figure: Any = None) -> Any:
        """Draw each measure against the epoch, in a panel of its own.

        Parameters
        ----------
        figure : matplotlib.figure.Figure or SubFigure, optional
            Where to draw; by default a new one of pyplot's, which a notebook shows.

        Returns
        -------
        matplotlib.figure.Figure or SubFigure
            The one that was drawn into.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If no epoch was completed.

        Examples
        --------
        >>> history = History({"loss": [0.9, 0.5], "val_loss": [1.0, 0.7]})
        >>> history.plot().savefig("curve.png")  # doctest: +SKIP
        """
        return learning_curve(self, figure, shown=True)


@dataclass
class Run:
    """One call of :meth:`Sequential.fit`, as callbacks see it.

    Attributes
    ----------
    model : Layer
        What is being trained; its weights are those of the last step.
    history : History
        What was measured so far.
    epochs : int
        How many epochs were asked for.
    metrics : mapping of str to Measure
        What is measured beside the loss.
    learning_rate : float or None
        That of the last step; None before the first, and where the optimizer keeps it to itself.
    factors : list of float
        What the learning rate was multiplied by, one after the other.
    batch : int
        The last batch of the epoch, from 1; 0 before the first.
    """

    model: Layer
    history: History
    epochs: int
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    learning_rate: float | None = None
    factors: list[float] = field(default_factory=list)
    batch: int = 0
    make_step: Callable[[], Step] | None = field(default=None, repr=False)
    step: Step | None = field(default=None, repr=False)
    values: Sequence[Any] = field(default=(), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: not the step, whose memory is in use."""
        return {**vars(self), "make_step": None, "step": None, "values": ()}

    @property
    def batch_loss(self) -> float:
        """The loss of the last batch, for a callback's ``batch_end``; reading it waits for the device.

        Raises
        ------
        RuntimeError
            Outside ``batch_end``.
        """
        if not self.values:
            raise RuntimeError(
                "there is a loss of a batch in batch_end of a callback alone: run.measured has the epochs"
            )
        return float(self.model.built().scalars([self.values[0]])[0])

    @property
    def params(self) -> Params:
        """The arrays after the last batch, in nested dicts; the next step may write over them."""
        return self.model.params if self.step is None else self.step.params

    @property
    def epoch(self) -> int:
        """The last completed epoch, from 1; 0 before the first."""
        return self.history.epochs

    @property
    def measured(self) -> dict[str, float]:
        """What the last epoch measured."""
        return {name: column[-1] for name, column in self.history.items() if len(column) == self.epoch > 0}

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate, or the schedule, by a factor.

        The model, and each layer in it, gets a copy of its optimizer with that rate, and keeps the state of
        the optimizer. The optimizer that was passed in stays as it is.

        Parameters
        ----------
        factor : float
            Not negative.

        Raises
        ------
        TypeError
            If the optimizer is an object of your own, which alone knows its rate.
        """
        if isinstance(self.model.optimizer, ForeignOptimizer):
            raise TypeError(
                f"the learning rate of {self.model.optimizer.optimizer!r} cannot be changed from here: change it "
                "in a callback of your own, or use an optimizer of dense_xp"
            )
        if factor == 1.0:
            return
        self.factors.append(factor)
        copies: dict[int, Optimizer] = {}
        for layer in with_inner(self.model):
            # a layer that writes the stateful methods keeps its optimizers under names of its own
            for name, value in list(vars(layer).items()):
                if isinstance(value, Optimizer):
                    setattr(layer, name, copies.setdefault(id(value), value.scaled(factor)))

    def stop(self, reason: str) -> None:
        """End the training after this epoch; called in ``batch_end``, after this batch.

        Parameters
        ----------
        reason : str
            The value of ``history.stopped``.
        """
        self.history.stopped = reason


@runtime_checkable
class Callback(Protocol):
    """What :meth:`Sequential.fit` calls: once before, after each epoch, and once at the end.

    A plain function of a :class:`Run` serves as well; it is called after each epoch. A callback that also has
    ``batch_end(run)`` is called after each batch, where ``run.batch`` says which, ``run.batch_loss`` its loss and
    ``run.params`` the arrays; ``run.stop`` ends the training there. It costs nothing where no callback has it.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential
    >>> class StopWhenGood:
    ...     def begin(self, run): pass
    ...     def epoch_end(self, run): pass
    ...     def end(self, run): pass
    ...     def batch_end(self, run):
    ...         if run.batch % 10 == 0 and run.batch_loss < 2.0:
    ...             run.stop(f"batch {run.batch} of epoch {run.epoch + 1} is good enough")
    >>> X = np.linspace(-1, 1, 640)[:, None]
    >>> model = Sequential([Dense(1)], rng=0)
    >>> model.fit(X, X[:, 0], 100, 16, callbacks=[StopWhenGood()]).stopped
    'batch 10 of epoch 1 is good enough'
    """

    def begin(self, run: Run) -> None:
        """Training starts.

        Parameters
        ----------
        run : Run
            What is being trained.
        """

    def epoch_end(self, run: Run) -> None:
        """Look at an epoch: it is in the history, and its weights are in the model.

        Parameters
        ----------
        run : Run
            What is being trained.
        """

    def end(self, run: Run) -> None:
        """Training has ended, for whatever reason.

        Parameters
        ----------
        run : Run
            What was trained.
        """


def diverged(model: Layer, losses: np.ndarray[Any, Any], epoch: int, history: History) -> DivergenceError:
    """Return the error that says where the loss became infinite or NaN.

    Parameters
    ----------
    model : Layer
        As the last step left it.
    losses : numpy.ndarray
        Of each batch of the epoch.
    epoch : int
        Its number.
    history : History
        Of the epochs before.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    batch = int(bad[0]) + 1 if len(bad) else len(losses)
    broken = [n for n, w in model.weights.items() if not np.isfinite(model.built().to_numpy(w)).all()]
    where = f"no longer finite: {', '.join(broken)}" if broken else "all weights were still finite"
    but = f" (but for {', '.join(closed)})" if (closed := closed_layers(model)) else ""
    return DivergenceError(
        f"the loss became {losses[batch - 1]} in epoch {epoch}, batch {batch} of {len(losses)} ({where}). "
        f"The model has its weights from before that epoch again{but}. Try a smaller learning rate, "
        "clip_norm, or data scaled to about unit size",
        epoch,
        batch,
        history,
    )
