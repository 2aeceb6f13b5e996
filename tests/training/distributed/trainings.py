"""Trainings, each on one process or on several: what they measure and learn goes into a file for each rank.

mpiexec -n 2 python -m tests.training.distributed.trainings FOLDER mpi BACKEND CASE...
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")

import numpy as np

from dense_xp import (
    L2,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    EarlyStopping,
    History,
    LayerNorm,
    MaxNorm,
    MovingAverage,
    Ranks,
    ReduceLROnPlateau,
    Sequential,
    SoftmaxCrossEntropy,
    set_backend,
    to_numpy,
)
from dense_xp.datasets import load_digits

X, y = load_digits()
Trained = tuple[Sequential, History]


class OwnAdam(Adam):
    """Without a kernel: the step is the pure one."""


def network(*between: Any, dtype: str = "float32", units: int = 24, **kwargs: Any) -> Sequential:
    return Sequential([Dense(units, activation="tanh", **kwargs), *between, Dense(10)], rng=3, dtype=dtype)


def sgd(dtype: str, how: Any) -> Trained:
    model = network(dtype=dtype)
    return model, model.fit(X, y, 200, len(X), optimizer=SGD(0.1, momentum=0.9), distributed=how)


def adam(dtype: str, how: Any) -> Trained:
    """Clipping, dropout, statistics of the batch, and a last batch of 33 rows."""
    model = network(BatchNorm(), Dropout(0.2), dtype=dtype)
    held_out = X[:101], y[:101]
    metrics, clipped = ["accuracy", "f1"], Adam(1e-3, clip_norm=0.5)
    return model, model.fit(X, y, 1, 36, optimizer=clipped, metrics=metrics, validation_data=held_out, distributed=how)


def full_batch(dtype: str, how: Any) -> Trained:
    model = network(BatchNorm(), Dropout(0.2), dtype=dtype)
    return model, model.fit(X, y, 200, len(X), optimizer=Adam(1e-3, clip_norm=0.5), distributed=how)


def pure(dtype: str, how: Any) -> Trained:
    model = network(BatchNorm(), Dropout(0.2), dtype=dtype)
    return model, model.fit(X, y, 1, 36, optimizer=OwnAdam(1e-3, clip_norm=0.5), distributed=how)


def _weighted(dtype: str, how: Any, optimizer: Any) -> Trained:
    """Penalties, a constraint, weights of classes and samples, many of which are zero."""
    model = Sequential(
        [
            Dense(24, activation="relu", rng=1),
            LayerNorm(),
            Dense(16).regularized(W=L2(0.01)).constrained(W=MaxNorm(1.0)),
            Dense(10),
        ],
        rng=3,
        dtype=dtype,
    )
    weight = np.where(np.arange(400) % 3 == 0, np.linspace(0.0, 2.0, 400), 0.0)
    loss = SoftmaxCrossEntropy(class_weight=np.arange(1.0, 11.0), ignore_index=4, label_smoothing=0.1)
    held_out = X[:7], y[:7], weight[:7]
    return model, model.fit(
        X[:400], y[:400], 5, 16, loss=loss, optimizer=optimizer, sample_weight=weight, metrics=["accuracy"],
        validation_data=held_out, distributed=how,
    )  # fmt: skip


def weighted(dtype: str, how: Any) -> Trained:
    return _weighted(dtype, how, "adam")


def weighted_pure(dtype: str, how: Any) -> Trained:
    return _weighted(dtype, how, OwnAdam())


def few_rows(dtype: str, how: Any) -> Trained:
    """Batches of three rows, and one of one: there are ranks without any."""
    model = Sequential(
        [Dense(8, activation="tanh").regularized(W=L2(0.1)), BatchNorm(epsilon=0.5), Dropout(0.1), Dense(10)],
        rng=3,
        dtype=dtype,
    )
    held_out = X[:3], y[:3]
    return model, model.fit(
        X[:16], y[:16], 1, 3, optimizer=SGD(0.01), metrics=["accuracy", "f1"], validation_data=held_out, distributed=how
    )


def few_rows_pure(dtype: str, how: Any) -> Trained:
    """The same with more axes."""
    model = Sequential([Dense(8, activation="tanh"), BatchNorm(epsilon=0.5), Dense(10)], rng=3, dtype=dtype)
    rows, target = X[:32].reshape(16, 2, 64), y[:32].reshape(16, 2)
    return model, model.fit(rows, target, 1, 3, optimizer=SGD(0.01), metrics=["accuracy"], distributed=how)


def decisions(dtype: str, how: Any) -> Trained:
    """A rate that is lowered, an end before the last epoch, and the best weights."""
    model = network(dtype=dtype)
    lower = ReduceLROnPlateau("val_loss", factor=0.5, patience=0, min_delta=0.05)
    callbacks = [lower, EarlyStopping(patience=2, min_delta=0.05)]
    held_out = X[:100], y[:100]
    return model, model.fit(
        X[300:700],
        y[300:700],
        100,
        50,
        optimizer=Adam(0.02),
        validation_data=held_out,
        callbacks=callbacks,
        distributed=how,
    )


def half(dtype: str, how: Any) -> Trained:
    """16 bits: the scale of the loss overflows at first, and is halved by all."""
    model = network(BatchNorm(), dtype="float16")
    model.set_input_shape((64,))
    model.initialize(SGD(0.1))
    model.loss_scale = 2.0**22, 0.0
    return model, model.fit(X[:360], y[:360], 2, 36, distributed=how)


def other_start(dtype: str, how: Any) -> Trained:
    """The ranks begin from other weights and seeds: those of rank 0 hold, NumPy's global state among them."""
    np.random.seed(0 if how is None else Ranks().rank)
    model = Sequential([Dense(24, activation="tanh"), Dropout(0.2), Dense(10)], dtype=dtype)
    return model, model.fit(X[:360], y[:360], 2, 36, distributed=how)


def accumulated(dtype: str, how: Any) -> Trained:
    """Groups of three batches, the last of which is smaller; penalties, clipping, weights, and an average."""
    model = Sequential(
        [Dense(24, activation="relu").regularized(W=L2(0.01)), LayerNorm(), Dropout(0.2), Dense(10)], rng=3, dtype=dtype
    )
    weight = np.where(np.arange(400) % 3 == 0, np.linspace(0.0, 2.0, 400), 0.5)
    return model, model.fit(
        X[:400], y[:400], 2, 18, optimizer=Adam(1e-3, clip_norm=0.5), accumulate=3, sample_weight=weight,
        metrics=["accuracy"], validation_data=(X[400:500], y[400:500]), callbacks=[MovingAverage(0.9)], distributed=how,
    )  # fmt: skip


def accumulated_pure(dtype: str, how: Any) -> Trained:
    """The pure step, with statistics of the batch; the last batch is of one row."""
    model = network(BatchNorm(epsilon=0.5), dtype=dtype)
    return model, model.fit(X[:91], y[:91], 2, 9, optimizer=OwnAdam(1e-3), accumulate=4, distributed=how)


def streamed(dtype: str, how: Any) -> Trained:
    """Batches that somebody else makes, of growing size, for two epochs that begin where the last one ended."""

    def batches() -> Iterator[Any]:
        for start, stop in itertools.pairwise((0, 40, 90, 92, 93, 200, 300)):
            yield X[start:stop], y[start:stop]

    model = network(Dropout(0.2), dtype=dtype)
    return model, model.fit(
        batches, epochs=3, steps_per_epoch=4, optimizer=Adam(1e-3), accumulate=2, metrics=["accuracy", "f1"],
        validation_data=batches, distributed=how,
    )  # fmt: skip


class Watching:
    """Lowers the rate within an epoch, and ends the training within one."""

    def begin(self, run: Any) -> None:
        pass

    epoch_end = end = begin

    def batch_end(self, run: Any) -> None:
        assert run.batch_loss > 0
        if (run.epoch, run.batch) == (0, 4):
            run.scale_learning_rate(0.5)
        if (run.epoch, run.batch) == (1, 3):
            run.stop("enough")


def watched(dtype: str, how: Any) -> Trained:
    model = network(dtype=dtype)
    return model, model.fit(X[:360], y[:360], 5, 36, optimizer=Adam(1e-2), callbacks=[Watching()], distributed=how)


CASES: dict[str, Callable[[str, Any], Trained]] = {
    function.__name__: function
    for function in (
        sgd, adam, full_batch, pure, weighted, weighted_pure, few_rows, few_rows_pure, decisions, half, other_start,
        accumulated, accumulated_pure, streamed, watched
    )
}  # fmt: skip


def results(case: str, dtype: str, how: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a training has come to, as arrays."""
    model, history = CASES[case](dtype, how)
    found = {f"weight {name}": to_numpy(value).astype(np.float64) for name, value in model.weights.items()}
    found |= {f"history {name}": np.asarray(column) for name, column in history.items()}
    counts = [model.steps, history.epochs, history.best_epoch or 0, len(history.stopped), *model.loss_scale]
    rate = model.optimizer.learning_rate
    return {**found, "counts": np.asarray([*counts, rate])}


def main(folder: str, how: str, backend: str, *cases: str) -> None:
    set_backend(backend)
    distributed: Any = None if how == "alone" else how
    rank = 0 if distributed is None else Ranks().rank
    if how == "group":  # torch's own process group, on the CPU
        import torch

        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=Ranks().size)
        distributed = Ranks(reduce="group")
    for case in cases:
        for dtype in ("float32", "float64"):
            np.savez(f"{folder}/{case}-{dtype}-{rank}.npz", **results(case, dtype, distributed))


if __name__ == "__main__":
    main(*sys.argv[1:])
