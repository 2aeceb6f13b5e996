"""Learning from data: the loop over epochs and batches.

The losses stay on the device until the epoch ends.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence

from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.learning.metric import Measure
from dense_xp.support.seeds import Rng
from dense_xp.training.history import Callback, History, Run, diverged
from dense_xp.training.interrupts import Interrupts
from dense_xp.training.moments import Moment
from dense_xp.training.prediction import score
from dense_xp.training.progress import Progress
from dense_xp.training.samples import Samples
from dense_xp.training.steps import Step
from dense_xp.training.streamed import StreamedSamples


def run_epochs(
    run: Run,
    step: Step,
    samples: Samples | StreamedSamples,
    validation: Samples | StreamedSamples | None,
    metrics: Mapping[str, Measure],
    hooks: Sequence[Callback],
    batch_size: int,
    shuffle: bool,
    rng: Rng,
    interrupts: Interrupts,
    verbose: bool | None,
) -> History:
    """Train for the epochs of a run, and return its history; after an error too, the model has whole steps.

    Parameters
    ----------
    run : Run
        The model, its history so far, and how many epochs.
    step : Step
        Takes a step on a batch.
    samples, validation : Samples or StreamedSamples
        To learn from, and to measure after each epoch.
    metrics : mapping of str to Measure
        What is measured beside the loss.
    hooks : sequence of Callback
        Called after each epoch and at the end. One that stops the run after a batch ends the epoch there.
    batch_size, shuffle, rng, verbose
        As in :func:`~dense_xp.training.fitting.fit`.
    interrupts : Interrupts
        Entered, and checked after each step.
    """
    history, batches = run.history, samples.count(batch_size)
    started = time.perf_counter() - history.seconds
    progress = Progress(batches and run.epochs * batches, verbose, interrupts)
    try:
        for epoch in range(run.epoch + 1, run.epoch + run.epochs + 1):
            if history.stopped:
                break
            before = step.moment()
            with _whole_steps(step, before):
                with interrupts.held():
                    step.begin_epoch()
                    values, taken = [], []
                    for rows, batch in samples.epoch(batch_size, rng, shuffle):
                        values.append(step(*batch, rng))
                        taken.append(rows)
                        progress.advance()
                        interrupts.check()
                        if history.stopped:
                            break
                    means = samples.measured(values, taken, metrics)
                if not math.isfinite(means["loss"]):
                    losses = samples.losses(values)
                    step.hand_over()
                    raise diverged(run.model, losses, epoch, history)
                step.hand_over()
            if validation is not None:
                with interrupts.open():
                    scores = score(run.model, validation, metrics, max(batch_size, 256))
                means |= {f"val_{name}": score for name, score in scores.items()}
            history.record(means)
            history.unrecorded = step.unrecorded
            history.samples += samples.counted(taken)
            history.seconds = time.perf_counter() - started
            run.learning_rate = _last_rate(run.model)
            progress.show(means)
            for hook in hooks:
                with interrupts.open():
                    hook.epoch_end(run)
    finally:
        progress.close()
        for hook in hooks:
            hook.end(run)
    return history


@contextlib.contextmanager
def _whole_steps(step: Step, before: Moment) -> Iterator[None]:
    """Leave the model with whole steps: those up to an interrupt; after any other error, those before the epoch."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and step.whole:
            step.hand_over()
        else:
            before.restore(step.model, error)
        raise


def _last_rate(model: Layer) -> float | None:
    """Return the learning rate of the last step, where the optimizer says it."""
    optimizer = model.optimizer
    if optimizer is None or isinstance(optimizer, ForeignOptimizer):
        return None
    # layers with the stateful methods alone count their steps themselves
    return optimizer.learning_rate_at(max(0, max(layer.steps for layer in with_inner(model)) - 1))
