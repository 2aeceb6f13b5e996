"""Learning from data: all arguments are checked before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dense_xp.backend import resolve, use_backend
from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.layers.placed import unchanged_on_failure
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, MetricLike
from dense_xp.learning.metrics import named_metrics, suited
from dense_xp.support.checks import integer, several
from dense_xp.support.seeds import Rng, as_rng
from dense_xp.training.alone import Alone
from dense_xp.training.around import asking
from dense_xp.training.averaging import AveragedStep
from dense_xp.training.history import Callback, History, Run
from dense_xp.training.loop import run_epochs
from dense_xp.training.prediction import gives_probabilities
from dense_xp.training.predictor import needs_built
from dense_xp.training.samples import Samples
from dense_xp.training.steps import Step, stepper
from dense_xp.training.streamed import GrowingStep
from dense_xp.training.streams import Batches, Pieces, is_stream, stream_of
from dense_xp.training.threads import few_threads

if TYPE_CHECKING:
    from dense_xp.training.distributed.ranks import Ranks


def fit(
    model: Layer,
    X: Any,
    y: Any = None,
    epochs: int = 10,
    batch_size: int = 32,
    *,
    loss: str | Loss | None = None,
    optimizer: Any = None,
    metrics: Sequence[MetricLike] = (),
    validation_data: Any = None,
    sample_weight: Any = None,
    shuffle: bool = True,
    accumulate: int = 1,
    steps_per_epoch: int | None = None,
    callbacks: Sequence[Any] = (),
    history: History | None = None,
    rng: Any = None,
    verbose: bool | None = None,
    distributed: str | Ranks | None = None,
) -> History:
    """Learn from data.

    A model that is not initialized yet is initialized first, on the backend that is set or else on
    that of `X`. Host data are fed to the device batch by batch; data on the device stay there.

    Parameters
    ----------
    model : Layer
        The model to train; for the method, the object itself.
    X : array, shape (n_samples, ..., n_features)
        On the host, or on the model's device; or one of SciPy's sparse matrices, made dense batch by batch; or a
        dask array or data frame, read block by block. Or a stream of batches ``(X, y)`` or
        ``(X, y, sample_weight)``, without `y`: an iterable such as a DataLoader of torch, a function that returns
        one, or :class:`ParquetRows`.
    y : array, optional
        Targets: class labels (integers) of shape (n_samples, ...), or one row for each output row.
        For a model with one output, one number for each sample also serves.
    epochs : int, default 10
        How often to go through the data.
    batch_size : int, default 32
        Samples in one step; the last batch of an epoch may be smaller. Batches of a stream are taken as they are.
    loss : str or Loss, optional
        By default :class:`SoftmaxCrossEntropy` for integer targets of a model with several outputs,
        and :class:`MeanSquaredError` otherwise.
    optimizer : Optimizer, str or object with ``update``, optional
        Starts afresh. By default the one that the model has, or else :class:`Adam`.
    metrics : sequence of str, Metric or callable
        Names such as ``"accuracy"``, ``"f1"`` or that of a loss; a :class:`Metric` such as :class:`AUC`; or
        functions of (prediction, target) or (prediction, target, weight), whose values are averaged over
        the batches.
    validation_data : tuple or stream, optional
        ``(X, y)`` or ``(X, y, sample_weight)``, or a stream, measured after each epoch.
    sample_weight : array, shape (n_samples, ...), optional
        How much each sample counts; not negative.
    shuffle : bool, default True
        Whether each epoch takes the samples in a new order. Batches of a stream are in the order in which they come.
    accumulate : int, default 1
        How many batches make one update: by their mean gradient, as one batch of ``accumulate * batch_size``
        samples would, in the memory of a small one. The mean is clipped, and not the gradient of each batch. The
        last update of an epoch may have fewer. :class:`BatchNorm` sees each batch by itself. A model with layers
        that write the stateful methods alone is given the large batch instead.
    steps_per_epoch : int, optional
        How many batches of a stream are an epoch; the next epoch goes on where it ended, and a stream that is
        used up begins anew. By default an epoch is one pass.
    callbacks : sequence
        Such as :class:`EarlyStopping`; a function of the :class:`Run` is called after each epoch.
    history : History, optional
        That of an earlier training, to go on with: epochs are counted on, a copy is extended and returned, and
        callbacks take its values into account.
    rng : int or numpy.random.Generator, optional
        Source of the order and of dropout; by default the model's own.
    verbose : bool, optional
        Whether to show a progress bar; by default only on a terminal.
    distributed : {None, "mpi"} or Ranks, optional
        With "mpi", all processes that ``mpiexec`` has started train this model together, each on its part of every
        batch; all of them make this call, with the same data. See :class:`Ranks`.

    Returns
    -------
    History
        Loss and metrics of each epoch, over all batches as they were trained on.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is out of range, there are no samples, or a number is NaN; or a generator
        cannot serve for all epochs.
    ForeignArrayError
        If data are on another device or in another library.
    DivergenceError
        If the loss becomes NaN or infinite. The model keeps its weights from before that epoch.
    RankError
        If another process cannot go on.
    """
    group = _group(distributed)
    with group.interrupts:
        with unchanged_on_failure(model), group.interrupts.open():  # everything is checked before anything is learned
            with group.agreeing() as facts:
                epochs, batch_size = int(integer("epochs", epochs)), int(integer("batch_size", batch_size))
                accumulate = int(integer("accumulate", accumulate))
                named = suited(named_metrics(metrics), gives_probabilities(model))
                history = _continued(history, named, validation_data is not None)
                hooks = [
                    hook if isinstance(hook, Callback) else _OnEpochEnd(hook)
                    for hook in several("callbacks", callbacks)
                ]
                stream = _stream(X, y, sample_weight, epochs, steps_per_epoch)
                _prepare(model, X if stream is None else stream.first().X, optimizer)
                backend = model.built()
                if not is_pure(model):  # its layers step by themselves, at each gradient
                    if stream is not None and accumulate > 1:
                        raise ValueError(
                            "layers that write the stateful methods alone step at each batch: let the stream give "
                            "batches that are accumulate times as large"
                        )
                    batch_size, accumulate = batch_size * accumulate, 1
                generator: Rng = model.rng if rng is None else as_rng(rng)
                with backend.scope():
                    samples = group.samples(model, stream, (X, y, sample_weight), loss, steps_per_epoch)
                    validation = None
                    if validation_data is not None:
                        given = _three(validation_data)
                        validation = group.samples(model, _stream(*given, epochs), given, samples.loss)
                if group.size > 1:
                    facts |= {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate}
                    facts |= {"shuffle": bool(shuffle), "the model": repr(model), **samples.facts}
                    facts |= {"validation_data": None if validation is None else validation.facts}
                    facts |= {"metrics": list(named), "loss": repr(samples.loss), "rng": type(generator).__name__}
                    facts |= {"past epochs": history.epochs, "steps_per_epoch": steps_per_epoch}
            hooks = list(group.callbacks(hooks))
            with backend.scope():
                group.prepare(model, generator)

                def made(rows: int) -> Step:
                    ndim = 1 + len(samples.sample_shape)
                    return group.stepper(model, samples.loss, named, ndim, rows, accumulate)

                def make_step() -> Step:
                    return made(largest) if stream is None else GrowingStep(made, largest, group.batch_rows)

                largest = samples.largest(batch_size)
                run = Run(model, history, epochs, named, make_step=make_step, step=make_step())
            for hook in hooks:
                hook.begin(run)
            assert run.step is not None
            if not isinstance(run.step, AveragedStep):
                history.moving_average = None  # this training does not update it
            step = asking(run.step, hooks, run)
        if not group.root:
            verbose = False
        rows = -(-largest // group.size) * math.prod(samples.sample_shape[:-1])
        with group.running(verbose is False), backend.scope(), few_threads(model, rows):
            return run_epochs(
                run, step, samples, validation, named, hooks, batch_size, shuffle, generator, group.interrupts, verbose
            )


def repeated_step(model: Layer, X: Any, y: Any, *, loss: str | Loss | None = None) -> Callable[[], Any]:
    """Return a function that takes one step of :meth:`Sequential.fit` on one batch; for measuring.

    Parameters
    ----------
    model : Layer
        Initialized, with an optimizer. Its own arrays stay as they are.
    X, y : array
        The batch.
    loss : str or Loss, optional
        As in :meth:`dense_xp.Sequential.fit`.

    Returns
    -------
    callable
        Without arguments; returns the loss of the step, which may still be on its way.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense
    >>> layer = Dense(1, (2,), rng=0)
    >>> layer.initialize("adam")
    >>> step = repeated_step(layer, np.ones((4, 2)), np.ones(4))
    >>> bool(step() > step())
    True
    """
    backend, rng = needs_built(model), model.rng
    with backend.scope():
        samples = Samples(model, X, y, None, loss)
        step = stepper(model, samples.loss, {}, samples.X.data.ndim, len(samples))
        step.begin_epoch()
        batch = samples.take(slice(0, len(samples)))

    def take() -> Any:
        with backend.scope():
            return step(*batch, rng)[0]

    return take


def _group(distributed: str | Ranks | None) -> Alone:
    """Return the process, or the processes that train together."""
    if distributed is None:
        return Alone()
    from dense_xp.training.distributed.together import together

    return together(distributed)


class _OnEpochEnd:
    """A plain function as a callback."""

    def __init__(self, function: Callable[[Run], Any]) -> None:
        if not callable(function):
            raise TypeError(
                f"a callback is a function of the run, or has begin, epoch_end and end; this is a "
                f"{type(function).__name__}"
            )
        self.function = function

    def begin(self, run: Run) -> None:
        pass

    def epoch_end(self, run: Run) -> None:
        self.function(run)

    def end(self, run: Run) -> None:
        pass


def _prepare(model: Layer, X: Any, optimizer: Any) -> None:
    """Initialize a model that is not yet, and give it its optimizer."""
    if model.backend is None:
        with use_backend(resolve(model.setting("backend"), X)):
            model.build_for(X, "adam" if optimizer is None else optimizer)
    elif optimizer is not None or model.optimizer is None:
        model.set_optimizer("adam" if optimizer is None else optimizer)


def _continued(history: History | None, metrics: Mapping[str, Measure], validates: bool) -> History:
    """Return a history to go on with: a copy of one that has the same columns, or a new one."""
    if history is not None and not isinstance(history, History):
        raise TypeError(f"history is what an earlier fit returned, and this is {history!r:.60}")
    if history is None or not history.metrics:
        return History()
    names = ["loss", *metrics]
    names += [f"val_{name}" for name in names] if validates else []
    if missing := [name for name in names if name not in history and f"{name}_0" not in history]:
        raise ValueError(
            f"the history has no {missing}, which this training measures: measure what it has, {list(history)}, "
            "or start a new one with history=None"
        )
    columns = {name: list(values) for name, values in history.items()}
    going_on = History(columns, history.seconds, history.samples, moving_average=history.moving_average)
    if history.best_weights is not None:
        going_on.best_weights, going_on.best_epoch = history.best_weights, history.best_epoch
        going_on.best_own = history.best_own
    return going_on


def _stream(X: Any, y: Any, weight: Any, epochs: int, steps: int | None = None) -> Batches | Pieces | None:
    """Return what comes piece by piece as a stream that serves for all epochs; None for arrays."""
    stream = stream_of(X, y, weight)
    if steps is not None and integer("steps_per_epoch", steps) and stream is None:
        raise ValueError("steps_per_epoch is for streams: an epoch on arrays takes all of their samples")
    if stream is not None and stream.once and epochs > 1 and steps is None:
        raise ValueError(
            f"a {type(X).__name__} is used up after one epoch, and epochs is {epochs}: pass the function that makes "
            "it, fit(batches) and not fit(batches()); or epochs=1; or steps_per_epoch, if it does not end"
        )
    return stream


def _three(data: Any) -> tuple[Any, Any, Any]:
    if is_stream(data):
        return data, None, None
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError("validation_data must be (X, y) or (X, y, sample_weight), or a stream of such batches")
    return data[0], data[1], data[2] if len(data) == 3 else None
